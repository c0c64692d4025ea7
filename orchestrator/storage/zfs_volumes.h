// The verbs of the ZFS driver as plain blocking functions; zfs.h brings them to the loop. Each
// looks first and then acts, so it can be repeated after any failure, and looks again when a
// command failed or was killed: what counts is what is there. What is busy throws kUnavailable
// `volume_busy` at once; the caller repeats.
//
// A volume is the dataset <pool>/<base>/<name>, ours by the user properties betterpg:id, :ref,
// :incarnation and :job, set by the call that makes it. A snapshot is <dataset>@<id>, ours by
// betterpg:snapshot and betterpg:volume, and carries the volume's identity of that moment along:
// `zfs promote` may move it to another dataset, whose identity it would show otherwise.
//
// `zfs hold` is not used. A snapshot that a clone hangs on cannot be destroyed anyway, and one
// without clones is the catalog's to protect; a hold would cost two more commands a snapshot and
// guard only against an administrator's own `zfs destroy`.
#pragma once

#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/storage/storage.h"
#include "orchestrator/storage/zfs_command.h"

namespace bpg::storage {

// Our marks on datasets and snapshots. User properties are inherited by everything below, so only
// local values count (ZfsRow::local).
inline constexpr const char* kZfsPoolId = "betterpg:pool_id";
inline constexpr const char* kZfsId = "betterpg:id";
inline constexpr const char* kZfsRef = "betterpg:ref";
inline constexpr const char* kZfsIncarnation = "betterpg:incarnation";
inline constexpr const char* kZfsJob = "betterpg:job";
inline constexpr const char* kZfsSnapshot = "betterpg:snapshot";
inline constexpr const char* kZfsVolume = "betterpg:volume";

struct ZfsSettings {
    std::string pool;            ///< zfs.pool
    std::string dataset_base;    ///< zfs.datasetBase
    std::filesystem::path root;  ///< where the base is mounted: ZfsBase::mountpoint
    std::string pool_id;         ///< ZfsBase::pool_id; empty accepts any base that carries one
    ZfsTools tools;
    std::chrono::milliseconds busy_patience{10'000};  ///< how long what is busy is tried again
};

/// The identity that stands on this very dataset or snapshot; nothing when it is foreign.
std::optional<Identity> zfs_identity(const ZfsRow& row);

class ZfsVolumes {
  public:
    /// Throws kInvalid `dataset_name_invalid`. Does no I/O.
    explicit ZfsVolumes(ZfsSettings settings);

    std::filesystem::path volume_path(const std::string& volume) const;
    std::filesystem::path snapshot_path(const SnapshotRef& snapshot) const;

    std::optional<Identity> find(const std::string& volume) const;
    void mount(const std::string& volume) const;
    bool snapshot_exists(const SnapshotRef& snapshot) const;
    void create(const std::string& volume, const Identity& identity) const;
    void snapshot(const SnapshotRef& snapshot) const;
    void clone(const SnapshotRef& snapshot, const std::string& volume,
               const Identity& identity) const;
    void destroy(const std::string& volume, const std::string& owner_id) const;
    void set_ref(const std::string& volume, const std::string& owner_id,
                 const std::string& ref) const;
    void destroy_snapshot(const SnapshotRef& snapshot) const;
    Usage usage(const std::string& volume) const;
    Space space() const;
    /// Without a call of `zfs`.
    std::uint64_t free_bytes() const;
    std::vector<Found> list() const;

  private:
    /// Properties that newer pools have: to ask for one that is not known is a usage error.
    struct Knowledge {
        bool sync = false;
        bool logicalreferenced = false;
        bool written = false;
    };

    std::string dataset(const std::string& volume) const;
    std::string snapshot_name(const SnapshotRef& snapshot) const;
    /// The volume or snapshot part of a dataset's name.
    std::string below_base(const std::string& name) const;

    /// What is there of these names, from one command, after checking that the base is the right
    /// one, mounted where it must be.
    ZfsTable look(const std::vector<std::string>& names) const;
    void check_base(const ZfsTable& table) const;
    /// True when the volume is there with exactly this identity; throws `volume_foreign` for
    /// anything else under its name.
    bool holds(const ZfsTable& table, const std::string& volume, const Identity& identity) const;
    /// Its identity; nothing when absent; throws `volume_foreign`.
    std::optional<Identity> owner(const ZfsTable& table, const std::string& volume) const;
    /// What a new volume needs after the command that made it: mounted, and root's alone.
    void finish(const std::string& volume) const;
    void ensure_mounted(const std::string& volume) const;
    void remove_mountpoint(const std::string& volume) const;

    /// The full name of a snapshot of ours wherever promote moved it; "" when there is none.
    std::string find_snapshot(const SnapshotRef& snapshot, const ZfsTable& looked) const;
    /// Moves the snapshots that clones share to one of these clones, so that the dataset can go.
    void give_snapshots_away(const std::string& volume) const;
    std::string heir_of(const std::string& volume, const std::vector<std::string>& clones) const;
    std::vector<std::string> clones_of(const std::string& snapshot) const;
    Knowledge knowledge() const;
    std::vector<std::string> clone_options(const ZfsRow& parent) const;

    ZfsSettings settings_;
    std::string base_;
    ZfsCommand command_;
    mutable std::mutex mutex_;
    mutable std::optional<Knowledge> knowledge_;  // guarded by mutex_
};

}  // namespace bpg::storage
