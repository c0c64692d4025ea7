// Branches that are cut from one parent at the same time share one snapshot of it, as commits share
// one write: while a snapshot is being taken, later creates wait for the next one, and that one
// serves every create that had arrived when it began. So twenty creates at once cost two or three
// checkpoints, and each branch still has all that was acknowledged before it was asked for.
//
// A snapshot belongs to all who hang on it, and whoever lets go last destroys it. Who hangs on it
// is in the catalog (`created_from.snapshot`, written with the step that took or joined it); this
// file adds what only the running process knows: which creates may still join, who is just letting
// go, and the open backup session without which a snapshot is never recorded.
//
// Loop thread only.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "orchestrator/base/signal.h"
#include "orchestrator/catalog/catalog.h"
#include "orchestrator/operations/backup.h"

namespace bpg::operations {

/// What everybody who hangs on a snapshot has to know of it.
struct SnapshotFacts {
    std::string snapshot_id;
    std::string mode;        ///< "safe", "fast", "clean": decided when it is taken
    bool in_backup = false;  ///< taken in a session that must still be stopped
    bool new_timeline = true;
    std::string start_lsn;  ///< position before it was taken; of a safe one the backup's start
    std::string line_lsn;   ///< parent's position right after it was taken
    std::optional<WallTime> line_at;
    bool has_subscriptions = false;
};

class SharedSnapshots {
  public:
    /// One snapshot, from the decision to take it until nobody can join it any more.
    struct Round {
        std::string parent_id;
        bool fast = false;
        std::set<std::string> expected;  ///< branch ids that had arrived when it began
        bool taken = false;

        SnapshotFacts facts;  ///< complete once taken, like the others here
        std::vector<std::string> warnings;
        std::unique_ptr<BackupInProgress> backup;  ///< with `in_backup`
        std::optional<catalog::Snapshot> record;   ///< with `in_backup`: all but what stop says
    };
    struct Place {
        std::shared_ptr<Round> round;
        bool leads = false;  ///< this create takes the snapshot, then calls taken() or close()
    };

    explicit SharedSnapshots(const catalog::Catalog& catalog) : catalog_(catalog) {}

    /// A place in the round that counts on this branch, once its snapshot is taken; or the lead of
    /// a new one, under `snapshot_id`, when none is being taken of this parent. Who joins must
    /// have it in the catalog before anything else is awaited.
    asio::awaitable<Place> enter(std::string parent_id, bool fast, std::string branch_id,
                                 std::string snapshot_id);
    /// The leader's snapshot is there and in the catalog: those it counts on may join.
    void taken(const std::string& snapshot_id);
    /// Nobody joins it any more: the leader failed, or it will be destroyed.
    void close(const std::string& snapshot_id);

    /// The round of a snapshot; nullptr when this process did not take it, or all is recorded.
    std::shared_ptr<Round> find(const std::string& snapshot_id) const;
    /// This branch is about to leave the catalog and does not count as hanging on anything.
    void release(const std::string& branch_id) { released_.insert(branch_id); }
    /// Whether any branch hangs on it, of those that have not released it.
    bool is_claimed(const std::string& snapshot_id) const;
    /// All of which that is so.
    std::set<std::string> claimed() const;

    /// It is being destroyed: nothing that is to last may count on it any more.
    void go(const std::string& snapshot_id) { going_.insert(snapshot_id); }
    /// It could not be destroyed.
    void stay(const std::string& snapshot_id) { going_.erase(snapshot_id); }
    bool is_going(const std::string& snapshot_id) const { return going_.contains(snapshot_id); }

  private:
    std::shared_ptr<Round> expecting(const std::string& parent_id, bool fast,
                                     const std::string& branch_id) const;
    bool is_being_taken(const std::string& parent_id, bool fast) const;
    std::shared_ptr<Round> begin(const std::string& parent_id, bool fast,
                                 const std::string& branch_id, const std::string& snapshot_id);
    bool is_still_to_come(const std::string& branch_id) const;
    void forget_what_is_over();

    const catalog::Catalog& catalog_;
    std::map<std::string, std::shared_ptr<Round>> rounds_;  ///< by snapshot id
    std::set<std::string> released_;                        ///< branch ids
    std::set<std::string> going_;                           ///< snapshot ids
    Signal changed_;
};

}  // namespace bpg::operations
