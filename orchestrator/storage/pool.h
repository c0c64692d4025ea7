// What `bpgd init` and the start of bpgd do with storage before a driver is made: the pool file (a
// btrfs file system in a file, on a loop device), and which driver a root can have. All of it
// blocks and needs root: offload it. The mark of a root is in volume_root.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace bpg::storage {

/// Room for btrfs with two copies of its metadata, and a little data.
inline constexpr std::uint64_t kPoolFileMin = 256ULL << 20U;

/// Makes a sparse file (0600) with an empty btrfs file system in it, complete or not at all. A pool
/// file of ours that is there already is success, whatever its size. Throws kConflict
/// `pool_file_foreign` for any other file there, kInvalid `pool_too_small`, kExhausted `no_space`
/// when the file could not be filled as the disk is now, kNotFound `command_not_found` without
/// mkfs.btrfs.
void make_pool_file(const std::filesystem::path& path, std::uint64_t size);

/// Whether `path` is a pool file made by make_pool_file(); false when there is none.
bool is_pool_file(const std::filesystem::path& path);

/// Mounts a pool file on `mountpoint` (made when absent) through a loop device that goes away with
/// the mount. Mounted from that file already: success. Throws kConflict `mountpoint_busy` when
/// something else is mounted there or the directory is not empty, kNotFound `pool_file_missing`,
/// kUnavailable `storage_unavailable` when the kernel refuses.
void mount_pool_file(const std::filesystem::path& path, const std::filesystem::path& mountpoint);

/// Whether the file system mounted last on `mountpoint` is the one in this file.
bool is_mounted_from(const std::filesystem::path& path, const std::filesystem::path& mountpoint);

/// Unmounts; success when nothing is mounted there. kUnavailable `storage_unavailable` while in
/// use.
void unmount_pool_file(const std::filesystem::path& mountpoint);

/// Which driver a root on some file system can have, tried there, not guessed.
struct DriverChoice {
    std::string driver;    ///< "btrfs" or "copy"
    std::string reason;    ///< one sentence for init and status
    bool reflink = false;  ///< FICLONE works there
};

/// `root` need not exist: its nearest existing parent is tried. Leaves nothing behind.
DriverChoice detect_driver(const std::filesystem::path& root);

}  // namespace bpg::storage
