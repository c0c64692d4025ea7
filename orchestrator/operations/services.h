// What every operation works with: the catalog, the ports, and the few settings that matter to
// them. Nothing here names a concrete driver.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <string>

#include "orchestrator/base/clock.h"
#include "orchestrator/base/offload.h"
#include "orchestrator/base/secret_store.h"
#include "orchestrator/catalog/catalog.h"
#include "orchestrator/postgres/data_directory.h"
#include "orchestrator/postgres/postgres.h"
#include "orchestrator/runtime/runtime.h"
#include "orchestrator/storage/storage.h"
#include "orchestrator/wal/archives.h"

namespace bpg::scheduler {
class Schedules;
}

namespace bpg::operations {

class SharedSnapshots;

struct Settings {
    std::string listen = "127.0.0.1";
    std::string locale = "C.UTF-8";
    std::map<std::string, std::string> postgres_config;  ///< postgres.config of the file
    std::filesystem::path socket_root;                   ///< `<paths.run>/i`
    std::filesystem::path log_root;                      ///< `<paths.state>/logs`
    std::filesystem::path wal_helper;                    ///< bpg-wal, where instances may read it
    std::chrono::milliseconds stop_timeout{60'000};
    /// How long what was deleted or replaced waits in the trash; 0: it goes with the job.
    std::chrono::milliseconds trash_keep{std::chrono::hours(24)};
    /// How long recovery of a clone may take before the job fails; progress is not watched yet.
    std::chrono::milliseconds ready_timeout{600'000};
    double retention_max_fraction = 0.5;  ///< of a schedule's snapshots that one prune may remove
};

struct Services {
    catalog::Catalog& catalog;
    SharedSnapshots& shared_snapshots;
    storage::Storage& storage;
    runtime::Runtime& runtime;
    postgres::Postgres& postgres;
    postgres::DataDirectories& data_directories;
    wal::Archives& archives;
    const SecretStore& secrets;
    scheduler::Schedules& schedules;
    BlockingPool& pool;
    const Clock& clock;
    Settings settings;
};

}  // namespace bpg::operations
