// Promises about who may go on: locks belong to rows, are kept over deaths of the daemon, and come
// in order; lanes and databases stand still while they are paused.
#include <gtest/gtest.h>

#include "tests/unit/jobs/engine_fixture.h"

namespace bpg::jobs::test {
namespace {

class AdmissionTest : public EngineTest {
  protected:
    /// Holds a row until the test lets it go.
    std::shared_ptr<Signal> hold(const std::string& row) {
        auto release = std::make_shared<Signal>();
        stage_.runs[row] = [release](const JobContext&) -> asio::awaitable<Progress> {
            co_await release->wait_until(std::chrono::steady_clock::now() + 10s);
            co_return Done{};
        };
        return release;
    }
    void at_row(const Job& job, const std::string& row) {
        life().until([this, line = "run " + job.target + "." + row] {
            return std::find(stage_.log.begin(), stage_.log.end(), line) != stage_.log.end();
        });
    }
    Job seen(const Job& job) { return life().queue().get(job.id); }
};

TEST_F(AdmissionTest, ALockIsLetGoBehindItsLastRow) {
    const auto two = hold("first.two");
    const auto three = hold("first.three");
    Lock source = lock_on("main", LockMode::kShared);
    source.until_step = "two";
    const Job first = life().submit("first", {source, lock_on("dev")});
    at_row(first, "two");
    const Job stop = life().submit("stop", {lock_on("main")});
    life().until([&] { return !seen(stop).waiting_for.empty(); });
    EXPECT_EQ(seen(stop).waiting_for, "main: held by job " + first.id + " (play first, step two)");
    two->notify();
    EXPECT_EQ(life().end_of(stop).state, JobState::kSucceeded);
    EXPECT_EQ(seen(first).state, JobState::kRunning) << "and what it still needs, it keeps";
    const Job other = life().submit("other", {lock_on("dev")});
    EXPECT_EQ(seen(other).state, JobState::kQueued);
    three->notify();
    EXPECT_EQ(life().end_of(other).state, JobState::kSucceeded);
}

TEST_F(AdmissionTest, ALockIsTakenBeforeItsFirstRow) {
    const auto one = hold("first.one");
    Lock late = lock_on("z");
    late.from_step = "two";
    const Job first = life().submit("first", {lock_on("a"), late});
    at_row(first, "one");
    const auto holding = hold("holder.one");
    const Job holder = life().submit("holder", {lock_on("z")});
    at_row(holder, "one");
    one->notify();
    life().reach(first, JobState::kWaiting);
    EXPECT_EQ(seen(first).waiting_for, "z: held by job " + holder.id + " (play holder, step one)");
    EXPECT_EQ(std::count(stage_.log.begin(), stage_.log.end(), "run first.two"), 0);
    const Job third = life().submit("third", {lock_on("z")});
    holding->notify();
    EXPECT_EQ(life().end_of(first).state, JobState::kSucceeded);
    EXPECT_EQ(life().end_of(third).state, JobState::kSucceeded);
    const auto place = [this](const char* line) {
        return std::find(stage_.log.begin(), stage_.log.end(), line);
    };
    EXPECT_LT(place("run first.two"), place("run third.one"))
        << "who has begun goes before who has not";
    EXPECT_EQ(event_types(seen(first)), (Words{"job_queued", "step_done", "step_waiting",
                                               "step_done", "step_done", "job_succeeded"}));
}

TEST_F(AdmissionTest, AWaitForALockHoldsNoSlotAndIsCancelled) {
    next_life(/*slots=*/1);
    // A stuck job keeps its locks.
    stage_.undos["stuck.one"] = be_broken;
    stage_.runs["stuck.one"] = [](const JobContext&) -> asio::awaitable<Progress> { be_broken(); };
    const Job stuck = life().submit("stuck", {lock_on("z")});
    while (seen(stuck).state != JobState::kStuck) {
        life().until([this, &stuck] {
            return seen(stuck).state == JobState::kStuck || timeline_.next_pause().has_value();
        });
        timeline_.advance(10min);
    }
    Lock late = lock_on("z");
    late.from_step = "two";
    const Job first = life().submit("first", {late});
    life().reach(first, JobState::kWaiting);
    EXPECT_EQ(life().end_of(life().submit("quick")).state, JobState::kSucceeded);
    cancel(first);
    EXPECT_EQ(life().end_of(first).state, JobState::kCancelled);
    EXPECT_EQ(stage_.log.back(), "undo first.one");
}

TEST_F(AdmissionTest, AfterADeathEveryJobHasExactlyTheLocksItHad) {
    Lock source = lock_on("main", LockMode::kShared);
    source.until_step = "one";
    stage_.runs["first.two"] = wait_an_hour;
    const Job first = life().submit("first", {source, lock_on("dev")});
    life().reach(first, JobState::kWaiting);
    const Job waits = life().submit("waits", {lock_on("dev")});
    next_life();
    // Asked before anything runs again: it has to be in the records.
    EXPECT_TRUE(life().queue().locks().obstacle(99, lock_on("dev")));
    EXPECT_FALSE(life().queue().locks().obstacle(99, lock_on("main")));
    EXPECT_EQ(life().end_of(life().submit("stop", {lock_on("main")})).state, JobState::kSucceeded);
    EXPECT_EQ(seen(waits).state, JobState::kQueued);
    stage_.runs.clear();
    timeline_.advance(2h);
    EXPECT_EQ(life().end_of(waits).state, JobState::kSucceeded);
}

TEST_F(AdmissionTest, AJobThatDiedInItsFirstRowHasItsLocksBeforeAnyOlderOne) {
    stage_.runs["holder.one"] = wait_an_hour;
    const Job holder = life().submit("holder", {lock_on("main")});
    life().reach(holder, JobState::kWaiting);
    // The older one waits for two locks, the younger one gets one of them at once.
    const Job older = life().submit("older", {lock_on("main")});
    const auto hold_younger = hold("younger.one");
    const Job younger = life().submit("younger", {lock_on("dev")});
    at_row(younger, "one");
    next_life();
    EXPECT_TRUE(life().queue().locks().obstacle(99, lock_on("dev")))
        << "it was written before the row began";
    EXPECT_EQ(seen(older).waiting_for.empty(), true);
}

TEST_F(AdmissionTest, WhatHadToWaitWritesItsLocksBeforeItBegins) {
    const auto release = hold("holder.one");
    const Job holder = life().submit("holder", {lock_on("dev")});
    at_row(holder, "one");
    stage_.runs["waits.one"] = wait_an_hour;
    const Job waits = life().submit("waits", {lock_on("dev")});
    release->notify();
    life().reach(waits, JobState::kWaiting);
    EXPECT_EQ(event_types(seen(waits)), (Words{"job_queued", "job_started"}));
    next_life();
    EXPECT_TRUE(life().queue().locks().obstacle(99, lock_on("dev")));
}

TEST_F(AdmissionTest, NobodyOvertakesForALockThatAnotherWaitsFor) {
    stage_.runs["holder.one"] = wait_an_hour;
    const Job holder = life().submit("holder", {lock_on("main", LockMode::kShared)});
    life().reach(holder, JobState::kWaiting);
    const Job writer = life().submit("writer", {lock_on("main")});
    const Job reader = life().submit("reader", {lock_on("main", LockMode::kShared)});
    EXPECT_EQ(seen(reader).state, JobState::kQueued);
    life().until([&] { return !seen(reader).waiting_for.empty(); });
    EXPECT_EQ(seen(reader).waiting_for, "main: job " + writer.id + " (play writer) is first");
}

TEST_F(AdmissionTest, LocksThatCouldWaitForOneAnotherAreRefused) {
    Lock late = lock_on("a");
    late.from_step = "two";
    const auto submitted = [&] { life().submit("prod", {lock_on("b"), late}); };
    EXPECT_THROW(submitted(), Error);
    EXPECT_TRUE(life().queue().open_jobs().empty());
}

TEST_F(AdmissionTest, APausedLaneTakesJobsAndBeginsNone) {
    life().wait_for([](Pauses& pauses) -> asio::awaitable<bool> {
        Pause pause{"lane/housekeeping", "the housekeeping lane", "moving disks", {}};
        co_await pauses.pause(std::move(pause));
        co_return true;
    }(life().pauses()));
    next_life();
    const Job swept = life().submit("swept", {lock_on("main")}, Priority::kHousekeeping);
    EXPECT_EQ(life().end_of(life().submit("user", {lock_on("main")})).state, JobState::kSucceeded)
        << "who is paused keeps nobody waiting";
    life().until([&] { return !seen(swept).waiting_for.empty(); });
    EXPECT_EQ(seen(swept).waiting_for, "the housekeeping lane is paused: moving disks");
    EXPECT_TRUE(life().wait_for(life().pauses().resume("lane/housekeeping")));
    EXPECT_FALSE(life().wait_for(life().pauses().resume("lane/housekeeping")));
    life().queue().changed().notify();
    EXPECT_EQ(life().end_of(swept).state, JobState::kSucceeded);
}

TEST_F(AdmissionTest, APausedDatabaseStopsItsJobsAndNoOthers) {
    life().wait_for([](Pauses& pauses) -> asio::awaitable<bool> {
        Pause pause{"database/d", "database d", "", {}};
        co_await pauses.pause(std::move(pause));
        co_return true;
    }(life().pauses()));
    const Job inside = life().submit("inside", {lock_on("main")});
    Lock elsewhere = lock_on("other");
    elsewhere.above = {"pool", "database/e"};
    EXPECT_EQ(life().end_of(life().submit("outside", {elsewhere})).state, JobState::kSucceeded);
    life().until([&] { return !seen(inside).waiting_for.empty(); });
    EXPECT_EQ(seen(inside).waiting_for, "database d is paused");
    cancel(inside);
    EXPECT_EQ(life().end_of(inside).state, JobState::kCancelled);
}

}  // namespace
}  // namespace bpg::jobs::test
