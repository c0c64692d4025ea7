#include "orchestrator/operations/db_delete.h"

namespace bpg::operations {

using jobs::Done;
using jobs::Progress;

std::span<const jobs::Step<DbDelete>> DbDelete::steps() {
    using jobs::nothing_to_record;
    using jobs::nothing_to_undo;
    static constexpr jobs::Step<DbDelete> kSteps[] = {
        {"remove_instances", "stop PostgreSQL of every branch", &DbDelete::remove_instances,
         nothing_to_undo, nothing_to_record, Destruction::kIrreversible},
        {"destroy_volumes", "destroy the volumes", &DbDelete::destroy_volumes, nothing_to_undo,
         nothing_to_record},
        {"destroy_snapshots", "destroy the snapshots", &DbDelete::destroy_snapshots,
         nothing_to_undo, &DbDelete::forget_snapshots},
        {"remove_files", "remove passwords and logs", &DbDelete::remove_files, nothing_to_undo,
         &DbDelete::forget},
    };
    return jobs::checked(kSteps);
}

asio::awaitable<Progress> DbDelete::remove_instances(State& state) {
    co_await destruction_.remove_instances(state.branch_ids);
    co_return Done{};
}

asio::awaitable<Progress> DbDelete::destroy_volumes(State& state) {
    co_await destruction_.destroy_volumes(state.branch_ids);
    co_return Done{};
}

asio::awaitable<Progress> DbDelete::destroy_snapshots(State& state) {
    co_await destruction_.destroy_snapshots(state.branch_ids);
    co_return Done{};
}

asio::awaitable<Progress> DbDelete::remove_files(State& state) {
    co_await destruction_.remove_files(state.branch_ids);
    co_return Done{};
}

void DbDelete::forget_snapshots(const State&, jobs::Batch& batch) const {
    destruction_.forget_snapshots(batch);
}

void DbDelete::forget(const State& state, jobs::Batch& batch) const {
    destruction_.forget(state.branch_ids, batch);
    services_.catalog.remove_database(state.database_id, batch);
}

void DbDelete::record_failure(const State& state, const ErrorInfo& error,
                              jobs::Batch& batch) const {
    destruction_.note_failure(state.branch_ids, state.doomed, error, batch);
}

nlohmann::json DbDelete::result(const State& state) const {
    return {{"ref", state.name}, {"database", state.database_id}};
}

}  // namespace bpg::operations
