// The main job on the real thing: a running PostgreSQL is branched while it is written to, and what
// the product promises of the branch and of its parent is looked at as a user would look.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <thread>

#include "orchestrator/base/subprocess.h"
#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

class MainJob : public HostSuite<MainJob> {};

/// pgbench's scale factor: so many times 100,000 accounts, about 15 MB each.
int scale() {
    return long_mode() ? 20 : 4;
}

/// pgbench moves money in one transaction over four tables: the sums agree only if every
/// transaction is there whole or not at all.
void expect_whole_transactions(const std::string& url) {
    EXPECT_EQ(query_value(url,
                          "SELECT (SELECT sum(abalance) FROM pgbench_accounts)"
                          " = (SELECT sum(bbalance) FROM pgbench_branches)"
                          " AND (SELECT sum(bbalance) FROM pgbench_branches)"
                          " = (SELECT sum(tbalance) FROM pgbench_tellers)"
                          " AND (SELECT sum(tbalance) FROM pgbench_tellers)"
                          " = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"),
              "t");
}

std::uint64_t bytes_allocated_below(const std::filesystem::path& directory) {
    std::uint64_t bytes = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
        struct stat facts{};
        if (::lstat(entry.path().c_str(), &facts) == 0 && S_ISREG(facts.st_mode)) {
            bytes += static_cast<std::uint64_t>(facts.st_blocks) * 512;
        }
    }
    return bytes;
}

/// Bytes only this volume holds, as the file system itself counts them.
std::uint64_t exclusive_bytes(const TestHost& host, const std::filesystem::path& volume) {
    if (host.on_zfs()) {
        const std::string dataset = host.dataset_base() + "/" + volume.filename().string();
        run_zfs({"sync"});
        return std::stoull(run_zfs({"zfs", "get", "-Hp", "-o", "value", "usedbydataset", dataset}));
    }
    Command sync;
    sync.argv = {"btrfs", "filesystem", "sync", volume.string()};
    run_command(sync);
    Command measure;
    measure.argv = {"btrfs", "filesystem", "du", "--raw", "-s", volume.string()};
    const auto result = run_command(measure);
    std::istringstream lines(result.out);
    std::string header;
    std::getline(lines, header);
    std::uint64_t total = 0;
    std::uint64_t exclusive = 0;
    if (!(lines >> total >> exclusive)) throw std::runtime_error(result.out + result.err);
    return exclusive;
}

TEST_P(MainJob, EveryRowAcknowledgedBeforeTheCallIsInTheBranch) {
    const std::string main = database("bench");
    pgbench(host(), main, {"-i", "-q", "-s", std::to_string(scale())});
    const std::string parent_url = host().url(main);
    const ParentWatch watch{host(), main};

    Writers writers(parent_url, 6);
    std::string load_output;
    std::thread load([&] { load_output = pgbench(host(), main, {"-n", "-c", "2", "-T", "12"}); });
    for (int round = 1; round <= 3; ++round) {
        EXPECT_TRUE(writers.wait_for_progress(200));
        const auto acknowledged = writers.acknowledged();
        const std::string ref = fmt::format("bench/round{}", round);
        create(ref);
        const std::string url = host().url(ref);
        EXPECT_EQ(missing_rows(url, acknowledged), std::vector<std::int64_t>{}) << ref;
        expect_whole_transactions(url);
        if (round == 1) {
            EXPECT_EQ(amcheck(url), std::vector<std::string>{});
        }
    }
    load.join();
    writers.stop();
    EXPECT_EQ(writers.errors(), std::vector<std::string>{});
    EXPECT_NE(load_output.find("tps"), std::string::npos) << load_output;
    watch.expect_undisturbed();
    EXPECT_EQ(missing_rows(parent_url, writers.acknowledged()), std::vector<std::int64_t>{});
    for (int round = 1; round <= 3; ++round)
        remove(fmt::format("bench/round{}", round));
    watch.expect_undisturbed();
    remove_database("bench");
}

TEST_P(MainJob, AnswersOverTcpWithItsUrlTheMomentTheCommandReturns) {
    database_with_items("app", 500);
    create("app/now");
    const std::string url = host().url("app/now");
    EXPECT_EQ(query_number(url, "SELECT count(*) FROM items"), 500);
    EXPECT_EQ(query_value(url, "SELECT pg_is_in_recovery()"), "f");
    if (!host().in_docker()) {
        EXPECT_EQ(query_value(url, "SELECT inet_server_addr()"), "127.0.0.1");
    }
    remove("app/now");
}

TEST_P(MainJob, ParentsPasswordDoesNotOpenTheBranch) {
    const std::string main = database_with_items("app", 10);
    create("app/locked");
    const std::string parent_url = host().url(main);
    const std::string url = host().url("app/locked");
    EXPECT_FALSE(login_refusal(url));
    EXPECT_TRUE(login_refusal(with_password(url, password_of(parent_url))));
    EXPECT_TRUE(login_refusal(with_password(parent_url, password_of(url))));
    EXPECT_TRUE(login_refusal(with_password(url, "")));
    EXPECT_EQ(query_value(url,
                          "SELECT bool_and(auth_method = 'scram-sha-256') FROM pg_hba_file_rules"
                          " WHERE type LIKE 'host%' AND auth_method <> 'reject'"),
              "t");
    EXPECT_EQ(query_value(url,
                          "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid"
                          " WHERE rolname = 'postgres'"),
              "t");
    remove("app/locked");
}

TEST_P(MainJob, WritesNeverCrossBetweenParentAndBranch) {
    const std::string main = database_with_items("app", 100);
    create("app/apart");
    const std::string parent_url = host().url(main);
    const std::string url = host().url("app/apart");
    execute(url, "UPDATE items SET note = 'branch'; CREATE TABLE only_in_branch (x int)");
    execute(parent_url, "DELETE FROM items WHERE id <= 40; CREATE TABLE only_in_parent (x int)");
    execute_alone(url, "CHECKPOINT");
    execute_alone(parent_url, "CHECKPOINT");
    EXPECT_EQ(query_number(url, "SELECT count(*) FROM items WHERE note = 'branch'"), 100);
    EXPECT_EQ(query_number(parent_url, "SELECT count(*) FROM items WHERE note = 'original'"), 60);
    EXPECT_EQ(query_value(url, "SELECT to_regclass('only_in_parent') IS NULL"), "t");
    EXPECT_EQ(query_value(parent_url, "SELECT to_regclass('only_in_branch') IS NULL"), "t");
    execute(parent_url, "DROP TABLE only_in_parent");
    remove("app/apart");
}

TEST_P(MainJob, BranchOfABranchHasTheBranchsData) {
    const ParentWatch watch{host(), database_with_items("app", 20)};
    create("app/first");
    execute(host().url("app/first"), "INSERT INTO items VALUES (1000, 'from first')");
    const Json second = create("app/second", {"--from", "app/first"});
    EXPECT_EQ(second.at("parent"), "app/first");
    const std::string url = host().url("app/second");
    EXPECT_EQ(query_value(url, "SELECT note FROM items WHERE id = 1000"), "from first");
    EXPECT_EQ(query_number(url, "SELECT count(*) FROM items"), 21);
    watch.expect_undisturbed();
    remove("app/second");
    remove("app/first");
}

TEST_P(MainJob, BranchOfAStoppedParentIsCleanAndKeepsUnloggedRows) {
    const std::string main = database_with_items("still", 30);
    execute(host().url(main),
            "CREATE UNLOGGED TABLE IF NOT EXISTS volatile AS SELECT generate_series(1, 1000) AS n");
    host().bpg_json({"stop", main});
    EXPECT_EQ(host().branch(main).at("state"), "stopped");
    const Json branch = create("still/copy");
    EXPECT_EQ(branch.at("created_from").at("mode"), "clean");
    EXPECT_EQ(branch.at("state"), "running");
    const std::string url = host().url("still/copy");
    EXPECT_EQ(query_number(url, "SELECT count(*) FROM volatile"), 1000);
    EXPECT_EQ(query_number(url, "SELECT count(*) FROM items"), 30);
    EXPECT_EQ(host().branch(main).at("state"), "stopped") << "the parent was started";
    host().bpg_json({"start", main});
    EXPECT_EQ(query_number(host().url(main), "SELECT count(*) FROM volatile"), 1000);
    remove("still/copy");
    remove_database("still");
}

TEST_P(MainJob, BranchOfARunningParentEmptiesUnloggedTablesAndSaysSo) {
    const std::string main = database_with_items("app", 5);
    execute(host().url(main), "CREATE UNLOGGED TABLE passing AS SELECT generate_series(1, 9) AS n");
    const Json branch = create("app/lossy");
    EXPECT_EQ(query_number(host().url("app/lossy"), "SELECT count(*) FROM passing"), 0);
    const Json job = host().bpg_json({"job", "get", branch.at("last_job").get<std::string>()});
    const std::string said = job.at("warnings").dump() + branch.at("warnings").dump();
    EXPECT_NE(said.find("unlogged"), std::string::npos) << said;
    execute(host().url(main), "DROP TABLE passing");
    remove("app/lossy");
}

TEST_P(MainJob, FastIsHonest) {
    const std::string main = database_with_items("app", 50);
    if (!atomic()) {
        const auto refused = host().bpg_error({"branch", "create", "app/fast", "--fast"});
        expect_error(refused, 2, "fast_unsupported");
        EXPECT_FALSE(host().branch_exists("app/fast"));
        return;
    }
    Writers writers(host().url(main), 4);
    EXPECT_TRUE(writers.wait_for_progress(200));
    const auto acknowledged = writers.acknowledged();
    const Json branch = create("app/fast", {"--fast"});
    EXPECT_EQ(branch.at("created_from").at("mode"), "fast");
    EXPECT_EQ(missing_rows(host().url("app/fast"), acknowledged), std::vector<std::int64_t>{});
    writers.stop();
    EXPECT_EQ(writers.errors(), std::vector<std::string>{});
    remove("app/fast");
}

TEST_P(MainJob, NewBranchCostsLessThanAMebibyteBeyondItsWal) {
    if (!atomic()) {
        // A full copy costs a full copy; what must hold is that it says so.
        database_with_items("app", 10);
        create("app/whole");
        const auto measured = [&] {
            return !host().branch("app/whole").at("storage").at("measured_at").is_null();
        };
        ASSERT_TRUE(eventually(measured, 90s));
        const std::uint64_t used = host().branch("app/whole").at("storage").at("used_bytes");
        EXPECT_GT(used, 20U << 20);
        remove("app/whole");
        return;
    }
    const std::string main = database("lean");
    pgbench(host(), main, {"-i", "-q", "-s", std::to_string(scale())});
    execute_alone(host().url(main), "VACUUM FREEZE");
    const Json branch = create("lean/cheap");
    const auto volume = host().volumes() / branch.at("storage").at("name").get<std::string>();
    const auto wal = [&] { return bytes_allocated_below(volume / "data" / "pg_wal"); };
    EXPECT_LT(exclusive_bytes(host(), volume), wal() + (1U << 20));
    const auto storage = [&] { return host().branch("lean/cheap").at("storage"); };
    ASSERT_TRUE(eventually([&] { return !storage().at("measured_at").is_null(); }, 90s));
    EXPECT_LT(storage().at("used_bytes").get<std::uint64_t>(), wal() + (1U << 20));
    // ZFS compresses them.
    const std::uint64_t referenced_min = (host().on_zfs() ? 5U : 12U) * std::uint64_t(scale());
    EXPECT_GT(storage().at("referenced_bytes").get<std::uint64_t>(), referenced_min << 20);
    remove_database("lean");
}

TEST_P(MainJob, BranchesMadeAtTheSameTimeAreAllWhole) {
    const std::string main = database_with_items("app", 200);
    const ParentWatch watch{host(), main};
    std::vector<CliResult> results(4);
    std::vector<std::thread> callers;
    callers.reserve(results.size());
    for (std::size_t caller = 0; caller < results.size(); ++caller) {
        callers.emplace_back([&, caller] {
            results[caller] = host().bpg({"branch", "create", fmt::format("app/many{}", caller)});
        });
    }
    for (auto& caller : callers)
        caller.join();
    std::set<int> ports;
    for (std::size_t caller = 0; caller < results.size(); ++caller) {
        const std::string ref = fmt::format("app/many{}", caller);
        ASSERT_TRUE(results[caller].ok()) << results[caller].text();
        EXPECT_EQ(query_number(host().url(ref), "SELECT count(*) FROM items"), 200) << ref;
        ports.insert(host().branch(ref).at("port").get<int>());
    }
    EXPECT_EQ(ports.size(), results.size()) << "two branches share a port";
    EXPECT_EQ(host().compare_world_with_catalog(), "");
    for (std::size_t caller = 0; caller < results.size(); ++caller) {
        remove(fmt::format("app/many{}", caller));
    }
    watch.expect_undisturbed();
}

TEST_P(MainJob, DeleteFreesNameAndPortAndLeavesNothing) {
    database_with_items("app", 10);
    host().wait_until_idle();
    const World before = host().world();
    const Json first = create("app/gone");
    const auto port = first.at("port").get<std::uint16_t>();
    remove("app/gone");
    EXPECT_TRUE(port_is_free(port));
    EXPECT_FALSE(host().branch_exists("app/gone"));
    host().wait_until_idle();
    EXPECT_EQ(describe_difference(before, host().world()), "");
    const Json second = create("app/gone");
    EXPECT_EQ(second.at("port"), port) << "the lowest free port was not given again";
    EXPECT_NE(second.at("id"), first.at("id"));
    remove("app/gone");
}

TEST_P(MainJob, StoppedAndStartedBranchKeepsDataPortAndPassword) {
    database_with_items("app", 10);
    create("app/pause");
    const std::string url = host().url("app/pause");
    execute(url, "INSERT INTO items VALUES (77, 'kept')");
    EXPECT_EQ(host().bpg_json({"stop", "app/pause"}).at("state"), "stopped");
    EXPECT_TRUE(login_refusal(url));
    EXPECT_EQ(host().bpg_json({"start", "app/pause"}).at("state"), "running");
    EXPECT_EQ(host().url("app/pause"), url);
    EXPECT_EQ(query_value(url, "SELECT note FROM items WHERE id = 77"), "kept");
    const std::string started = postmaster_start_time(url);
    host().bpg_json({"restart", "app/pause"});
    EXPECT_NE(postmaster_start_time(url), started);
    remove("app/pause");
}

TEST_P(MainJob, AVolumeOfSomebodyElseIsReportedAndNeverTouchedAndNothingStaysLocked) {
    if (!host().on_zfs()) return;  // a directory under our name: the suites of the drivers
    const std::string main = database_with_items("app", 5);
    const std::string dataset = host().dataset_base() + "/app-taken";
    run_zfs({"zfs", "create", dataset});
    const World before = host().world();
    const CliError error = host().bpg_error({"branch", "create", "app/taken"});
    expect_error(error, 5, "volume_foreign");
    EXPECT_EQ(describe_difference(before, host().world()), "");
    host().wait_until_idle();
    run_zfs({"zfs", "destroy", dataset});
    create("app/taken");
    remove("app/taken");
}

TEST_P(MainJob, StartingWhatRunsChangesNothingEvenWhenItFails) {
    const std::string main = database_with_items("app", 5);
    const pid_t pid = host().postmaster(main).pid;
    EXPECT_TRUE(host().bpg({"start", main}).ok());
    EXPECT_EQ(host().postmaster(main).pid, pid);
    ASSERT_EQ(host().stop_daemon(), 0);
    host().start_daemon({"--fail-at", "start.await_ready"});
    EXPECT_NE(host().bpg({"start", main}).exit_code, 0);
    EXPECT_EQ(host().postmaster(main).pid, pid);
    EXPECT_EQ(host().branch(main).at("state"), "running");
    ASSERT_EQ(host().stop_daemon(), 0);
    host().start_daemon();
}

INSTANTIATE_TEST_SUITE_P(Btrfs, MainJob, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Copy, MainJob, ::testing::Values(DriverPair{"copy", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Zfs, MainJob, ::testing::Values(DriverPair{"zfs", "process"}), pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, MainJob, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(BtrfsDocker, MainJob, ::testing::Values(DriverPair{"btrfs", "docker"}),
                         pair_name);

}  // namespace
}  // namespace bpg::test
