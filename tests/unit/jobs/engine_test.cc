// Promises of the engine and the runner about one job: cancelled wherever it stands, stuck and
// tried again, over deaths and orderly ends of the daemon.
#include <gtest/gtest.h>

#include "tests/unit/jobs/engine_fixture.h"

namespace bpg::jobs::test {
namespace {

TEST_F(EngineTest, AJobWithoutTroubleDoesItsRowsInOrder) {
    const Job job = life().end_of(life().submit("prod"));
    EXPECT_EQ(job.state, JobState::kSucceeded);
    EXPECT_EQ(job.result, nlohmann::json({{"rows", 3}}));
    EXPECT_EQ(stage_.log, (Words{"run prod.one", "run prod.two", "run prod.three"}));
    EXPECT_EQ(event_types(job),
              (Words{"job_queued", "step_done", "step_done", "step_done", "job_succeeded"}));
}

TEST_F(EngineTest, ARowMayLeaveNothingToDoForTheRest) {
    stage_.runs["prod.two"] = [](const JobContext&) -> asio::awaitable<Progress> {
        co_return Done{.ends_job = true};
    };
    const Job ended = life().end_of(life().submit("prod"));
    EXPECT_EQ(ended.state, JobState::kSucceeded);
    EXPECT_EQ(stage_.log, (Words{"run prod.one", "run prod.two"}));
    EXPECT_EQ(ended.steps[1].state, "done");
    EXPECT_EQ(ended.steps[2].state, "skipped");
    EXPECT_EQ(event_types(ended).back(), "job_succeeded");
}

/// A row that takes longer than any life of bpgd, as a long recovery does.
class LongRowTest : public EngineTest {
  protected:
    void SetUp() override {
        EngineTest::SetUp();
        stage_.runs["prod.two"] = [this](const JobContext& context) -> asio::awaitable<Progress> {
            while (done_ < kAll) {
                context.show_progress({done_, kAll, "bytes"});
                co_await pause_for(1ms);
            }
            co_return Done{};
        };
        job_ = life().submit("prod");
    }
    /// Until bpgd has kept how far it is; then bpgd dies.
    void live_until(std::uint64_t done) {
        done_ = done;
        life().until([this] {
            const Job& now = life().queue().open_job(job_.number);
            return now.progress && now.progress->done == done_;
        });
        timeline_.advance(1s);
        life().until([this] {
            return life().queue().progress_of(life().queue().open_job(job_.number)) == done_;
        });
        next_life();
    }

    static constexpr std::uint64_t kAll = 1000;
    std::uint64_t done_ = 0;
    Job job_;
};

TEST_F(LongRowTest, DeathsInARowThatGetsFurtherAreNotHeldAgainstIt) {
    for (std::uint64_t done = 10; done <= 100; done += 10)
        live_until(done);
    live_until(100);
    done_ = kAll;
    EXPECT_EQ(life().end_of(job_).state, JobState::kSucceeded);
}

TEST_F(LongRowTest, DeathsInARowThatOnlyBeginsAgainAre) {
    live_until(50);
    live_until(50);
    live_until(50);
    const Job stuck = life().end_of(job_);
    EXPECT_EQ(stuck.state, JobState::kStuck);
    EXPECT_EQ(stuck.error->detail, "bpgd died 3 times, one after the other, at step \"two\"");
}

TEST_F(EngineTest, CancelledInAWaitItIsUndoneAtOnce) {
    stage_.runs["prod.two"] = wait_an_hour;
    const Job job = life().submit("prod");
    life().reach(job, JobState::kWaiting);
    cancel(job);
    const Job ended = life().end_of(job);
    EXPECT_EQ(ended.state, JobState::kCancelled);
    EXPECT_EQ(ended.error->code, "job_cancelled");
    EXPECT_EQ(ended.error->kind, ErrorKind::kCancelled);
    EXPECT_EQ(ended.error_step, "two");
    EXPECT_EQ(stage_.log,
              (Words{"run prod.one", "run prod.two", "undo prod.two", "undo prod.one"}));
    EXPECT_EQ(stage_.failures, Words{"job_cancelled"}) << "what was reserved is released";
    EXPECT_EQ(event_types(ended), (Words{"job_queued", "step_done", "job_undoing", "step_undone",
                                         "step_undone", "job_cancelled"}));
    EXPECT_TRUE(life().queue().open_jobs().empty());
}

TEST_F(EngineTest, CancelledInABackOffItIsUndoneAtOnce) {
    stage_.runs["prod.two"] = [](const JobContext&) -> asio::awaitable<Progress> { be_away(); };
    const Job job = life().submit("prod");
    life().reach(job, JobState::kRetrying);
    cancel(job);
    EXPECT_EQ(life().end_of(job).state, JobState::kCancelled);
}

TEST_F(EngineTest, CancelledInsideARowThatAsksItEndsThere) {
    stage_.runs["prod.two"] = [](const JobContext& context) -> asio::awaitable<Progress> {
        while (true) {
            context.throw_if_cancelled();
            co_await pause_for(1ms);
        }
    };
    const Job job = life().submit("prod");
    life().wait_for(
        life().queue().wait_for_event(job.id, 1, std::chrono::steady_clock::now() + 5s));
    cancel(job);
    EXPECT_EQ(life().end_of(job).state, JobState::kCancelled);
    EXPECT_EQ(stage_.log.back(), "undo prod.one");
}

TEST_F(EngineTest, CancelledInsideARowThatDoesNotAskItEndsBehindIt) {
    const auto release = std::make_shared<Signal>();
    stage_.runs["prod.one"] = [release](const JobContext&) -> asio::awaitable<Progress> {
        co_await release->wait_until(std::chrono::steady_clock::now() + 10s);
        co_return Done{};
    };
    const Job job = life().submit("prod");
    life().reach(job, JobState::kRunning);
    cancel(job);
    EXPECT_EQ(stage_.log, Words{"run prod.one"});
    release->notify();
    const Job ended = life().end_of(job);
    EXPECT_EQ(ended.state, JobState::kCancelled);
    EXPECT_EQ(stage_.log, (Words{"run prod.one", "undo prod.two", "undo prod.one"}))
        << "row two was never begun";
}

TEST_F(EngineTest, CancelledWhileQueuedItEndsWithoutHavingDoneAnything) {
    stage_.runs["first.one"] = wait_an_hour;
    const Lock lock = lock_on("x");
    const Job first = life().submit("first", {lock});
    life().reach(first, JobState::kWaiting);
    const Job second = life().submit("second", {lock});
    EXPECT_EQ(life().queue().get(second.id).state, JobState::kQueued);
    cancel(second);
    const Job ended = life().end_of(second);
    EXPECT_EQ(ended.state, JobState::kCancelled);
    EXPECT_FALSE(ended.started_at);
    EXPECT_EQ(stage_.log, Words{"run first.one"});
    EXPECT_EQ(stage_.failures, Words{"job_cancelled"});
    EXPECT_EQ(event_types(ended), (Words{"job_queued", "job_cancelled"}));
    EXPECT_EQ(life().queue().get(first.id).state, JobState::kWaiting) << "the other goes on";
}

TEST_F(EngineTest, AQueuedJobThatADeadDaemonMayHaveBegunIsUndone) {
    stage_.runs["prod.one"] = [](const JobContext&) -> asio::awaitable<Progress> {
        co_await pause_for(1h);
        co_return Done{};
    };
    const Job job = life().submit("prod");
    life().reach(job, JobState::kRunning);
    cancel(job);
    next_life();
    EXPECT_EQ(life().queue().get(job.id).state, JobState::kQueued) << "no commit said it began";
    EXPECT_EQ(life().end_of(job).state, JobState::kCancelled);
    EXPECT_EQ(stage_.log.back(), "undo prod.one");
}

TEST_F(EngineTest, AnIrreversibleRowRefusesWithItsReason) {
    stage_.runs["prod.three"] = wait_an_hour;
    const Job job = life().submit("prod");
    life().reach(job, JobState::kWaiting);
    const ErrorInfo error = life().refusal(life().queue().request_cancel(job.id, {}));
    EXPECT_EQ(error.kind, ErrorKind::kConflict);
    EXPECT_EQ(error.code, "job_irreversible");
    EXPECT_EQ(error.message, "job " + job.id + " can no longer be cancelled");
    EXPECT_EQ(error.detail, "play prod is at step three: the curtain has fallen");
    EXPECT_EQ(error.hint, "wait for it: bpg job tail -f " + job.id);
    EXPECT_EQ(life().queue().get(job.id).state, JobState::kWaiting);
}

TEST_F(EngineTest, AJobThatEndedIsNotCancelledAndOneThatWasCancelledIsAgain) {
    const Job job = life().end_of(life().submit("prod"));
    const ErrorInfo error = life().refusal(life().queue().request_cancel(job.id, {}));
    EXPECT_EQ(error.code, "job_ended");
    EXPECT_EQ(error.message, "job " + job.id + " has ended already");
    EXPECT_EQ(error.detail, "play prod succeeded");
    EXPECT_EQ(error.hint, "there is nothing left to cancel");

    stage_.runs["prod.one"] = wait_an_hour;
    const Job other = life().submit("prod");
    life().reach(other, JobState::kWaiting);
    cancel(other);
    life().end_of(other);
    EXPECT_EQ(cancel(other).state, JobState::kCancelled);
}

TEST_F(EngineTest, AJobThatIsUndoneBecauseItFailedIsNotCancelled) {
    stage_.runs["prod.two"] = [](const JobContext&) -> asio::awaitable<Progress> { be_broken(); };
    stage_.undos["prod.one"] = be_away;
    const Job job = life().submit("prod");
    life().reach(job, JobState::kUndoing);
    const ErrorInfo error = life().refusal(life().queue().request_cancel(job.id, {}));
    EXPECT_EQ(error.code, "job_undoing");
    EXPECT_EQ(error.message, "job " + job.id + " is being undone already");
    EXPECT_EQ(error.detail, "two failed: it is broken");
}

TEST_F(EngineTest, AnAcknowledgedCancelSurvivesTheDaemon) {
    stage_.runs["prod.two"] = [](const JobContext&) -> asio::awaitable<Progress> {
        co_await pause_for(1h);
        co_return Done{};
    };
    const Job job = life().submit("prod");
    life().wait_for(
        life().queue().wait_for_event(job.id, 1, std::chrono::steady_clock::now() + 5s));
    cancel(job);
    EXPECT_EQ(life().queue().get(job.id).state, JobState::kRunning);
    next_life();
    EXPECT_EQ(life().end_of(job).state, JobState::kCancelled);
    EXPECT_EQ(stage_.log.back(), "undo prod.one");
}

TEST_F(EngineTest, ThreeDeathsInOneRowParkTheJobAndRetryGoesOn) {
    const Job job = life().submit("prod");
    for (int death = 1; death <= 3; ++death) {
        life().die_at("play.two.before_run");
        if (death > 1) next_life().die_at("play.two.before_run");
        life().run_until_death();
    }
    next_life();
    const Job stuck = life().end_of(job);
    EXPECT_EQ(stuck.state, JobState::kStuck);
    EXPECT_EQ(stuck.error->code, "job_stuck");
    EXPECT_EQ(stuck.error->detail, "bpgd died 3 times, one after the other, at step \"two\"");
    EXPECT_EQ(stuck.error->hint,
              "nothing was lost; once the reason is gone: bpg job retry " + job.id);
    EXPECT_EQ(retry(stuck).attempt, 2);
    const Job ended = life().end_of(job);
    EXPECT_EQ(ended.state, JobState::kSucceeded);
    EXPECT_FALSE(ended.error);
}

TEST_F(EngineTest, DeathsInDifferentRowsDoNotAddUp) {
    const Job job = life().submit("prod");
    for (const char* row : {"one", "one", "two", "two", "three", "three"}) {
        if (life().died()) next_life();
        life().die_at(std::string("play.") + row + ".before_run");
        life().run_until_death();
    }
    next_life();
    const Job ended = life().end_of(job);
    EXPECT_EQ(ended.state, JobState::kSucceeded) << ended.error->detail;
    EXPECT_EQ(ended.attempt, 1) << "an interruption is no attempt";
}

TEST_F(EngineTest, JobsThatWereAtWorkTogetherShareTheBlameForADeath) {
    stage_.runs["patient.two"] = wait_an_hour;
    const Job patient = life().submit("patient");
    life().reach(patient, JobState::kWaiting);
    stage_.runs["deadly.two"] = [](const JobContext&) -> asio::awaitable<Progress> {
        throw SimulatedDeath{};
    };
    const Job deadly = life().submit("deadly");
    for (int death = 1; death <= 5; ++death) {
        if (death > 1) next_life();
        life().run_until_death();
    }
    stage_.runs.clear();
    next_life();
    for (const Job& job : {patient, deadly})
        EXPECT_EQ(life().end_of(job).state, JobState::kSucceeded) << job.target;
}

TEST_F(EngineTest, OrderlyEndsAreNoDeaths) {
    stage_.runs["prod.two"] = wait_an_hour;
    const Job job = life().submit("prod");
    life().reach(job, JobState::kWaiting);
    for (int stop = 1; stop <= 5; ++stop) {
        life().end_in_order();
        next_life();
        life().reach(job, JobState::kWaiting);
    }
    stage_.runs.clear();
    life().end_in_order();
    next_life();
    EXPECT_EQ(life().end_of(job).state, JobState::kSucceeded);
}

TEST_F(EngineTest, AnUndoThatKeepsFailingIsStuckAndGoesOnByRetryWithTheFirstError) {
    stage_.runs["prod.two"] = [](const JobContext&) -> asio::awaitable<Progress> {
        throw Error(ErrorKind::kConflict, "first", "the first error", "of row two");
    };
    stage_.undos["prod.two"] = be_broken;
    const Job job = life().submit("prod");
    // Between two tries lies a back-off, which the end of the daemon ends too.
    for (int tries = 1; tries < 6; ++tries) {
        life().reach(job, JobState::kUndoing);
        life().wait_for(
            life().queue().wait_for_event(job.id, 1, std::chrono::steady_clock::now() + 1s));
        life().queue().cancellation(job.number)->wake.notify();
    }
    const Job stuck = life().end_of(job);
    ASSERT_EQ(stuck.state, JobState::kStuck);
    EXPECT_EQ(stuck.error->detail,
              "undoing step \"two\" keeps failing: it is broken: it fell down");
    const ErrorInfo refused = life().refusal(life().queue().request_cancel(job.id, {}));
    EXPECT_EQ(refused.code, "job_undoing");
    EXPECT_EQ(refused.hint, "it is stuck; go on with: bpg job retry " + job.id);
    stage_.undos.clear();
    retry(stuck);
    const Job ended = life().end_of(job);
    EXPECT_EQ(ended.state, JobState::kFailed);
    EXPECT_EQ(ended.error->code, "first");
    EXPECT_EQ(ended.error_step, "two");
    EXPECT_EQ(stage_.log.back(), "undo prod.one");
}

TEST_F(EngineTest, AStuckJobOnItsWayForwardIsCancelled) {
    const Job job = life().submit("prod");
    for (int death = 1; death <= 3; ++death) {
        if (death > 1) next_life();
        life().die_at("play.two.before_run");
        life().run_until_death();
    }
    next_life();
    ASSERT_EQ(life().end_of(job).state, JobState::kStuck);
    cancel(job);
    EXPECT_EQ(life()
                  .wait_for(life().queue().wait_until_final(job.id,
                                                            std::chrono::steady_clock::now() + 5s))
                  .state,
              JobState::kCancelled);
    EXPECT_EQ(stage_.log.back(), "undo prod.one");
}

TEST_F(EngineTest, AJobThatIsStuckInAnIrreversibleRowIsNotCancelledButTriedAgain) {
    const Job job = life().submit("prod");
    for (int death = 1; death <= 3; ++death) {
        if (death > 1) next_life();
        life().die_at("play.three.before_run");
        life().run_until_death();
    }
    next_life();
    ASSERT_EQ(life().end_of(job).state, JobState::kStuck);
    const ErrorInfo error = life().refusal(life().queue().request_cancel(job.id, {}));
    EXPECT_EQ(error.code, "job_irreversible");
    EXPECT_EQ(error.hint, "it is stuck; go on with: bpg job retry " + job.id);
    retry(job);
    EXPECT_EQ(life().end_of(job).state, JobState::kSucceeded);
}

TEST_F(EngineTest, OnlyAStuckJobIsTriedAgain) {
    stage_.runs["prod.two"] = wait_an_hour;
    const Job job = life().submit("prod");
    life().reach(job, JobState::kWaiting);
    const ErrorInfo waiting = life().refusal(life().queue().retry(job.id, {}));
    EXPECT_EQ(waiting.kind, ErrorKind::kConflict);
    EXPECT_EQ(waiting.code, "job_not_stuck");
    EXPECT_EQ(waiting.message, "job " + job.id + " is not stuck");
    EXPECT_EQ(waiting.detail, "play prod is waiting");
    EXPECT_EQ(waiting.hint, "it goes on by itself: bpg job tail -f " + job.id);
    cancel(job);
    life().end_of(job);
    const ErrorInfo ended = life().refusal(life().queue().retry(job.id, {}));
    EXPECT_EQ(ended.detail, "play prod is cancelled");
    EXPECT_EQ(ended.hint, "to have it done again, give the command again");
}

TEST_F(EngineTest, AJobThatOnlyWaitsHoldsNoSlot) {
    stage_.runs["patient.two"] = wait_an_hour;
    next_life(/*slots=*/1);
    const Job patient = life().submit("patient");
    life().reach(patient, JobState::kWaiting);
    EXPECT_EQ(life().end_of(life().submit("quick")).state, JobState::kSucceeded);
}

TEST_F(EngineTest, AJobThatHasWaitedGoesOnOnlyWithASlot) {
    const auto release = std::make_shared<Signal>();
    stage_.runs["patient.two"] = wait_an_hour;
    stage_.runs["busy.one"] = [release](const JobContext&) -> asio::awaitable<Progress> {
        co_await release->wait_until(std::chrono::steady_clock::now() + 10s);
        co_return Done{};
    };
    next_life(/*slots=*/1);
    const Job patient = life().submit("patient");
    life().reach(patient, JobState::kWaiting);
    const Job busy = life().submit("busy");
    life().reach(busy, JobState::kRunning);
    cancel(patient);
    EXPECT_EQ(life().queue().get(patient.id).state, JobState::kWaiting);
    release->notify();
    EXPECT_EQ(life().end_of(patient).state, JobState::kCancelled);
    EXPECT_EQ(life().end_of(busy).state, JobState::kSucceeded);
}

TEST_F(EngineTest, OneSlotIsKeptForInteractiveJobs) {
    const auto hold = [](const JobContext&) -> asio::awaitable<Progress> {
        co_await pause_for(1h);
        co_return Done{};
    };
    for (const char* name : {"nightly.one", "second.one", "user.one"})
        stage_.runs[name] = hold;
    next_life(/*slots=*/2);
    life().reach(life().submit("nightly", {}, Priority::kScheduled), JobState::kRunning);
    const Job second = life().submit("second", {}, Priority::kHousekeeping);
    const Job user = life().submit("user");
    life().reach(user, JobState::kRunning);
    EXPECT_EQ(life().queue().get(second.id).state, JobState::kQueued);
    EXPECT_EQ(life().queue().get(second.id).waiting_for, "a free slot");
}

TEST_F(EngineTest, TheSameAgainIsTheOpenJobOrOneMoreThatWaits) {
    struct Case {
        Again again;
        bool has_begun;
        bool is_the_same;
    };
    for (const Case& expected :
         {Case{Again::kAttach, false, true}, Case{Again::kAttach, true, true},
          Case{Again::kCoalesce, false, true}, Case{Again::kCoalesce, true, false}}) {
        const std::string target = new_id();
        const Lock lock = lock_on("x");
        stage_.runs["before.one"] = wait_an_hour;
        std::optional<Job> before;
        if (!expected.has_begun) {
            before = life().submit("before", {lock});
            life().reach(*before, JobState::kWaiting);
        }
        stage_.runs[target + ".one"] = wait_an_hour;
        const Job job = life().submit(target, {lock});
        if (expected.has_begun) life().reach(job, JobState::kWaiting);
        const auto same = life().wait_for(life().queue().find_open_same(
            "play", target, nlohmann::json::object(), expected.again));
        EXPECT_EQ(same.has_value(), expected.is_the_same)
            << static_cast<int>(expected.again) << expected.has_begun;
        if (same) EXPECT_EQ(same->id, job.id);
        cancel(job);
        life().end_of(job);
        if (before) {
            cancel(*before);
            life().end_of(*before);
        }
    }
}

TEST_F(EngineTest, WaitingMakesUrgent) {
    const auto release = std::make_shared<Signal>();
    stage_.runs["first.one"] = [release](const JobContext&) -> asio::awaitable<Progress> {
        co_await release->wait_until(std::chrono::steady_clock::now() + 10s);
        co_return Done{};
    };
    next_life(/*slots=*/1);
    life().reach(life().submit("first"), JobState::kRunning);
    const Job nightly = life().submit("nightly", {}, Priority::kHousekeeping);
    clock_.advance(11min);
    const Job old = life().submit("old", {}, Priority::kScheduled);
    const Job user = life().submit("user");
    release->notify();
    for (const Job& job : {nightly, old, user})
        life().end_of(job);
    std::vector<std::string> order;
    for (const std::string& line : stage_.log) {
        if (line.ends_with(".one")) order.push_back(line);
    }
    EXPECT_EQ(order, (Words{"run first.one", "run nightly.one", "run user.one", "run old.one"}));
}

}  // namespace
}  // namespace bpg::jobs::test
