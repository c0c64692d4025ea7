// Which storage driver the configuration means, prepared by `bpgd init` and brought up at every
// start of bpgd. With runtime_drivers the only place that names concrete drivers.
//
// All of it blocks and needs root.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "orchestrator/base/command_lock.h"
#include "orchestrator/base/offload.h"
#include "orchestrator/config/config.h"
#include "orchestrator/storage/storage.h"

namespace bpg {

/// Prepared storage, mounted and known to be the one that init saw.
struct StoragePlace {
    std::string driver;          ///< "zfs", "btrfs", "copy"
    std::string reason;          ///< why this one, in one sentence; set by prepare_storage()
    std::string pool;            ///< what a person calls it: a ZFS pool, a pool file, or the root
    std::filesystem::path root;  ///< above the volumes
    std::string pool_id;
    std::vector<std::string> warnings;
    /// Of the commands of everything that open_storage() opens here; null where there are none.
    std::shared_ptr<CommandLock> commands;
};

/// For `bpgd init`: makes what is missing (pool file, root or base dataset), safe to repeat. Throws
/// kInvalid `storage_driver_unusable`, kConflict `storage_driver_conflict`, and what the driver's
/// own preparation throws.
StoragePlace prepare_storage(const config::Config& config);

/// For every start: imports or mounts, and makes nothing. Throws kUnavailable
/// `storage_unavailable` when what init prepared is not there.
StoragePlace bring_up_storage(const config::Config& config);

/// Keeps a reference to `pool`.
std::unique_ptr<storage::Storage> open_storage(const config::Config& config,
                                               const StoragePlace& place, BlockingPool& pool);

/// "ok", or what the pool says of itself ("DEGRADED").
std::string storage_health(const config::Config& config, const StoragePlace& place);

}  // namespace bpg
