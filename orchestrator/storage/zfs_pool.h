// What `bpgd init` and the start of bpgd do with ZFS before a driver is made: whether ZFS works
// here, a pool in a sparse file, importing it, and the base dataset that volumes hang below. All of
// it blocks and needs root: offload it.
//
// A pool of ours is never imported by the system's boot services (cachefile=none), so that bpgd
// alone decides when; a pool that somebody else made is left as it is.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "orchestrator/storage/zfs_command.h"

namespace bpg::storage {

/// ZFS itself refuses less than 64 MiB.
inline constexpr std::uint64_t kZfsPoolFileMin = 128ULL << 20U;

/// Whether the commands and what they talk to (kernel module, daemon) work.
struct ZfsSupport {
    bool works = false;
    std::string reason;  ///< one sentence for init and status
};
ZfsSupport detect_zfs(const ZfsTools& tools = {});

/// ONLINE, DEGRADED, FAULTED, UNAVAIL, SUSPENDED …; nothing when no such pool is imported.
std::optional<std::string> zfs_pool_health(const std::string& pool, const ZfsTools& tools = {});

/// The name of the pool that a file holds, from its label; nothing when there is none in it, or a
/// destroyed one.
std::optional<std::string> zfs_pool_in_file(const std::filesystem::path& path);
/// The same from the name-value pairs of a label.
std::optional<std::string> zfs_pool_in_label(std::string_view label);

/// Makes a sparse file (0600) with an empty pool in it, complete or not at all, and leaves it
/// exported. A file that holds a pool of this name already is success, whatever its size. Throws
/// kConflict `pool_file_foreign` for any other file there, kConflict `pool_exists` when a pool of
/// this name is imported from elsewhere, kInvalid `pool_too_small`, kExhausted `no_space` when the
/// file could not be filled as the disk is now.
void make_zfs_pool_file(const std::filesystem::path& path, std::uint64_t size,
                        const std::string& pool, const ZfsTools& tools = {});

/// Imports a pool from its file, or from a directory of devices or files. Imported already:
/// success. Throws kNotFound `pool_file_missing`, kUnavailable `storage_unavailable` when it is not
/// found there or ZFS refuses. Never forces.
void import_zfs_pool(const std::filesystem::path& file_or_directory, const std::string& pool,
                     const ZfsTools& tools = {});

/// Unmounts and exports; success when it is not imported. kUnavailable `volume_busy` while in use.
void export_zfs_pool(const std::string& pool, const ZfsTools& tools = {});

struct ZfsBase {
    std::string dataset;               ///< "<pool>/<dataset_base>"
    std::filesystem::path mountpoint;  ///< the volume root
    std::string pool_id;               ///< made once, tells this base from every other
    bool made = false;                 ///< by this call
};

/// Makes the base dataset, or takes one that is there with its own mountpoint and properties, marks
/// it and mounts it. `root` is where a new one is mounted; `known_pool_id` (from an earlier init)
/// must be the one found then, and nothing is made: kUnavailable `storage_unavailable` otherwise.
/// kConflict `base_not_mountable` (mountpoint none or legacy, canmount off, a zvol), and
/// `mountpoint_busy` when a new one would hide files.
ZfsBase prepare_zfs_base(const std::string& pool, const std::string& dataset_base,
                         const std::filesystem::path& root, const std::string& known_pool_id = {},
                         const ZfsTools& tools = {});

/// Mounts every volume of ours that is not mounted (after a boot, or a restart of zfs-fuse).
/// Returns a sentence for each that could not be; the others are usable all the same.
std::vector<std::string> mount_zfs_volumes(const ZfsBase& base, const ZfsTools& tools = {});

}  // namespace bpg::storage
