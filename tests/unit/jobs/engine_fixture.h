// A daemon around a real store on disk, and jobs of one operation, three rows whose behaviour each
// test decides. Time is the test's: back-offs and deadlines pass when it says so.
#pragma once

#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "jobs/engine.h"
#include "jobs/pauses.h"
#include "jobs/runner.h"
#include "metrics/instruments.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/id.h"
#include "orchestrator/base/log.h"

namespace bpg::jobs::test {

using namespace std::chrono_literals;

/// Not a std::exception, so that nothing in the daemon may catch it.
struct SimulatedDeath {};

/// What the rows of all jobs do; it outlives the daemon, as the outside world does.
struct Stage {
    using Run = std::function<asio::awaitable<Progress>(const JobContext&)>;
    std::map<std::string, Run> runs;                     ///< by "target.row"; none: Done
    std::map<std::string, std::function<void()>> undos;  ///< may throw
    std::vector<std::string> log;                        ///< "run prod.two", "undo prod.two"
    std::vector<std::string> failures;                   ///< codes given to record_failure
};

class Play {
  public:
    static constexpr std::string_view kName = "play";
    struct State {
        int rows_done = 0;
        NLOHMANN_DEFINE_TYPE_INTRUSIVE(State, rows_done)
    };

    Play(Stage& stage, JobContext& context) : stage_(stage), context_(context) {}
    static std::span<const Step<Play>> steps() {
        static constexpr Step<Play> kSteps[] = {
            {"one", "first", &Play::one, &Play::undo_one, nothing_to_record},
            {"two", "second", &Play::two, &Play::undo_two, nothing_to_record},
            {"three", "third", &Play::three, nothing_to_undo, nothing_to_record,
             "the curtain has fallen"},
        };
        return checked(kSteps);
    }
    void record_failure(const State&, const ErrorInfo& error, Batch&) const {
        stage_.failures.push_back(error.code);
    }
    static nlohmann::json result(const State& state) { return {{"rows", state.rows_done}}; }

  private:
    asio::awaitable<Progress> one(State& state) { return run("one", state); }
    asio::awaitable<Progress> two(State& state) { return run("two", state); }
    asio::awaitable<Progress> three(State& state) { return run("three", state); }
    asio::awaitable<Progress> run(std::string row, State& state) {
        const std::string name = context_.target() + "." + row;
        stage_.log.push_back("run " + name);
        const auto found = stage_.runs.find(name);
        Progress progress = Done{};
        if (found != stage_.runs.end()) progress = co_await found->second(context_);
        if (std::holds_alternative<Done>(progress)) ++state.rows_done;
        co_return progress;
    }
    asio::awaitable<void> undo_one(const State&) { return undo("one"); }
    asio::awaitable<void> undo_two(const State&) { return undo("two"); }
    asio::awaitable<void> undo(std::string row) {
        const std::string name = context_.target() + "." + row;
        stage_.log.push_back("undo " + name);
        context_.throw_if_cancelled();  // an undo shares code with rows, and is never cancelled
        const auto found = stage_.undos.find(name);
        if (found != stage_.undos.end()) found->second();
        co_return;
    }

    Stage& stage_;
    JobContext& context_;
};

/// Stands still until a test moves it.
class TestClock final : public Clock {
  public:
    WallTime now() const override { return now_; }
    void advance(std::chrono::microseconds by) { now_ += by; }

  private:
    WallTime now_ = SystemClock().now();
};

/// Stands still until a test moves it; it outlives the daemon.
class TestTimeline final : public Timeline {
  public:
    Point now() const override { return now_; }
    asio::awaitable<void> wait(Signal& wake, Point until) const override {
        const auto place = waiting_.insert(waiting_.end(), {&wake, until});
        const Removal removal{waiting_, place};
        if (until > now_) co_await wake.wait_until(Point::max());
    }
    void advance(std::chrono::milliseconds by) {
        now_ += by;
        std::vector<Signal*> due;
        for (const auto& [wake, until] : waiting_) {
            if (until <= now_) due.push_back(wake);
        }
        for (Signal* wake : due)
            wake->notify();
    }
    /// How long the pause that ends first still takes, of those longer than a look at deadlines.
    std::optional<std::chrono::milliseconds> next_pause() const {
        std::optional<std::chrono::milliseconds> next;
        for (const auto& [wake, until] : waiting_) {
            const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - now_);
            if (left > 1s && (!next || left < *next)) next = left;
        }
        return next;
    }

  private:
    using Waiting = std::list<std::pair<Signal*, Point>>;
    struct Removal {
        Waiting& waiting;
        Waiting::iterator place;
        ~Removal() { waiting.erase(place); }
    };
    Point now_ = std::chrono::steady_clock::now();
    mutable Waiting waiting_;
};

/// A lock on a branch of database "d", which is what most of them are.
inline Lock lock_on(std::string branch, LockMode mode = LockMode::kExclusive) {
    return {.resource = "branch/" + branch,
            .above = {"pool", "database/d"},
            .mode = mode,
            .shown_as = std::move(branch)};
}

/// One life of the daemon.
class Life {
  public:
    Life(const std::filesystem::path& directory, Stage& stage, const Clock& clock,
         const Timeline& timeline, std::size_t slots)
        : store_(directory, loop_->get_executor(), metrics_),
          queue_(store_, registry_, clock, {}),
          slots_(slots),
          admission_(queue_, slots_, pauses_),
          engine_(queue_, admission_, slots_, registry_, clock, timeline, metrics_, crash_,
                  limits()),
          runner_(loop_->get_executor(), queue_, engine_, admission_, slots_, clock,
                  [this](std::exception_ptr) {
                      died_ = true;
                      loop_->stop();
                  }) {
        registry_.add<Play>(
            [&stage](JobContext& context) { return std::make_unique<Play>(stage, context); });
        queue_.load();
        pauses_.load();
        asio::co_spawn(*loop_, runner_.run(), [](std::exception_ptr) {});
        asio::co_spawn(*loop_, engine_.watch_deadlines(), [](std::exception_ptr) {});
    }
    ~Life() {
        store_.close();
        loop_.reset();
    }
    Life(const Life&) = delete;
    Life& operator=(const Life&) = delete;

    Queue& queue() { return queue_; }
    Pauses& pauses() { return pauses_; }
    bool died() const { return died_; }
    void die_at(std::string point) {
        crash_.on_reach([point = std::move(point)](const std::string& passed) {
            if (passed == point) throw SimulatedDeath{};
        });
    }

    /// What `work` gives, or the error it throws; nothing when the daemon died first.
    template <class Result>
    Result wait_for(asio::awaitable<Result> work) {
        std::optional<Result> result;
        std::exception_ptr failure;
        asio::co_spawn(*loop_, std::move(work), [&](std::exception_ptr error, Result value) {
            failure = error;
            if (!error) result = std::move(value);
            loop_->stop();
        });
        loop_->restart();
        loop_->run_for(20s);
        if (failure) std::rethrow_exception(failure);
        if (!result) throw std::runtime_error("nothing came of it");
        return std::move(*result);
    }
    ErrorInfo refusal(asio::awaitable<Job> work) {
        try {
            wait_for(std::move(work));
        } catch (const Error& error) {
            return error.info();
        }
        return {};
    }
    Job submit(const std::string& target, std::vector<Lock> locks = {},
               Priority priority = Priority::kInteractive) {
        Submission submission;
        submission.operation = "play";
        submission.target = target;
        submission.data = Play::State{};
        submission.locks = std::move(locks);
        submission.priority = priority;
        return wait_for(queue_.submit(std::move(submission), Batch{}));
    }
    Job end_of(const Job& job) {
        return wait_for(queue_.wait_until_final(job.id, std::chrono::steady_clock::now() + 15s));
    }
    /// Until the job is in this state.
    void reach(const Job& job, JobState state) {
        until([this, id = job.id, state] { return queue_.get(id).state == state; });
    }
    /// Turns the loop until the condition holds.
    void until(const std::function<bool()>& condition) { wait_for(became(condition)); }
    /// As SIGTERM does.
    void stop() { wait_for(runner_.drain(5s)); }
    void run_until_death() {
        loop_->restart();
        loop_->run_for(20s);
        ASSERT_TRUE(died_);
    }
    void end_in_order() { queue_.note_orderly_end(); }

  private:
    static EngineLimits limits() {
        EngineLimits limits;
        limits.backoff = [](int failures) { return failures * 1min; };
        limits.step_deadline = 6h;
        limits.job_deadline = 12h;
        limits.no_progress = 30min;
        return limits;
    }
    asio::awaitable<bool> became(std::function<bool()> condition) {
        while (!condition())
            co_await queue_.changed().wait_until(std::chrono::steady_clock::now() + 1ms);
        co_return true;
    }

    std::unique_ptr<asio::io_context> loop_ = std::make_unique<asio::io_context>(1);
    metrics::Instruments metrics_;
    OperationRegistry registry_;
    CrashPoints crash_;
    Store store_;
    Queue queue_;
    Slots slots_;
    Pauses pauses_{store_};
    Admission admission_;
    Engine engine_;
    Runner runner_;
    bool died_ = false;
};

class EngineTest : public ::testing::Test {
  protected:
    void SetUp() override {
        log::set_level(log::Level::kError);
        std::filesystem::create_directories(directory_);
        Store::create(directory_);
        next_life();
    }
    void TearDown() override {
        life_.reset();
        remove_tree(directory_);
    }
    Life& next_life(std::size_t slots = 4) {
        life_.reset();
        life_ = std::make_unique<Life>(directory_, stage_, clock_, timeline_, slots);
        return *life_;
    }
    Life& life() { return *life_; }
    Job cancel(const Job& job) {
        return life().wait_for(life().queue().request_cancel(job.id, {}));
    }
    Job retry(const Job& job) { return life().wait_for(life().queue().retry(job.id, {})); }
    std::vector<std::string> event_types(const Job& job) {
        std::vector<std::string> types;
        for (const Event& event : life().queue().events(job, 0, 1000)) {
            EXPECT_EQ(event.seq, types.size() + 1);
            types.push_back(event.type);
        }
        return types;
    }
    using Words = std::vector<std::string>;

    static asio::awaitable<Progress> wait_an_hour(const JobContext&) {
        co_return Wait{1h, "a better time"};
    }
    [[noreturn]] static void be_away() {
        throw Error(ErrorKind::kUnavailable, "away", "it is away", "it does not answer");
    }
    [[noreturn]] static void be_broken() {
        throw Error(ErrorKind::kInternal, "broken", "it is broken", "it fell down", "pick it up");
    }

    const std::filesystem::path directory_ =
        std::filesystem::temp_directory_path() / ("bpg-engine-" + new_id());
    Stage stage_;
    TestClock clock_;
    TestTimeline timeline_;

  private:
    std::unique_ptr<Life> life_;
};

}  // namespace bpg::jobs::test
