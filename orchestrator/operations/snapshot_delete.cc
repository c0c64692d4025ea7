#include "orchestrator/operations/snapshot_delete.h"

#include "orchestrator/base/error.h"
#include "orchestrator/operations/destruction.h"
#include "orchestrator/operations/shared_snapshots.h"
#include "orchestrator/operations/spare_origins.h"
#include "orchestrator/operations/wal_holding.h"

namespace bpg::operations {

using jobs::Done;
using jobs::Progress;

std::span<const jobs::Step<SnapshotDelete>> SnapshotDelete::steps() {
    static constexpr jobs::Step<SnapshotDelete> kSteps[] = {
        // Its undo changes nothing: what it sees goes into the last commit, which follows it.
        {"destroy_snapshot", "destroy the snapshot", &SnapshotDelete::destroy_snapshot,
         &SnapshotDelete::see_whether_it_is_gone, &SnapshotDelete::forget,
         Destruction::kIrreversible},
    };
    return jobs::checked(kSteps);
}

asio::awaitable<Progress> SnapshotDelete::destroy_snapshot(State& state) {
    // Before it is asked who hangs on it: what is built on it during a wait is seen.
    const std::string lost = co_await what_is_lost(state.snapshot_id);
    if (services_.shared_snapshots.is_claimed(state.snapshot_id)) {
        throw Error(ErrorKind::kConflict, "snapshot_in_use",
                    "snapshot " + state.snapshot_id + " is in use",
                    "a branch was cut from it meanwhile", "delete that branch first");
    }
    if (!lost.empty()) context_.warn(lost);
    const storage::SnapshotRef place{state.volume, state.snapshot_id};
    co_await operations::destroy_snapshot(services_, place);
    co_return Done{};
}

/// Points in time that no other snapshot is early enough for (CLN-5).
asio::awaitable<std::string> SnapshotDelete::what_is_lost(std::string snapshot_id) {
    const catalog::Snapshot* snapshot = services_.catalog.snapshot_by_id(snapshot_id);
    if (snapshot == nullptr) co_return "";
    const catalog::Branch* found =
        services_.catalog.branch_of_incarnation(snapshot->incarnation_id);
    if (found == nullptr || !found->archives) co_return "";
    const std::string branch_id = found->id;
    const wal::Holding holding = co_await look_at_wal(services_, branch_id);
    const catalog::Branch* branch = services_.catalog.branch_by_id(branch_id);
    if (branch == nullptr) co_return "";
    std::vector<wal::Base> bases = bases_that_stay(services_, *branch);
    const auto before = wal::windows(holding, bases);
    std::erase_if(bases, [&](const wal::Base& base) { return base.snapshot_id == snapshot_id; });
    const auto after = wal::windows(holding, bases);
    if (before == after) co_return "";
    co_return in_words(before) + "; without this snapshot " +
        (after.empty() ? "no time can be restored" : in_words(after));
}

asio::awaitable<void> SnapshotDelete::see_whether_it_is_gone(const State& state) {
    const storage::SnapshotRef place{state.volume, state.snapshot_id};
    is_gone_ = !co_await services_.storage.snapshot_exists(place);
}

void SnapshotDelete::record_failure(const State& state, const ErrorInfo&,
                                    jobs::Batch& batch) const {
    if (is_gone_) forget(state, batch);
}

void SnapshotDelete::forget(const State& state, jobs::Batch& batch) const {
    services_.catalog.remove_snapshot(state.snapshot_id, batch);
}

nlohmann::json SnapshotDelete::result(const State& state) const {
    return {{"id", state.snapshot_id}};
}

}  // namespace bpg::operations
