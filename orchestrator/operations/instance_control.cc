#include "orchestrator/operations/instance_control.h"

namespace bpg::operations {

using catalog::BranchState;
using jobs::Done;
using jobs::nothing_to_record;
using jobs::nothing_to_undo;
using jobs::Progress;

asio::awaitable<Progress> InstanceControl::look(State& state) {
    state.was_running = co_await instances_.is_running(state.branch_id);
    co_return Done{};
}

asio::awaitable<Progress> InstanceControl::stop_instance(State& state) {
    co_await instances_.stop(
        state.branch_id, state.force ? runtime::StopMode::kImmediate : runtime::StopMode::kFast);
    co_return Done{};
}

asio::awaitable<Progress> InstanceControl::start_instance(State& state) {
    const bool open = !password_is_due(state);
    if (!state.was_running) co_await instances_.start(state.branch_id, open);
    co_return Done{};
}

asio::awaitable<Progress> InstanceControl::await_ready(State& state) {
    if (!password_is_due(state)) {
        co_await instances_.await_ready(state.branch_id);
        co_return Done{};
    }
    co_await instances_.await_ready_with_password(state.branch_id);
    co_await instances_.open_to_users(state.branch_id);
    co_return Done{};
}

bool InstanceControl::password_is_due(const State& state) const {
    const catalog::Branch* branch = services_.catalog.branch_by_id(state.branch_id);
    return branch != nullptr && branch->password_due;
}

void InstanceControl::apply(const State& state, const EndpointSettings& settings,
                            jobs::Batch& batch) const {
    const catalog::Branch* found = services_.catalog.branch_by_id(state.branch_id);
    if (found == nullptr) return;
    catalog::Branch branch = *found;
    branch.port = settings.port;
    branch.settings = settings.settings;
    services_.catalog.put(branch, batch);
}

void InstanceControl::record_changes(const State& state, jobs::Batch& batch) const {
    if (state.after) apply(state, *state.after, batch);
}

asio::awaitable<void> InstanceControl::remove_instance(const State& state) {
    if (!state.was_running) co_await instances_.remove(state.branch_id);
}

void InstanceControl::record(const State& state, BranchState branch_state, bool should_run,
                             std::string warning, jobs::Batch& batch) const {
    const catalog::Branch* found = services_.catalog.branch_by_id(state.branch_id);
    if (found == nullptr) return;
    catalog::Branch branch = *found;
    branch.state = branch_state;
    branch.should_run = should_run;
    if (branch_state == BranchState::kRunning) branch.password_due = false;
    branch.last_job = context_.job_id();
    branch.warnings.clear();
    if (!warning.empty()) branch.warnings.push_back(std::move(warning));
    services_.catalog.put(branch, batch);
}

bool InstanceControl::restore(const State& state, const ErrorInfo& error,
                              jobs::Batch& batch) const {
    if (error.kind != ErrorKind::kCancelled) return false;
    if (state.supervised) {
        // Otherwise the supervisor would ask for the same again.
        record(state, BranchState::kStopped, /*should_run=*/false, "", batch);
    } else {
        record(state, state.state_before, state.should_run_before, "", batch);
    }
    return true;
}

void InstanceControl::record_running(const State& state, jobs::Batch& batch) const {
    record(state, BranchState::kRunning, /*should_run=*/true, "", batch);
}

void InstanceControl::record_stopped(const State& state, jobs::Batch& batch) const {
    record(state, BranchState::kStopped, /*should_run=*/false, "", batch);
}

nlohmann::json InstanceControl::result(const State& state) const {
    return {{"ref", state.ref}, {"branch", state.branch_id}};
}

std::span<const jobs::Step<Start>> Start::steps() {
    static constexpr jobs::Step<Start> kSteps[] = {
        {"look", "see whether it runs", &Start::look, nothing_to_undo, nothing_to_record},
        {"start_instance", "start PostgreSQL", &Start::start_instance, &Start::remove_instance,
         nothing_to_record},
        {"await_ready", "answer a query", &Start::await_ready, nothing_to_undo,
         &Start::record_running},
    };
    return jobs::checked(kSteps);
}

void Start::record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const {
    if (restore(state, error, batch)) return;
    record(state, state.was_running ? BranchState::kRunning : BranchState::kFailed,
           state.was_running || state.supervised, "start failed: " + error.message, batch);
}

std::span<const jobs::Step<Stop>> Stop::steps() {
    static constexpr jobs::Step<Stop> kSteps[] = {
        {"stop_instance", "stop PostgreSQL", &Stop::stop_instance, nothing_to_undo,
         &Stop::record_stopped, "PostgreSQL is shutting down"},
    };
    return jobs::checked(kSteps);
}

void Stop::record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const {
    if (restore(state, error, batch)) return;
    // A stop that timed out leaves the server running, as before.
    record(state, BranchState::kRunning, /*should_run=*/true, "stop failed: " + error.message,
           batch);
}

std::span<const jobs::Step<Restart>> Restart::steps() {
    static constexpr jobs::Step<Restart> kSteps[] = {
        {"stop_instance", "stop PostgreSQL", &Restart::stop_instance, nothing_to_undo,
         &Restart::record_changes, "PostgreSQL would stay stopped"},
        {"start_instance", "start PostgreSQL", &Restart::start_instance, nothing_to_undo,
         nothing_to_record},
        {"await_ready", "answer a query", &Restart::await_ready, nothing_to_undo,
         &Restart::record_running},
    };
    return jobs::checked(kSteps);
}

void Restart::record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const {
    if (restore(state, error, batch)) return;
    const bool still_runs = error.code == "stop_timed_out";
    if (state.after && !still_runs) apply(state, state.before, batch);
    // It was meant to run: the supervisor starts it, or finds that it does.
    record(state, still_runs ? BranchState::kRunning : BranchState::kFailed, /*should_run=*/true,
           "restart failed: " + error.message, batch);
}

}  // namespace bpg::operations
