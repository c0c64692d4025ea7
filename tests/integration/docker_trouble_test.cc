// Docker misbehaving around a running bpgd: dead, stopped in its tracks, without the image, or with
// a container of somebody else's in the way. Never a half-made branch, never a lost one.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

class DockerTrouble : public HostSuite<DockerTrouble> {
  protected:
    void SetUp() override {
        HostSuite::SetUp();
        database("prod");
        host().wait_until_idle();
    }
    static DockerHost& docker() { return DockerHost::get(); }
    static std::string container(const std::string& ref) {
        const std::string volume = host().branch(ref).at("storage").at("name");
        return host().container_prefix() + volume;
    }
    static bool answers(const std::string& ref) {
        try {
            return query_number(host().url(ref), "SELECT 1") == 1;
        } catch (const std::exception&) {
            return false;
        }
    }
};

TEST_P(DockerTrouble, AContainerOfSomebodyElseIsReportedAndNeverTouched) {
    const std::string name = host().container_prefix() + "prod-taken";
    docker().docker({"create", "--name", name, docker().image(DockerHost::Image::kDebian), "true"});
    const auto facts = [&] {
        return docker().docker({"inspect", "-f", "{{.Id}} {{.Created}} {{.State.Status}}", name});
    };
    const std::string before_facts = facts();
    const World before = host().world();
    const CliError error = host().bpg_error({"branch", "create", "prod/taken"});
    expect_error(error, 5, "container_foreign");
    EXPECT_NE((error.what + error.why).find(name), std::string::npos) << error.why;
    EXPECT_EQ(facts(), before_facts);
    EXPECT_EQ(describe_difference(before, host().world()), "");
    docker().docker({"rm", name});
    create("prod/taken");
    remove("prod/taken");
}

TEST_P(DockerTrouble, AnImageThatIsNowhereIsNotFoundBeforeAnythingIsMade) {
    const World before = host().world();
    const CliError error =
        host().bpg_error({"db", "create", "lost", "--image", "bpg-no-such-image:1"});
    expect_error(error, 3, "image_not_found");
    EXPECT_EQ(describe_difference(before, host().world()), "");
    EXPECT_EQ(host().bpg({"db", "get", "lost"}).exit_code, 3);
}

TEST_P(DockerTrouble, AnImageWhosePostgresRefusesSaysItsOwnWordsAndLeavesNothing) {
    const World before = host().world();
    const CliError error = host().bpg_error(
        {"db", "create", "refused", "--image", docker().image(DockerHost::Image::kRefusing)});
    EXPECT_NE(error.exit_code, 0);
    EXPECT_NE(error.why.find("FATAL"), std::string::npos) << error.why;
    EXPECT_EQ(describe_difference(before, host().world()), "");
}

TEST_P(DockerTrouble, ImagesWithAnotherUserAndAVolumeRunBranchesToo) {
    host().bpg_json(
        {"db", "create", "seventy", "--image", docker().image(DockerHost::Image::kUid70)});
    create("seventy/dev");
    execute_alone(host().url("seventy/dev"), "CREATE TABLE t AS SELECT 7 AS n");
    EXPECT_EQ(query_number(host().url("seventy/dev"), "SELECT n FROM t"), 7);
    remove_database("seventy");
    EXPECT_EQ(host().compare_world_with_catalog(), "");
}

TEST_P(DockerTrouble, ADockerdThatHangsDelaysABranchAndLosesNothing) {
    const CliResult asked = [&] {
        ::kill(docker().pid(), SIGSTOP);
        CliResult result = host().bpg({"--no-wait", "-o", "json", "branch", "create", "prod/slow"});
        std::this_thread::sleep_for(2s);
        // The loop waits for nobody.
        EXPECT_TRUE(host().bpg({"status"}).ok());
        ::kill(docker().pid(), SIGCONT);
        return result;
    }();
    ASSERT_TRUE(asked.ok()) << asked.text();
    const Json job = host().finished_job(asked.json().at("id"));
    EXPECT_EQ(job.at("state"), "succeeded") << job.dump(2);
    EXPECT_EQ(query_number(host().url("prod/slow"), "SELECT 1"), 1);
    remove("prod/slow");
    EXPECT_EQ(host().compare_world_with_catalog(), "");
}

TEST_P(DockerTrouble, InstancesRunAgainAfterDockerdDiedAndCameBack) {
    create("prod/kept");
    execute_alone(host().url("prod/kept"), "CREATE TABLE t AS SELECT 5 AS n");
    docker().kill_daemon();
    // Asked for while it is down: tried again until it is there, or refused; never half made.
    const CliResult asked =
        host().bpg({"--no-wait", "-o", "json", "branch", "create", "prod/meanwhile"});
    std::this_thread::sleep_for(1s);
    docker().start_daemon();
    host().wait_until_idle();
    for (const char* ref : {"prod/main", "prod/kept"})
        EXPECT_TRUE(eventually([&] { return answers(ref); }, 60s)) << ref;
    EXPECT_TRUE(eventually([&] { return host().compare_world_with_catalog().empty(); }, 60s))
        << host().compare_world_with_catalog();
    EXPECT_EQ(query_number(host().url("prod/kept"), "SELECT n FROM t"), 5);
    if (asked.ok()) {
        const Json job = host().finished_job(asked.json().at("id"));
        EXPECT_EQ(host().branch_exists("prod/meanwhile"), job.at("state") == "succeeded");
        if (job.at("state") == "succeeded") remove("prod/meanwhile");
    }
    remove("prod/kept");
}

TEST_P(DockerTrouble, BpgdStartsWithoutDockerdAndTakesItsInstancesBackLater) {
    create("prod/patient");
    ASSERT_EQ(host().stop_daemon(), 0);
    docker().kill_daemon();
    host().start_daemon();
    const std::string warnings = host().bpg_json({"status"}).at("warnings").dump();
    EXPECT_NE(warnings.find("does not answer"), std::string::npos) << warnings;
    docker().start_daemon();
    for (const char* ref : {"prod/main", "prod/patient"})
        EXPECT_TRUE(eventually([&] { return answers(ref); }, 60s)) << ref;
    EXPECT_TRUE(eventually([&] { return host().compare_world_with_catalog().empty(); }, 60s))
        << host().compare_world_with_catalog();
    EXPECT_EQ(query_number(host().url("prod/patient"), "SELECT 1"), 1);
    remove("prod/patient");
    EXPECT_EQ(host().compare_world_with_catalog(), "");
}

INSTANTIATE_TEST_SUITE_P(ZfsDocker, DockerTrouble, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);

}  // namespace
}  // namespace bpg::test
