// What can be restored, and what a cleanup may take, against a model that knows every commit.
#include "orchestrator/wal/coverage.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

namespace bpg::wal {
namespace {

constexpr std::uint32_t kTimeline = 3;

WallTime at(std::int64_t microseconds) {
    return WallTime(std::chrono::microseconds(microseconds));
}

SegmentId segment(std::uint64_t number) {
    return {kTimeline, number};
}

HeldSegment held(std::int64_t first, std::int64_t last) {
    return {true, 1000, at(first), at(last)};
}

Base base(std::string id, std::int64_t time, std::uint64_t first) {
    Base made;
    made.snapshot_id = std::move(id);
    made.at = at(time);
    made.lsn = first * (16U << 20U) + 100;
    made.first = segment(first);
    return made;
}

TEST(Gaps, AreWhatIsMissingBetweenTheFirstAndTheLastOfATimeline) {
    Holding holding;
    for (const std::uint64_t number : {0xFEU, 0xFFU, 0x102U, 0x103U, 0x105U})
        holding.segments[segment(number)] = held(1, 2);
    holding.segments[{kTimeline + 1, 0x200}] = held(3, 4);
    const std::vector<Gap> expected{{segment(0x100), segment(0x101)},
                                    {segment(0x104), segment(0x104)}};
    EXPECT_EQ(gaps(holding), expected);
}

TEST(Windows, OfARunningServerReachUpToNow) {
    Holding holding;
    holding.segments[segment(5)] = held(100, 200);
    holding.segments[segment(6)] = {};
    holding.is_live = true;
    const std::vector<Window> expected{{at(90), std::nullopt, "one"}};
    EXPECT_EQ(windows(holding, {base("two", 150, 5), base("one", 90, 5)}), expected);
}

TEST(Windows, OfAStoppedServerEndWithItsLastCommit) {
    Holding holding;
    holding.segments[segment(5)] = held(100, 200);
    holding.segments[segment(6)] = held(210, 300);
    const std::vector<Window> expected{{at(90), at(300), "one"}};
    EXPECT_EQ(windows(holding, {base("one", 90, 5)}), expected);
}

TEST(Windows, EndBeforeTheLastCommitThatIsKnownBeforeAGap) {
    Holding holding;
    holding.segments[segment(5)] = held(100, 200);
    holding.segments[segment(7)] = held(300, 400);
    holding.is_live = true;
    const std::vector<Window> expected{{at(90), at(199), "one"}, {at(310), std::nullopt, "two"}};
    EXPECT_EQ(windows(holding, {base("one", 90, 5), base("two", 310, 7)}), expected);
    EXPECT_TRUE(plan_time(holding, {base("one", 90, 5)}, at(199)));
    EXPECT_FALSE(plan_time(holding, {base("one", 90, 5)}, at(200)));
    EXPECT_FALSE(plan_time(holding, {base("one", 90, 5), base("two", 310, 7)}, at(250)));
}

TEST(Windows, AreNoneWhereTheFirstSegmentABaseNeedsIsMissing) {
    Holding holding;
    holding.segments[segment(6)] = held(100, 200);
    holding.is_live = true;
    EXPECT_TRUE(windows(holding, {base("one", 90, 5)}).empty());
    EXPECT_FALSE(plan_time(holding, {base("one", 90, 5)}, at(150)));
}

TEST(PlanTime, TakesTheNewestBaseThatIsNotLater) {
    Holding holding;
    for (std::uint64_t number = 5; number < 9; ++number)
        holding.segments[segment(number)] = held(100, 200);
    holding.is_live = true;
    const std::vector<Base> bases{base("old", 50, 5), base("new", 150, 7)};
    EXPECT_EQ(plan_time(holding, bases, at(149))->base.snapshot_id, "old");
    EXPECT_EQ(plan_time(holding, bases, at(150))->base.snapshot_id, "new");
    EXPECT_EQ(plan_time(holding, bases, at(150))->segments, 2U);
    EXPECT_FALSE(plan_time(holding, bases, at(49)));
}

TEST(PlanLsn, NeedsTheSegmentOfThePosition) {
    Holding holding;
    holding.segments[segment(5)] = held(100, 200);
    const std::uint64_t size = holding.segment_size;
    EXPECT_TRUE(plan_lsn(holding, {base("one", 90, 5)}, 6 * size - 1));
    EXPECT_FALSE(plan_lsn(holding, {base("one", 90, 5)}, 6 * size));
    EXPECT_FALSE(plan_lsn(holding, {base("one", 90, 5)}, 5 * size));
}

TEST(Cleanup, KeepsWhatTheNewestSnapshotBeforeTheHorizonNeeds) {
    Holding holding;
    for (std::uint64_t number = 1; number <= 9; ++number)
        holding.segments[segment(number)] = held(number * 100, number * 100 + 50);
    holding.segments[segment(9)].archived = false;
    holding.is_live = true;
    const std::vector<Base> bases{base("a", 90, 1), base("b", 390, 4), base("c", 690, 7)};
    const CleanupPlan plan = plan_cleanup(holding, bases, at(500));
    EXPECT_EQ(plan.base_snapshot, "b");
    EXPECT_EQ(plan.keep_from, segment(4));
    EXPECT_EQ(plan.remove, (std::vector<SegmentId>{segment(1), segment(2), segment(3)}));
    EXPECT_EQ(plan.stranded, std::vector<std::string>{"a"});
    EXPECT_EQ(plan.bytes, 3000U);
}

TEST(Cleanup, KeepsAllThatTheOldestNeedsWhenNoneIsBeforeTheHorizon) {
    Holding holding;
    for (std::uint64_t number = 1; number <= 5; ++number)
        holding.segments[segment(number)] = held(number * 100, number * 100 + 50);
    const CleanupPlan plan = plan_cleanup(holding, {base("b", 390, 4), base("a", 290, 3)}, at(10));
    EXPECT_EQ(plan.base_snapshot, "a");
    EXPECT_EQ(plan.keep_from, segment(3));
}

TEST(Cleanup, RemovesNothingWithoutASnapshot) {
    Holding holding;
    holding.segments[segment(1)] = held(100, 200);
    const CleanupPlan plan = plan_cleanup(holding, {}, at(1000));
    EXPECT_FALSE(plan.keep_from);
    EXPECT_TRUE(plan.remove.empty());
}

TEST(Cleanup, KeepsTheWalOfAPinnedSnapshotThatKeepsIt) {
    Holding holding;
    for (std::uint64_t number = 1; number <= 5; ++number)
        holding.segments[segment(number)] = held(number * 100, number * 100 + 50);
    std::vector<Base> bases{base("a", 190, 2), base("b", 390, 4)};
    bases[0].keeps_wal = true;
    const CleanupPlan plan = plan_cleanup(holding, bases, at(1000));
    EXPECT_EQ(plan.base_snapshot, "b");
    EXPECT_EQ(plan.keep_from, segment(2));
    EXPECT_TRUE(plan.stranded.empty());
}

/// One that goes with a branch decides only where nothing else can.
TEST(Cleanup, DoesNotRelyOnASnapshotThatMayGoWithABranch) {
    Holding holding;
    for (std::uint64_t number = 1; number <= 9; ++number)
        holding.segments[segment(number)] = held(number * 100, number * 100 + 50);
    std::vector<Base> bases{base("lasting", 190, 2), base("passing", 390, 4)};
    bases[1].is_durable = false;
    EXPECT_EQ(plan_cleanup(holding, bases, at(500)).base_snapshot, "lasting");
    bases.erase(bases.begin());
    EXPECT_EQ(plan_cleanup(holding, bases, at(500)).base_snapshot, "passing");
}

/// A history of an incarnation, with every commit known, also those of segments that are lost.
struct Model {
    struct Written {
        std::vector<std::int64_t> commits;
        bool is_held = true;
    };
    std::uint64_t first = 0;
    std::vector<Written> written;
    std::vector<Base> bases;
    bool is_live = false;

    Holding holding() const {
        Holding made;
        made.is_live = is_live;
        for (std::size_t i = 0; i < written.size(); ++i) {
            if (!written[i].is_held) continue;
            HeldSegment& one = made.segments[segment(first + i)];
            one.archived = i + 1 < written.size();
            one.stored_bytes = 10;
            for (const std::int64_t commit : written[i].commits) {
                one.first_commit = std::min(one.first_commit.value_or(at(commit)), at(commit));
                one.last_commit = std::max(one.last_commit.value_or(at(commit)), at(commit));
            }
        }
        return made;
    }

    /// Whether PostgreSQL would stop where it should: every segment up to a later commit is there,
    /// or all there ever was.
    bool can_restore(std::int64_t target) const {
        return std::any_of(bases.begin(), bases.end(), [&](const Base& from) {
            if (from.at > at(target)) return false;
            for (std::uint64_t i = from.first.number - first; i < written.size(); ++i) {
                if (!written[i].is_held) return false;
                const auto& commits = written[i].commits;
                const bool stops = std::any_of(commits.begin(), commits.end(),
                                               [target](auto commit) { return commit > target; });
                if (stops) return true;
            }
            return true;
        });
    }
};

Model random_model(std::mt19937& random) {
    const auto below = [&random](std::uint64_t limit) { return random() % limit; };
    Model model;
    model.first = below(2) == 0 ? 1 : 0xFD;
    model.is_live = below(2) == 0;
    std::int64_t now = 1000;
    const std::uint64_t count = 2 + below(12);
    for (std::uint64_t i = 0; i < count; ++i) {
        Model::Written one;
        one.is_held = below(8) != 0 || i + 1 == count;
        for (std::uint64_t commits = below(4); commits > 0; --commits) {
            now += 1 + static_cast<std::int64_t>(below(20));
            // Backends take their times a little out of the order in which they commit.
            one.commits.push_back(now - static_cast<std::int64_t>(below(3)));
        }
        if (below(3) == 0) {
            Base made = base("s" + std::to_string(i), now + 3, model.first + i);
            made.is_durable = below(3) != 0;
            made.keeps_wal = below(6) == 0;
            model.bases.push_back(made);
            now += 3;
        }
        model.written.push_back(std::move(one));
        now += 5;
    }
    return model;
}

bool is_in(const std::vector<Window>& windows, std::int64_t target) {
    return std::any_of(windows.begin(), windows.end(), [target](const Window& window) {
        return window.from <= at(target) && (!window.to || at(target) <= *window.to);
    });
}

TEST(WindowsProperty, SayWhatCanBeRestoredAndNothingElse) {
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    for (int round = 0; round < 2000; ++round) {
        const Model model = random_model(random);
        const Holding holding = model.holding();
        const auto shown = windows(holding, model.bases);
        for (std::int64_t target = 990; target < 1400; ++target) {
            const bool can = model.can_restore(target);
            ASSERT_EQ(plan_time(holding, model.bases, at(target)).has_value(), can)
                << "round " << round << " target " << target;
            if (is_in(shown, target)) ASSERT_TRUE(can) << round << " target " << target;
        }
    }
}

TEST(CleanupProperty, LeavesEveryTimeSinceTheHorizonRestorableAndSaysWhatItTakes) {
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    for (int round = 0; round < 2000; ++round) {
        Model model = random_model(random);
        const std::int64_t horizon = 1000 + static_cast<std::int64_t>(random() % 250);
        const CleanupPlan plan = plan_cleanup(model.holding(), model.bases, at(horizon));
        Model after = model;
        // A crash leaves a suffix of what is removed oldest first.
        const std::size_t done = plan.remove.empty() ? 0 : random() % (plan.remove.size() + 1);
        for (std::size_t i = 0; i < done; ++i)
            after.written[plan.remove[i].number - model.first].is_held = false;
        for (std::int64_t target = horizon; target < 1400; ++target) {
            ASSERT_EQ(after.can_restore(target), model.can_restore(target))
                << "round " << round << " target " << target << " horizon " << horizon;
        }
        for (const SegmentId removed : plan.remove)
            after.written[removed.number - model.first].is_held = false;
        for (std::int64_t target = 990; target < horizon; ++target) {
            if (is_in(plan.windows, target)) ASSERT_TRUE(after.can_restore(target)) << round;
        }
        // Run again, it finds nothing more.
        const CleanupPlan again = plan_cleanup(after.holding(), model.bases, at(horizon));
        ASSERT_TRUE(again.remove.empty()) << "round " << round;
    }
}

constexpr std::int64_t kEnd = 2000;  // no model goes on until then

TEST(NeedProperty, ABaseIsNeededExactlyWhenATimeIsLostWithoutIt) {
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    int needed = 0;
    for (int round = 0; round < 2000; ++round) {
        const Model model = random_model(random);
        for (const Base& one : model.bases) {
            Model without = model;
            std::erase_if(without.bases,
                          [&](const Base& other) { return other.snapshot_id == one.snapshot_id; });
            bool is_lost = false;
            for (std::int64_t target = 990; target < kEnd; ++target)
                is_lost = is_lost || model.can_restore(target) != without.can_restore(target);
            ASSERT_EQ(is_needed(model.holding(), model.bases, one.snapshot_id), is_lost)
                << "round " << round << " base " << one.snapshot_id;
            needed += is_lost ? 1 : 0;
        }
    }
    EXPECT_GT(needed, 100);
}

TEST(NeedProperty, OfBasesThatGoOneByOneWhenNotNeededNoTimeIsLost) {
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    for (int round = 0; round < 2000; ++round) {
        const Model before = random_model(random);
        Model after = before;
        std::vector<Base> order = before.bases;
        std::shuffle(order.begin(), order.end(), random);
        for (const Base& one : order) {
            if (is_needed(after.holding(), after.bases, one.snapshot_id)) continue;
            std::erase_if(after.bases,
                          [&](const Base& other) { return other.snapshot_id == one.snapshot_id; });
        }
        for (std::int64_t target = 990; target < kEnd; ++target) {
            ASSERT_EQ(after.can_restore(target), before.can_restore(target))
                << "round " << round << " target " << target;
        }
    }
}

}  // namespace
}  // namespace bpg::wal
