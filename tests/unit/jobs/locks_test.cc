// Every pair of lock modes, on one resource and on what lies above one another, and what the table
// of held locks says.
#include "jobs/locks.h"

#include <gtest/gtest.h>

#include <array>

namespace bpg::jobs {
namespace {

using enum LockMode;

constexpr std::array kModes{kIntentShared, kIntentExclusive, kShared, kExclusive};

Lock pool(LockMode mode) {
    return {.resource = "pool", .mode = mode, .shown_as = "the pool"};
}
Lock database(LockMode mode, const std::string& id = "d") {
    return {.resource = "database/" + id, .above = {"pool"}, .mode = mode, .shown_as = id};
}
Lock branch(LockMode mode, const std::string& id = "b", const std::string& in = "d") {
    return {.resource = "branch/" + id,
            .above = {"pool", "database/" + in},
            .mode = mode,
            .shown_as = in + "/" + id};
}
Lock snapshot(LockMode mode, const std::string& of = "b") {
    return {.resource = "snapshot/s-of-" + of,
            .above = {"pool", "database/d", "branch/" + of},
            .mode = mode,
            .shown_as = "s"};
}

TEST(Locks, TwoModesOnOneResourceGoTogetherAsInEveryHierarchy) {
    // Rows and columns in the order of kModes.
    constexpr std::array<std::array<bool, 4>, 4> kTogether{{
        {true, true, true, false},
        {true, true, false, false},
        {true, false, true, false},
        {false, false, false, false},
    }};
    for (std::size_t one = 0; one < kModes.size(); ++one) {
        for (std::size_t other = 0; other < kModes.size(); ++other) {
            const bool together = kTogether.at(one).at(other);
            SCOPED_TRACE(std::string(to_string(kModes.at(one))) + " and " +
                         std::string(to_string(kModes.at(other))));
            EXPECT_EQ(compatible(kModes.at(one), kModes.at(other)), together);
            EXPECT_EQ(conflict(branch(kModes.at(one)), branch(kModes.at(other))), !together);
        }
    }
}

TEST(Locks, WhatLiesAboveIsIntended) {
    struct Case {
        Lock one;
        Lock other;
        bool conflict;
    };
    const std::vector<Case> cases{
        {database(kExclusive), branch(kExclusive), true},
        {database(kExclusive), branch(kShared), true},
        {database(kExclusive), snapshot(kShared), true},
        {database(kShared), branch(kExclusive), true},
        {database(kShared), branch(kShared), false},
        {database(kShared), snapshot(kExclusive), true},
        {branch(kShared), snapshot(kExclusive), true},
        {branch(kShared), snapshot(kShared), false},
        {branch(kExclusive), snapshot(kShared), true},
        {pool(kExclusive), snapshot(kShared), true},
        {pool(kShared), snapshot(kShared), false},
        {pool(kIntentExclusive), snapshot(kExclusive), false},
        {branch(kExclusive, "a"), branch(kExclusive, "b"), false},
        {branch(kExclusive, "a", "x"), database(kExclusive, "y"), false},
        {snapshot(kExclusive, "a"), snapshot(kExclusive, "b"), false},
        {snapshot(kExclusive, "a"), branch(kExclusive, "b"), false},
    };
    for (const Case& one : cases) {
        SCOPED_TRACE(one.one.resource + " " + std::string(to_string(one.one.mode)) + " and " +
                     one.other.resource + " " + std::string(to_string(one.other.mode)));
        EXPECT_EQ(conflict(one.one, one.other), one.conflict);
        EXPECT_EQ(conflict(one.other, one.one), one.conflict) << "the other way round";
    }
}

TEST(Locks, TheTableSaysTheSameAsThePairs) {
    std::vector<Lock> all;
    for (const LockMode mode : kModes) {
        for (const Lock& lock : {pool(mode), database(mode), branch(mode), branch(mode, "c"),
                                 snapshot(mode), snapshot(mode, "c")}) {
            all.push_back(lock);
        }
    }
    for (Lock held : all) {
        held.held = true;
        LockTable table;
        table.set(1, {held});
        for (const Lock& wanted : all) {
            const auto obstacle = table.obstacle(2, wanted);
            EXPECT_EQ(obstacle.has_value(), conflict(held, wanted))
                << held.resource << " " << to_string(held.mode) << ", " << wanted.resource << " "
                << to_string(wanted.mode);
            if (obstacle) {
                EXPECT_EQ(obstacle->job, 1U);
                EXPECT_EQ(obstacle->shown_as, wanted.shown_as);
            }
            EXPECT_FALSE(table.obstacle(1, wanted)) << "nobody is in his own way";
        }
    }
}

TEST(Locks, AreTakenFromThePoolDownAndThenByName) {
    EXPECT_TRUE(comes_before(pool(kShared), database(kShared)));
    EXPECT_TRUE(comes_before(database(kShared, "z"), branch(kShared, "a")));
    EXPECT_TRUE(comes_before(branch(kShared, "z"), snapshot(kShared, "a")));
    EXPECT_TRUE(comes_before(branch(kShared, "a"), branch(kShared, "b")));
    EXPECT_FALSE(comes_before(branch(kShared), branch(kShared)));
}

TEST(Locks, WhatAJobGivesBackIsFree) {
    LockTable table;
    Lock one = branch(kExclusive, "a");
    Lock two = branch(kExclusive, "b");
    one.held = two.held = true;
    table.set(1, {one, two});
    one.held = false;
    table.set(1, {one, two});
    EXPECT_FALSE(table.obstacle(2, one));
    EXPECT_TRUE(table.obstacle(2, two));
    EXPECT_TRUE(table.obstacle(2, database(kShared))) << "it is still at work in there";
    table.drop(1);
    EXPECT_FALSE(table.obstacle(2, two));
    EXPECT_FALSE(table.obstacle(2, pool(kExclusive)));
}

}  // namespace
}  // namespace bpg::jobs
