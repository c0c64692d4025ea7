// Cancelling jobs and going on with stuck ones, as a user does it. The branch that is not getting
// on is a real one whose PostgreSQL was stopped (SIGSTOP) between two lives of bpgd.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>

#include "tests/harness/refusals.h"
#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

class Cancel : public HostSuite<Cancel> {
  protected:
    void SetUp() override {
        HostSuite::SetUp();
        database("shop");
        host().wait_until_idle();
    }
    void TearDown() override { EXPECT_EQ(host().compare_world_with_catalog(), ""); }

    /// bpgd dies there, again and again, and is not running afterwards.
    static void die_at(const std::string& point, int times) {
        for (int death = 1; death <= times; ++death) {
            host().spawn_daemon({"--crash-at", point});
            ASSERT_TRUE(host().wait_for_daemon_end(60s).has_value()) << death;
        }
    }
    /// A job that makes this branch, and waits for a PostgreSQL that does not get on.
    static std::string stalled_create(const std::string& ref) {
        const std::string parent = host().branch("shop/main").at("id");
        EXPECT_EQ(host().stop_daemon(), 0);
        host().start_daemon({"--crash-at", "branch-create.await_ready.before_run"});
        const std::string id = host().bpg_json({"--no-wait", "branch", "create", ref}).at("id");
        EXPECT_TRUE(host().wait_for_daemon_end(60s).has_value());
        for (const ProcessFacts& postmaster : postmasters_below(host().volumes())) {
            if (branch_id_of(postmaster) != parent) ::kill(postmaster.pid, SIGSTOP);
        }
        host().start_daemon();
        EXPECT_TRUE(eventually([&] { return job(id).at("state") == "running"; }, 30s));
        return id;
    }
    static Json job(const std::string& id) { return host().bpg_json({"job", "get", id}); }
    static bool has_event(const std::string& id, const std::string& type) {
        const std::string events = host().bpg({"-o", "json", "job", "tail", id}).out;
        return events.find("\"type\":\"" + type + "\"") != std::string::npos;
    }
};

TEST_P(Cancel, OfACreateThatWaitsForPostgresLeavesNothingBehind) {
    const ParentWatch watch{host(), "shop/main"};
    const World before = host().world();
    const std::string id = stalled_create("shop/slow");
    const Json ended = host().bpg_json({"job", "cancel", id});
    EXPECT_EQ(ended.at("id"), id);
    EXPECT_EQ(ended.at("state"), "cancelled");
    EXPECT_EQ(ended.at("error").at("code"), "job_cancelled");
    EXPECT_EQ(ended.at("error").at("step"), "await_ready");
    EXPECT_EQ(describe_difference(before, host().world()), "");
    EXPECT_FALSE(host().branch_exists("shop/slow"));
    EXPECT_TRUE(has_event(id, "job_cancelled"));
    // Whoever waits for it hears how it ended; cancelling it again changes nothing.
    const CliResult tail = host().bpg({"job", "tail", "-f", id});
    EXPECT_EQ(tail.exit_code, 1) << tail.text();
    EXPECT_EQ(host().bpg_json({"job", "cancel", id}).at("state"), "cancelled");
    create("shop/slow");
    remove("shop/slow");
    watch.expect_undisturbed();
}

TEST_P(Cancel, OfAQueuedJobEndsItAtOnceAndChangesNothing) {
    const std::string create_id = stalled_create("shop/slow");
    const World before = host().world();
    const std::vector<std::string> of_it{"--no-wait",  "branch", "create",
                                         "shop/of-it", "--from", "shop/slow"};
    std::vector<std::string> stopped = of_it;
    stopped.emplace_back("--stopped");
    for (const auto& command : {of_it, stopped}) {
        const std::string id = host().bpg_json(command).at("id");
        EXPECT_TRUE(eventually([&] { return job(id).at("waiting_for").is_string(); }, 10s));
        EXPECT_EQ(job(id).at("state"), "queued");
        const Json ended = host().bpg_json({"job", "cancel", id});
        EXPECT_EQ(ended.at("state"), "cancelled");
        EXPECT_TRUE(ended.at("started_at").is_null());
    }
    EXPECT_EQ(host().branch("shop/main").at("state"), "running");
    EXPECT_EQ(host().branch("shop/main").at("warnings"), Json::array());
    EXPECT_EQ(describe_difference(before, host().world()), "");
    host().bpg_json({"job", "cancel", create_id});
}

TEST_P(Cancel, OfAQueuedBranchAtATimeLeavesNoSnapshotThatOnlyItHungOn) {
    const World before = host().world();
    host().bpg_json({"branch", "create", "shop/dev", "--ttl", "3s"});
    host().bpg_json({"job", "pause", "--lane", "interactive"});
    const std::string id =
        host().bpg_json({"--no-wait", "branch", "create", "shop/then", "--pitr", "0s"}).at("id");
    const auto origins = [] {
        const Json items = host().bpg_json({"snapshot", "list", "shop/main"}).at("items");
        return std::count_if(items.begin(), items.end(),
                             [](const Json& item) { return item.at("kind") == "origin"; });
    };
    const auto only_it_is_open = [] {
        const Json items = host().bpg_json({"job", "list"}).at("items");
        return std::count_if(items.begin(), items.end(), [](const Json& item) {
                   return item.at("finished_at").is_null();
               }) == 1;
    };
    ASSERT_TRUE(eventually([] { return !host().branch_exists("shop/dev"); }, 30s));
    ASSERT_TRUE(eventually(only_it_is_open, 30s));
    ASSERT_EQ(origins(), 1) << "what shop/then is to begin with went with shop/dev";
    EXPECT_EQ(host().bpg_json({"job", "cancel", id}).at("state"), "cancelled");
    EXPECT_EQ(host().compare_world_with_catalog(), "");
    host().bpg_json({"job", "resume", "--lane", "interactive"});
    EXPECT_TRUE(eventually([&] { return origins() == 0; }, 30s));
    host().wait_until_idle();
    EXPECT_EQ(describe_difference(before, host().world()), "");
}

TEST_P(Cancel, OfADeleteThatHasBegunIsRefused) {
    create("shop/doomed");
    const pid_t postmaster = host().postmaster("shop/doomed").pid;
    // It takes bpgd some seconds to lose patience with it.
    ASSERT_EQ(::kill(postmaster, SIGSTOP), 0);
    const std::string id =
        host().bpg_json({"--no-wait", "branch", "delete", "shop/doomed"}).at("id");
    ASSERT_TRUE(eventually([&] { return job(id).at("state") == "running"; }, 10s));
    expect_refused(host(), {"job", "cancel", id},
                   {5, "job_irreversible", "job " + id + " can no longer be cancelled",
                    "branch-delete shop/doomed is at step remove_instance: what it destroys does "
                    "not come back",
                    "wait for it: bpg job tail -f " + id});
    EXPECT_EQ(host().outcome(id), "succeeded");
    expect_refused(host(), {"job", "cancel", id},
                   {5, "job_ended", "job " + id + " has ended already",
                    "branch-delete shop/doomed succeeded", "there is nothing left to cancel"});
    expect_refused(host(), {"job", "retry", id},
                   {5, "job_not_stuck", "job " + id + " is not stuck",
                    "branch-delete shop/doomed is succeeded",
                    "to have it done again, give the command again"});
}

TEST_P(Cancel, OfAJobThatIsNotThereSaysSo) {
    for (const char* verb : {"cancel", "retry"}) {
        expect_refused(
            host(), {"job", verb, "zzzz"},
            {3, "job_not_found", "there is no job zzzz", "no job's id is that or begins with it",
             "bpg job list shows the jobs there are"});
    }
}

TEST_P(Cancel, AJobThatBpgdKeepsDyingInIsStuckAndGoesOnByRetry) {
    ASSERT_EQ(host().stop_daemon(), 0);
    host().start_daemon({"--crash-at", "branch-create.clone_volume.before_run"});
    const std::string id =
        host().bpg_json({"--no-wait", "branch", "create", "shop/unlucky"}).at("id");
    ASSERT_TRUE(host().wait_for_daemon_end(60s).has_value());
    die_at("branch-create.clone_volume.before_run", 2);
    host().start_daemon();
    const Json stuck = host().finished_job(id);
    ASSERT_EQ(stuck.at("state"), "stuck") << stuck.dump(2);
    EXPECT_EQ(stuck.at("error").at("code"), "job_stuck");
    EXPECT_EQ(stuck.at("error").at("detail"),
              "bpgd died 3 times, one after the other, at step \"clone_volume\"");
    EXPECT_EQ(stuck.at("error").at("hint"),
              "nothing was lost; once the reason is gone: bpg job retry " + id);
    const Json ended = host().bpg_json({"job", "retry", id});
    EXPECT_EQ(ended.at("state"), "succeeded");
    EXPECT_EQ(ended.at("attempt"), 2);
    EXPECT_TRUE(ended.at("error").is_null());
    EXPECT_EQ(query_value(host().url("shop/unlucky"), "SELECT 1"), "1");
    remove("shop/unlucky");
}

INSTANTIATE_TEST_SUITE_P(Btrfs, Cancel, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, Cancel, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);

}  // namespace
}  // namespace bpg::test
