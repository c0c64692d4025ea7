#include "orchestrator/init.h"

#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <nlohmann/json.hpp>

#include "jobs/store.h"
#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/offload.h"
#include "orchestrator/runtime/process.h"
#include "orchestrator/storage/pool.h"
#include "orchestrator/storage/volume_root.h"

namespace bpg {
namespace {

std::string resolve_version(const config::Config& config) {
    asio::io_context loop;
    BlockingPool pool(1);
    runtime::ProcessRuntime runtime({config.runtime.process.bin_dir, config.runtime.process.user},
                                    pool, loop.get_executor());
    std::string version;
    std::exception_ptr failure;
    runtime::EngineRequest wanted{config.postgres.version, ""};
    asio::co_spawn(loop, runtime.find_engine(wanted),
                   [&](std::exception_ptr error, const runtime::Engine& found) {
                       failure = std::move(error);
                       version = found.version;
                   });
    loop.run();
    if (failure) std::rethrow_exception(failure);
    return version;
}

void check_supported(const config::Config& config) {
    const auto driver = config.storage.driver;
    if (driver == config::StorageDriver::kZfs || driver == config::StorageDriver::kReflink) {
        throw Error(ErrorKind::kInvalid, "storage_driver_unsupported",
                    "storage driver " + std::string(config::to_string(driver)) +
                        " is not available in this version",
                    "it has btrfs and copy", "set storage.driver to btrfs, copy or auto");
    }
    if (config.runtime.driver == config::RuntimeDriver::kDocker) {
        throw Error(ErrorKind::kInvalid, "runtime_driver_unsupported",
                    "runtime driver docker is not available in this version", "it has process",
                    "set runtime.driver to process or auto");
    }
}

/// The driver of the root, with the reason: what its mark says, the config, or what works there.
storage::DriverChoice choose_driver(const config::Config& config) {
    const std::filesystem::path& root = config.storage.root;
    const storage::DriverChoice found = storage::detect_driver(root);
    const auto mark = storage::read_root_mark(root);
    const std::string wanted(config::to_string(config.storage.driver));
    if (mark) {
        if (wanted != "auto" && wanted != mark->driver) {
            throw Error(
                ErrorKind::kConflict, "storage_driver_conflict",
                "storage.driver is " + wanted + ", but " + root.string() + " was prepared for " +
                    mark->driver,
                "a volume root keeps its driver",
                "set storage.driver to " + mark->driver + ", or choose another storage.root");
        }
        return {mark->driver, "the volume root was prepared for it", found.reflink};
    }
    if (wanted == "auto" || wanted == found.driver) return found;
    if (wanted == "btrfs") {
        throw Error(ErrorKind::kInvalid, "storage_driver_unusable",
                    "storage driver btrfs does not work on " + root.string(), found.reason,
                    "put storage.root on btrfs, or let bpg init make a pool: --pool-file PATH");
    }
    return {wanted, "storage.driver says so", found.reflink};
}

}  // namespace

void ensure_directories(const config::Config& config) {
    std::filesystem::create_directories(config.paths.state.parent_path());
    std::filesystem::create_directories(config.paths.run.parent_path());
    std::filesystem::create_directories(config.api.socket.parent_path());
    // Passable for the instances' user, readable for nobody: volumes and sockets lie below.
    ensure_directory(config.paths.state, 0711);
    ensure_directory(config.secrets_dir(), 0700);
    ensure_directory(config.job_logs_dir(), 0700);
    ensure_directory(config.paths.state / "logs", 0700);
    ensure_directory(config.paths.run, 0755);
    ensure_directory(config.instance_sockets_dir(), 0711);
}

void mount_storage(const config::Config& config) {
    if (config.storage.pool_file.empty()) return;
    storage::mount_pool_file(config.storage.pool_file, config.storage.root);
}

nlohmann::json initialise(const config::Config& config) {
    if (::geteuid() != 0) {
        throw Error(ErrorKind::kPermission, "not_root", "bpgd init needs root",
                    "it makes directories, mounts and files of other users", "run it as root");
    }
    check_supported(config);
    const std::string version = resolve_version(config);
    ensure_directories(config);
    std::filesystem::create_directories(config.storage.root);
    const std::filesystem::path& pool_file = config.storage.pool_file;
    if (!pool_file.empty()) {
        std::filesystem::create_directories(pool_file.parent_path());
        if (!std::filesystem::exists(pool_file)) {
            storage::make_pool_file(pool_file, config.storage.pool_size);
        }
        mount_storage(config);
    }
    const storage::DriverChoice choice = choose_driver(config);
    const auto pool_id_path = config.paths.state / "pool_id";
    const std::string known = read_file(pool_id_path, 256).value_or("");
    const storage::RootMark mark = storage::prepare_root(config.storage.root, choice.driver, known);
    if (known != mark.pool_id) write_file_durably(pool_id_path, mark.pool_id, 0600);
    if (!std::filesystem::exists(config.store_dir() / "CURRENT")) {
        ensure_directory(config.store_dir(), 0700);
        jobs::Store::create(config.store_dir());
    }
    nlohmann::json warnings = nlohmann::json::array(
        {"runtime process does not isolate branches from one another: all run as one system user"});
    if (choice.driver == "copy") {
        warnings.push_back(
            "storage driver copy copies every file for every branch; it is for trying "
            "things out");
    }
    return {{"storage",
             {{"driver", choice.driver},
              {"why", choice.reason},
              {"root", config.storage.root.string()}}},
            {"runtime",
             {{"driver", "process"}, {"version", version}, {"why", "native PostgreSQL was found"}}},
            {"warnings", warnings},
            {"config_updates",
             {{"storage.driver", choice.driver},
              {"runtime.driver", "process"},
              {"postgres.version", version.substr(0, version.find('.'))}}}};
}

}  // namespace bpg
