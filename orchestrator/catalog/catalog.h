// What exists: every database, branch and snapshot, in memory and in the store. Reads are from
// memory; a change is asked first (can_*: a refusal is a value) and then applied, which changes
// memory and adds the record to a Batch that the caller commits. Between the two nothing is
// awaited, so what can_* said still holds. Loop thread only.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "jobs/store.h"
#include "orchestrator/base/error.h"
#include "orchestrator/catalog/types.h"

namespace bpg::catalog {

/// One thing that waits in the trash: a branch, a database with all of its branches, or what a sync
/// replaced.
struct TrashItem {
    Trashed trash;
    std::string database_id;  ///< set for a whole database
    std::vector<std::string> branch_ids;
};

/// "prod/dev" in its two parts, both valid names; throws kInvalid `ref_invalid` or `name_invalid`.
std::pair<std::string, std::string> split_ref(const std::string& ref);

class Catalog {
  public:
    /// Reads everything from the store; called once at start.
    void load(const jobs::Store& store);

    // Reads. Pointers are valid until the next change.
    const Database* find_database(const std::string& name) const;
    const Database* database_by_id(const std::string& id) const;
    const Branch* find_branch(const std::string& ref) const;
    const Branch* branch_named(const std::string& database_id, const std::string& name) const;
    const Branch* branch_by_id(const std::string& id) const;
    const Branch* branch_of_incarnation(const std::string& incarnation_id) const;
    const Snapshot* snapshot_by_id(const std::string& id) const;
    /// As above, but throw kNotFound `database_not_found`, `branch_not_found`,
    /// `snapshot_not_found`; kConflict `id_ambiguous`.
    const Database& database(const std::string& name) const;
    const Branch& branch(const std::string& ref) const;
    const Snapshot& snapshot(const std::string& id_or_prefix) const;

    // What users see; the trash and the unfinished halves of syncs are left out.
    std::vector<const Database*> databases() const;  ///< by name
    /// main first, then by name; all databases when `database_id` is empty.
    std::vector<const Branch*> branches(const std::string& database_id = {}) const;
    std::vector<const Branch*> children(const std::string& branch_id) const;
    /// The branch, its children, theirs and so on, each behind all that were cut from it.
    std::vector<const Branch*> family(const Branch& branch) const;

    // Everything there is.
    const std::map<std::string, Branch>& all_branches() const { return branches_; }
    std::vector<const Branch*> all_children(const std::string& branch_id) const;
    /// Oldest first.
    std::vector<TrashItem> trash() const;
    /// By id or unique prefix, or by what it was called, the newest then; kNotFound
    /// `trash_item_not_found`, kConflict `id_ambiguous`.
    TrashItem trash_item(const std::string& text) const;

    std::vector<const Snapshot*> snapshots_of(const std::string& branch_id) const;
    /// Branches cut from this snapshot.
    std::vector<const Branch*> branches_from(const std::string& snapshot_id) const;
    const std::map<std::string, Snapshot>& snapshots() const { return snapshots_; }
    /// "prod/dev"; the id when its database is gone.
    std::string ref_of(const Branch& branch) const;

    /// `<database>-<branch>`, or `<database>-<branch>.<n>` where that is taken.
    std::string choose_volume(const std::string& database, const std::string& branch) const;
    /// Ports that branches hold.
    bool port_is_held(int port) const;

    // Asked before a change; nothing when it may be made.
    std::optional<ErrorInfo> can_create_database(const std::string& name) const;
    std::optional<ErrorInfo> can_create_branch(const std::string& ref, const Branch& parent) const;
    std::optional<ErrorInfo> can_delete_branch(const Branch& branch, bool force,
                                               bool recursive = false) const;
    std::optional<ErrorInfo> can_sync(const Branch& branch) const;
    std::optional<ErrorInfo> can_promote(const Branch& branch) const;
    std::optional<ErrorInfo> can_rename(const Branch& branch, const std::string& name) const;
    std::optional<ErrorInfo> can_delete_database(const Database& database, bool force) const;

    // Changes: memory now, the store with `batch`.
    void put(const Database& database, jobs::Batch& batch);
    void put(const Branch& branch, jobs::Batch& batch);
    void put(const Snapshot& snapshot, jobs::Batch& batch);
    void remove_database(const std::string& id, jobs::Batch& batch);
    void remove_branch(const std::string& id, jobs::Batch& batch);
    void remove_snapshot(const std::string& id, jobs::Batch& batch);

    // Not stored: measured in the background.
    void set_usage(const std::string& branch_id, const Usage& usage);
    std::optional<Usage> usage(const std::string& branch_id) const;
    void set_wal(const std::string& branch_id, const ArchiveFacts& facts);
    std::optional<ArchiveFacts> wal(const std::string& branch_id) const;

  private:
    std::map<std::string, Database> databases_;  ///< by id, like the others
    std::map<std::string, Branch> branches_;
    std::map<std::string, Snapshot> snapshots_;
    std::map<std::string, Usage> usages_;
    std::map<std::string, ArchiveFacts> wal_;
};

}  // namespace bpg::catalog
