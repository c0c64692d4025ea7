// Storage on ZFS: a volume is a dataset, a snapshot a ZFS snapshot, a clone a ZFS clone. Snapshots
// and clones take the same time whatever the size. Works with OpenZFS 2.x and with zfs-fuse (pool
// version 23); wants a base made by prepare_zfs_base().
//
// Limits: begin_copy() is refused (kInvalid `copy_unsupported`), clones are what this driver is
// for. snapshot_path() is readable only where the snapshot directory `.zfs` exists (OpenZFS, not
// zfs-fuse) and until `zfs promote` moves the snapshot; read a snapshot through a clone.
#pragma once

#include <functional>

#include "orchestrator/base/offload.h"
#include "orchestrator/storage/zfs_volumes.h"

namespace bpg::storage {

class ZfsStorage final : public Storage {
  public:
    /// Keeps a reference to `pool`. Throws kInvalid `dataset_name_invalid`. Does no I/O: every verb
    /// looks whether the base dataset is the right one and mounted.
    ZfsStorage(const ZfsSettings& settings, BlockingPool& pool);

    std::string_view driver() const override { return "zfs"; }
    bool atomic() const override { return true; }
    std::filesystem::path volume_path(const std::string& volume) const override;
    std::filesystem::path snapshot_path(const SnapshotRef& snapshot) const override;

    asio::awaitable<std::optional<Identity>> find_volume(const std::string& volume) override;
    asio::awaitable<void> mount_volume(const std::string& volume) override;
    asio::awaitable<bool> snapshot_exists(const SnapshotRef& snapshot) override;
    asio::awaitable<void> create_volume(const std::string& volume,
                                        const Identity& identity) override;
    asio::awaitable<void> snapshot(const SnapshotRef& snapshot) override;
    asio::awaitable<void> clone(const SnapshotRef& snapshot, const std::string& volume,
                                const Identity& identity) override;
    asio::awaitable<std::filesystem::path> begin_copy(const std::string& source,
                                                      const std::string& volume,
                                                      const Identity& identity,
                                                      const CopyPlan& plan) override;
    asio::awaitable<void> finish_copy(const std::string& volume, const Identity& identity) override;
    /// What is in use is tried again until settings.busy_patience passed; then kUnavailable
    /// `volume_busy`. Further refusals: kConflict `volume_has_snapshots` (snapshots that no clone
    /// of ours can take over), `volume_has_children`, `volume_has_clones` (foreign ones).
    asio::awaitable<void> destroy_volume(const std::string& volume,
                                         const std::string& owner_id) override;
    /// kConflict `snapshot_has_clones` naming them, `snapshot_foreign`.
    asio::awaitable<void> destroy_snapshot(const SnapshotRef& snapshot) override;
    asio::awaitable<void> set_ref(const std::string& volume, const std::string& owner_id,
                                  const std::string& ref) override;
    asio::awaitable<Usage> usage(const std::string& volume) override;
    asio::awaitable<Space> space() override;
    asio::awaitable<std::uint64_t> free_bytes(std::uint64_t enough) override;
    asio::awaitable<std::vector<Found>> list() override;

  private:
    /// Runs blocking work on the pool, and again while it says `volume_busy`. The pauses are on the
    /// loop, so that a busy volume keeps no thread from the others.
    asio::awaitable<void> patiently(std::function<void()> work);

    ZfsVolumes volumes_;
    BlockingPool& pool_;
    std::chrono::milliseconds busy_patience_;
};

}  // namespace bpg::storage
