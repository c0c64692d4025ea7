// Schedules: the record, which fire is due after whatever gap in time, and what clock jumps mean.
#include "scheduler/schedule.h"

#include <gtest/gtest.h>

#include "tests/unit/scheduler/scheduler_fixture.h"

namespace bpg::scheduler {
namespace {

using namespace std::chrono_literals;
using test::at;

const WallTime kMade = at("2026-03-01T00:00:00Z");

Schedule nightly() {
    Schedule schedule;
    schedule.name = "nightly";
    schedule.cron = "30 2 * * *";
    schedule.op = "snapshot";
    schedule.target = "prod/main";
    schedule.created_at = kMade;
    schedule.handled_until = kMade;
    return schedule;
}

Decision decide_at(const Schedule& schedule, WallTime now) {
    const auto expression =
        CronExpression::parse(schedule.cron, schedule.name, schedule.created_at);
    return decide(schedule, expression, load_zone(schedule.tz), now);
}

TEST(ScheduleRecord, ReadsBackWhatItWrites) {
    Schedule schedule = nightly();
    schedule.tz = "Europe/Berlin";
    schedule.parameters = {{"label", "x"}};
    schedule.days = 7;
    schedule.retention = {1, 2, 3, 4, 5, 6, 7};
    schedule.overlap = Overlap::kQueue;
    schedule.catch_up = 90min;
    schedule.paused = true;
    schedule.pause_reason = "moving disks";
    schedule.last_fire = kMade + 5us;
    schedule.next_fire = kMade + 6us;
    schedule.last_job = "7k3m";
    schedule.missed = 8;
    schedule.overlap_skipped = 9;
    const nlohmann::json record = to_record(schedule);
    const Schedule read = schedule_from_record(record);
    EXPECT_EQ(to_record(read), record);
    EXPECT_EQ(read.tz, "Europe/Berlin");
    EXPECT_EQ(read.parameters, schedule.parameters);
    EXPECT_EQ(read.days, 7);
    EXPECT_EQ(read.retention, schedule.retention);
    EXPECT_EQ(read.overlap, Overlap::kQueue);
    EXPECT_EQ(read.catch_up, 90min);
    EXPECT_TRUE(read.paused);
    EXPECT_EQ(read.last_fire, kMade + 5us);
    EXPECT_EQ(read.next_fire, kMade + 6us);
    EXPECT_EQ(read.handled_until, kMade);
    EXPECT_EQ(record["overlap"], "queue");
    EXPECT_EQ(record["retention"]["yearly"], 6);
}

TEST(ScheduleRecord, KeepsWhatALaterVersionWrote) {
    nlohmann::json record = to_record(nightly());
    record["blackout"] = {{"from", 9}, {"to", 17}};
    record["retention"]["decades"] = 3;
    record["parameters"]["new"] = "true";
    record["last_fire"] = 5;
    EXPECT_EQ(to_record(schedule_from_record(record)), record);
}

TEST(ScheduleRecord, ReadsARecordThatKnowsLess) {
    const Schedule read = schedule_from_record({{"name", "a"}, {"cron", "@daily"}});
    EXPECT_EQ(read.name, "a");
    EXPECT_EQ(read.tz, "UTC");
    EXPECT_EQ(read.catch_up, 24h);
    EXPECT_EQ(read.overlap, Overlap::kSkip);
    EXPECT_EQ(read.retention, KeepRules{});
    EXPECT_FALSE(read.paused || read.last_fire);
}

TEST(ScheduleDecision, WaitsForTheNextFire) {
    const Decision decision = decide_at(nightly(), kMade + 1h);
    EXPECT_EQ(decision, (Decision{.fire = {}, .handled_until = kMade, .next = kMade + 150min}));
}

TEST(ScheduleDecision, FiresOnceAndNotAgain) {
    Schedule schedule = nightly();
    const WallTime due = kMade + 150min;
    EXPECT_FALSE(decide_at(schedule, due - 1us).fire);
    const Decision decision = decide_at(schedule, due + 3ms);
    EXPECT_EQ(
        decision,
        (Decision{.fire = due, .stands_for = 1, .handled_until = due + 3ms, .next = due + 24h}));
    EXPECT_EQ(decide_at(schedule, due).fire, due);
    schedule.handled_until = decision.handled_until;
    EXPECT_FALSE(decide_at(schedule, due + 4ms).fire);
}

TEST(ScheduleDecision, RunsMissedFiresOnceWithTheNewestTime) {
    Schedule schedule = nightly();
    schedule.cron = "0 * * * *";
    // Down from 00:00 for 5 h 20 min: 01:00 to 05:00 are five.
    EXPECT_EQ(decide_at(schedule, kMade + 320min), (Decision{.fire = kMade + 5h,
                                                             .stands_for = 5,
                                                             .handled_until = kMade + 320min,
                                                             .next = kMade + 6h}));
    // Of ten hours three are within the window: 07:20 and earlier is too old.
    schedule.catch_up = 3h;
    EXPECT_EQ(decide_at(schedule, kMade + 620min), (Decision{.fire = kMade + 10h,
                                                             .stands_for = 3,
                                                             .missed = 7,
                                                             .handled_until = kMade + 620min,
                                                             .next = kMade + 11h}));
}

TEST(ScheduleDecision, OnlyCountsWhatIsBeyondCatchUp) {
    Schedule schedule = nightly();
    schedule.catch_up = 1h;
    const WallTime due = kMade + 150min;
    EXPECT_EQ(decide_at(schedule, due + 1h).fire, due);
    EXPECT_EQ(
        decide_at(schedule, due + 1h + 1us),
        (Decision{.fire = {}, .missed = 1, .handled_until = due + 1h + 1us, .next = due + 24h}));
}

TEST(ScheduleDecision, NoCatchUpStillFiresOnTime) {
    Schedule schedule = nightly();
    schedule.catch_up = 0ms;
    const WallTime due = kMade + 150min;
    EXPECT_EQ(decide_at(schedule, due + 1min).fire, due);
    EXPECT_FALSE(decide_at(schedule, due + 1min + 1us).fire);
    EXPECT_EQ(decide_at(schedule, due + 1min + 1us).missed, 1U);
}

TEST(ScheduleDecision, CountsToALimitHoweverLongItWasDown) {
    Schedule schedule = nightly();
    schedule.cron = "* * * * * *";
    const WallTime now = kMade + std::chrono::days(3650);
    const auto began = std::chrono::steady_clock::now();
    const Decision decision = decide_at(schedule, now);
    EXPECT_LT(std::chrono::steady_clock::now() - began, 1s);
    EXPECT_EQ(decision, (Decision{.fire = now,
                                  .stands_for = kFiresCountedMax,
                                  .missed = kFiresCountedMax,
                                  .is_count_capped = true,
                                  .handled_until = now,
                                  .next = now + 1s}));
    schedule.cron = "@every 2s";
    EXPECT_EQ(decide_at(schedule, kMade + 121s), (Decision{.fire = kMade + 120s,
                                                           .stands_for = 60,
                                                           .handled_until = kMade + 121s,
                                                           .next = kMade + 122s}));
}

TEST(ScheduleDecision, MakesNothingDueWhenTheClockIsBehind) {
    Schedule schedule = nightly();
    const WallTime due = kMade + 150min;
    schedule.handled_until = due + 3ms;
    EXPECT_EQ(decide_at(schedule, due - 2h),
              (Decision{.fire = {}, .handled_until = due + 3ms, .next = due + 24h}));
}

TEST(ScheduleDecision, IsNeverAFireBeforeTheScheduleWasMade) {
    Schedule schedule = nightly();
    schedule.handled_until = WallTime{};
    EXPECT_FALSE(decide_at(schedule, kMade + 1h).fire);
    EXPECT_EQ(decide_at(schedule, kMade + 1h).missed, 0U);
}

TEST(ScheduleDecision, PassesFiresWhilePaused) {
    Schedule schedule = nightly();
    schedule.paused = true;
    EXPECT_EQ(decide_at(schedule, kMade + 72h),
              (Decision{.fire = {}, .handled_until = kMade + 72h, .next = {}}));
    // Resumed: what passed meanwhile neither runs nor counts.
    schedule.paused = false;
    schedule.handled_until = kMade + 72h;
    EXPECT_EQ(decide_at(schedule, kMade + 73h),
              (Decision{.fire = {}, .handled_until = kMade + 72h, .next = kMade + 74h + 30min}));
}

TEST(ScheduleDecision, FollowsTheZoneOverAGap) {
    Schedule schedule = nightly();
    schedule.tz = "Europe/Berlin";
    schedule.handled_until = at("2027-03-27T12:00:00Z");
    const WallTime skipped = at("2027-03-28T01:00:00Z");
    EXPECT_EQ(decide_at(schedule, skipped + 1s).fire, skipped);
}

TEST(ClockJumps, AreFiveMinutesBackOrThreeHoursForward) {
    const ClockReading before{kMade, 1000s};
    const auto jump = [&before](std::chrono::microseconds wall, std::chrono::microseconds boot) {
        return clock_jump(before, {before.wall + wall, before.boot + boot});
    };
    EXPECT_EQ(jump(1h, 1h), ClockJump::kNone);
    EXPECT_EQ(jump(100h, 100h), ClockJump::kNone);  // suspended: both go on
    EXPECT_EQ(jump(1h - 5min + 1us, 1h), ClockJump::kNone);
    EXPECT_EQ(jump(1h - 5min, 1h), ClockJump::kBack);
    EXPECT_EQ(jump(-24h, 1s), ClockJump::kBack);
    EXPECT_EQ(jump(4h - 1us, 1h), ClockJump::kNone);
    EXPECT_EQ(jump(4h, 1h), ClockJump::kForward);
    EXPECT_EQ(jump(87600h, 1s), ClockJump::kForward);
}

TEST(ClockJumps, OfAStartAreMoreThanFiveMinutesBeforeTheLastTime) {
    EXPECT_FALSE(starts_in_the_past(kMade, kMade));
    EXPECT_FALSE(starts_in_the_past(kMade, kMade - 5min));
    EXPECT_TRUE(starts_in_the_past(kMade, kMade - 5min - 1us));
    EXPECT_FALSE(starts_in_the_past(kMade, kMade + 10000h));
}

TEST(ClockJumps, PauseOnlyWhatDeletes) {
    for (const char* op :
         {"prune", "wal-cleanup", "snapshot-delete", "branch-delete", "db-delete", "trash-purge"}) {
        Schedule schedule = nightly();
        schedule.op = op;
        EXPECT_TRUE(pause_for_clock(schedule)) << op;
        EXPECT_TRUE(schedule.paused) << op;
        EXPECT_EQ(schedule.pause_reason, "clock") << op;
        EXPECT_FALSE(pause_for_clock(schedule)) << op;
    }
    for (const char* op :
         {"snapshot", "branch-create", "branch-sync", "start", "stop", "restart"}) {
        Schedule schedule = nightly();
        schedule.op = op;
        EXPECT_FALSE(pause_for_clock(schedule)) << op;
        EXPECT_FALSE(schedule.paused) << op;
    }
    Schedule keeps = nightly();
    keeps.retention.daily = 7;
    EXPECT_TRUE(pause_for_clock(keeps));
    Schedule paused = nightly();
    paused.op = "prune";
    paused.paused = true;
    paused.pause_reason = "moving disks";
    EXPECT_FALSE(pause_for_clock(paused));
    EXPECT_EQ(paused.pause_reason, "moving disks");
}

}  // namespace
}  // namespace bpg::scheduler
