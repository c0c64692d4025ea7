// Retention by examples: which rule keeps which snapshot, until when, and when a plan must not run.
#include "scheduler/retention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/scheduler/scheduler_fixture.h"

namespace bpg::scheduler {
namespace {

using namespace std::chrono_literals;
using test::at;
using testing::ElementsAre;
using testing::IsEmpty;

const WallTime kNow = at("2026-03-15T12:00:00Z");  // a Sunday

SnapshotFacts own(std::string id, WallTime time) {
    SnapshotFacts facts;
    facts.id = std::move(id);
    facts.at = time;
    facts.is_own = true;
    return facts;
}

/// One each night at 02:30 UTC, the last today: "d0" today, "d1" yesterday …
RetentionInput nights(int count) {
    RetentionInput input;
    input.now = kNow;
    input.zone = absl::UTCTimeZone();
    for (int i = 0; i < count; ++i) {
        input.snapshots.push_back(
            own("d" + std::to_string(i), at("2026-03-15T02:30:00Z") - i * 24h));
    }
    return input;
}

const Verdict& of(const RetentionPlan& plan, const std::string& id) {
    for (const Verdict& verdict : plan.verdicts) {
        if (verdict.id == id) return verdict;
    }
    ADD_FAILURE() << "no verdict about " << id;
    return plan.verdicts.front();
}

std::vector<std::string> keepers(const RetentionPlan& plan, const std::string& id) {
    std::vector<std::string> words;
    for (const Keeper& keeper : of(plan, id).kept_by) {
        words.push_back(keeper.in_words());
        if (keeper.until) words.back() += " until " + format_time(*keeper.until).substr(0, 16);
    }
    return words;
}

std::vector<std::string> kept(const RetentionPlan& plan) {
    std::vector<std::string> ids;
    for (const Verdict& verdict : plan.verdicts) {
        if (verdict.is_kept()) ids.push_back(verdict.id);
    }
    return ids;
}

TEST(Retention, KeepsAllWithoutARuleAndSaysSo) {
    RetentionInput input = nights(30);
    const RetentionPlan plan = plan_retention(input);
    EXPECT_THAT(plan.remove, IsEmpty());
    EXPECT_EQ(plan.note, "no --keep rule is given: all snapshots are kept");
    EXPECT_THAT(keepers(plan, "d29"), ElementsAre("no-rules"));
    input.keep.min = 3;
    EXPECT_THAT(plan_retention(input).remove, IsEmpty());
    EXPECT_EQ(plan_retention(input).note, plan.note);
}

TEST(Retention, RemovesOldestFirst) {
    RetentionInput input = nights(6);
    input.keep.last = 2;
    const RetentionPlan plan = plan_retention(input);
    EXPECT_THAT(plan.remove, ElementsAre("d5", "d4", "d3", "d2"));
    EXPECT_EQ(plan.note, "");
    EXPECT_THAT(keepers(plan, "d0"), ElementsAre("last 1 of 2", "newest"));
    EXPECT_THAT(keepers(plan, "d1"), ElementsAre("last 2 of 2"));
    EXPECT_THAT(keepers(plan, "d2"), IsEmpty());
}

TEST(Retention, KeepsTheNewestOfEachPeriodByTheCalendar) {
    RetentionInput input = nights(400);
    input.keep = {.daily = 3, .weekly = 2, .monthly = 3, .yearly = 2};
    const RetentionPlan plan = plan_retention(input);
    // 15 March is a Sunday: its week is its own, the one before ends on 8 March (d7).
    EXPECT_THAT(kept(plan), ElementsAre("d74", "d43", "d15", "d7", "d2", "d1", "d0"));
    EXPECT_EQ(of(plan, "d74").at, at("2025-12-31T02:30:00Z"));
    EXPECT_THAT(keepers(plan, "d74"), ElementsAre("yearly 2 of 2 until 2027-01-01T00:00"));
    EXPECT_THAT(keepers(plan, "d15"), ElementsAre("monthly 2 of 3 until 2026-05-01T00:00"));
    EXPECT_THAT(keepers(plan, "d7"), ElementsAre("weekly 2 of 2 until 2026-03-16T00:00"));
    EXPECT_THAT(keepers(plan, "d2"), ElementsAre("daily 3 of 3 until 2026-03-16T00:00"));
    EXPECT_THAT(keepers(plan, "d0"), ElementsAre("daily 1 of 3", "weekly 1 of 2", "monthly 1 of 3",
                                                 "yearly 1 of 2", "newest"));
}

TEST(Retention, SaysUntilWhenFromTheNextSnapshot) {
    RetentionInput input = nights(10);
    input.keep = {.last = 1, .daily = 2};
    input.next_snapshot = at("2026-03-16T02:30:00Z");
    const RetentionPlan plan = plan_retention(input);
    EXPECT_THAT(keepers(plan, "d0"), ElementsAre("last 1 of 1 until 2026-03-16T02:30",
                                                 "daily 1 of 2 until 2026-03-17T00:00", "newest"));
    EXPECT_THAT(keepers(plan, "d1"), ElementsAre("daily 2 of 2 until 2026-03-16T02:30"));
    EXPECT_EQ(of(plan, "d1").kept_until(), input.next_snapshot);
    EXPECT_EQ(of(plan, "d0").kept_until(), std::nullopt);
    // Another one today takes the place of today's.
    input.next_snapshot = at("2026-03-15T14:00:00Z");
    EXPECT_THAT(keepers(plan_retention(input), "d0"),
                ElementsAre("last 1 of 1 until 2026-03-15T14:00",
                            "daily 1 of 2 until 2026-03-15T14:00", "newest"));
    // After a silence of days the next one is the first that can push any out.
    input.now = at("2026-03-20T00:00:00Z");
    input.next_snapshot = at("2026-03-20T02:30:00Z");
    EXPECT_THAT(keepers(plan_retention(input), "d1"),
                ElementsAre("daily 2 of 2 until 2026-03-20T02:30"));
}

TEST(Retention, CountsPeriodsInTheZoneOfTheSchedule) {
    RetentionInput input;
    input.now = kNow;
    input.zone = load_zone("America/New_York");
    // 03:00 UTC on the 10th is the evening of the 9th there.
    input.snapshots = {own("evening", at("2026-02-10T03:00:00Z")),
                       own("afternoon", at("2026-02-09T20:00:00Z")),
                       own("morning", at("2026-02-10T14:00:00Z"))};
    input.keep.daily = 2;
    EXPECT_THAT(plan_retention(input).remove, ElementsAre("afternoon"));
    input.zone = absl::UTCTimeZone();
    EXPECT_THAT(plan_retention(input).remove, ElementsAre("evening"));
}

TEST(Retention, TakesARepeatedHourForTwo) {
    RetentionInput input;
    input.now = at("2027-11-01T00:00:00Z");
    input.zone = load_zone("Europe/Berlin");
    input.snapshots = {own("a", at("2027-10-31T00:10:00Z")), own("b", at("2027-10-31T00:50:00Z")),
                       own("c", at("2027-10-31T01:10:00Z")), own("d", at("2027-10-31T01:50:00Z"))};
    input.keep.hourly = 10;
    EXPECT_THAT(kept(plan_retention(input)), ElementsAre("b", "d"));
}

TEST(Retention, CountsPeriodsThatHaveASnapshotOnly) {
    RetentionInput input;
    input.now = kNow;
    input.zone = absl::UTCTimeZone();
    input.snapshots = {own("old", kNow - 5000h), own("older", kNow - 9000h),
                       own("oldest", kNow - 20000h)};
    input.keep.hourly = 2;
    EXPECT_THAT(kept(plan_retention(input)), ElementsAre("older", "old"));
}

TEST(Retention, DecidesTiesById) {
    RetentionInput input = nights(1);
    input.snapshots = {own("b", kNow), own("c", kNow), own("a", kNow)};
    input.keep.last = 1;
    EXPECT_THAT(plan_retention(input).remove, ElementsAre("a", "b"));
    std::reverse(input.snapshots.begin(), input.snapshots.end());
    EXPECT_THAT(plan_retention(input).remove, ElementsAre("a", "b"));
}

TEST(Retention, NeverRemovesWhatItMayNot) {
    RetentionInput input = nights(8);
    input.keep.last = 1;
    input.snapshots[2].is_own = false;
    input.snapshots[3].is_pinned = true;
    input.snapshots[4].has_branches = true;
    input.snapshots[5].pins_wal = true;
    const RetentionPlan plan = plan_retention(input);
    EXPECT_THAT(plan.remove, ElementsAre("d7", "d6", "d1"));
    EXPECT_THAT(keepers(plan, "d2"), ElementsAre("other-maker"));
    EXPECT_THAT(keepers(plan, "d3"), ElementsAre("pinned"));
    EXPECT_THAT(keepers(plan, "d4"), ElementsAre("branch"));
    EXPECT_THAT(keepers(plan, "d5"), ElementsAre("pinned"));
}

TEST(Retention, OthersSnapshotsFillNoPlaces) {
    RetentionInput input = nights(4);
    input.snapshots[0].is_own = false;
    input.keep = {.last = 1, .daily = 2};
    EXPECT_THAT(kept(plan_retention(input)), ElementsAre("d2", "d1", "d0"));
}

TEST(Retention, MinKeepsMoreWhereTheRulesLeaveFew) {
    RetentionInput input = nights(8);
    input.keep = {.weekly = 1, .min = 3};
    const RetentionPlan plan = plan_retention(input);
    EXPECT_THAT(kept(plan), ElementsAre("d2", "d1", "d0"));
    EXPECT_THAT(keepers(plan, "d2"), ElementsAre("min 3 of 3"));
    input.keep.min = 1;
    EXPECT_THAT(kept(plan_retention(input)), ElementsAre("d0"));
}

TEST(Retention, BadSnapshotsFillNoPlacesAndStayUntilAGoodOneIsNewer) {
    RetentionInput input = nights(5);
    input.keep.last = 2;
    input.snapshots[0].is_good = false;
    input.snapshots[2].is_good = false;
    const RetentionPlan plan = plan_retention(input);
    EXPECT_THAT(kept(plan), ElementsAre("d3", "d1", "d0"));
    EXPECT_THAT(keepers(plan, "d0"), ElementsAre("unproven"));
    for (SnapshotFacts& facts : input.snapshots)
        facts.is_good = false;
    EXPECT_THAT(plan_retention(input).remove, IsEmpty());
}

TEST(RetentionOfWal, BeginsWithTheBaseOfTheWindow) {
    RetentionInput input = nights(20);
    input.keep.last = 3;
    input.window_days = 7;
    input.window_base = "d7";
    const RetentionPlan plan = plan_retention(input);
    // 8 March, 12:00 is where the window begins.
    EXPECT_EQ(plan.wal, (WalVerdict{"d7", "d7", at("2026-03-08T02:30:00Z"), true}));
    EXPECT_THAT(kept(plan), ElementsAre("d7", "d2", "d1", "d0"));
    // d6 takes its place seven days after it was taken.
    EXPECT_THAT(keepers(plan, "d7"), ElementsAre("window until 2026-03-16T02:30"));
    input.window_days = 100;
    input.window_base = "d19";
    EXPECT_EQ(plan_retention(input).wal,
              (WalVerdict{"d19", "d19", at("2026-02-24T02:30:00Z"), false}));
    input.window_days = 0;
    input.window_base = "d0";
    EXPECT_EQ(plan_retention(input).wal.base_snapshot, "d0");
    input.next_snapshot = at("2026-03-16T02:30:00Z");
    EXPECT_THAT(keepers(plan_retention(input), "d0"),
                ElementsAre("last 1 of 3", "newest", "window until 2026-03-16T02:30"));
    input.window_days.reset();
    EXPECT_EQ(plan_retention(input).wal, WalVerdict{});
    input.window_days = 7;
    input.window_base = "";
    input.snapshots.clear();
    EXPECT_EQ(plan_retention(input).wal, WalVerdict{});
}

TEST(RetentionOfWal, ReachesBackToWhatIsPinnedWithIt) {
    RetentionInput input = nights(20);
    input.window_days = 7;
    input.window_base = "d7";
    input.snapshots[15].pins_wal = true;
    input.snapshots[17].is_pinned = true;
    EXPECT_EQ(plan_retention(input).wal,
              (WalVerdict{"d7", "d15", at("2026-02-28T02:30:00Z"), true}));
    input.snapshots[15].pins_wal = false;
    input.snapshots[2].pins_wal = true;
    EXPECT_EQ(plan_retention(input).wal.from_snapshot, "d7");
}

TEST(RetentionOfWal, KeepsASnapshotBehindEveryGap) {
    RetentionInput input = nights(20);
    input.keep.last = 1;
    input.window_days = 7;
    input.window_base = "d7";
    const WallTime gap = input.snapshots[4].at + 1h;
    for (std::size_t i = 4; i < 20; ++i)
        input.snapshots[i].reaches = gap;
    EXPECT_THAT(kept(plan_retention(input)), ElementsAre("d7", "d3", "d0"));
}

TEST(RetentionRefuses, WhileTheClockIsInDoubt) {
    RetentionInput input = nights(6);
    input.keep.last = 1;
    input.is_clock_suspect = true;
    RetentionPlan plan = plan_retention(input);
    ASSERT_TRUE(plan.refusal);
    EXPECT_EQ(*plan.refusal, (ErrorInfo{ErrorKind::kConflict, "retention_clock_suspect",
                                        "the prune does not run while the clock is in doubt",
                                        "the clock has jumped",
                                        "set the clock right, then: bpg schedule resume"}));
    input.is_clock_suspect = false;
    input.now = input.snapshots[0].at - 5min;
    EXPECT_FALSE(plan_retention(input).refusal);
    input.now -= 1us;
    plan = plan_retention(input);
    ASSERT_TRUE(plan.refusal);
    EXPECT_EQ(plan.refusal->detail,
              "the newest snapshot is of 2026-03-15T02:30:00.000000Z, and it is "
              "2026-03-15T02:24:59.999999Z now");
    // What deletes nothing needs no clock; WAL counts.
    input.keep = {};
    EXPECT_FALSE(plan_retention(input).refusal);
    input.window_days = 7;
    EXPECT_TRUE(plan_retention(input).refusal);
}

TEST(RetentionRefuses, ToRemoveMoreThanItsShareAtOnce) {
    RetentionInput input = nights(22);
    input.max_fraction = 0.5;
    input.keep.last = 11;
    EXPECT_FALSE(plan_retention(input).refusal);  // exactly half
    input.keep.last = 10;
    const RetentionPlan plan = plan_retention(input);
    ASSERT_TRUE(plan.refusal);
    EXPECT_EQ(*plan.refusal,
              (ErrorInfo{ErrorKind::kConflict, "retention_too_many",
                         "the prune would remove 12 of 22 snapshots",
                         "more than retention.max_fraction (0.5) of them and more than 10 go at "
                         "once",
                         "look at bpg retention plan; if it is meant: bpg schedule run --force"}));
    EXPECT_EQ(plan.remove.size(), 12U);
    // Snapshots of others make the share no smaller.
    for (int i = 0; i < 50; ++i) {
        input.snapshots.push_back(own("x" + std::to_string(i), kNow - 10000h));
        input.snapshots.back().is_own = false;
    }
    EXPECT_TRUE(plan_retention(input).refusal);
    // Ten are few enough, whatever share they are.
    input = nights(11);
    input.max_fraction = 0.5;
    input.keep.last = 1;
    EXPECT_FALSE(plan_retention(input).refusal);
    EXPECT_EQ(plan_retention(input).remove.size(), 10U);
    EXPECT_TRUE([] {
        RetentionInput more = nights(12);
        more.max_fraction = 0.5;
        more.keep.last = 1;
        return plan_retention(more).refusal.has_value();
    }());
}

TEST(RetentionRefuses, CountsThatAreNone) {
    EXPECT_NO_THROW(check_keep_rules({7, 0, 0, 0, 0, 0, 100'000}));
    EXPECT_EQ(test::error_of([] { check_keep_rules({.daily = -1}); }),
              (ErrorInfo{ErrorKind::kInvalid, "keep_invalid",
                         "-1 is no number of snapshots for --keep-daily", "it is 0 to 100000",
                         "for example --keep-daily 7; 0 is the same as leaving it out"}));
    EXPECT_EQ(test::error_of([] { check_keep_rules({.min = 100'001}); }).code, "keep_invalid");
}

}  // namespace
}  // namespace bpg::scheduler
