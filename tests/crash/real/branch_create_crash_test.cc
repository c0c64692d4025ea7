// branch-create on the real drivers, with bpgd vanishing (SIGKILL on itself) at every crash point
// of its step table. After an ordinary restart the branch is complete, with every row acknowledged
// before the call, or there is no trace of it; and the parent never noticed.
//
// The points come from the program itself, so a new step is tested the day it is written. In short
// mode copy takes every third of them; BPG_LONG takes all, and undoes from the last step too.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include "tests/crash/real/crash_points.h"
#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

struct CrashCase {
    DriverPair drivers;
    std::string crash_at;  ///< "branch-create.take_snapshot.before_run"
    std::string fail_at;   ///< "branch-create.take_snapshot", empty: nothing fails
};

std::ostream& operator<<(std::ostream& out, const CrashCase& one) {
    return out << one.drivers << " crash at " << one.crash_at << " fail at " << one.fail_at;
}

std::vector<CrashCase> cases_for(const DriverPair& drivers) {
    const auto points = crash_points("branch-create");
    // The short form takes every point on one pair and samples the others.
    const bool is_whole = drivers.storage == "btrfs" && drivers.runtime == "process";
    const std::size_t stride = is_whole || long_mode() ? 1 : 3;
    std::vector<CrashCase> cases;
    std::size_t number = 0;
    for (const auto& point : points) {
        if (number++ % stride != 0) continue;
        if (!is_backward(point)) {
            cases.push_back({drivers, point, ""});
            continue;
        }
        cases.push_back({drivers, point, step_of(point)});
        const std::string last = step_of(points.back());
        const bool not_the_last = step_of(point) != last && point.find("turn") == std::string::npos;
        if (long_mode() && not_the_last) cases.push_back({drivers, point, last});
    }
    return cases;
}

std::string case_name(const ::testing::TestParamInfo<CrashCase>& info) {
    const auto& one = info.param;
    std::string name = one.crash_at.substr(one.crash_at.find('.') + 1);
    if (!one.fail_at.empty()) name += "_failing_" + one.fail_at.substr(one.fail_at.find('.') + 1);
    std::replace_if(name.begin(), name.end(), [](char c) { return std::isalnum(c) == 0; }, '_');
    return name;
}

class BranchCreateCrash : public HostSuite<BranchCreateCrash, CrashCase> {
  protected:
    void SetUp() override {
        HostSuite::SetUp();
        database("prod");
        host().wait_until_idle();
    }

    /// Arms the point and asks for a branch; returns once bpgd has killed itself.
    static void crash_while_creating(const CrashCase& one) {
        ASSERT_EQ(host().stop_daemon(), 0);
        std::vector<std::string> arguments = {"--crash-at", one.crash_at};
        if (!one.fail_at.empty()) {
            arguments.insert(arguments.end(), {"--fail-at", one.fail_at});
        }
        host().start_daemon(arguments);
        // It may die before it can answer.
        const auto asked = host().bpg({"--no-wait", "branch", "create", "prod/crashed"});
        ASSERT_TRUE(asked.ok() || asked.exit_code == 6) << asked.text();
        const auto status = host().wait_for_daemon_end(60s);
        ASSERT_TRUE(status) << "bpgd lives: the point was never reached";
        ASSERT_TRUE(WIFSIGNALED(*status)) << "it ended by itself: " << *status;
        ASSERT_EQ(WTERMSIG(*status), SIGKILL);
    }
};

TEST_P(BranchCreateCrash, EndsCompleteOrLeavesNoTrace) {
    const CrashCase& one = GetParam();
    const std::string parent_url = host().url("prod/main");
    const std::string parent_started = postmaster_start_time(parent_url);
    const World before = host().world();

    Writers writers(parent_url, 2);
    ASSERT_TRUE(writers.wait_for_progress(20));
    const auto acknowledged = writers.acknowledged();
    crash_while_creating(one);
    if (HasFatalFailure()) return;
    host().start_daemon();
    host().wait_until_idle();
    writers.stop();

    EXPECT_EQ(writers.errors(), std::vector<std::string>{}) << "the parent's users noticed";
    EXPECT_EQ(postmaster_start_time(parent_url), parent_started) << "the parent was restarted";
    EXPECT_EQ(host().compare_world_with_catalog(), "");
    if (host().branch_exists("prod/crashed")) {
        EXPECT_FALSE(is_backward(one.crash_at) && one.crash_at.find("undo") != std::string::npos)
            << "an undone branch is there";
        EXPECT_EQ(host().branch("prod/crashed").at("state"), "running");
        EXPECT_EQ(missing_rows(host().url("prod/crashed"), acknowledged),
                  std::vector<std::int64_t>{});
        remove("prod/crashed");
        host().wait_until_idle();
    } else {
        EXPECT_FALSE(one.fail_at.empty()) << "nothing failed, and yet it was undone: "
                                          << host().bpg_json({"job", "list"})["items"][0].dump(2);
    }
    EXPECT_EQ(describe_difference(before, host().world()), "");
}

TEST(BranchCreateCrashPoints, AreListedByTheProgramForEveryStep) {
    const auto points = crash_points("branch-create");
    EXPECT_GE(points.size(), 20U) << "bpgd --list-crash-points branch-create printed too few";
    EXPECT_TRUE(std::any_of(points.begin(), points.end(), is_backward));
    EXPECT_FALSE(std::all_of(points.begin(), points.end(), is_backward));
    for (const auto& point : points) {
        EXPECT_TRUE(point.starts_with("branch-create.")) << point;
        EXPECT_EQ(std::count(point.begin(), point.end(), '.'), 2) << point;
    }
}

INSTANTIATE_TEST_SUITE_P(Btrfs, BranchCreateCrash,
                         ::testing::ValuesIn(cases_for({"btrfs", "process"})), case_name);
INSTANTIATE_TEST_SUITE_P(Copy, BranchCreateCrash,
                         ::testing::ValuesIn(cases_for({"copy", "process"})), case_name);
INSTANTIATE_TEST_SUITE_P(Zfs, BranchCreateCrash, ::testing::ValuesIn(cases_for({"zfs", "process"})),
                         case_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, BranchCreateCrash,
                         ::testing::ValuesIn(cases_for({"zfs", "docker"})), case_name);
INSTANTIATE_TEST_SUITE_P(BtrfsDocker, BranchCreateCrash,
                         ::testing::ValuesIn(cases_for({"btrfs", "docker"})), case_name);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BranchCreateCrash);

}  // namespace
}  // namespace bpg::test
