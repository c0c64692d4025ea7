// The ways in which PostgreSQL, told nothing else, recovers to something that is not what was
// asked for, or does not start at all: each of them was seen on a server by itself before it was
// tried here on a bpgd. What is held against them is what the parent itself says it committed.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include "orchestrator/base/files.h"
#include "tests/harness/ledger.h"
#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

namespace fs = std::filesystem;

/// Files that say that a server recovers, replicates, or was copied in backup mode.
constexpr const char* kSignalsAndLabels[] = {
    "recovery.signal",    "standby.signal", "backup_label",  "backup_label.old", "tablespace_map",
    "tablespace_map.old", "recovery.conf",  "recovery.done", "backup_manifest"};

class RecoveryTraps : public HostSuite<RecoveryTraps> {
  protected:
    void TearDown() override {
        const Json databases = host().bpg_json({"db", "list"});
        for (const Json& database : databases.at("items"))
            host().bpg({"-y", "db", "delete", database.at("name"), "--force"});
        host().bpg_json({"trash", "purge", "--all"});
        EXPECT_EQ(host().compare_world_with_catalog(), "");
    }

    static std::string ledger_database(const std::string& name) {
        const std::string main = database(name);
        begin_ledger(host(), main);
        return main;
    }
    static void write(const std::string& ref, int count) { write_ledger(host(), ref, count); }
    static Ledger ledger_of(const std::string& ref) { return read_ledger(host().url(ref)); }
    static std::vector<std::int64_t> rows(const std::string& ref) {
        return rows_in(host().url(ref));
    }
    static std::string show(const std::string& ref, const std::string& setting) {
        return query_value(host().url(ref), "SHOW " + setting);
    }
    static void restore(const std::string& ref, const std::string& from, WallTime target) {
        host().bpg_json({"branch", "create", ref, "--from", from, "--pitr", format_time(target)});
    }

    static fs::path data(const std::string& ref) {
        return host().volumes() / host().branch(ref).at("storage").at("name").get<std::string>() /
               "data";
    }
    static fs::path archive(const std::string& ref) {
        const Json info = host().bpg_json({"wal", "info", ref});
        return info.at("items")[0].at("archive_path").get<std::string>();
    }
    static std::string auto_conf(const std::string& ref) {
        return read_file(data(ref) / "postgresql.auto.conf", 1U << 20U).value_or("");
    }
    /// A file as PostgreSQL itself would have left it there.
    static void plant(const std::string& ref, const std::string& name, const std::string& content) {
        struct stat facts{};
        ASSERT_EQ(::stat(data(ref).c_str(), &facts), 0);
        write_file_durably(data(ref) / name, content, 0600, FileOwner{facts.st_uid, facts.st_gid});
    }
    /// Ends its current segment, and waits until it and the history file are archived.
    static void archive_all(const std::string& ref) {
        const std::string last =
            query_value(host().url(ref), "SELECT pg_walfile_name(pg_current_wal_lsn())");
        execute(host().url(ref), "SELECT pg_switch_wal()");
        const fs::path place = archive(ref);
        ASSERT_TRUE(eventually(
            [&] {
                return fs::exists(place / (last + ".zst")) &&
                       fs::exists(place / (last.substr(0, 8) + ".history.zst"));
            },
            20s))
            << last << " is not in " << place;
    }
    static std::vector<std::string> names_in(const fs::path& directory) {
        std::vector<std::string> names;
        for (const auto& entry : fs::directory_iterator(directory))
            names.push_back(entry.path().filename().string());
        return names;
    }
};

/// One session's commits, with where the WAL stood before and after each of them.
class StampedWrites {
  public:
    explicit StampedWrites(const std::string& url) : url_(url) {
        execute(url_, "CREATE TABLE stamped (seq int PRIMARY KEY, begun bigint)");
        writer_ = std::jthread([this](const std::stop_token& stop) { write(stop); });
    }
    int acknowledged() const { return acknowledged_; }
    void wait_for_more() const {
        const int before = acknowledged_;
        ASSERT_TRUE(eventually([&] { return acknowledged_ > before + 5; }, 20s));
    }
    void stop() {
        writer_.request_stop();
        writer_.join();
    }
    /// Of commit `seq`, counted from 1: no WAL of it lies behind this. After stop().
    std::int64_t ended(int seq) const { return ended_.at(static_cast<std::size_t>(seq) - 1); }

    static constexpr const char* kPosition = "(pg_current_wal_insert_lsn() - '0/0')::bigint";

  private:
    void write(const std::stop_token& stop) {
        pqxx::connection connection(url_);
        pqxx::nontransaction session(connection);
        while (!stop.stop_requested()) {
            session.exec0(
                fmt::format("INSERT INTO stamped VALUES ({}, {})", acknowledged_ + 1, kPosition));
            ended_.push_back(
                session.exec1(fmt::format("SELECT {}", kPosition))[0].as<std::int64_t>());
            ++acknowledged_;
        }
    }

    std::string url_;
    std::atomic<int> acknowledged_{0};
    std::vector<std::int64_t> ended_;
    std::jthread writer_;
};

/// The snapshot lies between start and stop of a backup. Without the label it is recovered to its
/// own end; with it, it could not be without the WAL up to the stop, which it does not have (E3).
TEST_P(RecoveryTraps, ASafeBranchEndsWhereItsSnapshotWasTakenAndHoldsNoLabel) {
    const std::string main = database("shop");
    StampedWrites writes(host().url(main));
    writes.wait_for_more();
    const int before = writes.acknowledged();
    const Json branch = create("shop/dev");
    writes.wait_for_more();
    writes.stop();
    ASSERT_EQ(branch.at("created_from").at("mode"), "safe");
    EXPECT_EQ(branch.at("timeline"), 2);

    const std::string line = branch.at("created_from").at("lsn");
    const std::int64_t end =
        query_number(host().url(main), "SELECT ('" + line + "'::pg_lsn - '0/0')::bigint");
    const std::string dev = host().url("shop/dev");
    const auto held = query_number(dev, "SELECT count(*) FROM stamped");
    EXPECT_EQ(query_number(dev, "SELECT max(seq) FROM stamped"), held) << "one is missing";
    EXPECT_GE(held, before);
    EXPECT_LT(query_number(dev, "SELECT max(begun) FROM stamped"), end);
    ASSERT_LT(held, writes.acknowledged()) << "nothing was written behind the snapshot";
    EXPECT_GT(writes.ended(static_cast<int>(held) + 1), end);

    std::ifstream history(data("shop/dev") / "pg_wal/00000002.history");
    std::stringstream lines;
    lines << history.rdbuf();
    EXPECT_NE(lines.str().find("1\t" + line + "\t"), std::string::npos) << lines.str();
    for (const char* file : kSignalsAndLabels)
        EXPECT_FALSE(fs::exists(data("shop/dev") / file)) << file;
}

/// What a server began to do, or was copied from, is its own affair (E34, NA-6): a signal without
/// what belongs to it stops PostgreSQL, standby.signal makes it wait for ever, and a label sends it
/// to WAL that it does not have.
class StaleSignals : public RecoveryTraps {
  protected:
    static std::string database_with_stale_signals() {
        const std::string main = ledger_database("shop");
        for (const char* file : kSignalsAndLabels)
            plant(main, file, "left by somebody\n");
        host().bpg_json({"snapshot", "create", main});
        write(main, 4);
        return main;
    }
    static void expect_none(const std::string& ref, std::size_t count) {
        EXPECT_EQ(rows(ref).size(), count) << ref;
        EXPECT_EQ(query_value(host().url(ref), "SELECT pg_is_in_recovery()"), "f") << ref;
        for (const char* file : kSignalsAndLabels)
            EXPECT_FALSE(fs::exists(data(ref) / file)) << ref << ": " << file;
    }
};

TEST_P(StaleSignals, AndLabelsOfTheParentReachNoBranchOfIt) {
    const std::string main = database_with_stale_signals();
    create("shop/safe");
    expect_none("shop/safe", 4);
    host().bpg_json({"stop", main});
    create("shop/clean");
    expect_none("shop/clean", 4);
    for (const char* file : kSignalsAndLabels)
        EXPECT_TRUE(fs::exists(data(main) / file)) << "of the parent: " << file;
}

TEST_P(StaleSignals, AndLabelsOfTheParentReachNoBranchAtATime) {
    const std::string main = database_with_stale_signals();
    restore("shop/then", main, ledger_of(main)[1].second);
    expect_none("shop/then", 2);
}

/// Two recovery targets stop PostgreSQL, whoever set them; what is not about recovery is the
/// user's, and stays (E27).
class OldRecovery : public RecoveryTraps {
  protected:
    static const std::map<std::string, std::string>& left() {
        static const std::map<std::string, std::string> settings = {
            {"recovery_target_time", "2020-01-01 00:00:00+00"},
            {"recovery_target_xid", "700"},
            {"recovery_target_timeline", "latest"},
            {"recovery_target_action", "shutdown"},
            {"restore_command", "cp /nowhere/%f %p"},
            {"recovery_end_command", "exit 1"},
            {"archive_cleanup_command", "exit 1"},
            {"primary_conninfo", "host=parent"}};
        return settings;
    }
    static std::string database_with_what_it_left() {
        const std::string main = ledger_database("shop");
        for (const auto& [name, value] : left())
            execute_alone(host().url(main), "ALTER SYSTEM SET " + name + " = '" + value + "'");
        execute_alone(host().url(main), "ALTER SYSTEM SET work_mem = '7MB'");
        execute_alone(host().url(main), "ALTER SYSTEM SET statement_timeout = '55s'");
        host().bpg_json({"snapshot", "create", main});
        write(main, 4);
        return main;
    }
    static void expect_none(const std::string& ref) {
        const std::string conf = auto_conf(ref);
        for (const auto& [name, value] : left())
            EXPECT_EQ(conf.find(name), std::string::npos) << ref << ": " << conf;
        EXPECT_EQ(show(ref, "work_mem"), "7MB") << ref;
        EXPECT_EQ(show(ref, "statement_timeout"), "55s") << ref;
        EXPECT_EQ(show(ref, "track_commit_timestamp"), "on") << ref;
        EXPECT_EQ(show(ref, "recovery_target_xid"), "") << ref;
        EXPECT_EQ(show(ref, "recovery_target_action"), "promote") << ref;
    }
};

/// Nor does it hinder the parent itself, whose file is nobody's but its own.
TEST_P(OldRecovery, LeavesNothingInTheSettingsOfABranch) {
    const std::string main = database_with_what_it_left();
    const Ledger ledger = ledger_of(main);
    const std::string parents = auto_conf(main);
    create("shop/copy");
    EXPECT_EQ(rows("shop/copy"), rows_until(ledger, ledger[3].second));
    expect_none("shop/copy");
    host().bpg_json({"restart", main});
    EXPECT_EQ(rows(main), rows_until(ledger, ledger[3].second));
    EXPECT_EQ(auto_conf(main), parents);
}

TEST_P(OldRecovery, LeavesNothingInTheSettingsOfABranchAtATime) {
    const std::string main = database_with_what_it_left();
    const Ledger ledger = ledger_of(main);
    restore("shop/then", main, ledger[2].second);
    EXPECT_EQ(rows("shop/then"), rows_until(ledger, ledger[2].second));
    expect_none("shop/then");
    host().bpg_json({"restart", "shop/then"});
    EXPECT_EQ(show("shop/then", "recovery_target_time"), "") << "its own is behind it";
}

/// With PostgreSQL's own default, `latest`, the second would follow what the first one archived
/// (E7, LIN-3), and so would the third.
class RestoredTwice : public RecoveryTraps {
  protected:
    /// Branches at commit `one` of six of their parent, then at commit `two`, then at a later one.
    static void expect_no_following(std::size_t one, std::size_t two) {
        const std::string main = ledger_database("shop");
        write(main, 6);
        const Ledger ledger = ledger_of(main);
        restore("shop/one", main, ledger[one].second);
        write("shop/one", 3);
        archive_all("shop/one");
        restore("shop/two", main, ledger[two].second);
        EXPECT_EQ(rows("shop/two"), rows_until(ledger, ledger[two].second));
        write("shop/two", 2);
        archive_all("shop/two");
        EXPECT_EQ(rows("shop/one").size(), one + 1 + 3);
        EXPECT_EQ(rows("shop/two").size(), two + 1 + 2);

        write(main, 2);
        const Ledger now = ledger_of(main);
        restore("shop/three", main, now.back().second);
        EXPECT_EQ(rows("shop/three"), rows_until(now, now.back().second));
        for (const char* ref : {"shop/one", "shop/two", "shop/three"})
            EXPECT_EQ(host().branch(ref).at("timeline"), 2) << ref;
        for (const std::string& name : names_in(archive(main)))
            EXPECT_TRUE(name.starts_with("00000001")) << name << " in the parent's archive";
    }
};

TEST_P(RestoredTwice, TheLaterOfTwoBranchesFollowsTheEarlierIntoNoTimelineOfIts) {
    expect_no_following(1, 4);
}

TEST_P(RestoredTwice, TheEarlierOfTwoBranchesFollowsTheLaterIntoNoTimelineOfIts) {
    expect_no_following(4, 1);
}

/// Settings that PostgreSQL refuses to recover with when they are lower than where the WAL was
/// written, should connections be allowed meanwhile (E41, HYG-3).
TEST_P(RecoveryTraps, BranchesWithLowerSettingsThanTheirParentRecoverAllTheSame) {
    const std::string main = ledger_database("shop");
    host().bpg_json({"snapshot", "create", main});
    host().bpg_json({"branch", "set", main, "--pg", "max_connections=500", "--pg",
                     "max_worker_processes=40", "--pg", "max_wal_senders=50", "--pg",
                     "max_locks_per_transaction=200", "--pg", "max_prepared_transactions=20"});
    ASSERT_EQ(show(main, "max_connections"), "500");
    write(main, 4);
    const Ledger ledger = ledger_of(main);
    create("shop/copy");
    restore("shop/then", main, ledger[2].second);  // from before they were raised
    EXPECT_EQ(rows("shop/copy"), rows_until(ledger, ledger[3].second));
    EXPECT_EQ(rows("shop/then"), rows_until(ledger, ledger[2].second));
    for (const char* ref : {"shop/copy", "shop/then"}) {
        EXPECT_EQ(show(ref, "max_connections"), "60") << ref;
        EXPECT_EQ(show(ref, "max_worker_processes"), "8") << ref;
    }
}

/// A prepared transaction needs a place wherever it comes to be (HYG-3): where there are too few of
/// them PostgreSQL neither recovers nor starts.
class PreparedTransaction : public RecoveryTraps {
  protected:
    /// Its only snapshot has no place for one.
    static std::string database_with_a_prepared_one() {
        const std::string main = ledger_database("shop");
        host().bpg_json({"snapshot", "create", main});
        host().bpg_json({"branch", "set", main, "--pg", "max_prepared_transactions=5"});
        write(main, 2);
        execute_alone(
            host().url(main),
            "BEGIN; INSERT INTO ledger (note) VALUES ('prepared'); PREPARE TRANSACTION 'p'");
        write(main, 2);
        return main;
    }
    /// Until it is committed; then it leaves no trace.
    static void expect_a_place(const std::string& ref) {
        const std::string url = host().url(ref);
        EXPECT_EQ(rows(ref).size(), 4U);
        EXPECT_EQ(query_value(url, "SELECT gid FROM pg_prepared_xacts"), "p");
        execute_alone(url, "COMMIT PREPARED 'p'");
        EXPECT_EQ(rows(ref).size(), 5U);
        host().bpg_json({"restart", ref});
        EXPECT_EQ(show(ref, "max_prepared_transactions"), "0") << "nothing needs them";
    }
};

TEST_P(PreparedTransaction, FindsAPlaceInABranchAndWhenThatStartsAgain) {
    const std::string main = database_with_a_prepared_one();
    create("shop/copy");
    host().bpg_json({"restart", "shop/copy"});
    expect_a_place("shop/copy");
    EXPECT_EQ(query_number(host().url(main), "SELECT count(*) FROM pg_prepared_xacts"), 1);
}

TEST_P(PreparedTransaction, FindsAPlaceInABranchAtATimeAndBehindACrashOfIt) {
    const std::string main = database_with_a_prepared_one();
    const Ledger ledger = ledger_of(main);
    ASSERT_EQ(ledger.size(), 4U);
    restore("shop/then", main, ledger.back().second);
    host().bpg_json({"stop", "shop/then", "--force"});  // what it holds is in the WAL alone
    host().bpg_json({"start", "shop/then"});
    expect_a_place("shop/then");
}

/// A logical slot stops a server whose wal_level is not logical, as a branch's is (E42); any slot
/// keeps WAL for a reader who never comes.
class Slots : public RecoveryTraps {
  protected:
    static std::string database_with_slots() {
        const std::string main = ledger_database("shop");
        host().bpg_json({"branch", "set", main, "--pg", "wal_level=logical"});
        const std::string url = host().url(main);
        execute_alone(url, "SELECT pg_create_logical_replication_slot('logical', 'pgoutput')");
        execute_alone(url, "SELECT pg_create_physical_replication_slot('physical', true)");
        return main;
    }
    static std::int64_t slots(const std::string& ref) {
        return query_number(host().url(ref), "SELECT count(*) FROM pg_replication_slots");
    }
    static void expect_none_that_pins_wal(const std::string& ref) {
        const std::string url = host().url(ref);
        EXPECT_EQ(show(ref, "wal_level"), "replica");
        EXPECT_EQ(slots(ref), 0);
        EXPECT_EQ(names_in(data(ref) / "pg_replslot"), std::vector<std::string>{});
        const fs::path first =
            data(ref) / "pg_wal" / query_value(url, "SELECT pg_walfile_name(pg_current_wal_lsn())");
        ASSERT_TRUE(fs::exists(first)) << first;
        EXPECT_TRUE(eventually(
            [&] {
                execute(url, "INSERT INTO ledger (note) VALUES ('more')");
                execute(url, "SELECT pg_switch_wal()");
                execute_alone(url, "CHECKPOINT");
                return !fs::exists(first);
            },
            20s))
            << "kept: " << first;
    }
};

TEST_P(Slots, StayWithTheParentAndPinNoWalOfABranch) {
    const std::string main = database_with_slots();
    write(main, 2);
    create("shop/copy");
    EXPECT_EQ(rows("shop/copy"), rows(main));
    expect_none_that_pins_wal("shop/copy");
    EXPECT_EQ(slots(main), 2);
}

TEST_P(Slots, StayWithTheParentAndPinNoWalOfARestoredBranch) {
    const std::string main = database_with_slots();
    host().bpg_json({"snapshot", "create", main});
    write(main, 4);
    const Ledger ledger = ledger_of(main);
    restore("shop/then", main, ledger[2].second);
    EXPECT_EQ(rows("shop/then"), rows_until(ledger, ledger[2].second));
    expect_none_that_pins_wal("shop/then");
    EXPECT_EQ(slots(main), 2);
}

/// Its origin holds the WAL up to where it left the parent, its own archive all from there on (E61,
/// LIN-1): nothing else is asked, and so never what the parent wrote afterwards (E36).
class RestoredWithoutTheParent : public RecoveryTraps {
  protected:
    /// What its parent archived is out of reach behind this.
    void SetUp() override {
        RecoveryTraps::SetUp();
        const std::string main = ledger_database("shop");
        write(main, 3);
        dev_ = create("shop/dev");
        write("shop/dev", 3);
        execute(host().url("shop/dev"), "SELECT pg_switch_wal()");
        write("shop/dev", 3);
        write(main, 5);
        execute(host().url(main), "SELECT pg_switch_wal()");
        ledger_ = ledger_of("shop/dev");
        ASSERT_EQ(ledger_.size(), 3U + 6);
        host().bpg_json({"stop", main});
        parents_ = archive(main);
        fs::rename(parents_, aside());
    }
    void TearDown() override {
        if (fs::exists(aside())) fs::rename(aside(), parents_);
        RecoveryTraps::TearDown();
    }

    WallTime fork() const {
        return *parse_time(dev_.at("created_from").at("at").get<std::string>());
    }
    const Ledger& ledger() const { return ledger_; }
    void expect_exact_at(WallTime target) const {
        const Json plan = host().bpg_json({"branch", "create", "shop/then", "--from", "shop/dev",
                                           "--pitr", format_time(target), "--dry-run"});
        EXPECT_EQ(plan.at("base_snapshot"), dev_.at("created_from").at("snapshot"));
        restore("shop/then", "shop/dev", target);
        EXPECT_EQ(rows("shop/then"), rows_until(ledger_, target)) << format_time(target);
        EXPECT_EQ(host().branch("shop/then").at("timeline"), 3);
    }

  private:
    static fs::path aside() { return host().base() / "out-of-reach"; }

    Json dev_;
    Ledger ledger_;
    fs::path parents_;
};

TEST_P(RestoredWithoutTheParent, ABranchIsExactWhereItLeftIt) {
    expect_exact_at(fork());
}

TEST_P(RestoredWithoutTheParent, ABranchIsExactBetweenItsOwnCommits) {
    expect_exact_at(ledger()[5].second);
}

TEST_P(RestoredWithoutTheParent, ABranchIsExactNow) {
    expect_exact_at(SystemClock().now());
}

INSTANTIATE_TEST_SUITE_P(Btrfs, RestoredTwice, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, RestoredTwice, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Btrfs, StaleSignals, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, StaleSignals, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Btrfs, OldRecovery, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, OldRecovery, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Btrfs, PreparedTransaction,
                         ::testing::Values(DriverPair{"btrfs", "process"}), pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, PreparedTransaction,
                         ::testing::Values(DriverPair{"zfs", "docker"}), pair_name);
INSTANTIATE_TEST_SUITE_P(Btrfs, Slots, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, Slots, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Btrfs, RestoredWithoutTheParent,
                         ::testing::Values(DriverPair{"btrfs", "process"}), pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, RestoredWithoutTheParent,
                         ::testing::Values(DriverPair{"zfs", "docker"}), pair_name);
INSTANTIATE_TEST_SUITE_P(Btrfs, RecoveryTraps, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, RecoveryTraps, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);

}  // namespace
}  // namespace bpg::test
