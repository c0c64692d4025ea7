#include "orchestrator/operations/trash_purge.h"

namespace bpg::operations {

using jobs::Done;
using jobs::Progress;

std::span<const jobs::Step<TrashPurge>> TrashPurge::steps() {
    using jobs::nothing_to_undo;
    static constexpr jobs::Step<TrashPurge> kSteps[] = {
        {"destroy_volumes", "destroy the volumes", &TrashPurge::destroy_volumes, nothing_to_undo,
         &TrashPurge::release_origins, Destruction::kIrreversible},
        {"destroy_snapshots", "destroy the snapshots nobody needs", &TrashPurge::destroy_snapshots,
         nothing_to_undo, &TrashPurge::forget_snapshots},
        {"remove_files", "remove passwords and logs", &TrashPurge::remove_files, nothing_to_undo,
         &TrashPurge::forget},
    };
    return jobs::checked(kSteps);
}

asio::awaitable<Progress> TrashPurge::destroy_volumes(State& state) {
    co_await destruction_.destroy_volumes(state.branch_ids);
    co_return Done{};
}

asio::awaitable<Progress> TrashPurge::destroy_snapshots(State& state) {
    co_await destruction_.destroy_snapshots(state.branch_ids);
    co_return Done{};
}

asio::awaitable<Progress> TrashPurge::remove_files(State& state) {
    co_await destruction_.remove_files(state.branch_ids);
    co_return Done{};
}

void TrashPurge::release_origins(const State& state, jobs::Batch& batch) const {
    destruction_.release_origins(state.branch_ids, batch);
}

void TrashPurge::forget_snapshots(const State& state, jobs::Batch& batch) const {
    destruction_.forget_snapshots(state.branch_ids, batch);
}

void TrashPurge::forget(const State& state, jobs::Batch& batch) const {
    destruction_.forget(state.branch_ids, batch);
    for (const std::string& id : state.database_ids) {
        const auto* database = services_.catalog.database_by_id(id);
        if (database != nullptr && database->trash) services_.catalog.remove_database(id, batch);
    }
}

void TrashPurge::record_failure(const State& state, const ErrorInfo& error,
                                jobs::Batch& batch) const {
    destruction_.note_failure(state.branch_ids, {}, error, batch);
}

nlohmann::json TrashPurge::result(const State& state) const {
    return {{"items", state.items}};
}

}  // namespace bpg::operations
