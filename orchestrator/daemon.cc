#include "orchestrator/daemon.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <sys/file.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <cstdlib>

#include "jobs/engine.h"
#include "jobs/queue.h"
#include "jobs/runner.h"
#include "metrics/instruments.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/log.h"
#include "orchestrator/base/signal.h"
#include "orchestrator/http/handlers/register.h"
#include "orchestrator/http/router.h"
#include "orchestrator/http/server.h"
#include "orchestrator/init.h"
#include "orchestrator/operations/operations.h"
#include "orchestrator/operations/requests.h"
#include "orchestrator/ports.h"
#include "orchestrator/postgres/local_data_directories.h"
#include "orchestrator/postgres/pqxx_postgres.h"
#include "orchestrator/runtime/process.h"
#include "orchestrator/storage/btrfs.h"
#include "orchestrator/storage/copy.h"
#include "orchestrator/storage/volume_root.h"
#include "orchestrator/supervisor.h"

namespace bpg {
namespace {

using Steady = std::chrono::steady_clock;

constexpr std::size_t kPoolThreads = 8;
constexpr std::size_t kBackgroundThreads = 2;
constexpr std::chrono::seconds kDrain{8};
constexpr std::chrono::minutes kMeasureEvery{1};

/// One bpgd a state directory and one a volume root; held until the process ends. The directory
/// itself is locked: nothing may be created in a root that might not be mounted.
UniqueFd lock_exclusively(const std::filesystem::path& path, std::string_view what) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    if (!fd) throw errno_error("open " + path.string(), errno);
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
    throw Error(ErrorKind::kConflict, "bpgd_running",
                fmt::format("another bpgd runs on this {}", what), path.string() + " is locked",
                "stop the other bpgd, or give this one a config with paths of its own");
}

std::unique_ptr<storage::Storage> open_storage(const config::Config& config, BlockingPool& pool) {
    const std::filesystem::path& root = config.storage.root;
    const auto mark = storage::read_root_mark(root);
    if (!mark) {
        throw Error(ErrorKind::kUnavailable, "storage_unavailable",
                    "there are no volumes in " + root.string(),
                    "its mark is missing: the volume root is not mounted, or was never prepared",
                    "mount it, or run: bpg init");
    }
    // From init, so that another pool mounted in this place is refused.
    const std::string pool_id = read_file(config.paths.state / "pool_id", 256).value_or("");
    if (mark->driver == "btrfs") {
        return std::make_unique<storage::BtrfsStorage>(root, pool, pool_id);
    }
    return std::make_unique<storage::CopyStorage>(root, pool, pool_id);
}

std::unique_ptr<runtime::Runtime> open_runtime(const config::Config& config, BlockingPool& pool,
                                               asio::any_io_executor executor) {
    const runtime::ProcessSettings settings{config.runtime.process.bin_dir,
                                            config.runtime.process.user};
    return std::make_unique<runtime::ProcessRuntime>(settings, pool, std::move(executor));
}

/// What a database runs when its user chose nothing.
runtime::EngineRequest default_engine(const config::Config& config) {
    return {config.postgres.version, ""};
}

operations::Settings operation_settings(const config::Config& config) {
    operations::Settings settings;
    settings.listen = config.network.listen;
    settings.locale = config.postgres.locale;
    settings.postgres_config = config.postgres.config;
    settings.socket_root = config.instance_sockets_dir();
    settings.log_root = config.paths.state / "logs";
    settings.stop_timeout = config.runtime.stop_timeout;
    return settings;
}

class Daemon {
  public:
    Daemon(const config::Config& config, const DaemonOptions& options);
    [[noreturn]] void run();

  private:
    void listen();
    asio::awaitable<void> main();
    asio::awaitable<void> measure_forever();
    asio::awaitable<void> watch_lag();
    void set_gauges();
    void spawn(asio::awaitable<void> part, std::string name);
    [[noreturn]] void end(int code);
    http::ApiServices api_services();
    nlohmann::json storage_json() const;
    nlohmann::json runtime_json() const;
    nlohmann::json warnings_json() const;

    const config::Config& config_;
    const Steady::time_point started_ = Steady::now();
    asio::io_context loop_{1};
    UniqueFd state_lock_;
    UniqueFd root_lock_;
    SystemClock clock_;
    metrics::Instruments metrics_;
    BlockingPool pool_{kPoolThreads};
    // Apart, so that measuring a large volume never keeps a branch waiting for a thread.
    BlockingPool background_pool_{kBackgroundThreads};
    SecretStore secrets_;
    std::unique_ptr<storage::Storage> storage_;
    std::unique_ptr<storage::Storage> measured_storage_;
    std::unique_ptr<runtime::Runtime> runtime_;
    postgres::PqxxPostgres postgres_{pool_};
    postgres::LocalDataDirectories data_directories_{pool_};
    catalog::Catalog catalog_;
    operations::Services services_;
    jobs::OperationRegistry registry_;
    jobs::CrashPoints crash_;
    jobs::Store store_;
    jobs::Queue queue_;
    jobs::Engine engine_;
    jobs::Runner runner_;
    operations::Requests requests_;
    Supervisor supervisor_;
    http::Router api_router_;
    http::Router metrics_router_;
    http::ApiServices api_;
    http::Server api_server_;
    http::Server metrics_server_;
    bool ready_ = false;
    storage::Space space_;
};

Daemon::Daemon(const config::Config& config, const DaemonOptions& options)
    : config_(config),
      state_lock_(lock_exclusively(config.paths.state, "state directory")),
      root_lock_(lock_exclusively(config.storage.root, "volume root")),
      secrets_(config.secrets_dir()),
      storage_(open_storage(config, pool_)),
      measured_storage_(open_storage(config, background_pool_)),
      runtime_(open_runtime(config, pool_, loop_.get_executor())),
      services_{catalog_,
                *storage_,
                *runtime_,
                postgres_,
                data_directories_,
                secrets_,
                pool_,
                clock_,
                operation_settings(config)},
      store_(config.store_dir(), loop_.get_executor(), metrics_),
      queue_(store_, registry_, clock_, {config.jobs.queued_max}),
      engine_(queue_, registry_, clock_, metrics_, crash_, {}),
      runner_(loop_.get_executor(), queue_, engine_, {config.jobs.running_max},
              [this](std::exception_ptr failure) {
                  log::error("a job ended in a way nobody expected",
                             {{"why", describe(failure).detail}});
                  end(1);
              }),
      requests_(services_, queue_,
                {config.network.ports.first, config.network.ports.last,
                 [listen = config.network.listen](int port) { return port_is_free(port, listen); }},
                default_engine(config)),
      supervisor_(loop_.get_executor(), services_, queue_, requests_, store_),
      api_(api_services()),
      api_server_(loop_.get_executor(), api_router_, {}),
      metrics_server_(loop_.get_executor(), metrics_router_, {}) {
    operations::register_operations(registry_, services_);
    for (const auto& [name, entry] : registry_.all()) {
        std::vector<std::string> steps;
        for (const jobs::StepName& step : entry.steps)
            steps.emplace_back(step.name);
        const bool has_modes = name == "branch-create";
        metrics_.declare_operation(
            name,
            has_modes ? std::vector<std::string>{"safe", "fast"} : std::vector<std::string>{""},
            steps);
    }
    if (!options.crash_at.empty()) crash_.arm_crash(options.crash_at);
    if (!options.fail_at.empty()) crash_.arm_failure(options.fail_at);
    http::register_api(api_router_, api_);
    api_router_.on_request_done(
        [this](std::string_view route, std::string_view method, int status, double seconds) {
            metrics_.http_request(std::string(route), std::string(method), status, seconds);
        });
    metrics_.before_scrape([this] { set_gauges(); });
}

http::ApiServices Daemon::api_services() {
    return {catalog_,
            queue_,
            requests_,
            services_,
            clock_,
            [this] { return ready_; },
            [this] { return runtime_json(); },
            [this] { return storage_json(); },
            started_,
            [this] { return warnings_json(); }};
}

nlohmann::json Daemon::storage_json() const {
    nlohmann::json pool = nullptr;
    if (!config_.storage.pool_file.empty()) pool = config_.storage.pool_file.string();
    return {{"driver", std::string(storage_->driver())},
            {"pool", pool},
            {"root", config_.storage.root.string()},
            {"size_bytes", space_.size},
            {"free_bytes", space_.free},
            {"health", space_.size > 0 ? "ok" : "unknown"}};
}

nlohmann::json Daemon::runtime_json() const {
    return {{"driver", std::string(runtime_->driver())},
            {"version", config_.postgres.version},
            {"isolation", "none: all branches run as one system user"}};
}

nlohmann::json Daemon::warnings_json() const {
    nlohmann::json warnings = nlohmann::json::array(
        {"runtime process does not isolate branches from one another: all run as one system user"});
    if (!storage_->atomic()) {
        warnings.push_back(
            "storage driver copy copies every file for every branch; it is for trying "
            "things out");
    }
    return warnings;
}

void Daemon::spawn(asio::awaitable<void> part, std::string name) {
    asio::co_spawn(loop_, std::move(part), [this, name](std::exception_ptr failure) {
        if (!failure) return;
        const ErrorInfo why = describe(failure);
        log::error("a part of bpgd ended in a way nobody expected",
                   {{"part", name}, {"why", why.message + ": " + why.detail}});
        end(1);
    });
}

void Daemon::listen() {
    gid_t group = 0;
    if (const ::group* entry = ::getgrnam("betterpg")) {
        group = entry->gr_gid;
    } else {
        log::warning("there is no group betterpg: only root can use the socket");
    }
    api_server_.listen_unix(config_.api.socket, 0660, group);
    if (!config_.metrics.listen) return;
    metrics_router_.add("GET", "/metrics",
                        [this](http::Request) -> asio::awaitable<http::Response> {
                            http::Response response;
                            response.content_type = "text/plain; version=0.0.4; charset=utf-8";
                            response.body = metrics_.exposition();
                            co_return response;
                        });
}

asio::awaitable<void> Daemon::main() {
    catalog_.load(store_);
    queue_.load();
    space_ = co_await storage_->space();
    co_await supervisor_.look_at_all();
    ready_ = true;
    log::info("bpgd is ready", {{"version", BPG_VERSION},
                                {"storage", std::string(storage_->driver())},
                                {"runtime", std::string(runtime_->driver())},
                                {"open_jobs", std::to_string(queue_.open_jobs().size())}});
    spawn(runner_.run(), "runner");
    spawn(supervisor_.run(), "supervisor");
    spawn(measure_forever(), "measuring");
    spawn(watch_lag(), "lag");
    bool told = false;
    while (config_.metrics.listen) {  // a port in use is retried, never a reason not to start
        try {
            metrics_server_.listen_tcp(config_.metrics.listen->host, config_.metrics.listen->port);
            break;
        } catch (const Error& error) {
            if (!told) log::warning("metrics are not served yet", {{"why", error.what()}});
            told = true;
        }
        co_await pause_for(std::chrono::seconds(5));
    }
}

asio::awaitable<void> Daemon::measure_forever() {
    while (true) {
        std::vector<std::pair<std::string, std::string>> due;
        const WallTime old = clock_.now() - kMeasureEvery;
        for (const catalog::Branch* branch : catalog_.branches()) {
            const bool there = branch->state == catalog::BranchState::kRunning ||
                               branch->state == catalog::BranchState::kStopped;
            const auto known = catalog_.usage(branch->id);
            if (there && (!known || known->measured_at < old)) {
                due.emplace_back(branch->id, branch->volume);
            }
        }
        for (const auto& [id, volume] : due) {
            try {
                const storage::Usage usage = co_await measured_storage_->usage(volume);
                catalog_.set_usage(id, {usage.used, usage.referenced, usage.logical, clock_.now()});
            } catch (const Error& error) {
                // Deleted meanwhile, most often; the next round knows.
                log::debug("a volume could not be measured", {{"why", error.what()}});
            }
        }
        space_ = co_await measured_storage_->space();
        co_await pause_for(std::chrono::milliseconds(500));
    }
}

asio::awaitable<void> Daemon::watch_lag() {
    constexpr std::chrono::milliseconds kEvery{100};
    while (true) {
        const auto due = Steady::now() + kEvery;
        co_await pause_for(kEvery);
        metrics_.loop_lag(std::chrono::duration<double>(Steady::now() - due).count());
    }
}

void Daemon::set_gauges() {
    std::map<std::string, double> jobs;
    double oldest = 0;
    for (const char* state : {"queued", "waiting", "running", "retrying", "undoing", "stuck"}) {
        jobs[state] = 0;
    }
    for (const auto& [number, job] : queue_.open_jobs()) {
        ++jobs[std::string(jobs::to_string(job->state))];
        const std::chrono::duration<double> age = clock_.now() - job->created_at;
        if (!job->started_at) oldest = std::max(oldest, age.count());
    }
    std::map<std::string, double> states;
    for (const char* state : {"creating", "running", "stopped", "failed", "deleting"}) {
        states[state] = 0;
    }
    std::vector<metrics::Sample> up;
    std::vector<metrics::Sample> used;
    std::vector<metrics::Sample> referenced;
    std::map<std::string, double> snapshots;
    for (const catalog::Branch* branch : catalog_.branches()) {
        ++states[std::string(catalog::to_string(branch->state))];
        const auto* database = catalog_.database_by_id(branch->database_id);
        if (database == nullptr || up.size() >= config_.metrics.branch_series_max) continue;
        snapshots[database->name] += static_cast<double>(catalog_.snapshots_of(branch->id).size());
        const std::vector<std::string> labels{database->name, branch->name};
        up.push_back({labels, branch->state == catalog::BranchState::kRunning ? 1.0 : 0.0});
        if (const auto usage = catalog_.usage(branch->id)) {
            used.push_back({labels, static_cast<double>(usage->used)});
            referenced.push_back({labels, static_cast<double>(usage->referenced)});
        }
    }
    const auto samples = [](const std::map<std::string, double>& values) {
        std::vector<metrics::Sample> list;
        for (const auto& [label, value] : values)
            list.push_back({{label}, value});
        return list;
    };
    const std::string pool = config_.storage.root.string();
    metrics_.set_gauge("bpg_jobs", samples(jobs));
    metrics_.set_gauge("bpg_queue_oldest_age_seconds", {{{}, oldest}});
    metrics_.set_gauge("bpg_branches", samples(states));
    metrics_.set_gauge("bpg_snapshots", samples(snapshots));
    metrics_.set_gauge("bpg_instance_up", up);
    metrics_.set_gauge("bpg_branch_used_bytes", used);
    metrics_.set_gauge("bpg_branch_referenced_bytes", referenced);
    metrics_.set_gauge("bpg_pool_size_bytes", {{{pool}, static_cast<double>(space_.size)}});
    metrics_.set_gauge("bpg_pool_free_bytes", {{{pool}, static_cast<double>(space_.free)}});
}

asio::awaitable<void> wait_for_stop(asio::signal_set& signals) {
    co_await signals.async_wait(asio::as_tuple(asio::use_awaitable));
}

void Daemon::run() {
    listen();
    spawn(main(), "start");
    asio::signal_set signals(loop_, SIGTERM, SIGINT);
    const auto stop = [this, &signals]() -> asio::awaitable<void> {
        co_await wait_for_stop(signals);
        log::info("bpgd stops; instances go on");
        co_await api_server_.drain(std::chrono::milliseconds(500));
        if (!co_await runner_.drain(kDrain)) {
            log::warning("some steps did not end in time and are gone on with at the next start");
        }
        end(0);
    };
    spawn(stop(), "stop");
    loop_.run();
    end(1);
}

void Daemon::end(int code) {
    store_.close();
    // No destructors: suspended coroutines hold references into everything, and the next start
    // treats an orderly end and a SIGKILL alike.
    std::_Exit(code);
}

}  // namespace

void run_daemon(const config::Config& config, const DaemonOptions& options) {
    std::signal(SIGPIPE, SIG_IGN);
    ensure_directories(config);
    mount_storage(config);
    // Never destroyed: run() ends the process.
    auto* daemon = new Daemon(config, options);
    daemon->run();
}

std::vector<std::string> list_crash_points(const std::string& operation) {
    jobs::OperationRegistry registry;
    operations::describe_operations(registry);
    std::vector<std::string> points;
    for (const auto& [name, entry] : registry.all()) {
        if (!operation.empty() && name != operation) continue;
        for (std::size_t row = 0; row < entry.steps.size(); ++row) {
            for (const std::string_view where : jobs::kCrashPlaces) {
                const bool of_undo = where.find("undo") != std::string_view::npos;
                if (of_undo && !entry.has_undo[row]) continue;
                points.push_back(fmt::format("{}.{}.{}", name, entry.steps[row].name, where));
            }
        }
    }
    return points;
}

}  // namespace bpg
