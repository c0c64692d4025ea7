#include "orchestrator/operations/snapshot_take.h"

#include "orchestrator/base/error.h"
#include "orchestrator/operations/base_snapshot.h"
#include "orchestrator/operations/pool_space.h"

namespace bpg::operations {

using jobs::Done;
using jobs::Progress;

std::span<const jobs::Step<SnapshotTake>> SnapshotTake::steps() {
    static constexpr jobs::Step<SnapshotTake> kSteps[] = {
        {"look", "see where its data lies", &SnapshotTake::look, jobs::nothing_to_undo,
         jobs::nothing_to_record},
        {"take_snapshot", "freeze the branch in a snapshot", &SnapshotTake::take_snapshot,
         &SnapshotTake::destroy_snapshot, &SnapshotTake::record},
    };
    return jobs::checked(kSteps);
}

/// A sync that ran before this job has given the branch another volume.
asio::awaitable<Progress> SnapshotTake::look(State& state) {
    const catalog::Branch* found = services_.catalog.branch_by_id(state.branch_id);
    if (found == nullptr || found->trash) {
        throw Error(ErrorKind::kConflict, "branch_gone", "the branch of this snapshot is gone",
                    "it was deleted since the snapshot was asked for",
                    "take a snapshot of what is there now");
    }
    state.volume = found->volume;
    co_return Done{};
}

asio::awaitable<Progress> SnapshotTake::take_snapshot(State& state) {
    co_await require_pool_space(services_, 0);
    const catalog::Branch branch = *services_.catalog.branch_by_id(state.branch_id);
    snapshot_ = co_await take_base_snapshot(services_, context_, branch, state.snapshot_id);
    snapshot_->label = state.label;
    snapshot_->created_by = state.created_by;
    co_return Done{};
}

asio::awaitable<void> SnapshotTake::destroy_snapshot(const State& state) {
    const storage::SnapshotRef place{state.volume, state.snapshot_id};
    co_await services_.storage.destroy_snapshot(place);
}

void SnapshotTake::record(const State&, jobs::Batch& batch) const {
    if (snapshot_) services_.catalog.put(*snapshot_, batch);
}

nlohmann::json SnapshotTake::result(const State& state) const {
    return {{"snapshot", state.snapshot_id}, {"branch", state.branch_id}};
}

}  // namespace bpg::operations
