// Branches at a point in time, as a user makes them, against what a writer saw committed:
// snapshots, WAL archive, gaps, cleanup, incarnations. PostgreSQL's own commit timestamps are the
// oracle.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <random>
#include <thread>

#include "orchestrator/base/clock.h"
#include "tests/harness/refusals.h"
#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

std::string time_text(WallTime time) {
    return format_time(time);
}

WallTime after(WallTime time, std::int64_t microseconds) {
    return time + std::chrono::microseconds(microseconds);
}

/// What a server committed: rows of table `ledger`, with the time of each commit.
using Ledger = std::vector<std::pair<std::int64_t, WallTime>>;

Ledger read_ledger(const std::string& url) {
    pqxx::connection connection(url);
    pqxx::nontransaction session(connection);
    Ledger ledger;
    for (const auto& row : session.exec(
             "SELECT seq, (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint"
             " FROM ledger ORDER BY seq")) {
        ledger.emplace_back(row[0].as<std::int64_t>(),
                            WallTime(std::chrono::microseconds(row[1].as<std::int64_t>())));
    }
    return ledger;
}

std::vector<std::int64_t> rows_in(const std::string& url) {
    pqxx::connection connection(url);
    pqxx::nontransaction session(connection);
    std::vector<std::int64_t> rows;
    for (const auto& row : session.exec("SELECT seq FROM ledger ORDER BY seq"))
        rows.push_back(row[0].as<std::int64_t>());
    return rows;
}

std::vector<std::int64_t> rows_until(const Ledger& ledger, WallTime target) {
    std::vector<std::int64_t> rows;
    for (const auto& [row, committed] : ledger) {
        if (committed <= target) rows.push_back(row);
    }
    return rows;
}

class PointsInTime : public HostSuite<PointsInTime> {
  protected:
    void adapt(HostOptions& options) const override { options.trash_keep = "24h"; }
    void TearDown() override {
        if (!host().daemon_runs()) host().start_daemon();
        const Json databases = host().bpg_json({"db", "list"});
        for (const Json& database : databases.at("items"))
            host().bpg({"-y", "db", "delete", database.at("name"), "--force"});
        host().bpg_json({"trash", "purge", "--all"});
        EXPECT_EQ(host().compare_world_with_catalog(), "");
    }

    static std::string ledger_database(const std::string& name) {
        const std::string main = database(name);
        execute_alone(host().url(main), "ALTER SYSTEM SET track_commit_timestamp = on");
        host().bpg_json({"restart", main});
        execute(host().url(main), "CREATE TABLE ledger (seq bigserial PRIMARY KEY, note text)");
        return main;
    }
    /// `count` commits of a row each.
    static void write(const std::string& ref, int count) {
        pqxx::connection connection(host().url(ref));
        for (int i = 0; i < count; ++i) {
            pqxx::work transaction(connection);
            transaction.exec0("INSERT INTO ledger (note) VALUES (repeat('x', 200))");
            transaction.commit();
        }
    }
    static WallTime now() { return SystemClock().now(); }

    /// Restores and compares; the branch goes again.
    static void expect_exact(const std::string& from, const Ledger& ledger, WallTime target) {
        const CliResult made =
            host().bpg({"branch", "create", from.substr(0, from.find('/')) + "/then", "--from",
                        from, "--pitr", time_text(target)});
        ASSERT_TRUE(made.ok()) << time_text(target) << ": " << made.text();
        const std::string ref = from.substr(0, from.find('/')) + "/then";
        EXPECT_EQ(rows_in(host().url(ref)), rows_until(ledger, target)) << time_text(target);
        const Json branch = host().branch(ref);
        EXPECT_EQ(branch.at("created_from").at("mode"), "pitr");
        EXPECT_EQ(branch.at("created_from").at("at"), time_text(target));
        host().bpg_json({"-y", "branch", "delete", ref, "--purge"});
    }
};

TEST_P(PointsInTime, HoldExactlyWhatWasCommittedUntilThen) {
    const unsigned seed = std::random_device{}();
    fmt::print("seed {}\n", seed);
    std::mt19937 random(seed);
    const std::string main = ledger_database("shop");
    write(main, 20);
    host().bpg_json({"snapshot", "create", main, "--label", "second"});
    write(main, 20);
    host().bpg_json({"restart", main});
    write(main, 20);
    const Ledger ledger = read_ledger(host().url(main));
    ASSERT_EQ(ledger.size(), 60U);
    // Microseconds count: a commit's own time takes it in, one less does not.
    std::vector<WallTime> targets{ledger[30].second, after(ledger[30].second, -1), now()};
    const int more = long_mode() ? 50 : 3;
    for (int i = 0; i < more; ++i) {
        const auto& [row, committed] = ledger[random() % ledger.size()];
        targets.push_back(after(committed, static_cast<std::int64_t>(random() % 3) - 1));
    }
    for (const WallTime target : targets)
        expect_exact(main, ledger, target);
}

INSTANTIATE_TEST_SUITE_P(Btrfs, PointsInTime, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, PointsInTime, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);

}  // namespace
}  // namespace bpg::test
