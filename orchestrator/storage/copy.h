// Storage in plain directories on any file system: every branch is a full copy, made file by file
// with PostgreSQL in backup mode. For trying things out; where files can share blocks (XFS, btrfs)
// the kernel does so by itself when it copies.
//
// Limits: no snapshots and no clones; those verbs refuse (kInvalid `snapshot_unsupported`) and say
// which drivers can.
#pragma once

#include <string>

#include "orchestrator/storage/directory_storage.h"

namespace bpg::storage {

class CopyStorage final : public DirectoryStorage {
  public:
    /// Keeps a reference to `pool`. `pool_id` from prepare_root(): a root with another mark is
    /// refused; empty accepts any. Does no I/O: every verb looks whether the root is there.
    CopyStorage(std::filesystem::path root, BlockingPool& pool, std::string pool_id = {});

    bool atomic() const override { return false; }
    /// Refuses like the other snapshot verbs.
    std::filesystem::path snapshot_path(const SnapshotRef& snapshot) const override;

    asio::awaitable<bool> snapshot_exists(const SnapshotRef& snapshot) override;
    asio::awaitable<void> snapshot(const SnapshotRef& snapshot) override;
    asio::awaitable<void> clone(const SnapshotRef& snapshot, const std::string& volume,
                                const Identity& identity) override;
    /// There is never one, so this always succeeds: an undo need not know the driver.
    asio::awaitable<void> destroy_snapshot(const SnapshotRef& snapshot) override;

  protected:
    void check_file_system(int root_fd) const override;
    void make_place(int building_fd, const std::string& volume) const override;
    void remove_place(int building_fd, const std::string& volume) const override;
    void remove_volume(const Opened& opened, const std::string& volume) const override;
};

}  // namespace bpg::storage
