// The nouns of the product as records: database, branch, snapshot. Plain values, stored as JSON.
//
// A branch's life:
//
//   creating ──▶ running ◀──▶ stopped
//      │            │  ▲          │
//      ▼            ▼  │          ▼
//    (gone)       failed      deleting ──▶ (gone)
//
// creating: reserved, being made; if that fails the record goes. running: answered a real query.
// stopped: no instance, on purpose. failed: no instance, not on purpose, and not restarted by
// itself. degraded is derived for display: running, with a condition in its warnings. deleting:
// stopped and moved to the trash. What is in the trash is stopped, comes back or is destroyed.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "orchestrator/base/clock.h"
#include "orchestrator/base/json.h"

namespace bpg::catalog {

/// The first branch of every database; it goes only with its database.
inline constexpr std::string_view kMain = "main";

/// Of what was deleted, or replaced by a sync, while it waits to be destroyed. It is stopped, holds
/// neither name nor port, and keeps its data, snapshots and password.
struct Trashed {
    std::string item;  ///< id of the trash item it belongs to: its own, or that of its database
    std::string kind;  ///< "branch", "database", "incarnation"
    std::string ref;   ///< what it was called
    WallTime deleted_at{};
    WallTime purge_at{};
    bool ran = false;  ///< it runs again when it is brought back
    int port = 0;      ///< that it had; it gets it again if it is free
};

struct Database {
    std::string id;
    std::string name;
    // What every branch of it runs; runtime::Engine says what each member is.
    std::string pg_version;
    std::string image;
    std::string image_id;
    std::string image_digest;
    std::uint32_t owner_uid = 0;  ///< of its data directories
    std::uint32_t owner_gid = 0;
    WallTime created_at{};
    std::optional<Trashed> trash;
    nlohmann::json unknown;  ///< what a later version wrote into its record, kept as it is
};

enum class BranchState { kCreating, kRunning, kStopped, kFailed, kDeleting };

std::string_view to_string(BranchState state);
NLOHMANN_JSON_SERIALIZE_ENUM(BranchState, {{BranchState::kFailed, "failed"},
                                           {BranchState::kCreating, "creating"},
                                           {BranchState::kRunning, "running"},
                                           {BranchState::kStopped, "stopped"},
                                           {BranchState::kDeleting, "deleting"}})

/// Where a branch was cut: every transaction up to `lsn` of the parent is in it.
struct CreatedFrom {
    std::string snapshot;  ///< snapshot id; empty when there is none (copied, or the first branch)
    std::string mode;      ///< "safe", "fast", "clean"; empty for a first branch
    std::string lsn;
    std::optional<WallTime> at;
};

struct Branch {
    std::string id;
    std::string database_id;
    std::string name;
    std::string parent_id;  ///< empty for a first branch
    BranchState state = BranchState::kCreating;
    bool should_run = true;  ///< started again after a crash or reboot
    std::string host;
    int port = 0;
    std::string volume;  ///< on-disk name; chosen with the reservation, never changes
    std::string storage_driver;
    std::string incarnation_id;
    int incarnation_number = 1;
    std::optional<WallTime> incarnation_at;  ///< since when it is this incarnation
    /// Of a replaced incarnation in the trash: id of the branch that it was.
    std::string incarnation_of;
    bool archives = true;  ///< its WAL is archived
    /// WAL of this incarnation that is older was removed, or is about to be: a segment name.
    std::string wal_kept_from;
    WallTime created_at{};
    std::optional<WallTime> expires_at;
    bool is_protected = false;
    std::uint32_t timeline = 0;
    std::string system_identifier;
    CreatedFrom created_from;
    std::string last_job;
    std::vector<std::string> warnings;
    std::map<std::string, std::string> settings;  ///< of PostgreSQL, for this branch alone
    /// Id that its volume carries outside, where that is not its own: a sync has moved the volume.
    std::string volume_owner;
    /// Id that its password is kept under, where that is not its own: promote swaps passwords.
    std::string password_id;
    /// Its superuser still has another password: the next start gives it its own, before users.
    bool password_due = false;
    bool is_destroyed = false;  ///< its volume is gone, and the rest of it goes
    std::string replaces;       ///< id of the branch whose place it takes once its sync is done
    std::optional<Trashed> trash;
    nlohmann::json unknown;  ///< what a later version wrote into its record, kept as it is

    /// Users see it: it is neither in the trash nor the unfinished half of a sync.
    bool is_visible() const { return !trash && replaces.empty(); }
    const std::string& owner_of_volume() const { return volume_owner.empty() ? id : volume_owner; }
    const std::string& password() const { return password_id.empty() ? id : password_id; }
};

struct Snapshot {
    std::string id;
    std::string branch_id;
    std::string incarnation_id;
    std::string volume;  ///< of the branch it was taken from
    std::string kind;    ///< "base": for PITR and branches, "origin": what a branch hangs on
    std::string label;
    WallTime created_at{};
    std::optional<WallTime> consistent_at;  ///< parent's clock right after it was taken
    std::string start_lsn;
    std::string stop_lsn;  ///< of pg_backup_stop; empty when taken without backup mode
    std::string lsn;       ///< parent's insert position right after it was taken
    std::uint32_t timeline = 0;
    std::string mode;  ///< "safe", "fast", "clean"
    bool pinned = false;
    bool pinned_with_wal = false;
    std::string created_by;    ///< "user", "schedule:<name>", "branch", "sync", "create"
    std::string backup_label;  ///< byte for byte, kept with the snapshot and not in the clone
    std::string tablespace_map;
    std::string system_identifier;
    nlohmann::json unknown;  ///< what a later version wrote into its record, kept as it is
};

/// Bytes, as last measured in the background; not stored.
struct Usage {
    std::uint64_t used = 0;
    std::uint64_t referenced = 0;
    std::uint64_t logical = 0;
    WallTime measured_at{};
};

/// What is known of a branch's WAL archive since the last look; not stored.
struct ArchiveFacts {
    std::uint64_t stored_bytes = 0;
    std::uint64_t archived = 0;   ///< segments, since bpgd knows it
    std::string incarnation_id;   ///< that the rest is of
    std::string newest_archived;  ///< segment name
    std::uint64_t pending = 0;    ///< segments that wait to be archived
    std::optional<WallTime> oldest_pending;
    std::optional<WallTime> last_archived_at;
    std::uint64_t gaps = 0;
    std::optional<WallTime> restorable_from;
    std::optional<WallTime> restorable_to;
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(Trashed, item, kind, ref, deleted_at, purge_at, ran,
                                                port)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(Database, id, name, pg_version, image, image_id,
                                                image_digest, owner_uid, owner_gid, created_at,
                                                trash)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(CreatedFrom, snapshot, mode, lsn, at)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(
    Branch, id, database_id, name, parent_id, state, should_run, host, port, volume, storage_driver,
    incarnation_id, incarnation_number, incarnation_at, incarnation_of, archives, wal_kept_from,
    created_at, expires_at, is_protected, timeline, system_identifier, created_from, last_job,
    warnings, settings, volume_owner, password_id, password_due, is_destroyed, replaces, trash)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(Snapshot, id, branch_id, incarnation_id, volume,
                                                kind, label, created_at, consistent_at, start_lsn,
                                                stop_lsn, lsn, timeline, mode, pinned,
                                                pinned_with_wal, created_by, backup_label,
                                                tablespace_map, system_identifier)

}  // namespace bpg::catalog
