#include "orchestrator/storage/copy.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace bpg::storage {
namespace {

[[noreturn]] void throw_unsupported(std::string_view verb) {
    throw Error(ErrorKind::kInvalid, "snapshot_unsupported", fmt::format("cannot {}", verb),
                "the storage driver copy has neither snapshots nor clones",
                "use storage.driver btrfs or zfs (bpg init --pool-file makes a btrfs pool)");
}

}  // namespace

CopyStorage::CopyStorage(std::filesystem::path root, BlockingPool& pool, std::string pool_id)
    : DirectoryStorage(std::move(root), "copy", std::move(pool_id), pool) {}

std::filesystem::path CopyStorage::snapshot_path(const SnapshotRef&) const {
    throw_unsupported("read a snapshot");
}

void CopyStorage::check_file_system(int) const {}  // any will do

void CopyStorage::make_place(int building_fd, const std::string& volume) const {
    if (::mkdirat(building_fd, volume.c_str(), 0700) != 0) {
        throw storage_error(fmt::format("make a build place for {}", volume), errno);
    }
}

void CopyStorage::remove_place(int, const std::string& volume) const {
    remove_tree(root().building_path(volume));
}

void CopyStorage::remove_volume(const Opened& opened, const std::string& volume) const {
    // Out of its name first: a half-removed volume must never stand where complete ones do.
    if (::renameat2(opened.root.get(), volume.c_str(), opened.building.get(), volume.c_str(),
                    RENAME_NOREPLACE) != 0) {
        throw storage_error(fmt::format("take the volume {} out of use", volume), errno);
    }
    if (::fsync(opened.root.get()) != 0) throw storage_error("sync the volume root", errno);
    remove_tree(root().building_path(volume));
}

asio::awaitable<bool> CopyStorage::snapshot_exists(const SnapshotRef&) {
    co_return false;
}

asio::awaitable<void> CopyStorage::snapshot(const SnapshotRef&) {
    throw_unsupported("take a snapshot");
    co_return;
}

asio::awaitable<void> CopyStorage::clone(const SnapshotRef&, const std::string&, const Identity&) {
    throw_unsupported("clone a snapshot");
    co_return;
}

asio::awaitable<void> CopyStorage::destroy_snapshot(const SnapshotRef&) {
    co_return;
}

}  // namespace bpg::storage
