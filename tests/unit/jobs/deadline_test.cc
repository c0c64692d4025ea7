// Deadlines, and what becomes of every class of failure: tried again at growing distances, or
// undone at once. The hours pass on the test's own clock.
#include <gtest/gtest.h>

#include "tests/unit/jobs/engine_fixture.h"

namespace bpg::jobs::test {
namespace {

class DeadlineTest : public EngineTest {
  protected:
    /// A row that asks whether it may go on, and tells of progress when `done` moves.
    void ask_in(const std::string& row, std::shared_ptr<std::uint64_t> done = nullptr) {
        stage_.runs[row] = [done](const JobContext& context) -> asio::awaitable<Progress> {
            while (true) {
                if (done) context.show_progress({*done, 100, "bytes"});
                context.throw_if_cancelled();
                co_await pause_for(1ms);
            }
        };
    }
    void at_row(const std::string& line) {
        life().until([this, line] { return !stage_.log.empty() && stage_.log.back() == line; });
    }
    /// In steps as small as the engine looks, so that it sees every one.
    void pass(std::chrono::minutes time) {
        for (std::chrono::minutes passed{0}; passed < time; passed += 1min) {
            timeline_.advance(1min);
            life().wait_for(a_moment());
        }
    }
    static asio::awaitable<bool> a_moment() {
        co_await pause_for(1ms);
        co_return true;
    }
};

TEST_F(DeadlineTest, AStepThatTakesTooLongIsUndone) {
    ask_in("prod.two");
    const Job job = life().submit("prod");
    at_row("run prod.two");
    pass(6h - 1min);
    EXPECT_EQ(life().queue().get(job.id).state, JobState::kRunning);
    pass(2min);
    const Job ended = life().end_of(job);
    EXPECT_EQ(ended.state, JobState::kFailed);
    EXPECT_EQ(ended.error->kind, ErrorKind::kTimeout);
    EXPECT_EQ(ended.error->code, "step_deadline");
    EXPECT_EQ(ended.error->message, "a step took too long");
    EXPECT_EQ(ended.error->detail, "two has run for 6h");
    EXPECT_EQ(ended.error->hint,
              "see what kept it: bpg job tail --log " + job.id + "; or raise jobs.step_deadline");
    EXPECT_EQ(ended.error_step, "two");
    EXPECT_EQ(stage_.log.back(), "undo prod.one");
}

TEST_F(DeadlineTest, RowsThatKeepTheirsCanTogetherMissTheJobs) {
    const auto five_hours_then = [](Progress progress) {
        return [progress, waited = 0](const JobContext&) mutable -> asio::awaitable<Progress> {
            if (++waited % 6 != 0) co_return Wait{1h, "a better time"};
            co_return progress;
        };
    };
    stage_.runs["prod.one"] = five_hours_then(Done{});
    stage_.runs["prod.two"] = five_hours_then(Rewind{"one", "something was lost"});
    const Job job = life().submit("prod");
    life().reach(job, JobState::kWaiting);
    pass(12h - 1min);
    EXPECT_EQ(life().queue().get(job.id).step, "one") << "again";
    EXPECT_FALSE(is_final(life().queue().get(job.id).state));
    pass(2min);
    const Job ended = life().end_of(job);
    EXPECT_EQ(ended.state, JobState::kFailed);
    EXPECT_EQ(ended.error->code, "job_deadline");
    EXPECT_EQ(ended.error->message, "the job took too long");
    EXPECT_EQ(ended.error->detail, "it has run for 12h");
}

TEST_F(DeadlineTest, AStepThatTellsOfProgressMustMakeSome) {
    const auto done = std::make_shared<std::uint64_t>(1);
    ask_in("prod.one", done);
    const Job job = life().submit("prod");
    at_row("run prod.one");
    for (int part = 0; part < 4; ++part) {
        pass(20min);
        ++*done;
        life().wait_for(a_moment());
    }
    EXPECT_EQ(life().queue().get(job.id).state, JobState::kRunning) << "it is slow, and moves";
    pass(32min);
    const Job ended = life().end_of(job);
    EXPECT_EQ(ended.error->code, "no_progress");
    EXPECT_EQ(ended.error->detail, "one has got no further for 30m");
}

TEST_F(DeadlineTest, WhatCannotBeUndoneHasNoDeadline) {
    stage_.runs["prod.three"] = wait_an_hour;
    const Job job = life().submit("prod");
    life().reach(job, JobState::kWaiting);
    pass(26h);
    EXPECT_FALSE(is_final(life().queue().get(job.id).state));
    stage_.runs.clear();
    pass(61min);
    EXPECT_EQ(life().end_of(job).state, JobState::kSucceeded);
}

TEST_F(DeadlineTest, AWaitForALockHasOne) {
    stage_.runs["holder.three"] = wait_an_hour;  // irreversible: it has none
    const Job holder = life().submit("holder", {lock_on("z")});
    life().reach(holder, JobState::kWaiting);
    Lock late = lock_on("z");
    late.from_step = "two";
    const Job job = life().submit("prod", {late});
    life().reach(job, JobState::kWaiting);
    pass(6h + 1min);
    EXPECT_EQ(life().end_of(job).error->code, "step_deadline");
}

// --- what a failure of each class leads to
// ---------------------------------------------------------

struct FailureClass {
    ErrorKind kind;
    bool is_temporary;
};

class RetryClass : public EngineTest, public ::testing::WithParamInterface<FailureClass> {};

TEST_P(RetryClass, IsTriedAgainOrUndoneAtOnce) {
    const ErrorKind kind = GetParam().kind;
    stage_.runs["prod.two"] = [kind](const JobContext&) -> asio::awaitable<Progress> {
        throw Error(kind, "some_code", "it failed", "so it is", "mend it");
    };
    const Job job = life().submit("prod");
    std::vector<std::chrono::milliseconds> pauses;
    while (!is_final(life().queue().get(job.id).state)) {
        life().until([&] {
            return is_final(life().queue().get(job.id).state) || timeline_.next_pause().has_value();
        });
        if (is_final(life().queue().get(job.id).state)) break;
        pauses.push_back(*timeline_.next_pause());
        timeline_.advance(pauses.back() - 1ms);
        life().until([&] { return timeline_.next_pause() == std::nullopt; });
        EXPECT_EQ(life().queue().get(job.id).state, JobState::kRetrying) << "not a moment earlier";
        timeline_.advance(1ms);
        life().until([&] {
            return life().queue().get(job.id).state != JobState::kRetrying ||
                   timeline_.next_pause().has_value();
        });
    }
    const Job ended = life().end_of(job);
    EXPECT_EQ(ended.state, JobState::kFailed);
    EXPECT_EQ(ended.error->kind, kind);
    EXPECT_EQ(ended.error->code, "some_code");
    const auto tries = std::count(stage_.log.begin(), stage_.log.end(), "run prod.two");
    if (GetParam().is_temporary) {
        using Pauses = std::vector<std::chrono::milliseconds>;
        EXPECT_EQ(pauses, (Pauses{1min, 2min, 3min, 4min, 5min}));
        EXPECT_EQ(tries, 6);
        EXPECT_EQ(ended.attempt, 6);
    } else {
        EXPECT_TRUE(pauses.empty());
        EXPECT_EQ(tries, 1);
        EXPECT_EQ(ended.attempt, 1);
    }
    EXPECT_EQ(stage_.log.back(), "undo prod.one");
}

INSTANTIATE_TEST_SUITE_P(Kinds, RetryClass,
                         ::testing::Values(FailureClass{ErrorKind::kInvalid, false},
                                           FailureClass{ErrorKind::kNotFound, false},
                                           FailureClass{ErrorKind::kPermission, false},
                                           FailureClass{ErrorKind::kConflict, false},
                                           FailureClass{ErrorKind::kExhausted, false},
                                           FailureClass{ErrorKind::kUnavailable, true},
                                           FailureClass{ErrorKind::kTimeout, false},
                                           FailureClass{ErrorKind::kCancelled, false},
                                           FailureClass{ErrorKind::kCorrupt, false},
                                           FailureClass{ErrorKind::kInternal, false}),
                         [](const auto& info) { return std::string(to_string(info.param.kind)); });

}  // namespace
}  // namespace bpg::jobs::test
