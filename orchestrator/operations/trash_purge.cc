#include "orchestrator/operations/trash_purge.h"

namespace bpg::operations {

std::span<const jobs::Step<TrashPurge>> TrashPurge::steps() {
    using jobs::nothing_to_undo;
    static constexpr jobs::Step<TrashPurge> kSteps[] = {
        {"destroy_volumes", "destroy the volumes", &TrashPurge::destroy_volumes, nothing_to_undo,
         &TrashPurge::note_destroyed, Destruction::kIrreversible},
        {"destroy_snapshots", "destroy the snapshots nobody needs", &TrashPurge::destroy_snapshots,
         nothing_to_undo, &TrashPurge::forget_snapshots},
        {"remove_files", "remove passwords and logs", &TrashPurge::remove_files, nothing_to_undo,
         &TrashPurge::forget},
    };
    return jobs::checked(kSteps);
}

void TrashPurge::record_failure(const State& state, const ErrorInfo& error,
                                jobs::Batch& batch) const {
    destruction_.note_failure(state.branch_ids, {}, error, batch);
}

nlohmann::json TrashPurge::result(const State& state) const {
    return {{"items", state.items}};
}

}  // namespace bpg::operations
