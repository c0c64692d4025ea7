// Sync, promote, delete, the way back from the trash and the way back in time on the real drivers,
// with bpgd vanishing at crash points of their tables. Once it is back and idle, exactly one of old
// and new answers under every name, and nothing is half renamed, half deleted or lost.
//
// In short mode every fourth point (by a seed that is told), in the long form all.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include "orchestrator/base/clock.h"
#include "tests/crash/real/crash_points.h"
#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

constexpr int kRows = 20;

struct CrashCase {
    DriverPair drivers;
    std::string operation;
    std::string crash_at;
    std::string fail_at;  ///< empty: nothing fails
};

std::ostream& operator<<(std::ostream& out, const CrashCase& one) {
    return out << one.drivers << " crash at " << one.crash_at << " fail at " << one.fail_at;
}

std::vector<CrashCase> cases_for(const DriverPair& drivers) {
    const bool is_docker = drivers.runtime == "docker";
    const std::size_t stride = long_mode() ? 1 : is_docker ? 9 : 3;
    std::vector<CrashCase> cases;
    std::size_t number = 0;
    for (const char* operation : {"branch-sync", "branch-promote", "branch-delete", "undo-delete",
                                  "branch-create", "wal-cleanup", "prune"}) {
        for (const auto& point : crash_points(operation)) {
            // The trash keeps what is deleted: the rows that destroy it are trash-purge's.
            const bool is_reached = std::string(operation) != "branch-delete" ||
                                    point.find("remove_instance") != std::string::npos;
            if (!is_reached || number++ % stride != 0) continue;
            const std::string fail_at = is_backward(point) ? step_of(point) : "";
            cases.push_back({drivers, operation, point, fail_at});
        }
    }
    return cases;
}

std::string case_name(const ::testing::TestParamInfo<CrashCase>& info) {
    std::string name = info.param.crash_at;
    std::replace_if(name.begin(), name.end(), [](char c) { return std::isalnum(c) == 0; }, '_');
    return name;
}

class LifecycleCrash : public HostSuite<LifecycleCrash, CrashCase> {
  protected:
    void SetUp() override {
        HostSuite::SetUp();
        database_with_items("prod", kRows);
        create("prod/dev");
        execute(host().url("prod/dev"), "INSERT INTO items VALUES (1000, 'mine')");
    }
    void TearDown() override {
        if (!host().daemon_runs()) host().start_daemon();
        host().wait_until_idle();
        host().bpg({"schedule", "delete", "nightly"});  // of a test that did not come to it
        host().bpg_json({"-y", "db", "delete", "prod", "--force"});
        host().bpg_json({"trash", "purge", "--all"});
        host().wait_until_idle();
        EXPECT_EQ(host().compare_world_with_catalog(), "");
    }
    void adapt(HostOptions& options) const override { options.trash_keep = "24h"; }

    static std::int64_t rows(const std::string& url) {
        return query_number(url, "SELECT count(*) FROM items");
    }

    static void crash_while(const CrashCase& one, std::vector<std::string> words) {
        ASSERT_EQ(host().stop_daemon(), 0);
        std::vector<std::string> arguments = {"--crash-at", one.crash_at};
        if (!one.fail_at.empty()) arguments.insert(arguments.end(), {"--fail-at", one.fail_at});
        host().start_daemon(arguments);
        words.insert(words.begin(), {"-y", "--no-wait"});
        const auto asked = host().bpg(words);
        ASSERT_TRUE(asked.ok() || asked.exit_code == 6) << asked.text();
        const auto status = host().wait_for_daemon_end(60s);
        ASSERT_TRUE(status) << "bpgd lives: the point was never reached";
        ASSERT_TRUE(WIFSIGNALED(*status)) << "it ended by itself: " << *status;
        host().start_daemon();
        host().wait_until_idle();
        ASSERT_EQ(host().compare_world_with_catalog(), "");
    }

    static void expect_synced_or_not(const std::string& url) {
        EXPECT_TRUE(
            eventually([] { return host().branch("prod/dev").at("state") == "running"; }, 60s));
        const Json dev = host().branch("prod/dev");
        EXPECT_EQ(host().url("prod/dev"), url);
        const bool is_new = dev.at("incarnation").at("number") == 2;
        EXPECT_EQ(rows(url), is_new ? kRows : kRows + 1);
        EXPECT_EQ(host().bpg_json({"trash", "list"}).at("items").size(), is_new ? 1U : 0U);
    }
    static void expect_promoted_or_not(const std::string& main_url, const std::string& dev_url) {
        const bool is_new = host().branch_exists("prod/old");
        // Where a step behind the switch failed, the supervisor starts what should run.
        for (const std::string& ref :
             {std::string("prod/main"), std::string("prod/") + (is_new ? "old" : "dev")})
            EXPECT_TRUE(
                eventually([&] { return host().branch(ref).at("state") == "running"; }, 60s));
        EXPECT_EQ(host().branch_exists("prod/dev"), !is_new);
        EXPECT_EQ(rows(main_url), is_new ? kRows + 1 : kRows);
        EXPECT_EQ(rows(dev_url), is_new ? kRows : kRows + 1);
        EXPECT_EQ(host().url("prod/main"), main_url);
        EXPECT_EQ(host().url(is_new ? "prod/old" : "prod/dev"), dev_url);
    }
    static void expect_restored_or_not() {
        EXPECT_EQ(rows(host().url("prod/dev")), kRows + 1);
        if (host().branch_exists("prod/then")) {
            EXPECT_EQ(rows(host().url("prod/then")), kRows + 1);
        }
        expect_restorable("prod/dev", kRows + 1);
    }
    /// Whatever happened, its archive is whole.
    static void expect_restorable(const std::string& ref, std::int64_t expected) {
        host().bpg_json({"branch", "create", "prod/again", "--from", ref, "--pitr", "0s"});
        EXPECT_EQ(rows(host().url("prod/again")), expected);
    }
    /// Three by a schedule that keeps one of them.
    static void make_snapshots_that_may_go() {
        const std::vector<std::string> make{"schedule", "create",   "nightly",
                                            "--cron",   "@yearly",  "--op",
                                            "snapshot", "--target", "prod/main"};
        host().bpg_json(make);
        for (int i = 0; i < 3; ++i)
            host().bpg_json({"schedule", "run", "nightly"});
        host().bpg_json({"schedule", "delete", "nightly"});
        std::vector<std::string> keeping = make;
        keeping.insert(keeping.end(), {"--keep-last", "1", "--days", "0"});
        host().bpg_json(keeping);
    }
    static void expect_pruned_or_not() {
        std::size_t scheduled = 0;
        const Json list = host().bpg_json({"snapshot", "list", "prod/main"});
        for (const Json& snapshot : list.at("items"))
            scheduled += snapshot.at("created_by") == "schedule:nightly" ? 1 : 0;
        EXPECT_TRUE(scheduled == 1 || scheduled == 3) << scheduled;
        host().bpg_json({"schedule", "delete", "nightly"});
        expect_restorable("prod/main", kRows);
    }
    static void expect_there_or_in_the_trash(const std::string& url) {
        const bool is_there = host().branch_exists("prod/dev");
        EXPECT_EQ(host().bpg_json({"trash", "list"}).at("items").size(), is_there ? 0U : 1U);
        if (!is_there) host().bpg_json({"branch", "undo-delete", "prod/dev"});
        EXPECT_TRUE(
            eventually([] { return host().branch("prod/dev").at("state") == "running"; }, 60s));
        EXPECT_EQ(rows(url), kRows + 1);
    }
};

TEST_P(LifecycleCrash, ExactlyOneOfOldAndNewAnswers) {
    const CrashCase& one = GetParam();
    const WallTime before_the_crash = SystemClock().now();
    const std::string main_url = host().url("prod/main");
    const std::string dev_url = host().url("prod/dev");
    if (one.operation == "undo-delete") host().bpg_json({"branch", "delete", "prod/dev"});
    const std::map<std::string, std::vector<std::string>> commands = {
        {"branch-sync", {"branch", "sync", "prod/dev"}},
        {"branch-promote", {"branch", "promote", "prod/dev", "--old-name", "old"}},
        {"branch-delete", {"branch", "delete", "prod/dev"}},
        {"undo-delete", {"branch", "undo-delete", "prod/dev"}},
        {"branch-create",
         {"branch", "create", "prod/then", "--from", "prod/dev", "--pitr",
          format_time(before_the_crash)}},
        {"wal-cleanup", {"wal", "cleanup", "prod/main", "--days", "0"}},
        {"prune", {"job", "submit", "prune", "--param", "target=prod/main"}}};
    if (one.operation == "prune") make_snapshots_that_may_go();
    crash_while(one, commands.at(one.operation));
    if (HasFatalFailure()) return;
    if (one.operation == "branch-sync") expect_synced_or_not(dev_url);
    if (one.operation == "branch-promote") expect_promoted_or_not(main_url, dev_url);
    if (one.operation == "branch-create") expect_restored_or_not();
    if (one.operation == "prune") expect_pruned_or_not();
    if (one.operation == "wal-cleanup") expect_restorable("prod/main", kRows);
    if (one.operation.ends_with("delete")) expect_there_or_in_the_trash(dev_url);
    const Json stuck = host().bpg_json({"job", "list", "--state", "stuck"});
    EXPECT_EQ(stuck.at("items"), Json::array());
}

INSTANTIATE_TEST_SUITE_P(Btrfs, LifecycleCrash,
                         ::testing::ValuesIn(cases_for({"btrfs", "process"})), case_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, LifecycleCrash,
                         ::testing::ValuesIn(cases_for({"zfs", "docker"})), case_name);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(LifecycleCrash);

}  // namespace
}  // namespace bpg::test
