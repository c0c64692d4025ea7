// The daemon's own life: it is killed, stopped, started twice and watched, and neither the
// instances nor the jobs may notice.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <fstream>
#include <sstream>
#include <thread>

#include "orchestrator/base/files.h"
#include "orchestrator/base/subprocess.h"
#include "tests/harness/refusals.h"
#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

class DaemonLife : public HostSuite<DaemonLife> {
  protected:
    void SetUp() override {
        HostSuite::SetUp();
        database("prod");
    }

    static CommandResult run_bpgd(std::vector<std::string> arguments) {
        Command command;
        command.argv = {(bin_dir() / "bpgd").string()};
        command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
        command.deadline = 20s;
        return run_command(command);
    }
};

std::vector<Json> parse_events(const std::string& ndjson) {
    std::vector<Json> events;
    std::istringstream lines(ndjson);
    for (std::string line; std::getline(lines, line);) {
        if (!line.empty()) events.push_back(Json::parse(line));
    }
    return events;
}

/// 1, 2, 3 … without a gap or a repetition, and each with all its members.
void expect_gap_free(const std::vector<Json>& events) {
    ASSERT_FALSE(events.empty());
    const std::int64_t first = events.front().at("seq");
    for (std::size_t i = 0; i < events.size(); ++i) {
        expect_members(events[i], {"seq", "at", "type", "step", "message", "data"});
        EXPECT_EQ(events[i].at("seq"), first + static_cast<std::int64_t>(i));
    }
}

TEST_P(DaemonLife, InstancesSurviveItsDeathAndAreAdoptedAgain) {
    create("prod/survivor");
    const auto main = host().postmaster("prod/main").pid;
    const auto branch = host().postmaster("prod/survivor").pid;
    const std::string url = host().url("prod/survivor");
    host().kill_daemon();
    EXPECT_EQ(query_number(url, "SELECT 1"), 1) << "the instance died with the daemon";
    host().start_daemon();
    EXPECT_EQ(host().postmaster("prod/main").pid, main);
    EXPECT_EQ(host().postmaster("prod/survivor").pid, branch);
    EXPECT_EQ(host().branch("prod/survivor").at("state"), "running");
    EXPECT_EQ(host().compare_world_with_catalog(), "");
    host().bpg_json({"restart", "prod/survivor"});
    EXPECT_NE(host().postmaster("prod/survivor").pid, branch);
    remove("prod/survivor");
}

TEST_P(DaemonLife, StatusTellsTheTruthAsSoonAsItAnswers) {
    create("prod/victim");
    create("prod/rested");
    host().bpg_json({"stop", "prod/rested"});
    const pid_t victim = host().postmaster("prod/victim").pid;
    host().kill_daemon();
    ::kill(victim, SIGKILL);
    ASSERT_TRUE(eventually([&] { return !process_facts(victim); }, 10s));
    host().spawn_daemon();
    CliResult status;
    ASSERT_TRUE(eventually(
        [&] {
            status = host().bpg({"-o", "json", "status"});
            EXPECT_TRUE(status.ok() || status.exit_code == 6) << status.text();
            return status.ok();
        },
        60s));
    const Json answer = status.json();
    for (const auto& branch : answer.at("databases").at(0).at("branches")) {
        const std::string ref = branch.at("ref");
        const auto port = branch.at("port").get<std::uint16_t>();
        if (ref == "prod/rested") {
            EXPECT_EQ(branch.at("state"), "stopped");
        }
        if (branch.at("state") == "running") {
            EXPECT_FALSE(port_is_free(port)) << ref << " is called running and is not";
        }
    }
    // An instance that should run is started again.
    EXPECT_TRUE(
        eventually([&] { return host().branch("prod/victim").at("state") == "running"; }, 60s));
    EXPECT_EQ(query_number(host().url("prod/victim"), "SELECT 1"), 1);
    EXPECT_EQ(host().branch("prod/rested").at("state"), "stopped");
    remove("prod/victim");
    remove("prod/rested");
}

TEST_P(DaemonLife, SigtermStopsItWithinTenSecondsAndInstancesGoOn) {
    const auto main = host().postmaster("prod/main").pid;
    const std::string url = host().url("prod/main");
    EXPECT_EQ(host().stop_daemon(10s), 0);
    EXPECT_EQ(query_number(url, "SELECT 1"), 1);
    host().start_daemon();
    EXPECT_EQ(host().postmaster("prod/main").pid, main);
}

TEST_P(DaemonLife, LogsEverythingOrWhatMattersAsItsSignalsSay) {
    const auto logged = [](const std::string& what) {
        return read_file(host().daemon_log(), 64U << 20U).value_or("").find(what) !=
               std::string::npos;
    };
    ::kill(host().daemon_pid(), SIGUSR1);
    EXPECT_TRUE(eventually([&] { return logged("the log level was changed level=debug"); }, 10s));
    ::kill(host().daemon_pid(), SIGUSR2);
    EXPECT_TRUE(eventually([&] { return logged("the log level was changed level=info"); }, 10s));
    EXPECT_TRUE(host().daemon_runs());
}

TEST_P(DaemonLife, SigtermDuringAJobStopsItAndTheJobGoesOnAtTheNextStart) {
    const std::string id =
        host().bpg_json({"--no-wait", "branch", "create", "prod/later"}).at("id");
    EXPECT_EQ(host().stop_daemon(10s), 0);
    host().start_daemon();
    EXPECT_EQ(host().outcome(id), "succeeded");
    EXPECT_EQ(query_number(host().url("prod/later"), "SELECT 1"), 1);
    remove("prod/later");
}

TEST_P(DaemonLife, TellsOfFailedJobsAlsoAfterARestart) {
    const auto failed = [] {
        return host().bpg_json({"status"}).at("jobs").at("failed_24h").get<int>();
    };
    const int before = failed();
    ASSERT_EQ(host().stop_daemon(), 0);
    host().start_daemon({"--fail-at", "branch-create.publish"});
    expect_error(host().bpg_error({"branch", "create", "prod/doomed"}), 1, "failure_injected");
    EXPECT_EQ(failed(), before + 1);
    ASSERT_EQ(host().stop_daemon(), 0);
    host().start_daemon();
    EXPECT_EQ(failed(), before + 1);
    const Json list = host().bpg_json({"job", "list", "--state", "failed", "--limit", "1"});
    ASSERT_EQ(list.at("items").size(), 1U);
    EXPECT_EQ(list.at("items").at(0).at("target"), "prod/doomed");
}

TEST_P(DaemonLife, WithoutADaemonEveryCommandExitsSix) {
    ASSERT_EQ(host().stop_daemon(), 0);
    expect_error(host().bpg_error({"status"}), 6, "daemon_unreachable");
    EXPECT_EQ(host().bpg({"branch", "create", "prod/never"}).exit_code, 6);
    EXPECT_EQ(host().bpg({"job", "list"}).exit_code, 6);
    host().start_daemon();
    EXPECT_FALSE(host().branch_exists("prod/never"));
}

TEST_P(DaemonLife, SecondDaemonOnTheSameStateExitsFive) {
    const auto second = run_bpgd({"--config", host().config_file().string()});
    EXPECT_EQ(second.exit_code, 5) << second.err;
    EXPECT_FALSE(second.err.empty());
    EXPECT_TRUE(host().bpg({"status"}).ok()) << "the first one suffered";
}

TEST_P(DaemonLife, RefusesABadConfigWithItsLine) {
    const auto bad = host().base() / "bad.yaml";
    std::ofstream(bad) << "network:\n  prots: 1-2\n";
    const auto refused = run_bpgd({"--config", bad.string()});
    EXPECT_EQ(refused.exit_code, 2) << refused.err;
    EXPECT_NE(refused.err.find("bad.yaml:2:"), std::string::npos) << refused.err;
    EXPECT_NE(refused.err.find("prots"), std::string::npos) << refused.err;
}

TEST_P(DaemonLife, EventsOfAJobHaveNoGapOverARestart) {
    const std::string id =
        host().bpg_json({"--no-wait", "branch", "create", "prod/watched"}).at("id");
    CliResult followed;
    std::thread follower(
        [&] { followed = host().bpg({"-o", "json", "job", "tail", id, "-f"}, 120s); });
    host().kill_daemon();
    std::this_thread::sleep_for(500ms);  // the follower meets a daemon that is not there
    host().start_daemon();
    EXPECT_EQ(host().outcome(id), "succeeded");
    follower.join();
    ASSERT_EQ(followed.exit_code, 0) << followed.text();
    const auto seen = parse_events(followed.out);
    expect_gap_free(seen);
    const auto stored = parse_events(host().bpg({"-o", "json", "job", "tail", id}).out);
    EXPECT_EQ(seen, stored);
    const std::int64_t middle = stored.at(stored.size() / 2).at("seq");
    const auto rest = parse_events(
        host().bpg({"-o", "json", "job", "tail", id, "--from-event", std::to_string(middle)}).out);
    EXPECT_EQ(rest, (std::vector<Json>(stored.begin() + static_cast<long>(stored.size() / 2),
                                       stored.end())));
    remove("prod/watched");
}

/// The socket of a service manager, as systemd makes one for a unit of Type=notify.
class Manager {
  public:
    explicit Manager(const std::filesystem::path& path)
        : fd_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path.string().copy(address.sun_path, sizeof address.sun_path - 1);
        const void* raw = &address;
        if (::bind(fd_.get(), static_cast<const sockaddr*>(raw), sizeof address) != 0) {
            throw std::runtime_error("no socket for the service manager");
        }
    }
    /// Whether this was told within a few seconds; what is told before it is taken and forgotten.
    bool hears(const std::string& what) {
        const timeval patience{.tv_sec = 10, .tv_usec = 0};
        ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        char said[1000];
        while (true) {
            const ssize_t count = ::recv(fd_.get(), said, sizeof said, 0);
            if (count <= 0) return false;
            if (("\n" + std::string(said, static_cast<std::size_t>(count)) + "\n")
                    .find("\n" + what + "\n") != std::string::npos) {
                return true;
            }
        }
    }

  private:
    UniqueFd fd_;
};

TEST_P(DaemonLife, TellsItsServiceManagerWhenItIsReadyLivesAndStops) {
    ASSERT_EQ(host().stop_daemon(), 0);
    const auto path = host().base() / "notify";
    Manager manager(path);
    host().spawn_daemon({}, {"NOTIFY_SOCKET=" + path.string(), "WATCHDOG_USEC=400000"});
    EXPECT_TRUE(manager.hears("READY=1"));
    EXPECT_TRUE(host().bpg({"status"}).ok()) << "it said it was ready";
    EXPECT_TRUE(manager.hears("WATCHDOG=1"));
    EXPECT_TRUE(manager.hears("WATCHDOG=1")) << "again and again";
    EXPECT_EQ(host().stop_daemon(), 0);
    EXPECT_TRUE(manager.hears("STOPPING=1"));
}

/// The newest log of the store, where commits lie that are in no table yet.
std::filesystem::path newest_log(const std::filesystem::path& store) {
    std::filesystem::path newest;
    for (const auto& entry : std::filesystem::directory_iterator(store)) {
        const bool is_log = entry.path().extension() == ".log";
        if (is_log && entry.path().filename() > newest.filename()) newest = entry.path();
    }
    return newest;
}

TEST_P(DaemonLife, RefusesToForgetABranchWhenTheStoreIsDamaged) {
    host().kill_daemon();
    host().start_daemon();
    const auto log = newest_log(host().state() / "state");
    const auto begin = std::filesystem::file_size(log);
    create("prod/remembered");
    host().kill_daemon();
    const auto copy = host().base() / "state-copy";
    std::filesystem::copy(host().state() / "state", copy);
    {
        std::fstream file(log, std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(static_cast<std::streamoff>(begin) + 50);
        file.write("damage", 6);
    }
    for (int start = 1; start <= 2; ++start) {  // and the next start does not forget it either
        const CliError refused = refusal_of_bpgd(host().config_file());
        EXPECT_EQ(refused.code, "store_lost_jobs") << refused.what << refused.why;
        EXPECT_EQ(refused.what, "the damaged store has lost jobs that were acknowledged");
        EXPECT_NE(refused.why.find("of prod/remembered is not known"), std::string::npos)
            << refused.why;
        EXPECT_NE(refused.fix.find("nothing outside was changed"), std::string::npos);
    }
    // The state directory is brought back, and everything goes on.
    std::filesystem::remove_all(host().state() / "state");
    std::filesystem::copy(copy, host().state() / "state");
    std::filesystem::remove(host().state() / "backups" / "cut");
    host().start_daemon();
    EXPECT_EQ(query_number(host().url("prod/remembered"), "SELECT 1"), 1);
    std::filesystem::remove_all(copy);
    remove("prod/remembered");
}

TEST_P(DaemonLife, MetricsAreThereAndPassPromtool) {
    create("prod/measured");
    remove("prod/measured");
    const std::string text = host().metrics();
    for (const char* series :
         {"bpg_build_info{", "bpg_operation_duration_seconds_bucket{",
          "bpg_step_duration_seconds_bucket{", "bpg_jobs{state=\"queued\"}",
          "bpg_job_attempts_total{", "bpg_job_resumes_total{", "bpg_queue_oldest_age_seconds",
          "bpg_store_commit_seconds_bucket{", "bpg_event_loop_lag_seconds_bucket{",
          "process_resident_memory_bytes"}) {
        EXPECT_NE(text.find(series), std::string::npos) << "no series " << series;
    }
    EXPECT_NE(text.find("operation=\"branch-create\""), std::string::npos);
    EXPECT_EQ(findings_of_promtool(text), "");
}

TEST_P(DaemonLife, SecretsAreInFilesOfRootAloneAndNowhereElse) {
    create("prod/secret");
    const std::string password = password_of(host().url("prod/secret"));
    std::size_t holders = 0;
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(host().base() / "state" / "secrets")) {
        if (!entry.is_regular_file()) continue;
        ++holders;
        EXPECT_EQ(entry.status().permissions() & std::filesystem::perms::mask,
                  std::filesystem::perms::owner_read | std::filesystem::perms::owner_write)
            << entry.path();
    }
    EXPECT_GE(holders, 2U);
    std::ifstream log(host().daemon_log());
    const std::string daemon_log((std::istreambuf_iterator<char>(log)), {});
    EXPECT_EQ(daemon_log.find(password), std::string::npos) << "the daemon logged a password";
    EXPECT_EQ(host().instance_log("prod/secret").find(password), std::string::npos);
    EXPECT_EQ(host().bpg_json({"job", "list"}).dump().find(password), std::string::npos);
    for (const auto& argument : host().postmaster("prod/secret").argv) {
        EXPECT_EQ(argument.find(password), std::string::npos);
    }
    remove("prod/secret");
}

INSTANTIATE_TEST_SUITE_P(Btrfs, DaemonLife, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Copy, DaemonLife, ::testing::Values(DriverPair{"copy", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Zfs, DaemonLife, ::testing::Values(DriverPair{"zfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, DaemonLife, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(BtrfsDocker, DaemonLife, ::testing::Values(DriverPair{"btrfs", "docker"}),
                         pair_name);

}  // namespace
}  // namespace bpg::test
