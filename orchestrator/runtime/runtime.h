// The runtime port: PostgreSQL instances as native processes or containers. An instance belongs to
// one branch id and one data directory; that pair finds it again after bpgd was killed.
//
// All verbs are called on the loop thread and offload what blocks; each can be repeated. Errors:
// kNotFound `postgres_not_found` (no such version) or `image_not_found`, kConflict `port_taken`,
// `data_directory_in_use` or `container_foreign` (clashing name, not ours), kInternal
// `postgres_refused` (it ended; the last lines of its log are the detail), kUnavailable
// `runtime_unavailable`.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "orchestrator/base/files.h"

namespace bpg::runtime {

namespace asio = boost::asio;

/// The PostgreSQL that every branch of a database runs. Found once, when the database is made, and
/// recorded with it: another image or C library would silently change collation order (HYG,
/// postgres images differ in libc, uid and minor version).
struct Engine {
    std::string version;   ///< "15.20"; empty until prepared, where only the image tells it
    std::string image;     ///< as the user wrote it, "postgres:16-alpine"; empty with processes
    std::string image_id;  ///< "sha256:…" of the image's configuration: what containers run
    std::string digest;    ///< "name@sha256:…" it can be pulled by again; empty for a local image
    FileOwner user;        ///< who an instance runs as, and who must own its data directory

    bool operator==(const Engine&) const = default;
};

/// What a user asked for; empty members take the configured default.
struct EngineRequest {
    std::string version;  ///< "16"; processes only
    std::string image;    ///< containers only
};

/// Bytes fetched so far, of how many (0 when not known). Called on the loop thread.
using FetchReport = std::function<void(std::uint64_t done, std::uint64_t total)>;

/// How clients reach an instance.
struct Reach {
    std::string listen_addresses;  ///< what PostgreSQL itself must listen on
    /// Clients of the published address appear to come from elsewhere (a bridge's gateway), and who
    /// may connect is decided where the port is published.
    bool published = false;
};

/// Everything that decides how an instance runs. Settings become `-c name=value`, which beats
/// ALTER SYSTEM: only what bpgd owns goes there.
struct InstanceSpec {
    std::string branch_id;  ///< also passed as `-c bpg.branch_id=…`
    std::string name;       ///< on-disk name of the branch: the container's name
    std::string ref;        ///< "<database>/<branch>", for people who look at it from outside
    Engine engine;          ///< what prepare_engine() returned
    std::filesystem::path volume;  ///< what an instance sees of the host's files, with its socket
    std::filesystem::path data_directory;              ///< in the volume
    std::vector<std::filesystem::path> readable = {};  ///< directories that it sees too
    std::vector<std::filesystem::path> writable = {};  ///< the same, and it may write there
    std::filesystem::path socket_directory;  ///< `<paths.run>/i/<id>`, made by start(), uid's, 0700
    std::filesystem::path log_path;          ///< stderr of a native PostgreSQL, appended
    std::string listen;                      ///< network.listen: where its port is reachable
    int port = 0;
    bool may_reach_out =
        false;  ///< network access beyond its own clients, where that is controlled
    std::vector<std::pair<std::string, std::string>> settings;
};

/// How to find an instance again.
struct InstanceRef {
    std::string branch_id;
    std::string name;
    std::filesystem::path data_directory;
    std::filesystem::path socket_directory;  ///< empty: another instance uses it now
    std::filesystem::path log_path;
};

struct InstanceStatus {
    bool running = false;
    std::int64_t pid = 0;  ///< of the postmaster as the host sees it, 0 when not running
};

enum class StopMode { kFast, kImmediate };

struct InitSpec {
    std::string branch_id;
    std::string name;
    Engine engine;
    std::filesystem::path volume;
    std::filesystem::path data_directory;
    std::string locale;  ///< e.g. "C.UTF-8"
};

/// A piece of an instance's log.
struct LogPiece {
    std::string text;  ///< whole lines
    std::string next;  ///< where the next piece begins, for read_log()
};

class Runtime {
  public:
    virtual ~Runtime() = default;

    /// "process", "docker"
    virtual std::string_view driver() const = 0;
    /// Of what runs the instances, for `bpg status`; empty when it does not answer.
    virtual asio::awaitable<std::string> version() = 0;
    /// What is known at once of the PostgreSQL asked for; fetches nothing. Throws
    /// `postgres_not_found` with the versions there are, kInvalid `image_unsupported` or
    /// `version_unsupported` for the member this runtime does not take.
    virtual asio::awaitable<Engine> find_engine(EngineRequest request) = 0;
    /// Makes an engine ready to run, fetching its image when it is not here, and completes what was
    /// unknown of it. A complete one comes back as it is, or `image_not_found` is thrown.
    virtual asio::awaitable<Engine> prepare_engine(Engine engine, FetchReport report) = 0;
    /// No I/O.
    virtual Reach reach(const std::string& listen) const = 0;

    /// initdb: UTF8, data checksums, superuser `postgres`. A finished cluster is left; anything
    /// else in the data directory is removed first, but for the work of an initdb that a bpgd
    /// began which was killed since: that goes on, and counts. What initdb said, for the log of the
    /// job.
    virtual asio::awaitable<std::string> init_data_directory(const InitSpec& spec) = 0;

    /// Does of start() what can be done while another instance of this branch still runs on the
    /// same port and socket directory, so that start() takes less time. start() does not need it;
    /// remove() takes it back.
    virtual asio::awaitable<void> make_ready(const InstanceSpec& spec) = 0;
    /// Starts PostgreSQL and returns once the process exists, not when it is ready. An instance of
    /// this branch that already runs on this data directory is success. Never starts a second one
    /// on a data directory (E46: PostgreSQL itself cannot see across containers).
    virtual asio::awaitable<void> start(const InstanceSpec& spec) = 0;
    /// Fast shutdown: SIGINT. kTimeout `stop_timed_out` (and it still runs) when `timeout` passes.
    /// kImmediate: SIGQUIT, then SIGKILL after five seconds. Not running is success.
    virtual asio::awaitable<void> stop(const InstanceRef& instance, StopMode mode,
                                       std::chrono::milliseconds timeout) = 0;
    /// Removes what is left of a stopped instance and of an interrupted init_data_directory() or
    /// prepare_engine() (socket directory, containers, initdb at work), not its data.
    virtual asio::awaitable<void> remove(const InstanceRef& instance) = 0;
    /// Makes it read its hba file again (SIGHUP).
    virtual asio::awaitable<void> reload(const InstanceRef& instance) = 0;

    virtual asio::awaitable<InstanceStatus> inspect(const InstanceRef& instance) = 0;
    /// Completes when the instance is no longer running (at once if it is not). Cancellable.
    virtual asio::awaitable<void> wait_until_gone(const InstanceRef& instance) = 0;
    /// The last lines an instance wrote since its newest start, at most `lines` and 16 KiB.
    virtual asio::awaitable<std::string> log_tail(const InstanceRef& instance,
                                                  std::size_t lines) = 0;
    /// What it wrote since `from`, the end of an earlier piece, some 64 KiB of it; the last `lines`
    /// lines when `from` is empty.
    virtual asio::awaitable<LogPiece> read_log(const InstanceRef& instance, std::string from,
                                               std::size_t lines) = 0;
};

}  // namespace bpg::runtime
