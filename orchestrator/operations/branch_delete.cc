#include "orchestrator/operations/branch_delete.h"

namespace bpg::operations {
namespace {

using jobs::Done;
using jobs::Progress;

std::vector<std::string> ids_of(const BranchDelete::State& state) {
    std::vector<std::string> ids;
    for (const Doomed& doomed : state.doomed)
        ids.push_back(doomed.branch_id);
    if (ids.empty()) ids.push_back(state.branch_id);
    return ids;
}

}  // namespace

std::span<const jobs::Step<BranchDelete>> BranchDelete::steps() {
    using jobs::nothing_to_record;
    using jobs::nothing_to_undo;
    static constexpr jobs::Step<BranchDelete> kSteps[] = {
        {"remove_instance", "stop PostgreSQL, free name and port", &BranchDelete::remove_instance,
         nothing_to_undo, &BranchDelete::move_to_trash, Destruction::kIrreversible},
        {"destroy_volume", "destroy the volume", &BranchDelete::destroy_volume, nothing_to_undo,
         &BranchDelete::release_origin},
        {"destroy_snapshots", "destroy the snapshots nobody needs",
         &BranchDelete::destroy_snapshots, nothing_to_undo, &BranchDelete::forget_snapshots},
        {"remove_files", "remove password and log", &BranchDelete::remove_files, nothing_to_undo,
         &BranchDelete::forget},
    };
    return jobs::checked(kSteps);
}

asio::awaitable<Progress> BranchDelete::remove_instance(State& state) {
    const std::vector<std::string> ids = ids_of(state);
    co_await destruction_.remove_instances(ids, !state.purge);
    co_return Done{.ends_job = !state.purge};
}

void BranchDelete::move_to_trash(const State& state, jobs::Batch& batch) const {
    destruction_.move_to_trash(state.doomed, "", "branch", !state.purge, batch);
}

asio::awaitable<Progress> BranchDelete::destroy_volume(State& state) {
    const std::vector<std::string> ids = ids_of(state);
    co_await destruction_.destroy_volumes(ids);
    co_return Done{};
}

asio::awaitable<Progress> BranchDelete::destroy_snapshots(State& state) {
    const std::vector<std::string> ids = ids_of(state);
    co_await destruction_.destroy_snapshots(ids);
    co_return Done{};
}

asio::awaitable<Progress> BranchDelete::remove_files(State& state) {
    const std::vector<std::string> ids = ids_of(state);
    co_await destruction_.remove_files(ids);
    co_return Done{};
}

void BranchDelete::release_origin(const State& state, jobs::Batch& batch) const {
    destruction_.release_origins(ids_of(state), batch);
}

void BranchDelete::forget_snapshots(const State& state, jobs::Batch& batch) const {
    destruction_.forget_snapshots(ids_of(state), batch);
}

void BranchDelete::forget(const State& state, jobs::Batch& batch) const {
    destruction_.forget(ids_of(state), batch);
}

void BranchDelete::record_failure(const State& state, const ErrorInfo& error,
                                  jobs::Batch& batch) const {
    destruction_.note_failure(ids_of(state), state.doomed, error, batch);
}

nlohmann::json BranchDelete::result(const State& state) const {
    return {{"ref", state.ref}, {"branch", state.branch_id}, {"branches", ids_of(state).size()}};
}

}  // namespace bpg::operations
