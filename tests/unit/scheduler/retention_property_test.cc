// Retention against random histories of ten years: what must never go, what the rules say by a
// second, slow reading of them, and that a plan leaves nothing for the next one to do.
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <map>
#include <set>

#include "scheduler/retention.h"
#include "tests/unit/scheduler/scheduler_fixture.h"

namespace bpg::scheduler {
namespace {

using namespace std::chrono_literals;
using test::pick;
using test::seed;

using Ids = std::set<std::string>;

bool one_in(std::mt19937_64& random, int n) {
    return pick(random, 1, n) == 1;
}

bool is_newer(const SnapshotFacts& one, const SnapshotFacts& other) {
    return one.at != other.at ? one.at > other.at : one.id > other.id;
}

/// The newest good one that is as old as the window, else the oldest; "" when there is none.
std::string slow_base(const RetentionInput& input) {
    if (!input.window_days) return "";
    const WallTime begin = input.now - std::chrono::days(*input.window_days);
    const SnapshotFacts* best = nullptr;
    for (const SnapshotFacts& facts : input.snapshots) {
        if (!facts.is_good || facts.at > begin) continue;
        if (best == nullptr || is_newer(facts, *best)) best = &facts;
    }
    if (best != nullptr) return best->id;
    for (const SnapshotFacts& facts : input.snapshots) {
        if (facts.is_good && (best == nullptr || is_newer(*best, facts))) best = &facts;
    }
    return best == nullptr ? "" : best->id;
}

RetentionInput random_input(std::mt19937_64& random) {
    static const std::vector<std::string> kZones{"UTC",
                                                 "Europe/Berlin",
                                                 "America/New_York",
                                                 "Australia/Lord_Howe",
                                                 "America/Santiago",
                                                 "Asia/Kathmandu"};
    RetentionInput input;
    input.zone = load_zone(kZones[static_cast<std::size_t>(pick(random, 0, 5))]);
    input.now =
        test::at("2030-01-01T00:00:00Z") + std::chrono::seconds(pick(random, 0, 90'000'000));
    const int count = one_in(random, 8) ? pick(random, 0, 3) : pick(random, 1, 400);
    const int pins = pick(random, 2, 60);
    // Bursts within hours, or spread over all of the ten years.
    const int spread = one_in(random, 2) ? 3650 * 86'400 / 2 : pick(random, 3'600, 4'000'000);
    for (int i = 0; i < count; ++i) {
        SnapshotFacts facts;
        facts.id = "s" + std::to_string(pick(random, 0, 1'000'000)) + "-" + std::to_string(i);
        facts.at = input.now - std::chrono::seconds(pick(random, 0, spread)) * 2;
        if (one_in(random, 20) && i > 0) facts.at = input.snapshots.back().at;
        facts.is_own = !one_in(random, 6);
        facts.is_good = !one_in(random, 9);
        facts.is_pinned = one_in(random, pins);
        facts.pins_wal = facts.is_pinned && one_in(random, 3);
        facts.has_branches = one_in(random, pins);
        if (one_in(random, 4))
            facts.reaches = facts.at + std::chrono::hours(pick(random, 0, 2'000));
        input.snapshots.push_back(facts);
    }
    const auto rule = [&random](int high) { return one_in(random, 2) ? pick(random, 0, high) : 0; };
    input.keep = {rule(20), rule(48), rule(30), rule(10), rule(24), rule(10), rule(30)};
    if (one_in(random, 2)) input.window_days = pick(random, 0, one_in(random, 2) ? 14 : 2000);
    input.window_base = slow_base(input);
    if (one_in(random, 2))
        input.next_snapshot = input.now + std::chrono::hours(pick(random, 0, 50));
    return input;
}

/// What the rules keep, read off the definition: a snapshot is the newest of its period, and at
/// most N-1 periods that have one are newer. Quadratic, and periods are text.
Ids kept_by_calendar(const std::vector<SnapshotFacts>& counted, const char* format, int count,
                     const absl::TimeZone& zone) {
    Ids kept;
    std::vector<std::string> periods;
    periods.reserve(counted.size());
    for (const SnapshotFacts& facts : counted) {
        periods.push_back(absl::FormatTime(
            format, absl::FromUnixMicros(facts.at.time_since_epoch().count()), zone));
    }
    for (std::size_t i = 0; i < counted.size(); ++i) {
        bool is_newest = true;
        std::set<std::string> newer;
        for (std::size_t j = 0; j < counted.size(); ++j) {
            if (!is_newer(counted[j], counted[i])) continue;
            if (periods[j] == periods[i]) is_newest = false;
            newer.insert(periods[j]);
        }
        if (is_newest && static_cast<int>(newer.size()) < count) kept.insert(counted[i].id);
    }
    return kept;
}

/// Snapshots without which a time would be lost that the window's snapshots can restore now: tried
/// by leaving out. From the base on, a snapshot is needed when none that is older leads as far.
Ids slow_window(const RetentionInput& input, const std::string& base_id) {
    Ids needed;
    const auto base = std::find_if(input.snapshots.begin(), input.snapshots.end(),
                                   [&](const auto& facts) { return facts.id == base_id; });
    if (base == input.snapshots.end()) return needed;
    needed.insert(base_id);
    const auto reach = [](const SnapshotFacts& facts) {
        return facts.reaches.value_or(WallTime::max());
    };
    for (const SnapshotFacts& facts : input.snapshots) {
        if (!facts.is_good || !is_newer(facts, *base)) continue;
        const bool is_covered = std::any_of(
            input.snapshots.begin(), input.snapshots.end(), [&](const SnapshotFacts& other) {
                const bool is_before = is_newer(facts, other) && !is_newer(*base, other);
                return other.is_good && is_before && reach(other) >= reach(facts);
            });
        if (!is_covered) needed.insert(facts.id);
    }
    return needed;
}

Ids slow_kept(const RetentionInput& input) {
    std::vector<SnapshotFacts> counted;
    Ids kept;
    const SnapshotFacts* newest_good = nullptr;
    for (const SnapshotFacts& facts : input.snapshots) {
        if (facts.is_own && facts.is_good) counted.push_back(facts);
        if (facts.is_good && (newest_good == nullptr || is_newer(facts, *newest_good)))
            newest_good = &facts;
        if (!facts.is_own || facts.is_pinned || facts.has_branches) kept.insert(facts.id);
    }
    std::sort(counted.begin(), counted.end(), is_newer);
    const KeepRules& keep = input.keep;
    if (keep.last + keep.hourly + keep.daily + keep.weekly + keep.monthly + keep.yearly == 0) {
        for (const SnapshotFacts& facts : input.snapshots)
            kept.insert(facts.id);
        return kept;
    }
    Ids ruled;
    for (std::size_t i = 0; i < counted.size() && i < static_cast<std::size_t>(keep.last); ++i)
        ruled.insert(counted[i].id);
    const std::pair<const char*, int> calendars[] = {{"%Y-%m-%d %H %z", keep.hourly},
                                                     {"%Y-%m-%d", keep.daily},
                                                     {"%G-%V", keep.weekly},
                                                     {"%Y-%m", keep.monthly},
                                                     {"%Y", keep.yearly}};
    for (const auto& [format, count] : calendars)
        ruled.merge(kept_by_calendar(counted, format, count, input.zone));
    for (const SnapshotFacts& facts : counted) {
        if (static_cast<int>(ruled.size()) >= keep.min) break;
        ruled.insert(facts.id);
    }
    if (!counted.empty()) ruled.insert(counted.front().id);
    kept.merge(ruled);
    for (const SnapshotFacts& facts : input.snapshots) {
        const bool is_unproven =
            !facts.is_good && (newest_good == nullptr || is_newer(facts, *newest_good));
        if (is_unproven) kept.insert(facts.id);
    }
    kept.merge(slow_window(input, slow_base(input)));
    return kept;
}

void expect_nothing_forbidden_goes(const RetentionInput& input, const RetentionPlan& plan) {
    std::map<std::string, const SnapshotFacts*> by_id;
    bool has_good = false;
    for (const SnapshotFacts& facts : input.snapshots) {
        by_id[facts.id] = &facts;
        has_good |= facts.is_good;
    }
    const SnapshotFacts* before = nullptr;
    const Ids gone(plan.remove.begin(), plan.remove.end());
    for (const std::string& id : plan.remove) {
        const SnapshotFacts& facts = *by_id.at(id);
        ASSERT_TRUE(facts.is_own && !facts.is_pinned && !facts.has_branches) << "seed " << seed();
        ASSERT_TRUE(has_good) << "seed " << seed();
        if (before != nullptr) {
            ASSERT_TRUE(is_newer(facts, *before)) << "not oldest first, seed " << seed();
        }
        before = &facts;
    }
    const bool leaves_good =
        std::any_of(input.snapshots.begin(), input.snapshots.end(),
                    [&](const auto& facts) { return facts.is_good && !gone.contains(facts.id); });
    ASSERT_EQ(leaves_good, has_good) << "seed " << seed();
    ASSERT_FALSE(gone.contains(plan.wal.base_snapshot)) << "seed " << seed();
}

TEST(RetentionOfTenYears, IsWhatTheRulesSayAndIsStable) {
    std::cout << "seed " << seed() << "\n";
    std::mt19937_64 random(seed());
    const int rounds = test::long_mode() ? 20'000 : 300;
    std::size_t removed = 0;
    for (int round = 0; round < rounds; ++round) {
        RetentionInput input = random_input(random);
        const RetentionPlan plan = plan_retention(input);
        expect_nothing_forbidden_goes(input, plan);
        if (HasFatalFailure()) return;
        Ids kept;
        for (const Verdict& verdict : plan.verdicts) {
            if (verdict.is_kept()) kept.insert(verdict.id);
            const auto until = verdict.kept_until();
            ASSERT_TRUE(!until || *until >= input.now) << "seed " << seed();
        }
        ASSERT_EQ(kept, slow_kept(input)) << "round " << round << ", seed " << seed();
        ASSERT_EQ(kept.size() + plan.remove.size(), input.snapshots.size());
        ASSERT_EQ(plan.wal.base_snapshot, slow_base(input)) << "seed " << seed();

        std::shuffle(input.snapshots.begin(), input.snapshots.end(), random);
        ASSERT_EQ(plan_retention(input).remove, plan.remove) << "seed " << seed();
        removed += plan.remove.size();
        std::erase_if(input.snapshots,
                      [&kept](const auto& facts) { return !kept.contains(facts.id); });
        const RetentionPlan again = plan_retention(input);
        ASSERT_TRUE(again.remove.empty()) << "round " << round << ", seed " << seed();
        ASSERT_EQ(again.wal, plan.wal) << "round " << round << ", seed " << seed();
    }
    std::cout << rounds << " histories, " << removed << " removals\n";
    EXPECT_GT(removed, 0U);
}

/// A schedule lives for ten years, one night after the other: after each prune the rules hold, and
/// no snapshot that a plan said it keeps until a later time goes before it.
TEST(RetentionOfTenYears, KeepsWhatItPromisedUntilThen) {
    RetentionInput input;
    input.zone = load_zone("Europe/Berlin");
    input.keep = {.daily = 7, .weekly = 4, .monthly = 6, .yearly = 2};
    input.window_days = 7;
    const auto nightly = test::cron("30 2 * * *");
    std::map<std::string, WallTime> promised;
    auto fire = nightly.next_fire_time(test::at("2026-01-01T00:00:00Z"), input.zone);
    const int nights = test::long_mode() ? 3650 : 800;
    for (int night = 0; night < nights; ++night) {
        SnapshotFacts facts;
        facts.id = std::to_string(1000 + night);
        facts.at = *fire;
        facts.is_own = true;
        input.snapshots.push_back(facts);
        input.now = *fire + 1min;
        input.next_snapshot = nightly.next_fire_time(*fire, input.zone);
        input.window_base = slow_base(input);
        const RetentionPlan plan = plan_retention(input);
        for (const std::string& id : plan.remove)
            ASSERT_LE(promised[id], input.now) << id << " on night " << night;
        for (const Verdict& verdict : plan.verdicts) {
            if (const auto until = verdict.kept_until())
                promised[verdict.id] = std::max(promised[verdict.id], *until);
        }
        std::erase_if(input.snapshots, [&plan](const auto& one) {
            return std::find(plan.remove.begin(), plan.remove.end(), one.id) != plan.remove.end();
        });
        ASSERT_LE(input.snapshots.size(), 7U + 4U + 6U + 2U + 1U);
        fire = input.next_snapshot;
    }
    EXPECT_GE(input.snapshots.size(), 7U + 3U + 5U);
}

}  // namespace
}  // namespace bpg::scheduler
