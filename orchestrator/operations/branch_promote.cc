#include "orchestrator/operations/branch_promote.h"

#include "orchestrator/base/error.h"

namespace bpg::operations {

using catalog::Branch;
using catalog::BranchState;
using jobs::Done;
using jobs::Progress;

std::span<const jobs::Step<BranchPromote>> BranchPromote::steps() {
    using jobs::nothing_to_record;
    using jobs::nothing_to_undo;
    static constexpr jobs::Step<BranchPromote> kSteps[] = {
        {"stop_both", "stop PostgreSQL of both", &BranchPromote::stop_both,
         &BranchPromote::start_again, nothing_to_record},
        {"switch_names", "let names and endpoints change places", &BranchPromote::switch_names,
         nothing_to_undo, &BranchPromote::record_switch},
        {"start_both", "start PostgreSQL of both", &BranchPromote::start_both, nothing_to_undo,
         nothing_to_record, "names and endpoints have changed places"},
        {"await_ready", "answer a query, get the passwords of their new names",
         &BranchPromote::await_ready, nothing_to_undo, nothing_to_record},
        {"open_to_users", "let users in", &BranchPromote::open_to_users, nothing_to_undo,
         &BranchPromote::record_running},
    };
    return jobs::checked(kSteps);
}

const Branch& BranchPromote::branch(const std::string& id) const {
    if (const auto* found = services_.catalog.branch_by_id(id)) return *found;
    throw Error(ErrorKind::kInternal, "branch_gone", "a branch of this promote is gone");
}

/// A new main runs if either did: whoever used the name goes on to use it.
std::vector<std::string> BranchPromote::running(const State& state) {
    std::vector<std::string> ids;
    if (state.branch_ran || state.main_ran) ids.push_back(state.branch_id);
    if (state.main_ran) ids.push_back(state.main_id);
    return ids;
}

asio::awaitable<Progress> BranchPromote::stop_both(State& state) {
    const Branch* taken =
        services_.catalog.branch_named(branch(state.main_id).database_id, state.old_name);
    if (taken != nullptr) {
        throw Error(ErrorKind::kConflict, "branch_exists",
                    "branch \"" + services_.catalog.ref_of(*taken) + "\" already exists",
                    "the old main was to get this name", "choose another one with --old-name");
    }
    co_await instances_.stop(state.branch_id, runtime::StopMode::kFast);
    co_await instances_.stop(state.main_id, runtime::StopMode::kFast);
    co_return Done{};
}

asio::awaitable<void> BranchPromote::start_again(const State& state) {
    if (state.has_switched) co_return;
    if (state.main_ran) co_await instances_.start(state.main_id, /*open=*/true);
    if (state.branch_ran) co_await instances_.start(state.branch_id, /*open=*/true);
    if (state.main_ran) co_await instances_.await_ready(state.main_id);
    if (state.branch_ran) co_await instances_.await_ready(state.branch_id);
}

asio::awaitable<Progress> BranchPromote::switch_names(State& state) {
    state.has_switched = true;
    co_return Done{};
}

void BranchPromote::record_switch(const State& state, jobs::Batch& batch) const {
    const Branch main = branch(state.main_id);
    const Branch other = branch(state.branch_id);
    Branch promoted = other;
    promoted.name = main.name;
    promoted.port = main.port;
    promoted.host = main.host;
    promoted.password_id = main.password();
    promoted.password_due = true;
    promoted.is_protected = main.is_protected;
    promoted.parent_id.clear();
    promoted.expires_at.reset();
    promoted.last_job = context_.job_id();
    Branch retired = main;
    retired.name = state.old_name;
    retired.port = other.port;
    retired.host = other.host;
    retired.password_id = other.password();
    retired.password_due = true;
    retired.is_protected = true;
    retired.parent_id = promoted.id;
    retired.last_job = context_.job_id();
    services_.catalog.put(promoted, batch);
    services_.catalog.put(retired, batch);
}

asio::awaitable<Progress> BranchPromote::start_both(State& state) {
    // Closed: each still has the password of the other's name.
    for (const std::string& id : running(state))
        co_await instances_.start(id, /*open=*/false);
    co_return Done{};
}

asio::awaitable<Progress> BranchPromote::await_ready(State& state) {
    for (const std::string& id : running(state))
        co_await instances_.await_ready_with_password(id);
    co_return Done{};
}

asio::awaitable<Progress> BranchPromote::open_to_users(State& state) {
    for (const std::string& id : running(state))
        co_await instances_.open_to_users(id);
    co_return Done{};
}

void BranchPromote::record_running(const State& state, jobs::Batch& batch) const {
    for (const std::string& id : running(state)) {
        Branch record = branch(id);
        record.state = BranchState::kRunning;
        record.should_run = true;
        record.password_due = false;
        record.warnings.clear();
        services_.catalog.put(record, batch);
    }
}

void BranchPromote::record_failure(const State& state, const ErrorInfo& error,
                                   jobs::Batch& batch) const {
    if (!state.has_switched) return;
    // They were meant to run: the supervisor starts them again.
    for (const std::string& id : running(state)) {
        Branch record = branch(id);
        record.state = BranchState::kFailed;
        record.should_run = true;
        record.warnings = {"promote succeeded, but it did not start: " + error.message};
        services_.catalog.put(record, batch);
    }
}

nlohmann::json BranchPromote::result(const State& state) const {
    return {{"ref", services_.catalog.ref_of(branch(state.branch_id))},
            {"branch", state.branch_id},
            {"old_main", services_.catalog.ref_of(branch(state.main_id))}};
}

}  // namespace bpg::operations
