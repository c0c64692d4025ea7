// Storage on a btrfs file system: a volume is a subvolume, a snapshot a read-only one, a clone a
// writable snapshot of that. Snapshots are atomic and take one commit of the file system, whatever
// the size. Wants a root made by prepare_root(), and full_page_writes=on in the instances it holds:
// writes to several files are not ordered without fsync, so a snapshot is what a power cut would
// leave.
//
// Limits: subvolumes made inside a volume are not part of its snapshots, so snapshot() refuses them
// (kInvalid `nested_subvolume`); quota groups are not used (they slow every commit), so usage()
// walks.
#pragma once

#include <string>

#include "orchestrator/storage/directory_storage.h"

namespace bpg::storage {

class BtrfsStorage final : public DirectoryStorage {
  public:
    /// Keeps a reference to `pool`. `pool_id` from prepare_root(): a root with another mark is
    /// refused; empty accepts any. Does no I/O: every verb looks whether the root is there.
    BtrfsStorage(std::filesystem::path root, BlockingPool& pool, std::string pool_id = {});

    bool atomic() const override { return true; }
    std::filesystem::path snapshot_path(const SnapshotRef& snapshot) const override;

    asio::awaitable<bool> snapshot_exists(const SnapshotRef& snapshot) override;
    asio::awaitable<void> snapshot(const SnapshotRef& snapshot) override;
    asio::awaitable<void> clone(const SnapshotRef& snapshot, const std::string& volume,
                                const Identity& identity) override;
    asio::awaitable<void> destroy_snapshot(const SnapshotRef& snapshot) override;

  protected:
    void check_file_system(int root_fd) const override;
    void make_place(int building_fd, const std::string& volume) const override;
    void remove_place(int building_fd, const std::string& volume) const override;
    void remove_volume(const Opened& opened, const std::string& volume) const override;

  private:
    void snapshot_now(const SnapshotRef& snapshot) const;
    void clone_now(const SnapshotRef& snapshot, const std::string& volume,
                   const Identity& identity) const;
    void destroy_snapshot_now(const SnapshotRef& snapshot) const;
};

}  // namespace bpg::storage
