#include "orchestrator/operations/snapshot_delete.h"

#include "orchestrator/base/error.h"
#include "orchestrator/operations/destruction.h"
#include "orchestrator/operations/shared_snapshots.h"

namespace bpg::operations {

using jobs::Done;
using jobs::Progress;

std::span<const jobs::Step<SnapshotDelete>> SnapshotDelete::steps() {
    static constexpr jobs::Step<SnapshotDelete> kSteps[] = {
        {"destroy_snapshot", "destroy the snapshot", &SnapshotDelete::destroy_snapshot,
         jobs::nothing_to_undo, &SnapshotDelete::forget, Destruction::kIrreversible},
    };
    return jobs::checked(kSteps);
}

asio::awaitable<Progress> SnapshotDelete::destroy_snapshot(State& state) {
    if (services_.shared_snapshots.is_claimed(state.snapshot_id)) {
        throw Error(ErrorKind::kConflict, "snapshot_in_use",
                    "snapshot " + state.snapshot_id + " is in use",
                    "a branch was cut from it meanwhile", "delete that branch first");
    }
    const storage::SnapshotRef place{state.volume, state.snapshot_id};
    co_await services_.storage.destroy_snapshot(place);
    co_return Done{};
}

void SnapshotDelete::forget(const State& state, jobs::Batch& batch) const {
    services_.catalog.remove_snapshot(state.snapshot_id, batch);
}

nlohmann::json SnapshotDelete::result(const State& state) const {
    return {{"id", state.snapshot_id}};
}

}  // namespace bpg::operations
