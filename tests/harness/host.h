// A private world for tests of the real thing: one bpgd with its own configuration, state, ports
// and storage below one temporary directory, used through the `bpg` command line as a user does.
// Several may exist at once and suites may run in parallel.
//
// At the end finish() takes everything down and reports whatever is left behind; the destructor
// does the same by force, so that a failing test leaves no process, mount or loop device either.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "tests/harness/docker_host.h"
#include "tests/harness/ports.h"
#include "tests/harness/world.h"
#include "tests/harness/zfs_fuse.h"

namespace bpg::test {

using namespace std::chrono_literals;
using Json = nlohmann::json;

struct DriverPair {
    /// "btrfs" (on a loop device, made by `bpg init --pool-file`), "zfs" (on a pool of the test's
    /// own) or "copy"
    std::string storage;
    std::string runtime;  ///< "process", or "docker" (on the tests' own dockerd)
};
std::ostream& operator<<(std::ostream& out, const DriverPair& pair);

/// An error as the command line tells it with `-o json`: the four parts and the exit code.
struct CliError {
    int exit_code = 0;
    std::string code;
    std::string what;  ///< RFC 9457 "title"
    std::string why;   ///< "detail"
    std::string fix;   ///< "hint"
};

struct CliResult {
    int exit_code = -1;
    std::string out;
    std::string err;
    std::chrono::milliseconds took{0};

    bool ok() const { return exit_code == 0; }
    /// stdout as JSON; throws with all of the output when it is none.
    Json json() const;
    /// The problem object on stderr; throws with all of the output when there is none.
    CliError error() const;
    /// Exit code, stdout and stderr, for messages.
    std::string text() const;
};

struct HostOptions {
    DriverPair drivers{"btrfs", "process"};
    std::string pool_size = "12G";  ///< sparse; btrfs only
    bool pool_by_init = false;      ///< zfs: `bpg init --pool-file` makes the pool
    std::string volumes_size;       ///< copy: the volume root is a disk of its own, of that size
    std::string state_size;         ///< the state directory is one
    std::string trash_keep = "0s";  ///< trash.keep
    std::string storage_reserve;    ///< storage.reserve
    bool wide_ports = false;        ///< room for hundreds of branches; one host at a time
    std::string extra_config;       ///< further YAML lines
    DockerHost::Image image = DockerHost::Image::kDebian;  ///< docker only
};

class TestHost {
  public:
    /// Writes the configuration and runs `bpg init --no-start`. Starts nothing.
    explicit TestHost(HostOptions options);
    ~TestHost();
    TestHost(const TestHost&) = delete;
    TestHost& operator=(const TestHost&) = delete;

    const HostOptions& options() const { return options_; }
    const std::filesystem::path& base() const { return base_; }
    std::filesystem::path config_file() const { return base_ / "config.yaml"; }
    std::filesystem::path volumes() const { return base_ / "volumes"; }
    std::filesystem::path state() const { return base_ / "state"; }
    std::filesystem::path socket() const { return base_ / "run" / "bpgd.sock"; }
    std::filesystem::path daemon_log() const { return base_ / "bpgd.log"; }
    const PortSlot& ports() const { return ports_; }
    bool atomic() const { return options_.drivers.storage != "copy"; }
    bool on_zfs() const { return options_.drivers.storage == "zfs"; }
    const std::string& pool_name() const { return pool_name_; }
    bool in_docker() const { return options_.drivers.runtime == "docker"; }
    /// What the names of this host's containers begin with.
    std::string container_prefix() const;
    /// "<pool>/<base>" that its datasets hang below.
    std::string dataset_base() const;

    // ---- the daemon ----------------------------------------------------------------------------
    /// Starts bpgd and waits until `bpg status` succeeds. Extra arguments: {"--crash-at", point}.
    void start_daemon(const std::vector<std::string>& arguments = {});
    /// Starts it and returns at once: nothing is known of its readiness.
    void spawn_daemon(const std::vector<std::string>& arguments = {},
                      const std::vector<std::string>& environment = {});
    void wait_until_ready(std::chrono::milliseconds deadline = 60s);
    /// SIGKILL, then reaped.
    void kill_daemon();
    /// SIGTERM; the exit code, or -1 when it did not end within the deadline (then it is killed).
    int stop_daemon(std::chrono::milliseconds deadline = 10s);
    /// Waits for it to end by itself: the raw wait status, nothing when it still runs.
    std::optional<int> wait_for_daemon_end(std::chrono::milliseconds deadline);
    bool daemon_runs() const { return daemon_ > 0; }
    pid_t daemon_pid() const { return daemon_; }

    // ---- the command line ----------------------------------------------------------------------
    /// `bpg --config FILE ARGUMENTS…`, as a user without a terminal.
    CliResult bpg(const std::vector<std::string>& arguments,
                  std::chrono::milliseconds deadline = 180s) const;
    /// The same with `-o json`; throws unless it exits 0.
    Json bpg_json(const std::vector<std::string>& arguments,
                  std::chrono::milliseconds deadline = 180s) const;
    /// The same, expecting it to fail; the parts of the error.
    CliError bpg_error(const std::vector<std::string>& arguments) const;
    /// Connection string with the password, from `bpg url`.
    std::string url(const std::string& ref) const;
    /// "PGHOST=…" and so on with the password, from `bpg env`, for client programs.
    std::vector<std::string> client_environment(const std::string& ref) const;

    Json branch(const std::string& ref) const { return bpg_json({"branch", "get", ref}); }
    bool branch_exists(const std::string& ref) const;
    /// The job `id` once it is finished.
    Json finished_job(const std::string& id, std::chrono::milliseconds deadline = 120s) const;
    /// How it ended: "succeeded", or its state with its error and all that happened in it, so that
    /// a failed comparison tells why.
    std::string outcome(const std::string& id) const;
    /// Until no job is open (queued, waiting, running, retrying, undoing). Throws when one is
    /// stuck.
    void wait_until_idle(std::chrono::milliseconds deadline = 120s) const;

    // ---- the world -----------------------------------------------------------------------------
    World world() const;
    /// Compares what the machine shows with what the catalog says; "" when both agree: every branch
    /// has its volume, every running one a process, a socket directory and its port, every snapshot
    /// is there, nothing more.
    std::string compare_world_with_catalog() const;
    /// What the identity of a volume says it is.
    std::string ref_on_disk(const std::string& volume) const;
    /// The running postmaster of a branch. Throws unless there is exactly one.
    ProcessFacts postmaster(const std::string& ref) const;
    /// What the instance wrote to its log so far.
    std::string instance_log(const std::string& ref) const;
    /// GET on the metrics port: the body. Throws unless it answers 200.
    std::string metrics() const;

    /// Deletes every database, stops bpgd, unmounts, removes the directory. Returns what was left
    /// behind at any of these points, one line each; empty is the only good answer.
    std::vector<std::string> finish();

  private:
    void prepare();
    void write_config() const;
    std::string compare_snapshots_with_catalog() const;
    void delete_all_databases(std::vector<std::string>& left);
    void destroy_pool(std::vector<std::string>& left);
    void force_down() noexcept;

    HostOptions options_;
    PortSlot ports_;
    std::filesystem::path base_;
    std::unique_ptr<TestPool> pool_;  ///< zfs, unless init made it
    std::string pool_name_;
    pid_t daemon_ = -1;
    bool finished_ = false;
};

/// The folder with bpg and bpgd: $BPG_BIN_DIR, else where this test program lies.
std::filesystem::path bin_dir();

/// Whether the long matrices are asked for (BPG_LONG set and not empty).
bool long_mode();

/// Looks every 20 ms until `condition` holds; false when the deadline passed.
bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds deadline);

}  // namespace bpg::test
