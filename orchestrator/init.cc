#include "orchestrator/init.h"

#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "jobs/store.h"
#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"
#include "orchestrator/runtime_drivers.h"
#include "orchestrator/storage_drivers.h"

namespace bpg {
namespace {

constexpr std::size_t kHelperMax = 64U << 20U;

/// Instances must be able to read it, wherever bpgd itself was installed. It is replaced as a
/// whole: an instance that runs it just then goes on with the one before.
void install_helper(const config::Config& config) {
    const std::filesystem::path ours = std::filesystem::read_symlink("/proc/self/exe");
    const std::filesystem::path source = ours.parent_path() / kWalHelper;
    const auto wanted = read_file(source, kHelperMax);
    if (!wanted) {
        throw Error(ErrorKind::kNotFound, "helper_missing", "bpg-wal is not there",
                    source.string() + " does not exist", "install bpg-wal beside bpgd");
    }
    const std::filesystem::path target = config.helper_dir() / kWalHelper;
    if (read_file(target, kHelperMax) == wanted) return;
    write_file_durably(target, *wanted, 0755);
}

}  // namespace

void ensure_directories(const config::Config& config) {
    // Said first, by its name: otherwise some file in it that cannot be changed would be blamed.
    if (::access(config.paths.state.c_str(), W_OK) != 0 && errno != ENOENT) {
        throw errno_error("write to the state directory " + config.paths.state.string(), errno);
    }
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
    std::filesystem::create_directories(config.paths.wal_archive.parent_path());
    ensure_directory(config.paths.wal_archive, 0711);
    ensure_directory(config.helper_dir(), 0755);
    install_helper(config);
}

nlohmann::json initialise(const config::Config& asked) {
    if (::geteuid() != 0) {
        throw Error(ErrorKind::kPermission, "not_root", "bpgd init needs root",
                    "it makes directories, mounts and files of other users", "run it as root");
    }
    config::Config config = asked;
    const RuntimeChoice runtime = choose_runtime(config);
    settle_runtime(config);
    ensure_directories(config);
    const StoragePlace storage = prepare_storage(config);
    if (!std::filesystem::exists(config.store_dir() / "CURRENT")) {
        ensure_directory(config.store_dir(), 0700);
        jobs::Store::create(config.store_dir());
    }
    std::vector<std::string> warnings = runtime_warnings(runtime.driver);
    warnings.insert(warnings.end(), storage.warnings.begin(), storage.warnings.end());
    nlohmann::json updates{{"storage.driver", storage.driver}, {"runtime.driver", runtime.driver}};
    if (runtime.driver == "process") {
        updates["postgres.version"] = runtime.version.substr(0, runtime.version.find('.'));
    }
    return {{"storage",
             {{"driver", storage.driver},
              {"why", storage.reason},
              {"pool", storage.pool},
              {"root", storage.root.string()}}},
            {"runtime",
             {{"driver", runtime.driver}, {"version", runtime.version}, {"why", runtime.reason}}},
            {"warnings", warnings},
            {"config_updates", updates}};
}

}  // namespace bpg
