#include "orchestrator/storage/btrfs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "orchestrator/base/id.h"
#include "orchestrator/storage/btrfs_ioctl.h"
#include "orchestrator/storage/identity.h"

namespace bpg::storage {
namespace {

constexpr int kDirectoryFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
constexpr int kDirectoryAttempts = 20;

UniqueFd open_existing(int parent_fd, const std::string& name) {
    UniqueFd fd(::openat(parent_fd, name.c_str(), kDirectoryFlags));
    if (!fd && errno != ENOENT) throw storage_error(fmt::format("open {}", name), errno);
    return fd;
}

/// `.snapshots/<volume>`; empty when absent.
UniqueFd open_snapshots(int root_fd, const std::string& volume) {
    return open_existing(root_fd, fmt::format("{}/{}", kSnapshots, volume));
}

UniqueFd make_snapshots(int root_fd, const std::string& volume) {
    const std::string path = fmt::format("{}/{}", kSnapshots, volume);
    // destroy_snapshot() of another one may remove the directory as soon as it is made.
    for (int attempt = 0; attempt < kDirectoryAttempts; ++attempt) {
        if (::mkdirat(root_fd, path.c_str(), 0700) != 0 && errno != EEXIST) {
            throw storage_error(fmt::format("make {}", path), errno);
        }
        UniqueFd fd = open_existing(root_fd, path);
        if (fd) return fd;
    }
    throw Error(ErrorKind::kUnavailable, "storage_unavailable", fmt::format("cannot make {}", path),
                "it is removed again and again");
}

Error snapshot_exists_error(const SnapshotRef& snapshot) {
    return {ErrorKind::kConflict, "snapshot_exists",
            fmt::format("the snapshot {} of {} exists already", snapshot.id, snapshot.volume)};
}

}  // namespace

BtrfsStorage::BtrfsStorage(std::filesystem::path root, BlockingPool& pool, std::string pool_id)
    : DirectoryStorage(std::move(root), "btrfs", std::move(pool_id), pool) {}

std::filesystem::path BtrfsStorage::snapshot_path(const SnapshotRef& snapshot) const {
    return root().snapshot_path(snapshot);
}

void BtrfsStorage::check_file_system(int root_fd) const {
    if (is_btrfs(root_fd)) return;
    throw Error(ErrorKind::kUnavailable, "storage_unavailable",
                fmt::format("the volume root {} cannot be used", root().path().native()),
                "it is not on a btrfs file system", "mount the file system it was made on");
}

void BtrfsStorage::make_place(int building_fd, const std::string& volume) const {
    create_subvolume(building_fd, volume);
}

void BtrfsStorage::remove_place(int building_fd, const std::string& volume) const {
    const UniqueFd place = open_place(building_fd, volume);
    if (!place) return;
    if (is_subvolume(place.get())) {
        destroy_subvolume(building_fd, volume);
    } else {
        remove_tree(root().building_path(volume));
    }
}

void BtrfsStorage::remove_volume(const Opened& opened, const std::string& volume) const {
    // One call takes the whole volume away; what was nested in it goes before.
    destroy_subvolume(opened.root.get(), volume);
}

asio::awaitable<bool> BtrfsStorage::snapshot_exists(const SnapshotRef& snapshot) {
    (void)snapshot_path(snapshot);  // checks both names
    auto work = [&] {
        const Opened opened = open_root();
        const UniqueFd directory = open_snapshots(opened.root.get(), snapshot.volume);
        return directory && open_existing(directory.get(), snapshot.id);
    };
    co_return co_await pool().run(work);
}

asio::awaitable<void> BtrfsStorage::snapshot(const SnapshotRef& snapshot) {
    (void)snapshot_path(snapshot);
    auto work = [&] { snapshot_now(snapshot); };
    co_await pool().run(work);
}

void BtrfsStorage::snapshot_now(const SnapshotRef& snapshot) const {
    const Opened opened = open_root();
    const UniqueFd source = root().open_volume(opened.root.get(), snapshot.volume);
    if (!source) VolumeRoot::throw_not_found(snapshot.volume);
    if (!is_subvolume(source.get())) {
        throw Error(ErrorKind::kInvalid, "not_a_subvolume",
                    fmt::format("cannot snapshot the volume {}", snapshot.volume),
                    "it is a plain directory, no btrfs subvolume",
                    "it was put there by hand; create the branch anew");
    }
    if (has_nested_subvolume(source.get())) {
        throw Error(
            ErrorKind::kInvalid, "nested_subvolume",
            fmt::format("cannot snapshot the volume {}", snapshot.volume),
            "another btrfs subvolume was made inside it, and would be empty in the snapshot",
            "replace it by a directory, or delete it");
    }
    for (int attempt = 0; attempt < kDirectoryAttempts; ++attempt) {
        const UniqueFd directory = make_snapshots(opened.root.get(), snapshot.volume);
        if (open_existing(directory.get(), snapshot.id)) throw snapshot_exists_error(snapshot);
        struct stat facts{};
        try {
            snapshot_subvolume(source.get(), directory.get(), snapshot.id, /*read_only=*/true);
            return;
        } catch (const Error&) {
            // No links left: another destroy_snapshot() removed the directory under us. Again.
            if (::fstat(directory.get(), &facts) != 0 || facts.st_nlink != 0) throw;
        }
    }
    throw Error(ErrorKind::kUnavailable, "storage_unavailable",
                fmt::format("cannot snapshot the volume {}", snapshot.volume),
                "its snapshots directory is removed again and again");
}

asio::awaitable<void> BtrfsStorage::clone(const SnapshotRef& snapshot, const std::string& volume,
                                          const Identity& identity) {
    (void)snapshot_path(snapshot);
    check_volume_name(volume);
    auto work = [&] { clone_now(snapshot, volume, identity); };
    co_await pool().run(work);
}

void BtrfsStorage::clone_now(const SnapshotRef& snapshot, const std::string& volume,
                             const Identity& identity) const {
    const Opened opened = open_root();
    if (root().holds(opened.root.get(), volume, identity)) return;
    const UniqueFd directory = open_snapshots(opened.root.get(), snapshot.volume);
    const UniqueFd source = directory ? open_existing(directory.get(), snapshot.id) : UniqueFd();
    if (!source) {
        throw Error(ErrorKind::kNotFound, "snapshot_not_found",
                    fmt::format("there is no snapshot {} of {}", snapshot.id, snapshot.volume));
    }
    remove_place(opened.building.get(), volume);
    PlaceGuard guard(*this, opened.building.get(), volume);
    snapshot_subvolume(source.get(), opened.building.get(), volume, /*read_only=*/false);
    const UniqueFd place = open_place(opened.building.get(), volume);
    write_identity(place.get(), identity);
    // The rename of a subvolume makes the sync that follows a full commit, which takes the name of
    // the identity file along.
    root().publish(opened.root.get(), volume);
    guard.keep();
}

asio::awaitable<void> BtrfsStorage::destroy_snapshot(const SnapshotRef& snapshot) {
    (void)snapshot_path(snapshot);
    auto work = [&] { destroy_snapshot_now(snapshot); };
    co_await pool().run(work);
}

void BtrfsStorage::destroy_snapshot_now(const SnapshotRef& snapshot) const {
    const Opened opened = open_root();
    const UniqueFd directory = open_snapshots(opened.root.get(), snapshot.volume);
    if (!directory) return;
    destroy_subvolume(directory.get(), snapshot.id);
    if (::fsync(directory.get()) != 0) throw storage_error("sync the snapshots directory", errno);
    const std::string path = fmt::format("{}/{}", kSnapshots, snapshot.volume);
    if (::unlinkat(opened.root.get(), path.c_str(), AT_REMOVEDIR) != 0 && errno != ENOTEMPTY &&
        errno != EEXIST && errno != ENOENT) {
        throw storage_error(fmt::format("remove {}", path), errno);
    }
}

}  // namespace bpg::storage
