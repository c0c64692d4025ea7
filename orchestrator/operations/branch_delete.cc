#include "orchestrator/operations/branch_delete.h"

namespace bpg::operations {

using jobs::Done;
using jobs::Progress;

std::vector<std::string> BranchDeleteState::all_branch_ids() const {
    std::vector<std::string> ids;
    for (const Doomed& one : doomed)
        ids.push_back(one.branch_id);
    if (ids.empty()) ids.push_back(branch_id);
    return ids;
}

std::span<const jobs::Step<BranchDelete>> BranchDelete::steps() {
    using jobs::nothing_to_record;
    using jobs::nothing_to_undo;
    static constexpr jobs::Step<BranchDelete> kSteps[] = {
        {"remove_instance", "stop PostgreSQL, free name and port", &BranchDelete::remove_instance,
         nothing_to_undo, &BranchDelete::move_to_trash, Destruction::kIrreversible},
        {"destroy_volume", "destroy the volume", &BranchDelete::destroy_volumes, nothing_to_undo,
         &BranchDelete::note_destroyed},
        {"destroy_snapshots", "destroy the snapshots nobody needs",
         &BranchDelete::destroy_snapshots, nothing_to_undo, &BranchDelete::forget_snapshots},
        {"remove_files", "remove password and log", &BranchDelete::remove_files, nothing_to_undo,
         &BranchDelete::forget},
    };
    return jobs::checked(kSteps);
}

asio::awaitable<Progress> BranchDelete::remove_instance(State& state) {
    const std::vector<std::string> ids = state.all_branch_ids();
    co_await destruction_.remove_instances(ids, !state.purge);
    co_return Done{.ends_job = !state.purge};
}

void BranchDelete::move_to_trash(const State& state, jobs::Batch& batch) const {
    destruction_.move_to_trash(state.doomed, "", "branch", !state.purge, batch);
}

void BranchDelete::record_failure(const State& state, const ErrorInfo& error,
                                  jobs::Batch& batch) const {
    destruction_.note_failure(state.all_branch_ids(), state.doomed, error, batch);
}

nlohmann::json BranchDelete::result(const State& state) const {
    return {{"ref", state.ref},
            {"branch", state.branch_id},
            {"branches", state.all_branch_ids().size()}};
}

}  // namespace bpg::operations
