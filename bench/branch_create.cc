// `bpg branch create` until the first SELECT 1, against the same work by hand on the same parent:
// on each pair of drivers, interleaved in random order, so that what else the machine does hits all
// of them alike. Prints how many times longer, and where the time goes. bench/README.md says how to
// read it.
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <fstream>
#include <functional>
#include <future>
#include <iostream>
#include <mutex>
#include <random>
#include <stdexcept>
#include <thread>

#include "bench/main.h"
#include "bench/our_branch.h"
#include "bench/raw_branch.h"
#include "bench/sample.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/subprocess.h"
#include "tests/harness/host.h"
#include "tests/harness/load.h"

namespace bpg::bench {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using test::DriverPair;
using test::TestHost;

constexpr const char* kDatabase = "bench";
constexpr const char* kMain = "bench/main";
constexpr const char* kModel = "bench/model";
constexpr auto kSettlePause = 150ms;
constexpr int kInterrupted = 130;

struct Options {
    std::vector<std::string> pairs;
    int rounds = 15;
    int warm_up = 1;
    int scale = 20;
    int load = 0;
    int branches = 0;
    bool scrape = false;
    std::uint64_t seed = 0;
    double max_ratio = 0;
    std::string json_file;
};

std::atomic<bool> interrupted{false};

struct Interrupted : std::runtime_error {
    Interrupted() : std::runtime_error("interrupted") {}
};

DriverPair pair_of(const std::string& text) {
    const auto plus = text.find('+');
    return {text.substr(0, plus), text.substr(plus + 1)};
}

/// pgbench on a branch at a steady rate until the end of its life.
class Load {
  public:
    Load(const TestHost& host, int per_second) {
        if (per_second == 0) return;
        DetachedCommand command;
        command.argv = {test::pgbench_program(),   "-n", "-c", "2", "-T", "1000000", "-R",
                        std::to_string(per_second)};
        command.environment = host.client_environment(kMain);
        command.log_path = host.base() / "pgbench.log";
        pid_ = spawn_detached(command);
    }
    ~Load() {
        if (pid_ <= 0) return;
        ::kill(pid_, SIGTERM);
        ::waitpid(pid_, nullptr, 0);
    }
    Load(const Load&) = delete;
    Load& operator=(const Load&) = delete;

    void check() {
        if (pid_ <= 0 || ::waitpid(pid_, nullptr, WNOHANG) != pid_) return;
        pid_ = 0;
        throw std::runtime_error("pgbench ended while it was needed");
    }

  private:
    pid_t pid_ = 0;
};

/// Runs `work` while another thread reads the metrics, at once and each second from then on.
Sample while_scraped(const TestHost& host, const std::function<Sample()>& work) {
    const auto scrape = [&host](const std::stop_token& stop) {
        std::mutex mutex;
        std::condition_variable_any stopped;
        while (!stop.stop_requested()) {
            host.metrics();
            std::unique_lock lock(mutex);
            stopped.wait_for(lock, stop, 1s, [] { return false; });
        }
    };
    std::stop_source stop;
    std::future<void> scraped = std::async(std::launch::async, scrape, stop.get_token());
    Sample sample;
    try {
        sample = work();
    } catch (...) {  // the thread ends before what it reads from
        stop.request_stop();
        throw;
    }
    stop.request_stop();
    scraped.get();
    return sample;
}

/// What an earlier run has left to be written must not be waited for by the next.
void settle(const TestHost& host) {
    for (const auto& place : {host.volumes(), host.base()})
        ::syncfs(open_directory(place).get());
    std::this_thread::sleep_for(kSettlePause);
}

/// Makes a sample, and then, untimed, undoes what it made.
struct Variant {
    std::string name;
    std::function<Sample()> run;
    std::function<void()> undo;
};

std::vector<Variant> variants_of(const TestHost& host, RawBranch& raw, bool scrape) {
    const auto ours = [&host](bool fast) {
        const std::string ref = std::string(kDatabase) + (fast ? "/fast" : "/safe");
        return Variant{fast ? "ours_fast" : "ours",
                       [&host, ref, fast] { return create_branch(host, ref, fast); },
                       [&host, ref] { host.bpg_json({"-y", "branch", "delete", ref}); }};
    };
    const auto by_hand = [&raw](std::string name, Sample (RawBranch::*run)()) {
        return Variant{std::move(name), [&raw, run] { return (raw.*run)(); },
                       [&raw] { raw.remove(); }};
    };
    std::vector<Variant> variants = {ours(false),
                                     by_hand("raw_backup", &RawBranch::in_backup_mode)};
    if (scrape) {
        Variant scraped = ours(false);
        scraped.name = "ours_scraped";
        scraped.run = [&host, create = std::move(scraped.run)] {
            return while_scraped(host, create);
        };
        variants.push_back(std::move(scraped));
    }
    // The others want a snapshot that is atomic.
    if (!host.atomic()) return variants;
    variants.push_back(ours(true));
    variants.push_back(by_hand("raw", &RawBranch::with_checkpoint));
    variants.push_back(by_hand("raw_backup_beside", &RawBranch::in_backup_mode_beside));
    variants.push_back(by_hand("raw_same", &RawBranch::with_the_same_result));
    return variants;
}

/// A database with data in it, at rest.
void make_database(const TestHost& host, int scale) {
    host.bpg_json({"db", "create", kDatabase});
    test::pgbench(host, kMain, {"-i", "-q", "-s", std::to_string(scale)});
    test::execute_alone(host.url(kMain), "VACUUM");
    test::execute_alone(host.url(kMain), "CHECKPOINT");
}

/// Stopped ones, so that they are there and do nothing.
void make_more_branches(const TestHost& host, int number) {
    for (int i = 0; i < number; ++i) {
        host.bpg_json({"branch", "create", fmt::format("{}/more-{}", kDatabase, i), "--stopped",
                       "--from", kMain});
    }
}

void run_rounds(const TestHost& host, const Options& options, PairResult& result) {
    // What is made by hand archives nowhere: the archive of the model goes with it.
    host.bpg_json({"branch", "create", kModel, "--no-archive"});
    RawBranch raw(host, kMain, kModel);
    host.bpg_json({"-y", "branch", "delete", kModel});
    std::vector<Variant> variants = variants_of(host, raw, options.scrape);
    std::mt19937_64 random(options.seed);
    Load load(host, options.load);
    for (int number = 1 - options.warm_up; number <= options.rounds; ++number) {
        std::shuffle(variants.begin(), variants.end(), random);
        Round round;
        for (const Variant& variant : variants) {
            if (interrupted) throw Interrupted();
            load.check();
            settle(host);
            round[variant.name] = variant.run();
            variant.undo();
        }
        if (number > 0) result.rounds.push_back(std::move(round));
        fmt::print(stderr, "{}: round {} of {}\n", result.pair, number, options.rounds);
    }
}

/// Throws also when anything is left behind.
PairResult measure(const std::string& pair, const Options& options) {
    test::HostOptions host_options;
    host_options.drivers = pair_of(pair);
    host_options.wide_ports = options.branches > 0;
    TestHost host(host_options);
    host.start_daemon();
    make_database(host, options.scale);
    make_more_branches(host, options.branches);
    PairResult result;
    result.pair = pair;
    result.baseline = host.atomic() ? "raw" : "raw_backup";
    result.database_bytes = test::query_number(
        host.url(kMain), "SELECT sum(pg_database_size(oid))::bigint FROM pg_database");
    run_rounds(host, options, result);
    const auto left = host.finish();
    if (!left.empty()) {
        throw std::runtime_error(fmt::format("{} left behind: {}", pair, fmt::join(left, "\n")));
    }
    return result;
}

int run(const Options& options) {
    fmt::print("seed {}, {}\n", options.seed,
               options.load == 0 ? "the parent idles"
                                 : fmt::format("the parent has {} tps", options.load));
    json report = {{"seed", options.seed},
                   {"scale", options.scale},
                   {"load_tps", options.load},
                   {"branches", options.branches},
                   {"pairs", json::array()}};
    int code = kGood;
    for (const std::string& pair : options.pairs) {
        const PairResult result = measure(pair, options);
        fmt::print("\n{}", tables(result));
        if (result.is_slower_than(options.max_ratio)) {
            fmt::print("  TOO SLOW: more than {} times raw_same\n", options.max_ratio);
            code = kTooSlow;
        }
        std::fflush(stdout);
        report["pairs"].push_back(to_json(result));
    }
    if (!options.json_file.empty()) std::ofstream(options.json_file) << report.dump(1) << "\n";
    return code;
}

void add_options(CLI::App& app, Options& options) {
    const std::vector<std::string> pairs = {"btrfs+process", "btrfs+docker", "zfs+process",
                                            "zfs+docker", "copy+process"};
    options.pairs = pairs;
    options.seed = std::random_device{}();
    app.add_option("--pair", options.pairs, "storage+runtime; may be repeated")
        ->check(CLI::IsMember(pairs))
        ->default_str("all");
    app.add_option("--rounds", options.rounds, "counted runs of each variant")
        ->check(CLI::Range(1, 10'000))
        ->capture_default_str();
    app.add_option("--warm-up", options.warm_up, "runs of each that are not counted: cold caches")
        ->check(CLI::Range(0, 100))
        ->capture_default_str();
    app.add_option("--scale", options.scale, "of pgbench: 15 MB each")
        ->check(CLI::Range(1, 100'000))
        ->capture_default_str();
    app.add_option("--load", options.load, "transactions a second on the parent meanwhile")
        ->check(CLI::Range(0, 1'000'000))
        ->capture_default_str();
    app.add_option("--branches", options.branches, "stopped branches beside those measured")
        ->check(CLI::Range(0, 10'000))
        ->capture_default_str();
    app.add_flag("--scrape", options.scrape,
                 "also creates with the metrics read at its beginning and each second");
    app.add_option("--seed", options.seed, "of the order within a round");
    app.add_option("--max-ratio", options.max_ratio,
                   "exit code 1 when a pair's median ratio to raw_same is greater");
    app.add_option("--json", options.json_file, "writes every sample there");
}

/// The exit code. What a run has made is gone when it returns, however it ended.
int run_guarded(const Options& options) {
    try {
        return run(options);
    } catch (const Interrupted&) {
        return kInterrupted;
    } catch (const std::exception& failure) {
        std::cerr << failure.what() << "\n";
        return kFailed;
    }
}

}  // namespace

int main_of(int argc, char** argv) {
    Options options;
    CLI::App app("bpg branch create against the same work by hand");
    add_options(app, options);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? kGood : kUsage;
    }
    // A run ends after the sample it is in, and takes everything down.
    struct sigaction action{};
    action.sa_handler = [](int) { interrupted = true; };
    ::sigaction(SIGINT, &action, nullptr);
    ::sigaction(SIGTERM, &action, nullptr);
    const int code = run_guarded(options);
    test::release_zfs();
    return code;
}

}  // namespace bpg::bench

int main(int argc, char** argv) {
    return bpg::bench::main_of(argc, argv);
}
