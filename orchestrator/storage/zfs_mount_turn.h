// Mounts are made one at a time where ZFS is zfs-fuse. It hands a new mount to its threads in two
// writes to one pipe; those of two mounts at the same moment mix, and it answers nobody any more.
#pragma once

#include <chrono>

#include "orchestrator/base/files.h"

namespace bpg::storage {

/// Held around a command that mounts: `zfs create`, `clone`, `mount`, `zpool import`. It keeps out
/// the other threads of bpgd and whatever other bpgd this machine has. With ZFS in the kernel,
/// which is told by its device, it is nothing.
class ZfsMountTurn {
  public:
    /// Blocks; throws kUnavailable `zfs_mounts_busy` after `patience`.
    explicit ZfsMountTurn(std::chrono::milliseconds patience);

  private:
    UniqueFd fd_;
};

}  // namespace bpg::storage
