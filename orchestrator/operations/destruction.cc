#include "orchestrator/operations/destruction.h"

#include <algorithm>
#include <optional>
#include <set>

#include "orchestrator/base/error.h"
#include "orchestrator/operations/shared_snapshots.h"

namespace bpg::operations {

using catalog::Branch;
using catalog::Snapshot;

std::vector<Doomed> Destruction::doom(catalog::Catalog& catalog, std::vector<Branch> branches,
                                      const std::string& job_id, jobs::Batch& batch) {
    std::vector<Doomed> doomed;
    for (Branch& branch : branches) {
        doomed.push_back({branch.id, branch.state, branch.should_run});
        branch.state = catalog::BranchState::kDeleting;
        branch.should_run = false;
        branch.last_job = job_id;
        catalog.put(branch, batch);
    }
    return doomed;
}

asio::awaitable<void> Destruction::remove_instances(std::vector<std::string> branch_ids,
                                                    bool keep) {
    for (const std::string& id : branch_ids) {
        if (services_.catalog.branch_by_id(id) == nullptr) continue;
        if (keep) {
            co_await instances_.stop_or_kill(id);
        } else {
            co_await instances_.remove(id);
        }
    }
}

void Destruction::move_to_trash(const std::vector<Doomed>& doomed, const std::string& item,
                                const std::string& kind, bool keep, jobs::Batch& batch) const {
    const WallTime now = services_.clock.now();
    for (const Doomed& before : doomed) {
        const Branch* found = services_.catalog.branch_by_id(before.branch_id);
        if (found == nullptr || found->trash) continue;
        Branch branch = *found;
        catalog::Trashed trash;
        trash.item = item.empty() ? branch.id : item;
        trash.kind = kind;
        trash.ref = services_.catalog.ref_of(branch);
        trash.deleted_at = now;
        trash.purge_at = keep ? now + services_.settings.trash_keep : now;
        trash.ran = before.should_run;
        trash.port = branch.port;
        branch.trash = std::move(trash);
        branch.state = catalog::BranchState::kStopped;
        branch.port = 0;
        branch.expires_at.reset();
        branch.warnings.clear();
        services_.catalog.put(branch, batch);
    }
}

/// One that was brought back since is nobody's to destroy.
std::vector<std::string> Destruction::still_doomed(std::vector<std::string> branch_ids) const {
    std::erase_if(branch_ids, [this](const std::string& id) {
        const Branch* branch = services_.catalog.branch_by_id(id);
        return branch != nullptr && !branch->trash &&
               branch->state != catalog::BranchState::kDeleting;
    });
    return branch_ids;
}

asio::awaitable<void> Destruction::destroy_volumes(std::vector<std::string> branch_ids) {
    branch_ids = still_doomed(std::move(branch_ids));
    for (const std::string& id : clones_first(branch_ids)) {
        const Branch* branch = services_.catalog.branch_by_id(id);
        if (branch == nullptr) continue;
        const std::string volume = branch->volume;
        const std::string owner = branch->owner_of_volume();
        services_.shared_snapshots.release(id);
        const std::vector<Snapshot> first = co_await snapshots_that_go_before(volume, branch_ids);
        for (const Snapshot& snapshot : first) {
            const storage::SnapshotRef place{snapshot.volume, snapshot.id};
            if (co_await destroy_unless_cloned(services_, place)) destroyed_.insert(snapshot.id);
        }
        co_await destroy_volume(volume, owner);
    }
}

/// A snapshot of ours that is in the way is let go of by another job, which is just destroying what
/// was cut from it: this one is tried again.
asio::awaitable<void> Destruction::destroy_volume(std::string volume, std::string owner) {
    std::vector<std::string> known;  // before: who lets go of one forgets it as well
    for (const auto& [id, snapshot] : services_.catalog.snapshots())
        known.push_back(id);
    std::optional<Error> failure;
    try {
        co_await services_.storage.destroy_volume(volume, owner);
        co_return;
    } catch (const Error& error) {
        failure = error;
    }
    const std::string& named = failure->info().detail;
    const bool is_ours = std::any_of(known.begin(), known.end(), [&named](const auto& id) {
        return named.find(id) != std::string::npos;
    });
    if (failure->code() != "volume_has_snapshots" || !is_ours) throw *failure;
    throw Error(ErrorKind::kUnavailable, "volume_busy", failure->info().message, named,
                "it is tried again");
}

/// Its own, and those whose volume is gone or going: ZFS may have moved them to this one, which was
/// cloned from them, and it could not go before they have.
asio::awaitable<std::vector<Snapshot>> Destruction::snapshots_that_go_before(
    std::string volume, std::vector<std::string> branch_ids) {
    const std::set<std::string> going(branch_ids.begin(), branch_ids.end());
    std::set<std::string> staying;
    for (const auto& [id, branch] : services_.catalog.all_branches()) {
        // What is in the trash may be on its way out by another job.
        if (!going.contains(id) && !branch.trash) staying.insert(branch.volume);
    }
    std::vector<Snapshot> found;
    for (const auto& [id, snapshot] : services_.catalog.snapshots()) {
        const bool is_own = snapshot.volume == volume && !destroyed_.contains(id);
        if (is_own && !services_.shared_snapshots.is_claimed(id)) found.push_back(snapshot);
    }
    for (const Snapshot& snapshot : unclaimed_origins(services_)) {
        if (snapshot.volume == volume || staying.contains(snapshot.volume)) continue;
        if (destroyed_.contains(snapshot.id)) continue;
        // The times that it opens go with whose they are: nobody has to find out which.
        const Branch* owner = services_.catalog.branch_of_incarnation(snapshot.incarnation_id);
        const bool goes_too = owner != nullptr && going.contains(owner->id) &&
                              !services_.shared_snapshots.is_claimed(snapshot.id);
        if (goes_too || co_await origins_.may_go(snapshot)) found.push_back(snapshot);
    }
    co_return found;
}

/// By what their volumes hang on, which is not always their parent: promote changes parents.
std::vector<std::string> Destruction::clones_first(std::vector<std::string> branch_ids) const {
    const auto volume_below = [this](const std::string& volume) -> std::string {
        for (const auto& [id, branch] : services_.catalog.all_branches()) {
            if (branch.volume != volume) continue;
            const auto* origin = services_.catalog.snapshot_by_id(branch.created_from.snapshot);
            return origin == nullptr ? "" : origin->volume;
        }
        return "";
    };
    std::map<std::string, int> depths;
    for (const std::string& id : branch_ids) {
        const Branch* branch = services_.catalog.branch_by_id(id);
        std::set<std::string> seen;
        std::string volume = branch == nullptr ? "" : branch->volume;
        while (!volume.empty() && seen.insert(volume).second)
            volume = volume_below(volume);
        depths[id] = static_cast<int>(seen.size());
    }
    std::sort(branch_ids.begin(), branch_ids.end(),
              [&depths](const std::string& one, const std::string& other) {
                  return std::pair(-depths[one], one) < std::pair(-depths[other], other);
              });
    return branch_ids;
}

std::vector<Snapshot> Destruction::snapshots_of(const std::vector<std::string>& branch_ids) const {
    std::set<std::string> volumes;
    for (const std::string& id : branch_ids) {
        const Branch* branch = services_.catalog.branch_by_id(id);
        if (branch != nullptr) volumes.insert(branch->volume);
    }
    std::vector<Snapshot> found;
    for (const auto& [id, snapshot] : services_.catalog.snapshots()) {
        if (volumes.contains(snapshot.volume)) found.push_back(snapshot);
    }
    return found;
}

asio::awaitable<void> Destruction::destroy_snapshots(std::vector<std::string> branch_ids) {
    branch_ids = still_doomed(std::move(branch_ids));
    std::vector<Snapshot> gone;
    for (Snapshot& snapshot : snapshots_of(branch_ids)) {
        const bool is_claimed = services_.shared_snapshots.is_claimed(snapshot.id);
        if (!is_claimed && !destroyed_.contains(snapshot.id)) gone.push_back(std::move(snapshot));
    }
    for (const Snapshot& snapshot : gone) {
        const storage::SnapshotRef place{snapshot.volume, snapshot.id};
        if (co_await destroy_unless_cloned(services_, place)) destroyed_.insert(snapshot.id);
    }
    co_await origins_.destroy(destroyed_);
}

void Destruction::forget_snapshots(const std::vector<std::string>& branch_ids,
                                   jobs::Batch& batch) const {
    for (const std::string& id : destroyed_)
        services_.catalog.remove_snapshot(id, batch);
    origins_.forget(batch);
    for (Snapshot& snapshot : snapshots_of(still_doomed(branch_ids))) {
        snapshot.kind = "origin";
        snapshot.pinned = false;
        services_.catalog.put(snapshot, batch);
    }
}

void Destruction::note_destroyed(const std::vector<std::string>& branch_ids,
                                 jobs::Batch& batch) const {
    for (const std::string& id : still_doomed(branch_ids)) {
        const Branch* found = services_.catalog.branch_by_id(id);
        if (found == nullptr) continue;
        Branch branch = *found;
        branch.is_destroyed = true;
        branch.created_from.snapshot.clear();
        services_.catalog.put(branch, batch);
    }
}

asio::awaitable<void> Destruction::remove_files(std::vector<std::string> branch_ids) {
    const SecretStore& secrets = services_.secrets;
    branch_ids = still_doomed(std::move(branch_ids));
    for (const std::string& id : branch_ids) {
        const Branch* branch = services_.catalog.branch_by_id(id);
        if (branch == nullptr) continue;
        const std::string password = branch->password();
        const auto& all = services_.catalog.all_branches();
        // Not asked: which are on record. Two jobs that destroy the last two that share a password
        // would each leave it to the other.
        const bool is_needed = std::any_of(all.begin(), all.end(), [&](const auto& entry) {
            return !entry.second.is_destroyed && entry.second.password() == password;
        });
        if (!is_needed) {
            co_await services_.pool.run(
                [&secrets, &password] { secrets.remove_password(password); });
        }
        co_await instances_.remove_files(id);
    }
}

void Destruction::forget(const std::vector<std::string>& branch_ids,
                         const std::vector<std::string>& database_ids, jobs::Batch& batch) const {
    for (const std::string& id : still_doomed(branch_ids))
        services_.catalog.remove_branch(id, batch);
    const auto& left = services_.catalog.all_branches();
    for (const std::string& id : database_ids) {
        const bool is_used = std::any_of(left.begin(), left.end(), [&id](const auto& entry) {
            return entry.second.database_id == id;
        });
        if (!is_used) services_.catalog.remove_database(id, batch);
    }
}

void Destruction::note_failure(const std::vector<std::string>& branch_ids,
                               const std::vector<Doomed>& doomed, const ErrorInfo& error,
                               jobs::Batch& batch) const {
    if (error.kind == ErrorKind::kCancelled) {
        for (const Doomed& before : doomed) {
            const Branch* found = services_.catalog.branch_by_id(before.branch_id);
            if (found == nullptr || found->trash) continue;
            Branch branch = *found;
            branch.state = before.state;
            branch.should_run = before.should_run;
            services_.catalog.put(branch, batch);
        }
        return;
    }
    for (const std::string& id : branch_ids) {
        const Branch* found = services_.catalog.branch_by_id(id);
        if (found == nullptr) continue;
        Branch branch = *found;
        branch.last_job = context_.job_id();
        branch.warnings = {"deleting it failed: " + error.message +
                           (branch.trash ? "; it is tried again" : "")};
        const auto before = std::find_if(doomed.begin(), doomed.end(),
                                         [&id](const Doomed& one) { return one.branch_id == id; });
        if (!branch.trash && before != doomed.end()) {
            // Nothing was destroyed yet. Whether it still runs is the supervisor's to find out.
            branch.state =
                before->should_run ? catalog::BranchState::kFailed : catalog::BranchState::kStopped;
            branch.should_run = before->should_run;
        }
        services_.catalog.put(branch, batch);
    }
}

}  // namespace bpg::operations
