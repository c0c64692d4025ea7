// What a job costs that does nothing: how long from its submission until it runs, how many are done
// in a second by 1, 8 and 64 clients, and how many synced writes that takes, against the time of
// one fdatasync on the same disk in the same run. bench/README.md says how to read it.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <filesystem>
#include <map>
#include <stdexcept>

#include "bench/main.h"
#include "bench/sample.h"
#include "jobs/engine.h"
#include "jobs/runner.h"
#include "metrics/instruments.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/id.h"
#include "orchestrator/base/thread_priority.h"

namespace bpg::bench {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr int kSyncs = 200;
constexpr std::size_t kSyncBytes = 4096;

/// When the first row of a job ran, by its target.
using Begun = std::map<std::string, Steady::time_point>;

/// An operation of N rows that do nothing.
template <std::size_t N>
class Idle {
  public:
    static constexpr std::string_view kName = N == 1 ? "idle-1" : "idle-5";
    struct State {
        int rows = 0;
        NLOHMANN_DEFINE_TYPE_INTRUSIVE(State, rows)
    };

    Idle(Begun& begun, jobs::JobContext& context) : begun_(begun), context_(context) {}
    static std::span<const jobs::Step<Idle>> steps() {
        using jobs::nothing_to_record;
        using jobs::nothing_to_undo;
        static constexpr jobs::Step<Idle> kSteps[] = {
            {"one", "nothing", &Idle::row, nothing_to_undo, nothing_to_record},
            {"two", "nothing", &Idle::row, nothing_to_undo, nothing_to_record},
            {"three", "nothing", &Idle::row, nothing_to_undo, nothing_to_record},
            {"four", "nothing", &Idle::row, nothing_to_undo, nothing_to_record},
            {"five", "nothing", &Idle::row, nothing_to_undo, nothing_to_record}};
        return jobs::checked(kSteps).first(N);
    }
    void record_failure(const State&, const ErrorInfo&, jobs::Batch&) const {}
    static nlohmann::json result(const State&) { return nullptr; }

  private:
    asio::awaitable<jobs::Progress> row(State& state) {
        if (state.rows++ == 0) begun_[context_.target()] = Steady::now();
        co_return jobs::Done{};
    }
    Begun& begun_;
    jobs::JobContext& context_;
};

/// The parts of bpgd that do jobs, over a store of its own.
class Bench {
  public:
    Bench(const fs::path& directory, std::size_t running_max)
        : store_(directory, loop_->get_executor(), metrics_),
          queue_(store_, registry_, clock_, {100'000}),
          slots_(running_max),
          admission_(queue_, slots_, pauses_),
          engine_(queue_, admission_, slots_, registry_, clock_, timeline_, metrics_, crash_, {}),
          runner_(loop_->get_executor(), queue_, engine_, admission_, slots_, clock_,
                  [](std::exception_ptr failure) { std::rethrow_exception(failure); }) {
        add<1>();
        add<5>();
        queue_.load();
        asio::co_spawn(*loop_, runner_.run(), [](std::exception_ptr) {});
    }
    ~Bench() {
        store_.close();
        loop_.reset();  // what waits on it refers to all the others
    }
    Bench(const Bench&) = delete;
    Bench& operator=(const Bench&) = delete;

    struct Result {
        double jobs_per_second = 0;
        Spread until_running;  ///< ms from the call until its first row runs
        Spread whole;          ///< ms from the call until it has succeeded
        double syncs_per_job = 0;
    };
    /// `jobs` of them, by so many clients that hand in one after the other.
    Result run(const std::string& operation, std::size_t clients, std::size_t jobs) {
        until_running_.clear();
        whole_.clear();
        open_clients_ = clients;
        const double syncs = synced_writes();
        const auto began = Steady::now();
        for (std::size_t client = 0; client < clients; ++client) {
            asio::co_spawn(*loop_, work(operation, client, jobs / clients),
                           [](std::exception_ptr failure) {
                               if (failure) std::rethrow_exception(failure);
                           });
        }
        loop_->restart();
        while (open_clients_ > 0)
            loop_->run_one();
        const double seconds = milliseconds_between(began, Steady::now()) / 1000;
        const auto done = static_cast<double>(whole_.size());
        return {done / seconds, spread_of(until_running_), spread_of(whole_),
                (synced_writes() - syncs) / done};
    }

  private:
    template <std::size_t N>
    void add() {
        registry_.add<Idle<N>>([this](jobs::JobContext& context) {
            return std::make_unique<Idle<N>>(begun_, context);
        });
    }
    asio::awaitable<void> work(std::string operation, std::size_t client, std::size_t jobs) {
        for (std::size_t i = 0; i < jobs; ++i) {
            jobs::Submission submission;
            submission.operation = operation;
            submission.target = fmt::format("bench/{}-{}", client, i);
            submission.data = nlohmann::json{{"rows", 0}};
            const std::string target = submission.target;
            const auto called = Steady::now();
            const jobs::Job job = co_await queue_.submit(std::move(submission), jobs::Batch{});
            co_await queue_.wait_until_final(job.id, Steady::now() + 1min);
            whole_.push_back(milliseconds_between(called, Steady::now()));
            until_running_.push_back(milliseconds_between(called, begun_.at(target)));
            begun_.erase(target);
        }
        --open_clients_;
    }
    /// As bpgd counts them itself.
    double synced_writes() {
        const std::string text = metrics_.exposition();
        const std::string name = "\nbpg_store_commit_seconds_count ";
        const auto at = text.find(name);
        if (at == std::string::npos) throw std::runtime_error("synced writes are not counted");
        return std::stod(text.substr(at + name.size()));
    }

    std::unique_ptr<asio::io_context> loop_ = std::make_unique<asio::io_context>(1);
    SystemClock clock_;
    metrics::Instruments metrics_;
    jobs::OperationRegistry registry_;
    jobs::CrashPoints crash_;
    Begun begun_;
    jobs::Store store_;
    jobs::Queue queue_;
    jobs::Slots slots_;
    jobs::Pauses pauses_{store_};
    jobs::Admission admission_;
    jobs::Timeline timeline_;
    jobs::Engine engine_;
    jobs::Runner runner_;
    std::size_t open_clients_ = 0;
    std::vector<double> until_running_;
    std::vector<double> whole_;
};

/// ms for one write to the end of a file and its fdatasync.
Spread fdatasync_time(const fs::path& directory) {
    const fs::path path = directory / "fdatasync";
    const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    const std::string block(kSyncBytes, 'x');
    std::vector<double> took;
    for (int i = 0; i < kSyncs; ++i) {
        const auto began = Steady::now();
        if (::write(file.get(), block.data(), block.size()) < 0 || ::fdatasync(file.get()) != 0) {
            throw std::runtime_error("cannot write to " + path.native());
        }
        took.push_back(milliseconds_between(began, Steady::now()));
    }
    fs::remove(path);
    return spread_of(std::move(took));
}

struct Options {
    std::string directory = "/var/tmp";
    std::size_t jobs = 1280;
    std::size_t running_max = 64;
    bool check = false;
};

/// What is promised: a job of N rows costs at most N+2 synced writes, and 64 clients get at least
/// five times as much done as one.
int run(const Options& options) {
    const fs::path place = fs::path(options.directory) / ("bpg-bench-queue-" + new_id());
    fs::create_directories(place);
    struct Removal {
        const fs::path& place;
        ~Removal() { remove_tree(place); }
    } const removal{place};
    const Spread sync = fdatasync_time(place);
    fs::create_directories(place / "store");
    jobs::Store::create(place / "store");
    let_this_thread_go_first();
    Bench bench(place / "store", options.running_max);
    fmt::print("one fdatasync: {:.2f} ms ({:.2f}-{:.2f})\n", sync.median, sync.q1, sync.q3);
    fmt::print("{:<8}{:>8}{:>10}{:>22}{:>22}{:>13}{:>16}\n", "rows", "clients", "jobs/s",
               "until it runs, ms", "whole, ms", "syncs a job", "whole / sync");
    std::map<std::size_t, double> rate;
    double syncs_alone = 0;
    double syncs_of_five = 0;
    const auto show = [&](std::size_t rows, std::size_t clients) {
        const auto result = bench.run(rows == 1 ? "idle-1" : "idle-5", clients, options.jobs);
        fmt::print("{:<8}{:>8}{:>10.0f}{:>22}{:>22}{:>13.2f}{:>16.1f}\n", rows, clients,
                   result.jobs_per_second,
                   fmt::format("{:.2f} ({:.2f}-{:.2f})", result.until_running.median,
                               result.until_running.q1, result.until_running.q3),
                   fmt::format("{:.2f} ({:.2f}-{:.2f})", result.whole.median, result.whole.q1,
                               result.whole.q3),
                   result.syncs_per_job, result.whole.median / sync.median);
        return result;
    };
    for (const std::size_t clients : {1U, 8U, 64U}) {
        const auto result = show(1, clients);
        rate[clients] = result.jobs_per_second;
        if (clients == 1) syncs_alone = result.syncs_per_job;
    }
    syncs_of_five = show(5, 1).syncs_per_job;
    const double gain = rate[64] / rate[1];
    fmt::print("64 clients get {:.1f} times as much done as one\n", gain);
    if (!options.check) return kGood;
    const bool good = syncs_alone <= 3 && syncs_of_five <= 7 && gain >= 5;
    if (!good) fmt::print("NOT AS PROMISED\n");
    return good ? kGood : kTooSlow;
}

int main_of(int argc, char** argv) {
    Options options;
    CLI::App app("what a job costs that does nothing");
    app.add_option("--directory", options.directory, "on the disk to measure")
        ->check(CLI::ExistingDirectory)
        ->capture_default_str();
    app.add_option("--jobs", options.jobs, "of each line")
        ->check(CLI::Range(64, 1'000'000))
        ->capture_default_str();
    app.add_option("--running-max", options.running_max, "jobs that work at once")
        ->check(CLI::Range(1, 10'000))
        ->capture_default_str();
    app.add_flag("--check", options.check, "exit code 1 when it is not as promised");
    return run_main(app, argc, argv, [&options] { return run(options); });
}

}  // namespace
}  // namespace bpg::bench

int main(int argc, char** argv) {
    return bpg::bench::main_of(argc, argv);
}
