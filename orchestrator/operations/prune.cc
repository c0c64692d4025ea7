#include "orchestrator/operations/prune.h"

#include <fmt/format.h>

#include "orchestrator/base/error.h"
#include "orchestrator/operations/destruction.h"
#include "orchestrator/operations/shared_snapshots.h"
#include "orchestrator/operations/spare_origins.h"

namespace bpg::operations {

using jobs::Done;
using jobs::Progress;

std::span<const jobs::Step<Prune>> Prune::steps() {
    using jobs::nothing_to_record;
    using jobs::nothing_to_undo;
    static constexpr jobs::Step<Prune> kSteps[] = {
        // Its undo changes nothing: what it sees goes into the last commit, which follows it.
        {"check_plan", "see that the plan still holds", &Prune::check_plan,
         &Prune::see_what_is_gone, nothing_to_record},
        {"remove_snapshots", "remove the snapshots that no rule keeps", &Prune::remove_snapshots,
         nothing_to_undo, &Prune::forget_snapshots, Destruction::kIrreversible},
        {"decide_wal", "see which WAL nobody needs", &Prune::decide_wal, nothing_to_undo,
         &Prune::mark_wal},
        {"remove_wal", "remove it, oldest first", &Prune::remove_wal, nothing_to_undo,
         &Prune::forget_origins},
    };
    return jobs::checked(kSteps);
}

asio::awaitable<Progress> Prune::check_plan(State& state) {
    RetentionQuery query{state.branch_id, state.schedule, state.at, state.is_forced};
    const BranchRetention plan = co_await plan_retention(services_, std::move(query));
    if (plan.refusal) throw Error(*plan.refusal);
    check_same_plan(state.plan, plan);
    state.removed = plan.remove;
    for (const std::string& line : retention_in_words(plan))
        context_.log(line + "\n");
    co_return Done{};
}

asio::awaitable<Progress> Prune::remove_snapshots(State& state) {
    std::vector<std::string> removed;
    for (const std::string& id : state.removed) {
        if (co_await destroy(id)) removed.push_back(id);
    }
    state.removed = std::move(removed);
    co_return Done{.ends_job = state.wal.incarnations.empty()};
}

/// False: somebody has taken to it since the plan was checked, and it stays.
asio::awaitable<bool> Prune::destroy(std::string snapshot_id) {
    const catalog::Snapshot* found = services_.catalog.snapshot_by_id(snapshot_id);
    if (found == nullptr || found->pinned || services_.shared_snapshots.is_claimed(snapshot_id)) {
        co_return false;
    }
    const storage::SnapshotRef place{found->volume, snapshot_id};
    if (co_await destroy_unless_cloned(services_, place)) co_return true;
    context_.warn("snapshot " + snapshot_id + " stays: something was cloned from it");
    co_return false;
}

asio::awaitable<void> Prune::see_what_is_gone(const State& state) {
    gone_.clear();
    for (const std::string& id : state.removed) {
        const catalog::Snapshot* snapshot = services_.catalog.snapshot_by_id(id);
        if (snapshot == nullptr) continue;
        const storage::SnapshotRef place{snapshot->volume, id};
        if (!co_await services_.storage.snapshot_exists(place)) gone_.push_back(id);
    }
}

void Prune::record_failure(const State&, const ErrorInfo&, jobs::Batch& batch) const {
    for (const std::string& id : gone_)
        services_.catalog.remove_snapshot(id, batch);
}

void Prune::forget_snapshots(const State& state, jobs::Batch& batch) const {
    for (const std::string& id : state.removed)
        services_.catalog.remove_snapshot(id, batch);
}

asio::awaitable<Progress> Prune::decide_wal(State& state) {
    co_return co_await wal_cleanup_.decide(state.wal);
}

void Prune::mark_wal(const State& state, jobs::Batch& batch) const {
    wal_cleanup_.mark(state.wal, batch);
}

void Prune::forget_origins(const State& state, jobs::Batch& batch) const {
    wal_cleanup_.forget_origins(state.wal, batch);
}

asio::awaitable<Progress> Prune::remove_wal(State& state) {
    co_return co_await wal_cleanup_.remove(state.wal);
}

nlohmann::json Prune::result(const State& state) const {
    return {{"ref", state.ref},
            {"branch", state.branch_id},
            {"schedule",
             state.schedule.empty() ? nlohmann::json(nullptr) : nlohmann::json(state.schedule)},
            {"snapshots", state.removed},
            {"wal", state.wal.incarnations.empty() ? nlohmann::json(nullptr)
                                                   : wal_cleanup_.result(state.wal)}};
}

}  // namespace bpg::operations
