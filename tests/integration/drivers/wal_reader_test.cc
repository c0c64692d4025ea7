// What is read from the WAL of a real server, against what the server itself says of it.
#include "orchestrator/wal/wal_reader.h"

#include <set>

#include "tests/integration/drivers/wal_fixture.h"

namespace bpg::test {
namespace {

class WalOfAServer : public WalServers {
  protected:
    struct Scan {
        wal::WalFacts facts;
        std::vector<wal::Commit> commits;
        std::vector<wal::RestorePoint> points;
    };
    static Scan scan(const Instance& server, wal::SegmentId first) {
        Scan result;
        const UniqueFd directory = open_directory(server.data() / "pg_wal");
        wal::WalVisitor visitor;
        visitor.on_commit = [&](const wal::Commit& commit) { result.commits.push_back(commit); };
        visitor.on_restore_point = [&](const wal::RestorePoint& point) {
            result.points.push_back(point);
        };
        result.facts = wal::scan_segments(directory.get(), "pg_wal", first, kSegment, visitor);
        return result;
    }
    /// Where the next record goes when this position is the end of the last: behind a page header.
    static std::uint64_t insert_position(std::uint64_t end) {
        if (end % kSegment == 0) return end + 40;
        return end % 8192 == 0 ? end + 24 : end;
    }
    /// Scans while nobody writes: what the server says before and behind must be the same.
    static Scan scan_at_rest(const Instance& server, wal::SegmentId first) {
        const auto inserted = [&] { return lsn(server, "pg_current_wal_insert_lsn()"); };
        while (true) {
            server.sql(
                "SET synchronous_commit = local; "
                "SELECT pg_logical_emit_message(true, 'test', 'x')");
            const std::uint64_t before = inserted();
            const bool is_flushed = lsn(server, "pg_current_wal_flush_lsn()") == before;
            Scan result = scan(server, first);
            if (is_flushed && inserted() == before) {
                EXPECT_EQ(insert_position(result.facts.end), before);
                return result;
            }
        }
    }
    static Settings tracking() {
        return {{"track_commit_timestamp", "on"},
                {"max_prepared_transactions", "5"},
                {"wal_keep_size", "1GB"}};
    }
    /// Commit times by the server, of transactions from `first` on, in microseconds.
    static std::set<std::int64_t> times_by_server(const Instance& server,
                                                  const std::string& first) {
        pqxx::connection connection(server.conninfo());
        pqxx::nontransaction transaction(connection);
        const auto rows = transaction.exec(
            "SELECT (extract(epoch FROM t) * 1000000)::bigint FROM ("
            "SELECT pg_xact_commit_timestamp(x::text::xid) AS t FROM generate_series(" +
            first +
            ", pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1) AS x) AS s "
            "WHERE t IS NOT NULL");
        std::set<std::int64_t> times;
        for (const auto& row : rows)
            times.insert(row[0].as<std::int64_t>());
        return times;
    }
    /// Of commits whose transactions wrote: others leave no time with the server.
    static std::set<std::int64_t> times_by_wal(const Scan& scan, std::uint64_t from) {
        std::set<std::int64_t> times;
        for (const wal::Commit& commit : scan.commits) {
            if (commit.begin >= from) times.insert(commit.at.time_since_epoch().count());
        }
        return times;
    }
};

TEST_F(WalOfAServer, HasTheCommitTimesAndTheEndThatTheServerTells) {
    Instance server(drivers_);
    server.start_ready(tracking());
    server.sql("CREATE TABLE t (id int, note text)");
    const wal::SegmentId first =
        wal::segment_at(1, lsn(server, "pg_current_wal_insert_lsn()"), kSegment);
    const std::string xid = server.sql("SELECT pg_current_xact_id()::text::bigint + 1");
    const std::uint64_t from = lsn(server, "pg_current_wal_insert_lsn()");
    for (int i = 0; i < 200; ++i)
        server.sql(fmt::format("INSERT INTO t VALUES ({}, repeat('x', {}))", i, i * 37 % 3000));
    // Subtransactions, a prepared transaction, records of several MB over segments.
    server.sql(
        "DO $$ BEGIN FOR i IN 1..50 LOOP BEGIN INSERT INTO t VALUES (i, 'sub'); "
        "EXCEPTION WHEN others THEN NULL; END; END LOOP; END $$");
    {
        pqxx::connection connection(server.conninfo());
        pqxx::nontransaction session(connection);
        session.exec("BEGIN");
        session.exec("INSERT INTO t VALUES (0, 'prepared')");
        session.exec("PREPARE TRANSACTION 'p'");
        server.sql("SELECT pg_switch_wal()");
        session.exec("COMMIT PREPARED 'p'");
    }
    for (const int mebibytes : {3, 9, 23}) {
        server.sql(
            fmt::format("WITH m AS (SELECT pg_logical_emit_message(true, 'big', "
                        "repeat('0123456789abcdef', {} * 65536))) "
                        "INSERT INTO t SELECT 1, 'big' FROM m",
                        mebibytes));
    }
    server.sql("SELECT pg_create_restore_point('before the migration')");
    const std::uint64_t point = lsn(server, "pg_current_wal_insert_lsn()");
    server.sql("INSERT INTO t SELECT g, repeat('y', 500) FROM generate_series(1, 40000) AS g");

    const Scan result = scan_at_rest(server, first);
    const auto expected = times_by_server(server, xid);
    EXPECT_GT(expected.size(), 200U);
    EXPECT_EQ(times_by_wal(result, from), expected);
    EXPECT_GT(result.facts.end, (first.number + 4) * kSegment) << "over several segments";
    ASSERT_EQ(result.points.size(), 1U);
    EXPECT_EQ(result.points[0].name, "before the migration");
    EXPECT_EQ(insert_position(result.points[0].end), point);
}

TEST_F(WalOfAServer, EndsAtTheLastRecordOfAServerThatCrashedOrStopped) {
    Instance server(drivers_);
    server.start_ready(tracking());
    server.sql("CREATE TABLE t (id int)");
    for (int round = 0; round < 3; ++round) {
        const wal::SegmentId first =
            wal::segment_at(1, lsn(server, "pg_current_wal_insert_lsn()"), kSegment);
        const std::string xid = server.sql("INSERT INTO t VALUES (1) RETURNING xmin");
        server.sql(fmt::format("INSERT INTO t SELECT generate_series(1, {})", 1 + round * 50'000));
        const auto times = times_by_server(server, xid);
        const std::uint64_t before = lsn(server, "pg_current_wal_flush_lsn()");
        server.kill();
        const Scan crashed = scan(server, first);
        ASSERT_TRUE(crashed.facts.last_commit);
        EXPECT_EQ(crashed.facts.last_commit->time_since_epoch().count(), *times.rbegin());
        EXPECT_GE(insert_position(crashed.facts.end), before);

        server.start_ready(tracking());
        server.sql("INSERT INTO t VALUES (2)");
        server.stop();
        const Scan stopped = scan(server, first);
        const std::uint64_t checkpoint = control_of(server).checkpoint.value;
        EXPECT_GT(stopped.facts.end, checkpoint) << "the checkpoint of the shutdown is its last";
        EXPECT_LT(stopped.facts.end, checkpoint + 200);
        server.start_ready(tracking());
    }
}

TEST_F(WalOfAServer, GoesOnOverTheFirstSegmentOfANewTimeline) {
    Instance parent(drivers_);
    parent.start_ready();
    parent.sql("CREATE TABLE t (id int)");
    parent.sql("INSERT INTO t VALUES (1)");
    parent.stop();
    Instance branch(drivers_);
    shell_free({"rm", "-r", branch.data().native()});
    branch.copy_data(parent.data());
    Settings settings = tracking();
    settings.emplace_back("restore_command", "exit 1");
    const Recovery recovery = recover(branch, settings);
    ASSERT_TRUE(recovery.is_open) << recovery.log;
    ASSERT_EQ(recovery.timeline, 2U);
    const std::string xid = branch.sql("INSERT INTO t VALUES (2) RETURNING xmin");
    branch.sql("SELECT pg_switch_wal()");
    branch.sql("INSERT INTO t VALUES (3)");
    const auto times = times_by_server(branch, xid);
    const auto fork = drivers_.run(drivers_.directories.fork_point(branch.data(), 2));
    ASSERT_TRUE(fork);

    const Scan result = scan_at_rest(branch, wal::segment_at(2, fork->value, kSegment));
    EXPECT_LT(*result.facts.first_record, fork->value) << "the older timeline's records are in it";
    std::set<std::int64_t> found = times_by_wal(result, fork->value);
    EXPECT_EQ(found.size(), times.size() + 1) << "and the message that ends the scan";
    EXPECT_TRUE(std::includes(found.begin(), found.end(), times.begin(), times.end()));
}

}  // namespace
}  // namespace bpg::test
