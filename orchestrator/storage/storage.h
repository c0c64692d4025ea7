// The storage port: volumes that hold one branch each, read-only snapshots of them, and writable
// clones that share their blocks. Drivers: zfs, btrfs, copy (reflink to come).
//
// Names come from the caller and are fixed before the first effect (design law 1), so every verb
// can be repeated: "create" of what is there and ours is success, "destroy" of what is gone is
// success. A volume that exists is complete: drivers build aside and rename last, or make it in one
// call. What stands under one of our names without our identity is foreign: reported, never
// touched.
//
// All verbs are called on the loop thread and offload what blocks. Errors: kConflict
// `volume_foreign` (clashing name, not ours), kExhausted `no_space`, kInvalid
// `snapshot_unsupported`, `copy_unsupported` (a driver asked for what it cannot do), kUnavailable
// `storage_unavailable` (volume root not mounted, pool gone) and `volume_busy` (still in use after
// the driver's own patience; trying again later helps).
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bpg::storage {

namespace asio = boost::asio;

/// What is written outside the store beside every volume, so that it can be rebuilt from reality:
/// ZFS user properties `betterpg:*`, or `betterpg.json` in the volume (0600 root, fsynced).
struct Identity {
    std::string id;           ///< branch id
    std::string ref;          ///< "<database>/<branch>" when made
    std::string incarnation;  ///< incarnation id
    std::string job;          ///< the job that made it

    bool operator==(const Identity&) const = default;
};

/// A snapshot, known by its id, never by a name that a rename could move. `volume` is where it was
/// taken; it stays the same when that volume is gone.
struct SnapshotRef {
    std::string volume;
    std::string id;
};

/// Bytes. `used` would come back if this volume alone went; `referenced` is all it points to,
/// shared or not; `logical` is the sum of its file sizes.
struct Usage {
    std::uint64_t used = 0;
    std::uint64_t referenced = 0;
    std::uint64_t logical = 0;
};

struct Space {
    std::uint64_t size = 0;
    std::uint64_t free = 0;
};

/// What a file copy of a data directory leaves out; filled in by the postgres side (NA-3), since a
/// storage driver knows nothing of PostgreSQL. Paths are relative to the volume.
struct CopyPlan {
    std::vector<std::string> empty_directories;  ///< copied as directories, without their content
    std::vector<std::string> skipped_names;      ///< file names left out wherever they stand
    std::vector<std::string> skipped_prefixes;  ///< file name prefixes left out wherever they stand
    std::string last;                           ///< this file is copied after all others
    /// Says whether a copied `last` file is whole (a torn read is copied again, at most 50 times).
    std::function<bool(const std::string& content)> last_is_whole;
    /// Asked between files and every 64 MiB of one; ends the copy by what it throws. Pool thread.
    std::function<void()> may_go_on;
};

/// A volume or snapshot found on disk.
struct Found {
    std::string volume;
    std::optional<std::string> snapshot;  ///< set for a snapshot: its id
    std::optional<Identity> identity;     ///< nothing: foreign
};

class Storage {
  public:
    virtual ~Storage() = default;

    /// "zfs", "btrfs", "copy"
    virtual std::string_view driver() const = 0;
    /// Whether snapshots exist here, and are atomic and instant. A driver that says no has no
    /// snapshot() and clone(): branches are made by begin_copy() and finish_copy().
    virtual bool atomic() const = 0;

    /// Where the volume is or will be mounted: `<root>/<name>`. No I/O.
    virtual std::filesystem::path volume_path(const std::string& volume) const = 0;
    /// Where a snapshot's files can be read. No I/O. Atomic drivers only; on zfs only where the
    /// snapshot directory `.zfs` exists and while the volume it was taken of does.
    virtual std::filesystem::path snapshot_path(const SnapshotRef& snapshot) const = 0;

    /// The identity of a complete volume; nothing when there is none. Changes nothing, so that
    /// whoever only asks never meets who destroys. Throws `volume_foreign`.
    virtual asio::awaitable<std::optional<Identity>> find_volume(const std::string& volume) = 0;
    /// Brings the files of a volume that is there to its path, where a dataset may have been
    /// unmounted. Throws `storage_unavailable` when it cannot.
    virtual asio::awaitable<void> mount_volume(const std::string& volume) = 0;
    virtual asio::awaitable<bool> snapshot_exists(const SnapshotRef& snapshot) = 0;

    /// An empty volume, directory mode 0711 root. Success when it exists with this identity.
    virtual asio::awaitable<void> create_volume(const std::string& volume,
                                                const Identity& identity) = 0;

    /// A read-only point of a volume: everything written to it before the call. Atomic drivers
    /// only. An existing snapshot of this id is conflict `snapshot_exists`: the caller destroys one
    /// whose metadata it never recorded and takes another, it is never adopted.
    virtual asio::awaitable<void> snapshot(const SnapshotRef& snapshot) = 0;
    /// A writable volume sharing the snapshot's blocks, with an identity of its own. Atomic only.
    virtual asio::awaitable<void> clone(const SnapshotRef& snapshot, const std::string& volume,
                                        const Identity& identity) = 0;

    /// Copies a volume file by file into a build place, while its files may be changing; ENOENT and
    /// changing sizes are normal (NA-3). Begins from nothing each time. Returns the build place,
    /// where the caller may add files before finish_copy() makes all of it durable and renames it
    /// to `volume`. A driver that is atomic may refuse (`copy_unsupported`, zfs does).
    virtual asio::awaitable<std::filesystem::path> begin_copy(const std::string& source,
                                                              const std::string& volume,
                                                              const Identity& identity,
                                                              const CopyPlan& plan) = 0;
    virtual asio::awaitable<void> finish_copy(const std::string& volume,
                                              const Identity& identity) = 0;

    /// Destroys a volume and every leftover of building it. Refuses (`volume_foreign`) what does
    /// not carry `owner_id`. Success when nothing is there. Snapshots of it that have clones stay
    /// findable by their ids; kConflict `volume_has_snapshots` where a driver cannot keep the
    /// others without their volume (zfs): the caller destroys them first.
    virtual asio::awaitable<void> destroy_volume(const std::string& volume,
                                                 const std::string& owner_id) = 0;
    /// Writes another `ref` into the identity of a volume: its branch was renamed. Refuses
    /// (`volume_foreign`) what does not carry `owner_id`; success when nothing is there.
    virtual asio::awaitable<void> set_ref(const std::string& volume, const std::string& owner_id,
                                          const std::string& ref) = 0;
    /// Success when nothing is there. Never destroys anything that hangs on it: kConflict
    /// `snapshot_has_clones` where clones need it (zfs).
    virtual asio::awaitable<void> destroy_snapshot(const SnapshotRef& snapshot) = 0;

    /// May take long (walks files); run it in the background, never on a request's path.
    virtual asio::awaitable<Usage> usage(const std::string& volume) = 0;
    virtual asio::awaitable<Space> space() = 0;
    /// What can still be written, as the file system says: cheap, and asked before every create.
    /// Only where that looks like less than `enough`, what was removed just now is waited for.
    virtual asio::awaitable<std::uint64_t> free_bytes(std::uint64_t enough) = 0;
    /// Everything below our root, foreign things included, for reconciliation and `doctor`.
    virtual asio::awaitable<std::vector<Found>> list() = 0;
};

}  // namespace bpg::storage
