#include "orchestrator/operations/undo_delete.h"

namespace bpg::operations {

using catalog::Branch;
using catalog::BranchState;
using jobs::Done;
using jobs::Progress;

std::span<const jobs::Step<UndoDelete>> UndoDelete::steps() {
    using jobs::nothing_to_record;
    using jobs::nothing_to_undo;
    static constexpr jobs::Step<UndoDelete> kSteps[] = {
        {"start_instances", "start PostgreSQL of what ran", &UndoDelete::start_instances,
         &UndoDelete::remove_instances, nothing_to_record},
        {"await_ready", "answer a query", &UndoDelete::await_ready, &UndoDelete::forget_passwords,
         nothing_to_record},
        {"open_to_users", "let users in", &UndoDelete::open_to_users, nothing_to_undo,
         &UndoDelete::record},
    };
    return jobs::checked(kSteps);
}

asio::awaitable<Progress> UndoDelete::start_instances(State& state) {
    for (const Returning& returning : state.branches) {
        if (!returning.trash.ran) continue;
        co_await instances_.prepare_engine(returning.branch_id);
        co_await instances_.start(returning.branch_id, /*open=*/false);
    }
    co_return Done{};
}

asio::awaitable<void> UndoDelete::remove_instances(const State& state) {
    for (const Returning& returning : state.branches)
        co_await instances_.stop_or_kill(returning.branch_id);
}

asio::awaitable<Progress> UndoDelete::await_ready(State& state) {
    for (const Returning& returning : state.branches) {
        if (returning.trash.ran) {
            co_await instances_.await_ready_with_password(returning.branch_id);
        } else {
            co_await instances_.ensure_password(returning.branch_id);
        }
    }
    co_return Done{};
}

/// Those it has not had before.
asio::awaitable<void> UndoDelete::forget_passwords(const State& state) {
    for (const Returning& returning : state.branches) {
        const Branch* branch = services_.catalog.branch_by_id(returning.branch_id);
        if (branch == nullptr || branch->password_id == returning.password_id) continue;
        co_await instances_.forget_password(returning.branch_id);
    }
}

asio::awaitable<Progress> UndoDelete::open_to_users(State& state) {
    for (const Returning& returning : state.branches) {
        if (returning.trash.ran) co_await instances_.open_to_users(returning.branch_id);
    }
    co_return Done{};
}

void UndoDelete::record(const State& state, jobs::Batch& batch) const {
    for (const Returning& returning : state.branches) {
        const Branch* found = services_.catalog.branch_by_id(returning.branch_id);
        if (found == nullptr) continue;
        Branch branch = *found;
        branch.state = returning.trash.ran ? BranchState::kRunning : BranchState::kStopped;
        branch.should_run = returning.trash.ran;
        branch.password_due = !returning.trash.ran && branch.password_id != returning.password_id;
        branch.last_job = context_.job_id();
        services_.catalog.put(branch, batch);
    }
}

void UndoDelete::record_failure(const State& state, const ErrorInfo&, jobs::Batch& batch) const {
    for (const Returning& returning : state.branches) {
        const Branch* found = services_.catalog.branch_by_id(returning.branch_id);
        if (found == nullptr) continue;
        Branch branch = *found;
        branch.name = returning.name;
        branch.password_id = returning.password_id;
        branch.state = BranchState::kStopped;
        branch.should_run = false;
        branch.port = 0;
        branch.trash = returning.trash;
        services_.catalog.put(branch, batch);
    }
    const auto* found = services_.catalog.database_by_id(state.database_id);
    if (found == nullptr) return;
    catalog::Database database = *found;
    database.trash = state.database_trash;
    services_.catalog.put(database, batch);
}

nlohmann::json UndoDelete::result(const State& state) const {
    if (!state.database_id.empty()) {
        return {{"ref", state.ref}, {"database", state.database_id}};
    }
    return {{"ref", state.ref}, {"branch", state.branches.front().branch_id}};
}

}  // namespace bpg::operations
