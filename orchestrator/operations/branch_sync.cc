#include "orchestrator/operations/branch_sync.h"

#include "orchestrator/base/error.h"

namespace bpg::operations {

using catalog::Branch;
using catalog::BranchState;
using jobs::Done;
using jobs::Progress;

std::span<const jobs::Step<BranchSync>> BranchSync::steps() {
    using jobs::nothing_to_record;
    using jobs::nothing_to_undo;
    static constexpr jobs::Step<BranchSync> kSteps[] = {
        {"take_snapshot", "freeze the parent in a snapshot", &BranchSync::take_snapshot,
         &BranchSync::leave_aside_snapshot, &BranchSync::record_origin},
        {"clone_volume", "clone it, sharing what the driver can share", &BranchSync::clone_volume,
         &BranchSync::destroy_aside, nothing_to_record},
        {"prepare_clone", "remove what belongs to the parent's server", &BranchSync::prepare_clone,
         nothing_to_undo, nothing_to_record},
        {"start_aside", "start PostgreSQL on the clone, aside", &BranchSync::start_instance,
         &BranchSync::remove_aside, nothing_to_record},
        {"finish_backup", "end backup mode and record the snapshot", &BranchSync::finish_backup,
         nothing_to_undo, &BranchSync::record_snapshot},
        {"await_ready", "recover, answer a query, get the branch's password",
         &BranchSync::await_ready, nothing_to_undo, nothing_to_record},
        {"stop_old", "stop the old PostgreSQL", &BranchSync::stop_old, &BranchSync::start_old,
         nothing_to_record},
        {"swap", "let the new data take the place of the old", &BranchSync::swap, nothing_to_undo,
         &BranchSync::record_swap},
        {"start_branch", "start PostgreSQL on the branch's port", &BranchSync::start_branch,
         nothing_to_undo, nothing_to_record, "the new data has taken the place of the old"},
        {"await_branch", "answer a query, let users in", &BranchSync::await_branch, nothing_to_undo,
         &BranchSync::record_synced},
    };
    return jobs::checked(kSteps);
}

const Branch& BranchSync::target(const State& state) const {
    if (const auto* found = services_.catalog.branch_by_id(state.target_id)) return *found;
    throw Error(ErrorKind::kInternal, "branch_gone", "the branch of this sync is gone");
}

// Once the new data is the branch's, what made it is undone by nothing.

asio::awaitable<void> BranchSync::leave_aside_snapshot(const State& state) {
    if (!state.has_swapped) co_await leave_snapshot(state);
}

asio::awaitable<void> BranchSync::destroy_aside(const State& state) {
    if (!state.has_swapped) co_await destroy_volume(state);
}

asio::awaitable<void> BranchSync::remove_aside(const State& state) {
    if (!state.has_swapped) co_await remove_instance(state);
}

/// Nobody is served from the stop of the old one until the new one has started: what else there is
/// to do is done before or behind it.
asio::awaitable<Progress> BranchSync::stop_old(State& state) {
    co_await instances_.stop(state.branch_id, runtime::StopMode::kFast);
    state.old_volume = target(state).volume;
    if (state.target_ran) co_await instances_.make_ready(successor(state));
    co_await instances_.halt(state.target_id, runtime::StopMode::kFast);
    co_return Done{};
}

asio::awaitable<void> BranchSync::start_old(const State& state) {
    if (state.has_swapped || !state.target_ran) co_return;
    co_await instances_.clear_place(state.target_id, branch(state).volume);
    co_await instances_.start(state.target_id, /*open=*/true);
    co_await instances_.await_ready(state.target_id);
}

asio::awaitable<Progress> BranchSync::swap(State& state) {
    state.has_swapped = true;
    co_return Done{};
}

/// The branch with what was made aside in place of what it has.
Branch BranchSync::successor(const State& state) const {
    const Branch& old = target(state);
    const Branch& made = branch(state);
    Branch next = old;
    next.volume = made.volume;
    next.volume_owner = made.id;
    next.storage_driver = made.storage_driver;
    next.incarnation_id = made.incarnation_id;
    next.incarnation_number = old.incarnation_number + 1;
    next.wal_kept_from.clear();
    next.timeline = state.timeline;
    next.system_identifier = state.system_identifier;
    next.created_from = {services_.storage.atomic() ? state.snapshot_id : "", state.mode,
                         state.line_lsn, state.line_at};
    return next;
}

void BranchSync::record_swap(const State& state, jobs::Batch& batch) const {
    const Branch old = target(state);
    const Branch made = branch(state);
    Branch next = successor(state);
    next.incarnation_at = services_.clock.now();
    next.last_job = context_.job_id();

    const WallTime now = *next.incarnation_at;
    Branch replaced = old;
    replaced.id = made.id;
    replaced.incarnation_of = old.id;
    replaced.volume_owner = old.owner_of_volume();
    replaced.password_id = old.password();
    replaced.is_protected = false;
    replaced.expires_at.reset();
    replaced.should_run = false;
    replaced.state = BranchState::kStopped;
    replaced.port = 0;
    replaced.warnings.clear();
    replaced.trash = catalog::Trashed{made.id,
                                      "incarnation",
                                      services_.catalog.ref_of(old),
                                      now,
                                      now + services_.settings.trash_keep,
                                      /*ran=*/false,
                                      /*port=*/0};
    services_.catalog.put(next, batch);
    services_.catalog.put(replaced, batch);
}

asio::awaitable<Progress> BranchSync::start_branch(State& state) {
    std::optional<Error> failure;
    try {
        if (state.target_ran) co_await instances_.start(state.target_id, /*open=*/true);
    } catch (const Error& error) {
        failure = error;
    }
    co_await clear_old(state);
    if (failure) throw *failure;
    co_return Done{};
}

/// What is left of the instance on the old data, which is another's by now.
asio::awaitable<void> BranchSync::clear_old(const State& state) {
    if (state.old_volume.empty()) co_return;  // a record of an earlier version
    co_await instances_.clear_place(state.target_id, state.old_volume);
}

asio::awaitable<Progress> BranchSync::await_branch(State& state) {
    if (!state.target_ran) co_return Done{};
    co_await instances_.await_ready(state.target_id);
    co_await instances_.open_to_users(state.target_id);
    co_return Done{};
}

void BranchSync::record_synced(const State& state, jobs::Batch& batch) const {
    Branch record = target(state);
    record.state = state.target_ran ? BranchState::kRunning : BranchState::kStopped;
    record.should_run = state.target_ran;
    record.warnings.clear();
    services_.catalog.put(record, batch);
}

void BranchSync::record_failure(const State& state, const ErrorInfo& error,
                                jobs::Batch& batch) const {
    if (!state.has_swapped) {
        BranchCreate::record_failure(state, error, batch);
        return;
    }
    // It was meant to run: the supervisor starts it again.
    Branch record = target(state);
    record.state = state.target_ran ? BranchState::kFailed : BranchState::kStopped;
    record.should_run = state.target_ran;
    record.warnings = {"it was synced, but did not start: " + error.message};
    services_.catalog.put(record, batch);
}

nlohmann::json BranchSync::result(const State& state) const {
    return {{"ref", services_.catalog.ref_of(target(state))}, {"branch", state.target_id}};
}

}  // namespace bpg::operations
