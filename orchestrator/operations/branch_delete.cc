#include "orchestrator/operations/branch_delete.h"

#include <algorithm>

#include "orchestrator/base/error.h"
#include "orchestrator/operations/shared_snapshots.h"

namespace bpg::operations {

using jobs::Done;
using jobs::Progress;

std::vector<Doomed> Destruction::doom(catalog::Catalog& catalog,
                                      std::vector<catalog::Branch> branches,
                                      const std::string& job_id, jobs::Batch& batch) {
    std::vector<Doomed> doomed;
    for (catalog::Branch& branch : branches) {
        doomed.push_back({branch.id, branch.state, branch.should_run});
        branch.state = catalog::BranchState::kDeleting;
        branch.should_run = false;
        branch.last_job = job_id;
        catalog.put(branch, batch);
    }
    return doomed;
}

asio::awaitable<void> Destruction::remove_instances(std::vector<std::string> branch_ids) {
    for (const std::string& id : branch_ids)
        co_await instances_.remove(id);
}

asio::awaitable<void> Destruction::destroy_volumes(std::vector<std::string> branch_ids) {
    const std::vector<std::string> ordered = children_first(branch_ids);
    const std::vector<catalog::Snapshot> doomed = snapshots_of(branch_ids);
    for (const std::string& id : ordered) {
        const catalog::Branch* branch = services_.catalog.branch_by_id(id);
        if (branch == nullptr) continue;
        const std::string volume = branch->volume;
        for (const catalog::Snapshot& snapshot : doomed) {
            if (snapshot.branch_id != id) continue;
            const storage::SnapshotRef ref{snapshot.volume, snapshot.id};
            co_await services_.storage.destroy_snapshot(ref);
        }
        co_await services_.storage.destroy_volume(volume, id);
    }
}

std::vector<std::string> Destruction::children_first(std::vector<std::string> branch_ids) const {
    const auto depth = [this](const std::string& id) {
        int steps = 0;
        const catalog::Branch* branch = services_.catalog.branch_by_id(id);
        while (branch != nullptr && !branch->parent_id.empty()) {
            ++steps;
            branch = services_.catalog.branch_by_id(branch->parent_id);
        }
        return steps;
    };
    std::sort(branch_ids.begin(), branch_ids.end(),
              [&depth](const std::string& one, const std::string& other) {
                  return depth(one) > depth(other);
              });
    return branch_ids;
}

std::vector<catalog::Snapshot> Destruction::snapshots_of(
    const std::vector<std::string>& branch_ids) const {
    std::vector<catalog::Snapshot> gone;
    for (const auto& [id, snapshot] : services_.catalog.snapshots()) {
        const auto place = std::find(branch_ids.begin(), branch_ids.end(), snapshot.branch_id);
        if (place != branch_ids.end()) gone.push_back(snapshot);
    }
    return gone;
}

/// Of what the branches were cut from: several may have shared it, and the last one takes it along.
std::vector<catalog::Snapshot> Destruction::unclaimed_origins() const {
    std::vector<catalog::Snapshot> unclaimed;
    for (const auto& [id, snapshot] : services_.catalog.snapshots()) {
        if (snapshot.kind == "origin" && !snapshot.pinned &&
            !services_.shared_snapshots.is_claimed(id)) {
            unclaimed.push_back(snapshot);
        }
    }
    return unclaimed;
}

asio::awaitable<void> Destruction::destroy_snapshots(std::vector<std::string> branch_ids) {
    std::vector<catalog::Snapshot> gone = snapshots_of(branch_ids);
    for (const catalog::Snapshot& snapshot : unclaimed_origins()) {
        services_.shared_snapshots.close(snapshot.id);
        gone.push_back(snapshot);
    }
    destroyed_.clear();
    for (const catalog::Snapshot& snapshot : gone) {
        const storage::SnapshotRef ref{snapshot.volume, snapshot.id};
        co_await services_.storage.destroy_snapshot(ref);
        destroyed_.push_back(snapshot.id);
    }
}

void Destruction::forget_snapshots(jobs::Batch& batch) const {
    for (const std::string& id : destroyed_)
        services_.catalog.remove_snapshot(id, batch);
}

/// Their volumes are gone: they hang on nothing.
void Destruction::release_origins(const std::vector<std::string>& branch_ids,
                                  jobs::Batch& batch) const {
    for (const std::string& id : branch_ids) {
        const catalog::Branch* found = services_.catalog.branch_by_id(id);
        if (found == nullptr) continue;
        catalog::Branch branch = *found;
        branch.created_from.snapshot.clear();
        services_.catalog.put(branch, batch);
    }
}

asio::awaitable<void> Destruction::remove_files(std::vector<std::string> branch_ids) {
    const SecretStore& secrets = services_.secrets;
    for (const std::string& id : branch_ids) {
        co_await services_.pool.run([&secrets, &id] { secrets.remove_password(id); });
        co_await instances_.remove_log(id);
    }
}

void Destruction::forget(const std::vector<std::string>& branch_ids, jobs::Batch& batch) const {
    for (const std::string& id : branch_ids)
        services_.catalog.remove_branch(id, batch);
}

void Destruction::note_failure(const std::vector<std::string>& branch_ids,
                               const std::vector<Doomed>& doomed, const ErrorInfo& error,
                               jobs::Batch& batch) const {
    if (error.kind == ErrorKind::kCancelled) {
        for (const Doomed& before : doomed) {
            const catalog::Branch* found = services_.catalog.branch_by_id(before.branch_id);
            if (found == nullptr) continue;
            catalog::Branch branch = *found;
            branch.state = before.state;
            branch.should_run = before.should_run;
            services_.catalog.put(branch, batch);
        }
        return;
    }
    for (const std::string& id : branch_ids) {
        const catalog::Branch* found = services_.catalog.branch_by_id(id);
        if (found == nullptr) continue;
        catalog::Branch branch = *found;
        branch.last_job = context_.job_id();
        branch.warnings = {"deleting it failed: " + error.message + "; delete it again to go on"};
        services_.catalog.put(branch, batch);
    }
}

std::span<const jobs::Step<BranchDelete>> BranchDelete::steps() {
    using jobs::nothing_to_record;
    using jobs::nothing_to_undo;
    static constexpr jobs::Step<BranchDelete> kSteps[] = {
        {"remove_instance", "stop PostgreSQL", &BranchDelete::remove_instance, nothing_to_undo,
         nothing_to_record, Destruction::kIrreversible},
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
    const std::vector<std::string> one{state.branch_id};
    co_await destruction_.remove_instances(one);
    co_return Done{};
}

asio::awaitable<Progress> BranchDelete::destroy_volume(State& state) {
    const std::vector<std::string> one{state.branch_id};
    co_await destruction_.destroy_volumes(one);
    co_return Done{};
}

asio::awaitable<Progress> BranchDelete::destroy_snapshots(State& state) {
    const std::vector<std::string> one{state.branch_id};
    co_await destruction_.destroy_snapshots(one);
    co_return Done{};
}

asio::awaitable<Progress> BranchDelete::remove_files(State& state) {
    const std::vector<std::string> one{state.branch_id};
    co_await destruction_.remove_files(one);
    co_return Done{};
}

void BranchDelete::release_origin(const State& state, jobs::Batch& batch) const {
    destruction_.release_origins({state.branch_id}, batch);
}

void BranchDelete::forget_snapshots(const State&, jobs::Batch& batch) const {
    destruction_.forget_snapshots(batch);
}

void BranchDelete::forget(const State& state, jobs::Batch& batch) const {
    destruction_.forget({state.branch_id}, batch);
}

void BranchDelete::record_failure(const State& state, const ErrorInfo& error,
                                  jobs::Batch& batch) const {
    destruction_.note_failure({state.branch_id}, state.doomed, error, batch);
}

nlohmann::json BranchDelete::result(const State& state) const {
    return {{"ref", state.ref}, {"branch", state.branch_id}};
}

}  // namespace bpg::operations
