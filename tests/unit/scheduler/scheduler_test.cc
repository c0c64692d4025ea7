// The scheduler against a real store and queue, with clocks of its own: fires and their jobs in one
// commit, over restarts, overlaps, refusals and clock jumps. Nothing runs the jobs: a test ends
// them when it wants to.
#include "scheduler/scheduler.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <functional>
#include <thread>

#include "jobs/step.h"
#include "metrics/instruments.h"
#include "orchestrator/base/id.h"
#include "orchestrator/base/log.h"
#include "tests/harness/scratch_directory.h"
#include "tests/unit/scheduler/scheduler_fixture.h"

namespace bpg::scheduler {
namespace {

using jobs::Job;
using jobs::JobState;
using namespace std::chrono_literals;
using test::at;

/// An operation that nobody runs.
class Idle {
  public:
    static constexpr std::string_view kName = "idle";
    struct State {};
    static std::span<const jobs::Step<Idle>> steps() {
        static constexpr jobs::Step<Idle> kSteps[] = {
            {"idle", "do nothing", &Idle::idle, jobs::nothing_to_undo, jobs::nothing_to_record}};
        return jobs::checked(kSteps);
    }
    void record_failure(const State&, const ErrorInfo&, jobs::Batch&) const {}
    nlohmann::json result(const State&) const { return nullptr; }

  private:
    asio::awaitable<jobs::Progress> idle(State&) { co_return jobs::Done{}; }
};
void to_json(nlohmann::json& out, const Idle::State&) {
    out = nlohmann::json::object();
}
void from_json(const nlohmann::json&, Idle::State&) {}

/// What was handed in.
struct Submitted {
    std::string operation;
    std::map<std::string, std::string> parameters;
    Job job;
};

/// One life of the daemon, as far as schedules go.
class Life {
  public:
    Life(const std::filesystem::path& directory, std::function<ClockReading()> clocks)
        : store_(directory, loop_->get_executor(), metrics_),
          queue_(store_, registry_, clock_, {}) {
        registry_.add<Idle>([](jobs::JobContext&) { return std::make_unique<Idle>(); });
        queue_.load();
        schedules_.load(store_);
        const auto submit = [this](std::string operation,
                                   std::map<std::string, std::string> parameters,
                                   jobs::RequestKey key) {
            return hand_in(std::move(operation), std::move(parameters), std::move(key));
        };
        scheduler_.emplace(loop_->get_executor(), schedules_, queue_, store_, submit,
                           std::move(clocks));
    }
    ~Life() {
        store_.close();
        loop_.reset();
    }
    Life(const Life&) = delete;
    Life& operator=(const Life&) = delete;

    Scheduler& scheduler() { return *scheduler_; }
    Schedules& schedules() { return schedules_; }
    jobs::Queue& queue() { return queue_; }
    const Schedule& schedule(const std::string& name) { return schedules_.get(name).schedule; }
    const std::vector<Submitted>& submitted() const { return submitted_; }
    /// The next submissions are refused with this.
    void refuse_with(std::optional<Error> refusal) { refusal_ = std::move(refusal); }

    void begin() {
        asio::co_spawn(*loop_, scheduler_->run(), [](std::exception_ptr) {});
    }
    /// Lets it look at what the clocks say now.
    void look() {
        queue_.changed().notify();
        turn(30ms);
    }
    void turn(std::chrono::milliseconds time) {
        loop_->restart();
        loop_->run_for(time);
    }
    template <class Work>
    void wait_for(Work work) {
        std::exception_ptr failure;
        bool is_over = false;
        asio::co_spawn(*loop_, std::move(work), [&](std::exception_ptr error, auto&&...) {
            failure = error;
            is_over = true;
            loop_->stop();
        });
        loop_->restart();
        loop_->run_for(10s);
        ASSERT_TRUE(is_over);
        if (failure) std::rethrow_exception(failure);
    }
    void create(Schedule schedule) { wait_for(scheduler_->create(std::move(schedule), {})); }
    /// What a runner would do at the end of a job.
    void end(const std::string& id, JobState state = JobState::kSucceeded) {
        Job job = queue_.get(id);
        jobs::Batch batch;
        job.state = state;
        job.finished_at = clock_.now();
        queue_.append_event(job, batch, "job_ended", "", "it is over");
        wait_for(queue_.commit(job, std::move(batch)));
        look();
    }

  private:
    asio::awaitable<Job> hand_in(std::string operation,
                                 std::map<std::string, std::string> parameters,
                                 jobs::RequestKey key) {
        if (refusal_) throw *refusal_;
        jobs::Submission submission;
        submission.operation = Idle::kName;
        submission.target = parameters["target"];
        submission.key = std::move(key);
        Job job = co_await queue_.submit(std::move(submission), jobs::Batch{});
        submitted_.push_back({std::move(operation), std::move(parameters), job});
        co_return job;
    }

    std::unique_ptr<asio::io_context> loop_ = std::make_unique<asio::io_context>(1);
    SystemClock clock_;
    metrics::Instruments metrics_;
    jobs::OperationRegistry registry_;
    jobs::Store store_;
    jobs::Queue queue_;
    Schedules schedules_;
    std::optional<Scheduler> scheduler_;
    std::vector<Submitted> submitted_;
    std::optional<Error> refusal_;
};

class SchedulerTest : public ::testing::Test {
  protected:
    void SetUp() override {
        log::set_level(log::Level::kError);
        jobs::Store::create(directory_.path() / "store");
        next_life();
    }
    Life& next_life() {
        life_.reset();
        life_ = std::make_unique<Life>(directory_.path() / "store", [this] { return reading_; });
        life_->begin();
        return *life_;
    }
    /// Time goes by, for both clocks.
    void pass(std::chrono::microseconds time) {
        // In pieces: nobody sleeps for longer than an hour, and only the wall clock is ever set.
        reading_.wall += time;
        reading_.boot += time;
        life_->look();
    }
    void set_wall(WallTime to) {
        reading_.wall = to;
        life_->look();
    }
    Life& life() { return *life_; }
    const Schedule& schedule(const std::string& name = "nightly") { return life().schedule(name); }
    std::vector<std::string> fires() {
        std::vector<std::string> found;
        for (const Submitted& one : life().submitted())
            found.push_back(one.job.fire.is_null() ? one.operation
                                                   : one.job.fire.at("at").get<std::string>());
        return found;
    }
    static Schedule hourly(std::string name = "nightly") {
        Schedule schedule;
        schedule.name = std::move(name);
        schedule.cron = "0 * * * *";
        schedule.op = "snapshot";
        schedule.target = "prod/main";
        return schedule;
    }
    static Schedule pruning() {
        Schedule schedule = hourly("pruning");
        schedule.retention.last = 3;
        return schedule;
    }
    using Words = std::vector<std::string>;

    ClockReading reading_{at("2026-11-26T10:30:00Z"), 5'000s};
    bpg::test::ScratchDirectory directory_{"scheduler"};

  private:
    std::unique_ptr<Life> life_;
};

TEST_F(SchedulerTest, AFireIsWrittenWithItsJobAndHappensOnce) {
    life().create(hourly());
    EXPECT_EQ(schedule().next_fire, at("2026-11-26T11:00:00Z"));
    pass(29min);
    EXPECT_TRUE(life().submitted().empty());
    pass(1min);
    ASSERT_EQ(fires(), Words{"2026-11-26T11:00:00.000000Z"});
    const Submitted& made = life().submitted().front();
    EXPECT_EQ(made.operation, "snapshot");
    EXPECT_EQ(made.parameters, (std::map<std::string, std::string>{{"target", "prod/main"}}));
    EXPECT_EQ(made.job.priority, jobs::Priority::kScheduled);
    EXPECT_EQ(made.job.fire.at("schedule"), "nightly");
    EXPECT_EQ(made.job.fire.at("stands_for"), 1);
    const std::string id = made.job.id;
    EXPECT_EQ(schedule().last_job, id);
    EXPECT_EQ(schedule().last_fire, at("2026-11-26T11:00:00Z"));
    EXPECT_EQ(schedule().next_fire, at("2026-11-26T12:00:00Z"));
    life().end(id);
    next_life().look();
    EXPECT_TRUE(life().submitted().empty());
    EXPECT_EQ(schedule().last_job, id);
    EXPECT_EQ(life().queue().get(id).fire.at("at"), "2026-11-26T11:00:00.000000Z");
}

TEST_F(SchedulerTest, FiresMissedWhileItWasDownRunOnceWithinTheCatchUp) {
    life().create(hourly());
    reading_.wall += 5h;
    reading_.boot += 5h;
    next_life().look();
    ASSERT_EQ(fires(), Words{"2026-11-26T15:00:00.000000Z"});
    EXPECT_EQ(life().submitted().front().job.fire.at("stands_for"), 5);
    EXPECT_EQ(schedule().missed, 0U);
}

TEST_F(SchedulerTest, FiresBeyondTheCatchUpAreCountedAndNotRun) {
    Schedule daily = hourly();
    daily.cron = "0 2 * * *";
    daily.catch_up = 1h;
    life().create(daily);
    reading_.wall += 48h;
    reading_.boot += 48h;
    next_life().look();
    EXPECT_TRUE(life().submitted().empty());
    EXPECT_EQ(schedule().missed, 2U);
    EXPECT_EQ(schedule().next_fire, at("2026-11-29T02:00:00Z"));
    // And counted once.
    next_life().look();
    EXPECT_EQ(schedule().missed, 2U);
}

TEST_F(SchedulerTest, WhileTheLastJobIsOpenAFireIsSkippedAndCounted) {
    life().create(hourly());
    pass(30min);
    pass(1h);
    EXPECT_EQ(fires().size(), 1U);
    EXPECT_EQ(schedule().overlap_skipped, 1U);
    life().end(schedule().last_job);
    EXPECT_EQ(fires().size(), 1U) << "what was skipped is over";
    pass(1h);
    EXPECT_EQ(fires().size(), 2U);
}

TEST_F(SchedulerTest, WithQueueOneFireWaitsForTheLastJobAlsoOverARestart) {
    Schedule queued = hourly();
    queued.overlap = Overlap::kQueue;
    life().create(queued);
    pass(30min);
    const std::string first = schedule().last_job;
    pass(1h);
    pass(1h);
    EXPECT_EQ(fires().size(), 1U);
    EXPECT_EQ(schedule().queued_fire, at("2026-11-26T12:00:00Z"));
    EXPECT_EQ(schedule().overlap_skipped, 1U) << "one waits, the other does not";
    next_life().look();
    EXPECT_TRUE(fires().empty());
    life().end(first);
    ASSERT_EQ(fires(), Words{"2026-11-26T12:00:00.000000Z"});
    EXPECT_EQ(schedule().queued_fire, std::nullopt);
    EXPECT_NE(schedule().last_job, first);
}

TEST_F(SchedulerTest, ABusyTargetIsTriedAgainUntilItIsFree) {
    life().create(hourly());
    life().refuse_with(Error(ErrorKind::kConflict, "busy", "it is busy"));
    pass(30min);
    EXPECT_TRUE(fires().empty());
    EXPECT_EQ(schedule().refusal, std::nullopt);
    life().refuse_with(std::nullopt);
    pass(10min);
    life().turn(1100ms);
    ASSERT_EQ(fires(), Words{"2026-11-26T11:00:00.000000Z"});
    EXPECT_EQ(schedule().missed, 0U);
}

TEST_F(SchedulerTest, AFireThatCanNeverBeAJobIsRecordedWithTheReason) {
    life().create(hourly());
    life().refuse_with(
        Error(ErrorKind::kNotFound, "branch_not_found", "there is no prod/main", "it was deleted"));
    pass(30min);
    ASSERT_TRUE(schedule().refusal);
    EXPECT_EQ(*schedule().refusal, (FireRefusal{"branch_not_found", "there is no prod/main",
                                                "it was deleted", at("2026-11-26T11:00:00Z")}));
    EXPECT_EQ(schedule().missed, 1U);
    EXPECT_EQ(schedule().next_fire, at("2026-11-26T12:00:00Z"));
    life().refuse_with(std::nullopt);
    pass(1h);
    EXPECT_EQ(fires(), Words{"2026-11-26T12:00:00.000000Z"});
    EXPECT_EQ(schedule().refusal, std::nullopt) << "it is back, and so is the schedule";
}

TEST_F(SchedulerTest, APruneFollowsASnapshotThatSucceededAndNoOther) {
    life().create(pruning());
    pass(30min);
    life().end(schedule("pruning").last_job, JobState::kFailed);
    EXPECT_EQ(fires().size(), 1U) << "nothing goes where nothing came";
    pass(1h);
    const std::string second = schedule("pruning").last_job;
    EXPECT_TRUE(schedule("pruning").prune_due);
    next_life().look();
    EXPECT_TRUE(life().submitted().empty()) << "it waits";
    life().end(second);
    ASSERT_EQ(life().submitted().size(), 1U);
    EXPECT_EQ(life().submitted().front().operation, "prune");
    EXPECT_EQ(
        life().submitted().front().parameters,
        (std::map<std::string, std::string>{{"target", "prod/main"}, {"schedule", "pruning"}}));
    EXPECT_FALSE(schedule("pruning").prune_due);
    next_life().look();
    EXPECT_TRUE(life().submitted().empty()) << "once";
}

TEST_F(SchedulerTest, AClockThatWasSetPausesWhatDeletesAndNothingElse) {
    for (const auto& [jump, is_far] : std::initializer_list<std::pair<std::chrono::seconds, bool>>{
             {-4min, false}, {-5min, true}, {179min, false}, {3h, true}}) {
        reading_.wall = at("2026-11-26T10:30:00Z");
        life().look();
        for (const char* name : {"nightly", "pruning"}) {
            if (life().schedules().find(name) != nullptr)
                life().wait_for(life().scheduler().remove(name, {}));
        }
        life().create(hourly());
        life().create(pruning());
        set_wall(reading_.wall + jump);
        EXPECT_EQ(schedule("pruning").paused, is_far) << jump.count();
        EXPECT_FALSE(schedule().paused);
        if (!is_far) continue;
        EXPECT_EQ(schedule("pruning").pause_reason, "clock");
        EXPECT_EQ(schedule("pruning").next_fire, std::nullopt);
        // Until somebody has looked, also over a restart; what would have fired is passed.
        next_life().look();
        pass(2h);
        EXPECT_EQ(schedule("pruning").last_fire, std::nullopt);
        life().wait_for(life().scheduler().resume("pruning", {}));
        EXPECT_FALSE(schedule("pruning").paused);
        EXPECT_GT(*schedule("pruning").next_fire, reading_.wall);
    }
}

TEST_F(SchedulerTest, AStartInThePastPausesWhatDeletes) {
    life().create(hourly());
    life().create(pruning());
    pass(1min);
    reading_.wall -= 7min;
    reading_.boot = 10s;
    next_life().look();
    EXPECT_TRUE(schedule("pruning").paused);
    EXPECT_EQ(schedule("pruning").pause_reason, "clock");
    EXPECT_FALSE(schedule().paused);
    life().wait_for(life().scheduler().resume("pruning", {}));
    next_life().look();
    EXPECT_FALSE(schedule("pruning").paused) << "the time is known now";
}

TEST_F(SchedulerTest, APruneThatIsDueDoesNotRunWhileTheClockIsInDoubt) {
    life().create(pruning());
    pass(30min);
    const std::string snapshot = schedule("pruning").last_job;
    set_wall(reading_.wall - 1h);
    ASSERT_TRUE(schedule("pruning").paused);
    life().end(snapshot);
    EXPECT_EQ(life().submitted().size(), 1U);
    EXPECT_FALSE(schedule("pruning").prune_due);
}

TEST_F(SchedulerTest, EditedWhileItsJobRunsItFiresByTheNewExpression) {
    life().create(hourly());
    pass(30min);
    const std::string first = schedule().last_job;
    life().wait_for(life().scheduler().change(
        "nightly", [](Schedule& edited) { edited.cron = "15 * * * *"; }, {}));
    EXPECT_EQ(schedule().next_fire, at("2026-11-26T11:15:00Z"));
    EXPECT_EQ(schedule().last_job, first);
    life().end(first);
    pass(15min);
    EXPECT_EQ(fires().back(), "2026-11-26T11:15:00.000000Z");
}

TEST_F(SchedulerTest, APausedScheduleFiresOnlyByHandAndPassesItsTimes) {
    life().create(hourly());
    life().wait_for(life().scheduler().pause("nightly", "we move house", {}));
    EXPECT_EQ(schedule().pause_reason, "we move house");
    pass(3h);
    EXPECT_TRUE(fires().empty());
    life().wait_for(life().scheduler().run_now("nightly", false, {}));
    EXPECT_EQ(fires(), Words{"2026-11-26T13:30:00.000000Z"});
    life().wait_for(life().scheduler().resume("nightly", {}));
    life().look();
    EXPECT_EQ(fires().size(), 1U);
    EXPECT_EQ(schedule().next_fire, at("2026-11-26T14:00:00Z"));
    EXPECT_EQ(schedule().missed, 0U);
}

TEST_F(SchedulerTest, ByHandItRunsWhileTheLastJobIsOpenOnlyByForce) {
    life().create(pruning());
    life().wait_for(life().scheduler().run_now("pruning", false, {}));
    const std::string first = schedule("pruning").last_job;
    EXPECT_EQ(
        test::error_of([&] { life().wait_for(life().scheduler().run_now("pruning", false, {})); }),
        (ErrorInfo{ErrorKind::kConflict, "busy", "the last job of schedule \"pruning\" is open",
                   "it is " + first, "wait until it has ended, or pass --force"}));
    life().wait_for(life().scheduler().run_now("pruning", true, {}));
    EXPECT_NE(schedule("pruning").last_job, first);
    life().end(schedule("pruning").last_job);
    EXPECT_EQ(life().submitted().back().parameters.at("force"), "true");
}

TEST_F(SchedulerTest, WhatASchedulesTargetIsCalledFollowsARename) {
    Schedule other = hourly("other");
    other.target = "production/main";
    life().create(hourly());
    life().create(other);
    jobs::Batch batch;
    life().schedules().retarget("prod", "sales", batch);
    EXPECT_EQ(schedule().target, "sales/main");
    EXPECT_EQ(schedule("other").target, "production/main");
    life().schedules().retarget("sales/main", "sales/old", batch);
    EXPECT_EQ(schedule().target, "sales/old");
}

TEST_F(SchedulerTest, VerbsRefuseWhatIsNotThereOrThereAlready) {
    life().create(hourly());
    EXPECT_EQ(
        test::error_of([&] { life().create(hourly()); }),
        (ErrorInfo{ErrorKind::kConflict, "schedule_exists", "schedule \"nightly\" exists already",
                   "names are unique", "choose another name, or delete it first"}));
    EXPECT_EQ(test::error_of([&] { life().wait_for(life().scheduler().remove("nigthly", {})); }),
              (ErrorInfo{ErrorKind::kNotFound, "schedule_not_found",
                         "there is no schedule \"nigthly\"", "it was never made, or it was deleted",
                         "bpg schedule list shows what there is"}));
    EXPECT_EQ(test::error_of([&] { life().wait_for(life().scheduler().resume("nightly", {})); }),
              (ErrorInfo{ErrorKind::kConflict, "not_paused", "schedule \"nightly\" is not paused",
                         "nobody paused it, or it was resumed already", "there is nothing to do"}));
    life().wait_for(life().scheduler().remove("nightly", {}));
    EXPECT_TRUE(next_life().schedules().all().empty());
}

TEST_F(SchedulerTest, AScheduleWhoseZoneIsGoneSaysSoAndDisturbsNobody) {
    Schedule lost = hourly("lost");
    lost.tz = "Mars/Olympus";
    lost.next_fire = at("2026-11-26T11:00:00Z");
    jobs::Batch batch;
    life().schedules().put(lost, batch);
    life().create(hourly());
    EXPECT_NE(life().schedules().get("lost").broken, "");
    pass(30min);
    EXPECT_EQ(fires(), Words{"2026-11-26T11:00:00.000000Z"});
}

/// Of the machine's own clocks.
TEST_F(SchedulerTest, AThousandSchedulesFireOnTimeAndCostNothingInBetween) {
    constexpr int kSchedules = 1000;
    constexpr std::chrono::milliseconds kInterval{10'000};
    jobs::Store::create(directory_.path() / "store2");
    Life life(directory_.path() / "store2", read_clocks);
    for (int i = 0; i < kSchedules; ++i) {
        Schedule schedule = hourly(fmt::format("s{}", i));
        schedule.cron = "@every 1h";
        life.create(schedule);
    }
    life.begin();
    rusage before{};
    ::getrusage(RUSAGE_SELF, &before);
    life.turn(3s);
    rusage after{};
    ::getrusage(RUSAGE_SELF, &after);
    const auto seconds = [](const timeval& time) {
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
    };
    const double busy = seconds(after.ru_utime) - seconds(before.ru_utime) +
                        seconds(after.ru_stime) - seconds(before.ru_stime);
    fmt::print("{:.2f} % of a CPU while nothing is due\n", busy / 3 * 100);
    EXPECT_LT(busy, 0.03);

    // Spread over the interval, as those of many databases with H are.
    const WallTime begin = read_clocks().wall + 1s;
    for (int i = 0; i < kSchedules; ++i) {
        Schedule schedule = life.schedule(fmt::format("s{}", i));
        schedule.cron = "@every 10s";
        schedule.created_at = begin - kInterval + i * (kInterval / kSchedules);
        schedule.handled_until = begin - 1s;
        schedule.next_fire = begin + i * (kInterval / kSchedules);
        jobs::Batch batch;
        life.schedules().put(schedule, batch);
    }
    life.queue().changed().notify();
    life.turn(kInterval + 2s);
    std::vector<std::chrono::microseconds> late;
    std::set<std::string> fired;
    for (const Submitted& made : life.submitted()) {
        const auto nominal = parse_time(made.job.fire.at("at").get<std::string>());
        late.push_back(made.job.created_at - *nominal);
        fired.insert(made.job.fire.at("schedule"));
    }
    EXPECT_EQ(fired.size(), static_cast<std::size_t>(kSchedules));
    std::sort(late.begin(), late.end());
    const auto p99 = late.at(late.size() * 99 / 100);
    fmt::print("{} fires, late by {} us (median), {} us (p99), {} us (most)\n", late.size(),
               late.at(late.size() / 2).count(), p99.count(), late.back().count());
    EXPECT_LT(p99, 50ms);
}

}  // namespace
}  // namespace bpg::scheduler
