// The configuration file as one plain value. Each member is a unit type with its default; a table
// in config.cc names every key once, with its sentence and its check, and reading, showing and
// deploy/config.example.yaml all come from it. Secrets have no place here.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace bpg::config {

using std::chrono::milliseconds;

enum class StorageDriver { kAuto, kZfs, kBtrfs, kReflink, kCopy };
enum class RuntimeDriver { kAuto, kDocker, kProcess };
enum class Egress { kDeny, kAllow };

/// As written in the file: "auto", "zfs", "deny" …
std::string_view to_string(StorageDriver driver);
std::string_view to_string(RuntimeDriver driver);
std::string_view to_string(Egress egress);

/// Free space that is kept free: a share of the file system (then at least 2 GiB), or a size.
struct Reserve {
    double fraction = 0.05;   ///< 0 to 1; 0 when `bytes` decides
    std::uint64_t bytes = 0;  ///< used when `fraction` is 0

    /// What that means, in bytes, on a pool or file system of `size` bytes.
    std::uint64_t of(std::uint64_t size) const;
    bool operator==(const Reserve&) const = default;
};

struct PortRange {
    std::uint16_t first = 5432;
    std::uint16_t last = 6431;  ///< included

    bool operator==(const PortRange&) const = default;
};

struct Endpoint {
    std::string host = "127.0.0.1";  ///< an IP address, without brackets
    std::uint16_t port = 9732;

    bool operator==(const Endpoint&) const = default;
};

struct Zfs {
    std::string pool = "tank";
    std::string dataset_base = "betterpg/databases";  ///< below the pool
    bool operator==(const Zfs&) const = default;
};

struct Postgres {
    std::string image = "postgres:16-alpine";
    std::string version;  ///< major, "16"; empty: the newest installed
    std::string locale = "C.UTF-8";
    /// A file that has this key replaces the whole map.
    std::map<std::string, std::string> config{{"max_connections", "100"},
                                              {"shared_buffers", "256MB"}};
    bool operator==(const Postgres&) const = default;
};

struct Storage {
    StorageDriver driver = StorageDriver::kAuto;
    std::filesystem::path root = "/var/lib/betterpg/volumes";
    Reserve reserve;
    std::filesystem::path pool_file;        ///< empty: none
    std::uint64_t pool_size = 10ULL << 30;  ///< bytes, when pool_file is made
    bool operator==(const Storage&) const = default;
};

struct Docker {
    std::filesystem::path socket = "/var/run/docker.sock";
    std::string container_prefix = "bpg-";
    Egress egress = Egress::kDeny;
    bool operator==(const Docker&) const = default;
};

struct Process {
    std::filesystem::path bin_dir;  ///< empty: /usr/lib/postgresql/<version>/bin, then PATH
    std::string user = "postgres";
    bool operator==(const Process&) const = default;
};

struct Limits {
    std::optional<std::uint64_t> memory;  ///< bytes an instance; nothing: no limit
    std::uint32_t pids = 4096;            ///< processes an instance
    std::uint64_t shm = 1ULL << 30;       ///< bytes of /dev/shm an instance
    bool operator==(const Limits&) const = default;
};

struct Runtime {
    RuntimeDriver driver = RuntimeDriver::kAuto;
    Docker docker;
    Process process;
    Limits limits;
    milliseconds stop_timeout{60'000};
    bool operator==(const Runtime&) const = default;
};

struct Network {
    std::string listen = "127.0.0.1";  ///< a loopback address
    PortRange ports;
    bool operator==(const Network&) const = default;
};

struct Paths {
    std::filesystem::path state = "/var/lib/betterpg";
    std::filesystem::path run = "/run/betterpg";
    std::filesystem::path wal_archive = "/var/lib/betterpg/wal-archive";
    bool operator==(const Paths&) const = default;
};

struct Api {
    std::filesystem::path socket = "/run/betterpg/bpgd.sock";
    bool operator==(const Api&) const = default;
};

struct Metrics {
    std::optional<Endpoint> listen = Endpoint{};  ///< nothing: no metrics port
    std::uint32_t branch_series_max = 500;        ///< branches with series of their own
    bool operator==(const Metrics&) const = default;
};

/// How long a finished job stays in the history, by its outcome.
struct Keep {
    milliseconds succeeded = std::chrono::days(7);
    milliseconds failed = std::chrono::days(90);
    milliseconds cancelled = std::chrono::days(7);
    bool operator==(const Keep&) const = default;
};

struct Jobs {
    std::uint32_t running_max = 4;
    std::uint32_t queued_max = 1000;
    milliseconds deadline = std::chrono::hours(24);       ///< of a job; zero: none
    milliseconds step_deadline = std::chrono::hours(12);  ///< zero: none
    milliseconds no_progress = std::chrono::minutes(30);  ///< zero: however long
    std::uint64_t log_max = 1U << 20U;                    ///< bytes of the log of one job
    Keep keep;
    bool operator==(const Jobs&) const = default;
};

struct Trash {
    milliseconds keep = std::chrono::days(1);  ///< zero: gone as soon as the job is done
    bool operator==(const Trash&) const = default;
};

struct Retention {
    double max_fraction = 0.5;
    bool operator==(const Retention&) const = default;
};

struct Config {
    Zfs zfs;
    Postgres postgres;
    Storage storage;
    Runtime runtime;
    Network network;
    Paths paths;
    Api api;
    Metrics metrics;
    Jobs jobs;
    Trash trash;
    Retention retention;

    // Places that follow from `paths`.
    std::filesystem::path store_dir() const { return paths.state / "state"; }      ///< RocksDB
    std::filesystem::path job_logs_dir() const { return paths.state / "jobs"; }    ///< logs of jobs
    std::filesystem::path secrets_dir() const { return paths.state / "secrets"; }  ///< files 0600
    /// Programs that instances run, where they can read them.
    std::filesystem::path helper_dir() const { return paths.state / "bin"; }
    /// Sockets of the instances, one directory each, by incarnation id.
    std::filesystem::path instance_sockets_dir() const { return paths.run / "i"; }

    bool operator==(const Config&) const = default;
};

/// Says whether a PostgreSQL setting is bpgd's own and may not be given in `postgres.config`.
using OwnedSetting = std::function<bool(const std::string& name)>;

/// Reads a file (blocks; at most 1 MiB). Throws kNotFound `config_missing`, kPermission
/// `config_unreadable`, and what parse() throws.
Config load(const std::filesystem::path& file, const OwnedSetting& is_owned = {});

/// Reads YAML text. What is left out has its default; paths.wal_archive and storage.root then
/// follow paths.state, and api.socket follows paths.run. Throws kInvalid `config_invalid` whose
/// message is
/// "<file_name>:<line>:<column>: <what>", for the first thing wrong in the order of the file.
Config parse(const std::string& text, const std::string& file_name,
             const OwnedSetting& is_owned = {});

enum class Comments { kNone, kOnEachKey };

/// Every key with its value, as YAML that parse() reads back to an equal Config.
std::string to_yaml(const Config& config, Comments comments = Comments::kNone);

}  // namespace bpg::config
