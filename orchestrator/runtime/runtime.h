// The runtime port: PostgreSQL instances as processes (or containers, to come). An instance belongs
// to one branch id and one data directory; that pair finds it again after bpgd was killed.
//
// All verbs are called on the loop thread and offload what blocks; each can be repeated. Errors:
// kNotFound `postgres_not_found` (no such version), kConflict `port_taken` or
// `data_directory_in_use`, kInternal `postgres_refused` (it ended; the last lines of its log are
// the detail), kUnavailable `runtime_unavailable`.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "orchestrator/base/files.h"

namespace bpg::runtime {

namespace asio = boost::asio;

/// Everything that decides how an instance runs. Settings become `-c name=value`, which beats
/// ALTER SYSTEM: only what bpgd owns goes there.
struct InstanceSpec {
    std::string branch_id;  ///< also passed as `-c bpg.branch_id=…`
    std::string name;       ///< on-disk name of the branch: the container's name
    std::string version;    ///< what resolve() returned
    std::filesystem::path data_directory;
    std::filesystem::path socket_directory;  ///< `<paths.run>/i/<id>`, made by start(), uid's, 0700
    std::filesystem::path log_path;          ///< stderr of PostgreSQL, appended
    std::vector<std::pair<std::string, std::string>> settings;
};

/// How to find an instance again.
struct InstanceRef {
    std::string branch_id;
    std::string name;
    std::filesystem::path data_directory;
    std::filesystem::path socket_directory;
};

struct InstanceStatus {
    bool running = false;
    std::int64_t pid = 0;  ///< of the postmaster, 0 when not running
};

enum class StopMode { kFast, kImmediate };

struct InitSpec {
    std::string version;
    std::filesystem::path data_directory;
    std::string locale;  ///< e.g. "C.UTF-8"
};

class Runtime {
  public:
    virtual ~Runtime() = default;

    /// "process"
    virtual std::string_view driver() const = 0;
    /// The user an instance runs as, and who must own its data directory.
    virtual FileOwner instance_user() const = 0;
    /// "" or "16" to the version that will be used, e.g. "15.20"; throws `postgres_not_found` with
    /// the versions there are. "" takes the newest.
    virtual asio::awaitable<std::string> resolve(const std::string& version) = 0;

    /// initdb: UTF8, data checksums, superuser `postgres`. Begins from nothing each time: anything
    /// in the data directory that is no finished cluster is removed first; a finished one is left.
    virtual asio::awaitable<void> init_data_directory(const InitSpec& spec) = 0;

    /// Starts PostgreSQL and returns once the process exists, not when it is ready. An instance of
    /// this branch that already runs on this data directory is success.
    virtual asio::awaitable<void> start(const InstanceSpec& spec) = 0;
    /// Fast shutdown: SIGINT. kTimeout `stop_timed_out` (and it still runs) when `timeout` passes.
    /// kImmediate: SIGQUIT, then SIGKILL after five seconds. Not running is success.
    virtual asio::awaitable<void> stop(const InstanceRef& instance, StopMode mode,
                                       std::chrono::milliseconds timeout) = 0;
    /// Removes what is left of a stopped instance (socket directory, container), not its data.
    virtual asio::awaitable<void> remove(const InstanceRef& instance) = 0;
    /// Makes it read its hba file again (SIGHUP).
    virtual asio::awaitable<void> reload(const InstanceRef& instance) = 0;

    virtual asio::awaitable<InstanceStatus> inspect(const InstanceRef& instance) = 0;
    /// Completes when the instance is no longer running (at once if it is not). Cancellable.
    virtual asio::awaitable<void> wait_until_gone(const InstanceRef& instance) = 0;
    /// The last lines an instance wrote since its newest start, at most `lines` and 16 KiB.
    virtual asio::awaitable<std::string> log_tail(const std::filesystem::path& log_path,
                                                  std::size_t lines) = 0;
};

}  // namespace bpg::runtime
