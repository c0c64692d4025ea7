#include "orchestrator/operations/db_delete.h"

namespace bpg::operations {

using jobs::Done;
using jobs::Progress;

std::span<const jobs::Step<DbDelete>> DbDelete::steps() {
    using jobs::nothing_to_undo;
    static constexpr jobs::Step<DbDelete> kSteps[] = {
        {"remove_instances", "stop PostgreSQL of every branch, free names and ports",
         &DbDelete::remove_instances, nothing_to_undo, &DbDelete::move_to_trash,
         Destruction::kIrreversible},
        {"destroy_volumes", "destroy the volumes", &DbDelete::destroy_volumes, nothing_to_undo,
         &DbDelete::note_destroyed},
        {"destroy_snapshots", "destroy the snapshots", &DbDelete::destroy_snapshots,
         nothing_to_undo, &DbDelete::forget_snapshots},
        {"remove_files", "remove passwords and logs", &DbDelete::remove_files, nothing_to_undo,
         &DbDelete::forget},
    };
    return jobs::checked(kSteps);
}

asio::awaitable<Progress> DbDelete::remove_instances(State& state) {
    co_await destruction_.remove_instances(state.branch_ids, !state.purge);
    co_return Done{.ends_job = !state.purge};
}

void DbDelete::move_to_trash(const State& state, jobs::Batch& batch) const {
    const catalog::Database* found = services_.catalog.database_by_id(state.database_id);
    if (found == nullptr || found->trash) return;
    destruction_.move_to_trash(state.doomed, state.database_id, "database", !state.purge, batch);
    catalog::Database database = *found;
    const WallTime now = services_.clock.now();
    catalog::Trashed trash;
    trash.item = database.id;
    trash.kind = "database";
    trash.ref = database.name;
    trash.deleted_at = now;
    trash.purge_at = state.purge ? now : now + services_.settings.trash_keep;
    database.trash = std::move(trash);
    services_.catalog.put(database, batch);
}

void DbDelete::record_failure(const State& state, const ErrorInfo& error,
                              jobs::Batch& batch) const {
    destruction_.note_failure(state.branch_ids, state.doomed, error, batch);
}

nlohmann::json DbDelete::result(const State& state) const {
    return {{"ref", state.name}, {"database", state.database_id}};
}

}  // namespace bpg::operations
