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
#include "jobs/history.h"
#include "jobs/job_logs.h"
#include "jobs/pauses.h"
#include "jobs/queue.h"
#include "jobs/runner.h"
#include "metrics/instruments.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/log.h"
#include "orchestrator/base/service_manager.h"
#include "orchestrator/base/signal.h"
#include "orchestrator/base/thread_priority.h"
#include "orchestrator/gauges.h"
#include "orchestrator/housekeeper.h"
#include "orchestrator/http/handlers/register.h"
#include "orchestrator/http/router.h"
#include "orchestrator/http/server.h"
#include "orchestrator/init.h"
#include "orchestrator/lost_jobs.h"
#include "orchestrator/operations/operations.h"
#include "orchestrator/operations/requests.h"
#include "orchestrator/operations/shared_snapshots.h"
#include "orchestrator/operations/submit.h"
#include "orchestrator/ports.h"
#include "orchestrator/postgres/local_data_directories.h"
#include "orchestrator/postgres/pqxx_postgres.h"
#include "orchestrator/runtime_drivers.h"
#include "orchestrator/storage_drivers.h"
#include "orchestrator/supervisor.h"
#include "orchestrator/wal/local_archives.h"
#include "orchestrator/wal_watch.h"
#include "scheduler/scheduler.h"

namespace bpg {
namespace {

using Steady = std::chrono::steady_clock;

constexpr std::size_t kPoolThreads = 8;
constexpr std::size_t kBackgroundThreads = 2;
constexpr std::chrono::seconds kDrain{8};
constexpr std::chrono::minutes kMeasureEvery{1};
constexpr std::chrono::seconds kLookEvery{5};
constexpr std::chrono::minutes kPruneEvery{10};

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

operations::Settings operation_settings(const config::Config& config) {
    operations::Settings settings;
    settings.listen = config.network.listen;
    settings.locale = config.postgres.locale;
    settings.postgres_config = config.postgres.config;
    settings.socket_root = config.instance_sockets_dir();
    settings.log_root = config.paths.state / "logs";
    settings.wal_helper = config.helper_dir() / kWalHelper;
    settings.stop_timeout = config.runtime.stop_timeout;
    settings.trash_keep = config.trash.keep;
    settings.retention_max_fraction = config.retention.max_fraction;
    return settings;
}

jobs::EngineLimits engine_limits(const config::Config& config) {
    jobs::EngineLimits limits;
    limits.step_deadline = config.jobs.step_deadline;
    limits.job_deadline = config.jobs.deadline;
    limits.no_progress = config.jobs.no_progress;
    return limits;
}

class Daemon {
  public:
    Daemon(config::Config config, StoragePlace place, const DaemonOptions& options);
    [[noreturn]] void run();

  private:
    void listen();
    asio::awaitable<void> start();
    asio::awaitable<void> get_ready();
    void begin_work();
    asio::awaitable<void> serve_metrics();
    asio::awaitable<void> look_at_surroundings();
    asio::awaitable<void> measure_forever();
    asio::awaitable<void> prune_history();
    asio::awaitable<bool> prune_once();
    asio::awaitable<void> feed_watchdog();
    asio::awaitable<void> watch_lag();
    void spawn(asio::awaitable<void> part, std::string name);
    [[noreturn]] void end(int code);
    http::ApiServices api_services();
    nlohmann::json storage_json() const;
    nlohmann::json runtime_json() const;
    nlohmann::json warnings_json() const;

    const config::Config config_;
    const std::function<int(const Error&)> start_failed_;
    const StoragePlace place_;
    const Steady::time_point started_ = Steady::now();
    const ServiceManager service_manager_;
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
    wal::LocalArchives archives_;
    catalog::Catalog catalog_;
    operations::SharedSnapshots shared_snapshots_{catalog_};
    scheduler::Schedules schedules_;
    operations::Services services_;
    jobs::OperationRegistry registry_;
    jobs::CrashPoints crash_;
    jobs::Store store_;
    jobs::JobLogs job_logs_;
    jobs::History history_;
    jobs::Queue queue_;
    jobs::Slots slots_;
    jobs::Pauses pauses_;
    jobs::Admission admission_;
    const jobs::Timeline timeline_;
    jobs::Engine engine_;
    jobs::Runner runner_;
    operations::Requests requests_;
    scheduler::Scheduler scheduler_;
    Supervisor supervisor_;
    Housekeeper housekeeper_;
    wal::LocalArchives watched_archives_;
    WalWatch wal_watch_;
    Gauges gauges_;
    http::Router api_router_;
    http::Router metrics_router_;
    http::ApiServices api_;
    http::Server api_server_;
    http::Server metrics_server_;
    bool ready_ = false;
    storage::Space space_;
    std::string health_ = "unknown";
    std::string runtime_version_;
};

Daemon::Daemon(config::Config config, StoragePlace place, const DaemonOptions& options)
    : config_(std::move(config)),
      start_failed_(options.start_failed),
      place_(std::move(place)),
      state_lock_(lock_exclusively(config_.paths.state, "state directory")),
      root_lock_(lock_exclusively(place_.root, "volume root")),
      secrets_(config_.secrets_dir()),
      storage_(open_storage(config_, place_, pool_)),
      measured_storage_(open_storage(config_, place_, background_pool_)),
      runtime_(open_runtime(config_, pool_, loop_.get_executor())),
      archives_(config_.paths.wal_archive, pool_),
      services_{catalog_,   shared_snapshots_,
                *storage_,  *runtime_,
                postgres_,  data_directories_,
                archives_,  secrets_,
                schedules_, pool_,
                clock_,     operation_settings(config_)},
      store_(config_.store_dir(), loop_.get_executor(), metrics_),
      job_logs_(config_.job_logs_dir(), config_.jobs.log_max),
      history_(
          store_, job_logs_,
          {config_.jobs.keep.succeeded, config_.jobs.keep.failed, config_.jobs.keep.cancelled}),
      queue_(store_, registry_, clock_, {config_.jobs.queued_max}),
      slots_(config_.jobs.running_max),
      pauses_(store_),
      admission_(queue_, slots_, pauses_),
      engine_(queue_, admission_, slots_, registry_, clock_, timeline_, metrics_, crash_,
              engine_limits(config_)),
      runner_(loop_.get_executor(), queue_, engine_, admission_, slots_, clock_,
              [this](std::exception_ptr failure) {
                  log::error("a job ended in a way nobody expected",
                             {{"why", describe(failure).detail}});
                  end(1);
              }),
      requests_(
          services_, queue_,
          {config_.network.ports.first, config_.network.ports.last,
           [listen = config_.network.listen](int port) { return port_is_free(port, listen); }},
          default_engine(config_)),
      scheduler_(
          loop_.get_executor(), schedules_, queue_, store_,
          [this](std::string operation, operations::Parameters parameters, jobs::RequestKey key) {
              return operations::submit(requests_, std::move(operation), std::move(parameters),
                                        std::move(key));
          }),
      supervisor_(loop_.get_executor(), services_, queue_, requests_, store_),
      housekeeper_(services_, queue_, requests_, store_, config_.storage.reserve,
                   [this] { return space_; }),
      watched_archives_(config_.paths.wal_archive, background_pool_),
      wal_watch_(services_, watched_archives_, config_.paths.wal_archive, background_pool_),
      gauges_(metrics_, services_, queue_, supervisor_, wal_watch_, place_.pool,
              config_.metrics.branch_series_max),
      api_(api_services()),
      api_server_(loop_.get_executor(), api_router_, {}),
      metrics_server_(loop_.get_executor(), metrics_router_, {}) {
    operations::register_operations(registry_, services_);
    registry_.add<jobs::HistoryPrune>([this](jobs::JobContext&) {
        return std::make_unique<jobs::HistoryPrune>(history_, background_pool_, clock_);
    });
    queue_.keep_logs(job_logs_);
    for (const auto& [name, entry] : registry_.all()) {
        std::vector<std::string> steps;
        for (const jobs::StepName& step : entry.steps)
            steps.emplace_back(step.name);
        std::vector<std::string> modes{""};
        if (name == "branch-sync") modes = {"safe", "fast"};
        if (name == "branch-create") modes = {"safe", "fast", "pitr"};
        metrics_.declare_operation(name, modes, steps);
    }
    if (!options.crash_at.empty()) crash_.arm_crash(options.crash_at);
    if (!options.fail_at.empty()) crash_.arm_failure(options.fail_at);
    http::register_api(api_router_, api_);
    api_router_.on_request_done(
        [this](std::string_view route, std::string_view method, int status, double seconds) {
            metrics_.http_request(std::string(route), std::string(method), status, seconds);
        });
    metrics_.before_scrape([this] { gauges_.set(space_); });
}

http::ApiServices Daemon::api_services() {
    return {catalog_,
            queue_,
            pauses_,
            job_logs_,
            requests_,
            services_,
            scheduler_,
            clock_,
            [this] { return ready_; },
            [this] { return runtime_json(); },
            [this] { return storage_json(); },
            started_,
            [this] { return warnings_json(); }};
}

nlohmann::json Daemon::storage_json() const {
    return {{"driver", place_.driver},      {"pool", place_.pool},
            {"root", place_.root.string()}, {"size_bytes", space_.size},
            {"free_bytes", space_.free},    {"health", health_}};
}

nlohmann::json Daemon::runtime_json() const {
    return {{"driver", std::string(runtime_->driver())},
            {"version", runtime_version_},
            {"isolation", isolation_of(*runtime_)}};
}

nlohmann::json Daemon::warnings_json() const {
    std::vector<std::string> warnings = runtime_warnings(std::string(runtime_->driver()));
    warnings.insert(warnings.end(), place_.warnings.begin(), place_.warnings.end());
    for (std::string& warning : wal_watch_.warnings())
        warnings.push_back(std::move(warning));
    if (store_.waits_for_room()) {
        warnings.push_back("the disk of " + config_.paths.state.string() +
                           " is full: jobs wait until there is room");
    }
    if (runtime_version_.empty()) {
        warnings.push_back(fmt::format(
            "the runtime, {}, does not answer: which instances run is not known until it does",
            runtime_->driver()));
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
                            metrics_.refresh();
                            // Not behind what is measured in the background, which may take
                            // minutes.
                            response.body = co_await pool_.run([this] { return metrics_.text(); });
                            co_return response;
                        });
}

asio::awaitable<void> Daemon::start() {
    std::optional<Error> refusal;
    try {
        co_await get_ready();
    } catch (const Error& error) {
        refusal = error;
    }
    if (refusal) end(start_failed_(*refusal));
    begin_work();
    co_await serve_metrics();
}

asio::awaitable<void> Daemon::get_ready() {
    catalog_.load(store_);
    queue_.load();
    pauses_.load();
    schedules_.load(store_);
    co_await look_at_surroundings();
    if (store_.cut()) {
        co_await require_nothing_lost(catalog_, *storage_, *store_.cut());
        store_.note_cut_is_harmless();
    }
    co_await supervisor_.look_at_all();
}

void Daemon::begin_work() {
    ready_ = true;
    service_manager_.tell(
        fmt::format("READY=1\nSTATUS=ready, {} jobs open", queue_.open_jobs().size()));
    log::info("bpgd is ready", {{"version", BPG_VERSION},
                                {"storage", std::string(storage_->driver())},
                                {"runtime", std::string(runtime_->driver())},
                                {"open_jobs", std::to_string(queue_.open_jobs().size())}});
    spawn(runner_.run(), "runner");
    spawn(engine_.watch_deadlines(), "deadlines");
    spawn(supervisor_.run(), "supervisor");
    spawn(housekeeper_.run(), "housekeeper");
    spawn(wal_watch_.run(), "wal");
    spawn(scheduler_.run(), "scheduler");
    spawn(measure_forever(), "measuring");
    spawn(watch_lag(), "lag");
    spawn(prune_history(), "history");
}

/// A port in use is retried, never a reason not to start.
asio::awaitable<void> Daemon::serve_metrics() {
    bool told = false;
    while (config_.metrics.listen) {
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

/// What `bpg status` tells of pool and runtime.
asio::awaitable<void> Daemon::look_at_surroundings() {
    space_ = co_await measured_storage_->space();
    health_ = co_await background_pool_.run([this] { return storage_health(config_, place_); });
    runtime_version_ = co_await runtime_->version();
}

asio::awaitable<void> Daemon::measure_forever() {
    auto next_look = Steady::now();
    while (true) {
        std::vector<std::pair<std::string, std::string>> due;
        const WallTime old = clock_.now() - kMeasureEvery;
        // A new volume can wait while jobs need the disk.
        const bool is_busy = runner_.running() > 0;
        for (const auto& [id, branch] : catalog_.all_branches()) {
            const bool there = branch.state == catalog::BranchState::kRunning ||
                               branch.state == catalog::BranchState::kStopped;
            const auto known = catalog_.usage(id);
            const bool wanted =
                known ? known->measured_at < old : !is_busy || branch.created_at < old;
            if (there && wanted) due.emplace_back(id, branch.volume);
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
        if (Steady::now() >= next_look) {
            try {
                co_await look_at_surroundings();
            } catch (const Error& error) {
                health_ = "unavailable";
                log::debug("storage could not be looked at", {{"why", error.what()}});
            }
            next_look = Steady::now() + kLookEvery;
        }
        co_await pause_for(std::chrono::milliseconds(500));
    }
}

asio::awaitable<void> Daemon::prune_history() {
    while (true) {
        co_await pause_for(kPruneEvery);
        while (co_await prune_once()) {
        }
    }
}

/// True when there may be more to remove.
asio::awaitable<bool> Daemon::prune_once() {
    const auto look = [this, now = clock_.now()] { return history_.expired(now, 1); };
    const jobs::History::Expired expired = co_await background_pool_.run(look);
    if (expired.job_ids.empty()) co_return false;
    jobs::Submission submission;
    submission.operation = std::string(jobs::HistoryPrune::kName);
    submission.data = jobs::HistoryPrune::State{};
    submission.priority = jobs::Priority::kHousekeeping;
    std::string id;
    try {
        const jobs::Job job = co_await queue_.submit(std::move(submission), jobs::Batch{});
        id = job.id;
    } catch (const Error& error) {  // a full queue: later
        log::debug("the history is not pruned now", {{"why", error.what()}});
        co_return false;
    }
    const jobs::Job ended = co_await queue_.wait_until_final(id, Steady::time_point::max());
    co_return ended.state == jobs::JobState::kSucceeded;
}

/// The service manager hears that the loop turns, and ends us when it does not.
asio::awaitable<void> Daemon::feed_watchdog() {
    while (true) {
        service_manager_.tell("WATCHDOG=1");
        co_await pause_for(std::chrono::duration_cast<std::chrono::milliseconds>(
            *service_manager_.watchdog() / 3));
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

asio::awaitable<void> wait_for_stop(asio::signal_set& signals) {
    co_await signals.async_wait(asio::as_tuple(asio::use_awaitable));
}

/// SIGUSR1: every line is logged; SIGUSR2: what matters to those who look after it, as at first.
asio::awaitable<void> follow_log_signals() {
    asio::signal_set signals(co_await asio::this_coro::executor, SIGUSR1, SIGUSR2);
    while (true) {
        const int signal = co_await signals.async_wait(asio::use_awaitable);
        const bool all = signal == SIGUSR1;
        log::set_level(all ? log::Level::kDebug : log::Level::kInfo);
        log::info("the log level was changed", {{"level", all ? "debug" : "info"}});
    }
}

void Daemon::run() {
    listen();
    if (service_manager_.watchdog()) spawn(feed_watchdog(), "watchdog");
    spawn(start(), "start");
    spawn(follow_log_signals(), "log level");
    asio::signal_set signals(loop_, SIGTERM, SIGINT);
    const auto stop = [this, &signals]() -> asio::awaitable<void> {
        co_await wait_for_stop(signals);
        log::info("bpgd stops; instances go on");
        service_manager_.tell("STOPPING=1\nSTATUS=finishing the steps that run");
        co_await api_server_.drain(std::chrono::milliseconds(500));
        if (!co_await runner_.drain(kDrain)) {
            log::warning("some steps did not end in time and are gone on with at the next start");
        }
        queue_.note_orderly_end();
        co_await job_logs_.written();
        end(0);
    };
    spawn(stop(), "stop");
    if (!let_this_thread_go_first()) log::debug("the event loop runs at the usual priority");
    loop_.run();
    end(1);
}

void Daemon::end(int code) {
    store_.close();
    // No destructors: suspended coroutines hold references into everything, and the next start
    // resumes jobs after an orderly end as it does after a SIGKILL.
    std::_Exit(code);
}

}  // namespace

void run_daemon(const config::Config& config, const DaemonOptions& options) {
    std::signal(SIGPIPE, SIG_IGN);
    ensure_directories(config);
    config::Config settled = config;
    settle_runtime(settled);
    StoragePlace place = bring_up_storage(settled);
    // Never destroyed: run() ends the process.
    auto* daemon = new Daemon(std::move(settled), std::move(place), options);
    daemon->run();
}

std::vector<std::string> list_crash_points(const std::string& operation) {
    jobs::OperationRegistry registry;
    operations::describe_operations(registry);
    registry.add<jobs::HistoryPrune>([](jobs::JobContext&) -> std::unique_ptr<jobs::HistoryPrune> {
        throw std::logic_error("a described operation cannot run");
    });
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
