#include "orchestrator/runtime_drivers.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <utility>

#include "orchestrator/base/error.h"
#include "orchestrator/runtime/docker.h"
#include "orchestrator/runtime/process.h"

namespace bpg {
namespace {

constexpr const char* kDocker = "docker";
constexpr const char* kProcess = "process";

bool runs_containers(const config::Config& config) {
    return config.runtime.driver == config::RuntimeDriver::kDocker;
}

std::string native_version(const config::Config& config) {
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

}  // namespace

RuntimeChoice choose_runtime(const config::Config& config) {
    const bool is_auto = config.runtime.driver == config::RuntimeDriver::kAuto;
    if (is_auto || config.runtime.driver == config::RuntimeDriver::kDocker) {
        const runtime::DockerPresence docker = runtime::detect_docker(config.runtime.docker.socket);
        if (!docker.why) {
            return {kDocker, docker.version,
                    "Docker answers on " + config.runtime.docker.socket.string()};
        }
        if (!is_auto) throw Error(*docker.why);
    }
    return {kProcess, native_version(config), "native PostgreSQL was found"};
}

void settle_runtime(config::Config& config) {
    if (config.runtime.driver != config::RuntimeDriver::kAuto) return;
    config.runtime.driver = choose_runtime(config).driver == kDocker
                                ? config::RuntimeDriver::kDocker
                                : config::RuntimeDriver::kProcess;
}

bool instances_need_passage(const config::Config& config) {
    return !runs_containers(config);
}

std::unique_ptr<runtime::Runtime> open_runtime(const config::Config& config, BlockingPool& pool,
                                               asio::any_io_executor executor) {
    if (!runs_containers(config)) {
        runtime::ProcessSettings settings{config.runtime.process.bin_dir,
                                          config.runtime.process.user};
        return std::make_unique<runtime::ProcessRuntime>(std::move(settings), pool,
                                                         std::move(executor));
    }
    runtime::DockerSettings settings;
    settings.socket = config.runtime.docker.socket;
    settings.container_prefix = config.runtime.docker.container_prefix;
    settings.image = config.postgres.image;
    settings.egress_allowed = config.runtime.docker.egress == config::Egress::kAllow;
    settings.limits.memory = config.runtime.limits.memory.value_or(0);
    settings.limits.pids = config.runtime.limits.pids;
    settings.limits.shm = config.runtime.limits.shm;
    return std::make_unique<runtime::DockerRuntime>(std::move(settings), pool, std::move(executor));
}

runtime::EngineRequest default_engine(const config::Config& config) {
    if (runs_containers(config)) return {"", config.postgres.image};
    return {config.postgres.version, ""};
}

std::string isolation_of(const runtime::Runtime& runtime) {
    return runtime.driver() == kProcess ? "none: all branches run as one system user"
                                        : "a container each";
}

std::vector<std::string> runtime_warnings(const std::string& driver) {
    if (driver != kProcess) return {};
    return {
        "runtime process does not isolate branches from one another: all run as one system "
        "user"};
}

}  // namespace bpg
