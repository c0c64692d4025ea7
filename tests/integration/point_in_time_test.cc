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

#include "tests/harness/ledger.h"
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
        begin_ledger(host(), main);
        return main;
    }
    /// `count` commits of a row each.
    static void write(const std::string& ref, int count) { write_ledger(host(), ref, count); }
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

/// A snapshot restores its own first time and later ones; just before, the one before it does (E6).
TEST_P(PointsInTime, AroundASnapshotAreRestoredFromTheRightOne) {
    const std::string main = ledger_database("shop");
    // In which zone the server lives changes nothing (PITR-6).
    execute_alone(host().url(main), "ALTER SYSTEM SET timezone = 'Asia/Tokyo'");
    host().bpg_json({"restart", main});
    write(main, 5);
    std::atomic<bool> stop{false};
    std::jthread writer([&] {
        while (!stop)
            write(main, 5);
    });
    const Json snapshot = host().bpg_json({"snapshot", "create", main});
    stop = true;
    writer.join();
    const Ledger ledger = read_ledger(host().url(main));
    const WallTime line = *parse_time(snapshot.at("consistent_at").get<std::string>());
    ASSERT_GT(ledger.back().second, line);
    for (const std::int64_t distance : {-1, 0, 1})
        expect_exact(main, ledger, after(line, distance));
}

TEST_P(PointsInTime, OfAParentThatIsDownTakeInItsLastCommits) {
    const std::string main = ledger_database("shop");
    write(main, 10);
    host().bpg_json({"stop", main});
    const auto read_again = [&main] {
        host().bpg_json({"start", main});
        const Ledger ledger = read_ledger(host().url(main));
        host().bpg_json({"stop", main});
        return ledger;
    };
    const Ledger ledger = read_again();
    expect_exact(main, ledger, now());  // behind the last commit
    expect_exact(main, ledger, ledger[4].second);

    // Killed: nothing was archived on the way out, and its WAL ends anywhere.
    host().bpg_json({"start", main});
    write(main, 5);
    const Ledger more = read_ledger(host().url(main));
    host().bpg_json({"stop", main, "--force"});
    expect_exact(main, more, now());
    expect_exact(main, more, more[12].second);
}

TEST_P(PointsInTime, OfADeletedBranchAreThereForAsLongAsTheTrashKeepsIt) {
    const std::string main = ledger_database("shop");
    write(main, 3);
    create("shop/dev");
    write("shop/dev", 6);
    const Ledger ledger = read_ledger(host().url("shop/dev"));
    host().bpg_json({"-y", "branch", "delete", "shop/dev"});
    const Json trash = host().bpg_json({"trash", "list"}).at("items");
    ASSERT_EQ(trash.size(), 1U);
    const Json made = host().bpg_json({"branch", "create", "shop/then", "--from", trash[0].at("id"),
                                       "--pitr", time_text(ledger[5].second)});
    EXPECT_EQ(rows_in(host().url("shop/then")), rows_until(ledger, ledger[5].second));
}

TEST_P(PointsInTime, OfAnIdleParentASecondAgoAreReadyAtOnce) {
    const std::string main = ledger_database("shop");
    write(main, 5);
    const Ledger ledger = read_ledger(host().url(main));
    std::this_thread::sleep_for(1500ms);
    std::vector<std::int64_t> times;
    for (int round = 0; round < 3; ++round) {
        const CliResult made = host().bpg({"branch", "create", "shop/then", "--pitr", "1s"});
        ASSERT_TRUE(made.ok()) << made.text();
        times.push_back(made.took.count());
        EXPECT_EQ(rows_in(host().url("shop/then")).size(), ledger.size());
        host().bpg_json({"-y", "branch", "delete", "shop/then", "--purge"});
    }
    fmt::print("ready after {} ms\n", fmt::join(times, ", "));
    EXPECT_LT(*std::min_element(times.begin(), times.end()), 3000);
}

/// Branches restored from one parent and written to do not get into one another's WAL (E7, E19).
TEST_P(PointsInTime, StayExactAcrossBranchesOfBranchesAndSyncs) {
    const std::string main = ledger_database("shop");
    // What is restored from it keeps the times of its commits, too.
    host().bpg_json({"snapshot", "create", main});
    write(main, 8);
    const Ledger first = read_ledger(host().url(main));
    const auto restore = [](const std::string& ref, const std::string& from, WallTime target) {
        return host().bpg_json(
            {"branch", "create", ref, "--from", from, "--pitr", time_text(target)});
    };
    const auto flush = [](const std::string& ref) {
        execute(host().url(ref), "SELECT pg_switch_wal()");
    };
    restore("shop/one", main, first[2].second);
    restore("shop/two", main, first[5].second);
    write("shop/one", 4);
    write("shop/two", 4);
    flush("shop/one");
    flush("shop/two");
    const Ledger one = read_ledger(host().url("shop/one"));
    const Ledger two = read_ledger(host().url("shop/two"));
    ASSERT_EQ(one.size(), 3U + 4);
    ASSERT_EQ(two.size(), 6U + 4);
    write(main, 3);
    const Ledger again = read_ledger(host().url(main));
    restore("shop/three", main, again[9].second);
    EXPECT_EQ(rows_in(host().url("shop/three")), rows_until(again, again[9].second));
    // Of a branch that was itself made at a point in time.
    restore("shop/four", "shop/one", one[5].second);
    EXPECT_EQ(rows_in(host().url("shop/four")), rows_until(one, one[5].second));
    restore("shop/five", "shop/two", two[7].second);
    EXPECT_EQ(rows_in(host().url("shop/five")), rows_until(two, two[7].second));

    // After a sync the time says which incarnation is meant.
    create("shop/dev");
    write("shop/dev", 4);
    const Ledger before = read_ledger(host().url("shop/dev"));
    host().bpg_json({"branch", "sync", "shop/dev"});
    write("shop/dev", 2);
    const Ledger after_sync = read_ledger(host().url("shop/dev"));
    restore("shop/six", "shop/dev", before[before.size() - 2].second);
    EXPECT_EQ(rows_in(host().url("shop/six")),
              rows_until(before, before[before.size() - 2].second));
    restore("shop/seven", "shop/dev", after_sync.back().second);
    EXPECT_EQ(rows_in(host().url("shop/seven")), rows_until(after_sync, after_sync.back().second));
    const Json held = host().bpg_json({"wal", "info", "shop/dev"}).at("items");
    ASSERT_EQ(held.size(), 2U);
    EXPECT_EQ(held[0].at("incarnation_number"), 2);
    EXPECT_EQ(held[1].at("incarnation_number"), 1);
}

/// A branch begins with WAL of its parent, which is not its own to archive.
TEST_P(PointsInTime, ArchivesHoldNothingOfTheParent) {
    const std::string main = ledger_database("shop");
    write(main, 3);
    host().bpg_json({"snapshot", "create", main});
    create("shop/copy");
    create("shop/then", {"--pitr", "0s"});
    for (const std::string& ref : {std::string("shop/copy"), std::string("shop/then")}) {
        write(ref, 2);
        execute_alone(host().url(ref), "CHECKPOINT");
        host().bpg_json({"restart", ref});
        const Json info = host().bpg_json({"wal", "info", ref}).at("items")[0];
        const std::filesystem::path archive = info.at("archive_path").get<std::string>();
        const std::string own = fmt::format("{:08X}", host().branch(ref).at("timeline").get<int>());
        for (const auto& entry : std::filesystem::directory_iterator(archive))
            EXPECT_TRUE(entry.path().filename().string().starts_with(own)) << entry.path();
        EXPECT_EQ(info.at("foreign"), Json::array());
    }
}

TEST_P(PointsInTime, CanBeAPositionOrARestorePoint) {
    const std::string main = ledger_database("shop");
    write(main, 4);
    execute(host().url(main), "SELECT pg_create_restore_point('before the migration')");
    const std::string lsn =
        query_value(host().url(main), "SELECT pg_current_wal_insert_lsn()::text");
    write(main, 4);
    create("shop/named", {"--at-restore-point", "before the migration"});
    EXPECT_EQ(rows_in(host().url("shop/named")).size(), 4U);
    create("shop/placed", {"--at-lsn", lsn});
    EXPECT_EQ(rows_in(host().url("shop/placed")).size(), 4U);
    EXPECT_EQ(host().branch("shop/placed").at("created_from").at("mode"), "pitr");
    expect_refused(host(), {"branch", "create", "shop/x", "--at-restore-point", "never"},
                   {5, "restore_point_unknown", "there is no restore point \"never\"",
                    "the archived WAL of \"shop/main\" has none of that name",
                    "make one with pg_create_restore_point(), or give a time"});
    expect_error(host().bpg_error({"branch", "create", "shop/x", "--at-lsn", "FF/0"}), 5,
                 "not_restorable");
    expect_refused(host(), {"branch", "create", "shop/x", "--at-lsn", "12345"},
                   {2, "lsn_invalid", "\"12345\" is no LSN",
                    "an LSN is two hexadecimal numbers with a slash between them",
                    "for example 0/3000060, as pg_current_wal_lsn() prints it"});
}

TEST_P(PointsInTime, ThatCannotBeAreRefusedBeforeAnythingIsMade) {
    const std::string main = ledger_database("shop");
    write(main, 2);
    const Json jobs = host().bpg_json({"job", "list"});
    const auto refuse = [](const std::string& time, int exit_code, const std::string& code) {
        const CliError error = host().bpg_error({"branch", "create", "shop/x", "--pitr", time});
        expect_error(error, exit_code, code);
        return error;
    };
    const CliError zoneless = refuse("2025-10-07 14:30", 2, "time_without_zone");
    EXPECT_EQ(zoneless.what, "\"2025-10-07 14:30\" does not say in which zone");
    EXPECT_EQ(zoneless.fix, "write 2025-10-07T14:30:00Z (UTC) or 2025-10-07T14:30:00+02:00");
    refuse("yesterday", 2, "time_unparsable");
    refuse("", 2, "time_unparsable");
    refuse("2025-02-30T00:00:00Z", 2, "time_unparsable");
    refuse("infinite-past", 2, "time_unparsable");
    refuse(time_text(after(now(), 60'000'000)), 2, "time_in_future");
    const Json snapshots = host().bpg_json({"snapshot", "list", main}).at("items");
    const std::string first = snapshots.back().at("consistent_at");
    const CliError early = refuse("2020-01-01T00:00:00Z", 5, "not_restorable");
    EXPECT_EQ(early.what, "\"shop/main\" cannot be restored to 2020-01-01T00:00:00.000000Z");
    EXPECT_EQ(early.why, "restorable is " + first + " to now");
    EXPECT_EQ(early.fix, "the nearest is " + first);
    expect_refused(host(), {"branch", "create", "shop/x", "--pitr", "1s", "--at-lsn", "0/1"},
                   {2, "target_not_alone", "there is more than one target",
                    "a time, an LSN and a restore point are three ways to say one point",
                    "give one of --pitr, --at-lsn and --at-restore-point"});
    expect_error(host().bpg_error({"branch", "create", "shop/x", "--pitr", "1s", "--fast"}), 2,
                 "target_not_alone");
    expect_error(host().bpg_error({"branch", "create", "shop/x", "--dry-run"}), 2,
                 "dry_run_without_target");
    create("shop/still", {"--no-archive"});
    expect_refused(
        host(), {"branch", "create", "shop/x", "--from", "shop/still", "--pitr", "1s"},
        {5, "archive_off", "\"shop/still\" keeps no WAL archive", "it was made with --no-archive",
         "branch from it as it is, or from a snapshot"});
    EXPECT_EQ(host().bpg_json({"job", "list"}).at("items").size(), jobs.at("items").size() + 1);
}

TEST_P(PointsInTime, SayBeforehandWhatTheyWouldBeMadeFrom) {
    const std::string main = ledger_database("shop");
    write(main, 2);
    const Json snapshots = host().bpg_json({"snapshot", "list", main}).at("items");
    const Json plan = host().bpg_json({"branch", "create", "shop/x", "--pitr", "0s", "--dry-run"});
    EXPECT_EQ(plan.at("base_snapshot"), snapshots.back().at("id"));
    EXPECT_GT(plan.at("wal_bytes"), 0);
    EXPECT_GT(plan.at("estimated_seconds"), 0);
    EXPECT_EQ(plan.at("restorable").size(), 1U);
    EXPECT_FALSE(host().branch_exists("shop/x"));
}

/// Until the parent has forgotten its WAL itself: what is only in the archive is damaged.
class BrokenWal : public PointsInTime {
  protected:
    /// A database whose segment with the middle of the ledger is in the archive alone.
    void SetUp() override {
        PointsInTime::SetUp();
        main_ = ledger_database("shop");
        write(main_, 3);
        execute(host().url(main_), "SELECT pg_switch_wal()");
        write(main_, 3);
        middle_ = query_value(host().url(main_), "SELECT pg_walfile_name(pg_current_wal_lsn())");
        write(main_, 3);
        execute(host().url(main_), "SELECT pg_switch_wal()");
        write(main_, 3);
        execute(host().url(main_), "SELECT pg_switch_wal()");
        write(main_, 3);
        ledger_ = read_ledger(host().url(main_));
        archive_ = host()
                       .bpg_json({"wal", "info", main_})
                       .at("items")[0]
                       .at("archive_path")
                       .get<std::string>();
        const auto file = host().volumes() / "shop-main" / "data" / "pg_wal" / middle_;
        ASSERT_TRUE(eventually(
            [&] {
                execute_alone(host().url(main_), "CHECKPOINT");
                execute(host().url(main_), "SELECT pg_switch_wal()");
                return !std::filesystem::exists(file);
            },
            20s))
            << file;
    }
    std::filesystem::path archived() const {
        for (const auto& entry : std::filesystem::directory_iterator(archive_)) {
            if (entry.path().filename().string().starts_with(middle_)) return entry.path();
        }
        throw std::runtime_error("no " + middle_ + " in " + archive_.string());
    }
    void expect_refused_naming_the_segment(const std::string& code) {
        const std::string before = host().compare_world_with_catalog();
        const CliError error = host().bpg_error(
            {"branch", "create", "shop/x", "--pitr", time_text(ledger_.back().second)});
        EXPECT_EQ(error.code, code) << error.what << ": " << error.why;
        EXPECT_TRUE((error.why + error.fix).find(middle_) != std::string::npos) << error.why;
        EXPECT_TRUE((error.why + error.fix).find("restorable is") != std::string::npos)
            << error.why << " " << error.fix;
        EXPECT_FALSE(host().branch_exists("shop/x"));
        EXPECT_EQ(host().compare_world_with_catalog(), before);
    }

    std::string main_;
    std::string middle_;
    Ledger ledger_;
    std::filesystem::path archive_;
};

TEST_P(BrokenWal, AMissingSegmentIsAGapThatIsNamed) {
    std::filesystem::remove(archived());
    const Json info = host().bpg_json({"wal", "info", main_}).at("items")[0];
    ASSERT_EQ(info.at("gaps").size(), 1U) << info.dump(2);
    EXPECT_EQ(info.at("gaps")[0].at("first"), middle_);
    EXPECT_EQ(info.at("gaps")[0].at("segments"), 1);
    expect_refused_naming_the_segment("not_restorable");
    // A snapshot behind it opens a window again.
    host().bpg_json({"snapshot", "create", main_});
    write(main_, 2);
    expect_exact(main_, read_ledger(host().url(main_)), now());
}

/// The snapshot that a branch was cut from may be all that opens the times behind a gap.
TEST_P(BrokenWal, DeletingABranchTakesNoTimeOfItsParentAway) {
    std::filesystem::remove(archived());
    host().bpg_json({"branch", "create", "shop/dev"});
    write(main_, 2);
    const WallTime behind_the_gap = now();
    const Ledger ledger = read_ledger(host().url(main_));
    write(main_, 2);
    const auto restorable = [this] {
        return host().bpg_json({"wal", "info", main_}).at("items")[0].at("restorable");
    };
    const Json before = restorable();
    host().bpg_json({"branch", "delete", "shop/dev", "--purge", "--yes"});
    EXPECT_EQ(restorable().size(), before.size());
    expect_exact(main_, ledger, behind_the_gap);

    // With a snapshot of its own in front of the gap no more than before, behind it all of them.
    host().bpg_json({"snapshot", "create", main_});
    const auto origins = [this] {
        int count = 0;
        const Json list = host().bpg_json({"snapshot", "list", main_});
        for (const Json& item : list.at("items"))
            count += item.at("kind") == "origin" ? 1 : 0;
        return count;
    };
    EXPECT_EQ(origins(), 1) << "the times before the new snapshot are still its own";
    host().bpg_json({"wal", "cleanup", main_, "--days", "0"});
    EXPECT_EQ(origins(), 0) << "the cleanup took its WAL";
}

TEST_P(BrokenWal, ATruncatedSegmentIsNamed) {
    std::filesystem::resize_file(archived(), std::filesystem::file_size(archived()) / 2);
    expect_refused_naming_the_segment("not_restorable");
}

TEST_P(BrokenWal, AZeroedSegmentIsNamed) {
    const auto size = std::filesystem::file_size(archived());
    const auto path = archived();
    std::filesystem::resize_file(path, 0);
    std::filesystem::resize_file(path, size);
    expect_refused_naming_the_segment("not_restorable");
}

TEST_P(BrokenWal, AFlippedBitIsFoundWhenItIsNeededAndIsAGapFromThenOn) {
    const auto path = archived();
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    const auto at = static_cast<std::streamoff>(std::filesystem::file_size(path) / 2);
    file.seekg(at);
    const char byte = static_cast<char>(file.get() ^ 0x10);
    file.seekp(at);
    file.put(byte);
    file.close();
    expect_refused_naming_the_segment("wal_broken");
    const Json info = host().bpg_json({"wal", "info", main_}).at("items")[0];
    ASSERT_EQ(info.at("gaps").size(), 1U) << info.dump(2);
    EXPECT_EQ(info.at("gaps")[0].at("first"), middle_);
    expect_refused_naming_the_segment("not_restorable");
}

TEST_P(BrokenWal, WhatTheParentStillHasHealsTheArchive) {
    write(main_, 2);
    const std::string newest =
        query_value(host().url(main_), "SELECT pg_walfile_name(pg_current_wal_lsn())");
    execute(host().url(main_), "SELECT pg_switch_wal()");
    write(main_, 2);
    const Ledger ledger = read_ledger(host().url(main_));
    const auto file = archive_ / (newest + ".zst");
    ASSERT_TRUE(eventually([&] { return std::filesystem::exists(file); }, 10s)) << file;
    std::filesystem::resize_file(file, std::filesystem::file_size(file) / 2);
    expect_exact(main_, ledger, now());
}

TEST_P(PointsInTime, WalInfoSaysWhatIsHeld) {
    const std::string main = ledger_database("shop");
    write(main, 2);
    execute(host().url(main), "SELECT pg_switch_wal()");
    Json info;
    ASSERT_TRUE(eventually(
        [&] {
            info = host().bpg_json({"wal", "info", main}).at("items")[0];
            return info.at("segments") >= 1 && info.at("pending") == 0;
        },
        20s))
        << info.dump(2);
    expect_members(
        info, {"branch", "incarnation", "archive_path", "segments", "bytes", "compressed_bytes",
               "first", "last", "last_archived_at", "pending", "gaps", "restorable"});
    EXPECT_EQ(info.at("branch"), main);
    EXPECT_EQ(info.at("bytes"), info.at("segments").get<std::int64_t>() << 24);
    EXPECT_LT(info.at("compressed_bytes"), info.at("bytes"));
    EXPECT_EQ(info.at("gaps"), Json::array());
    ASSERT_EQ(info.at("restorable").size(), 1U);
    EXPECT_EQ(info.at("restorable")[0].at("to"), nullptr);
    host().bpg_json({"stop", main});
    const Ledger none;
    const Json stopped = host().bpg_json({"wal", "info", main}).at("items")[0];
    EXPECT_TRUE(stopped.at("restorable")[0].at("to").is_string()) << stopped.dump(2);
    const CliResult table = host().bpg({"wal", "info"});
    EXPECT_NE(table.out.find("RESTORABLE FROM"), std::string::npos) << table.out;
    EXPECT_NE(table.out.find(main), std::string::npos) << table.out;
    expect_error(host().bpg_error({"wal", "info", "shop/none"}), 3, "branch_not_found");
}

TEST_P(PointsInTime, CleanupKeepsWhatTheWindowNeedsAndSaysWhatGoes) {
    const std::string main = ledger_database("shop");
    write(main, 3);
    const Json first = host().bpg_json({"snapshot", "list", main}).at("items").back();
    for (int i = 0; i < 3; ++i) {
        execute(host().url(main), "SELECT pg_switch_wal()");
        write(main, 2);
    }
    const Json second = host().bpg_json({"snapshot", "create", main});
    write(main, 3);
    const Ledger ledger = read_ledger(host().url(main));
    const Json before = host().bpg_json({"wal", "info", main}).at("items")[0];
    // Everything is younger than a day: all of it stays.
    const Json nothing = host().bpg_json({"wal", "cleanup", main, "--days", "1", "--dry-run"});
    EXPECT_EQ(nothing.at("incarnations")[0].at("base_snapshot"), first.at("id"));
    EXPECT_EQ(nothing.at("incarnations")[0].at("stranded_snapshots"), Json::array());
    const Json plan = host().bpg_json({"wal", "cleanup", main, "--days", "0", "--dry-run"});
    EXPECT_EQ(plan.at("incarnations")[0].at("base_snapshot"), second.at("id"));
    EXPECT_EQ(plan.at("incarnations")[0].at("stranded_snapshots"), Json::array({first.at("id")}));
    EXPECT_EQ(host().bpg_json({"wal", "info", main}).at("items")[0].at("segments"),
              before.at("segments"));
    const Json job = host().bpg_json({"wal", "cleanup", main, "--days", "0"});
    EXPECT_EQ(job.at("state"), "succeeded");
    EXPECT_GT(job.at("result").at("segments"), 0);
    const Json after_it = host().bpg_json({"wal", "info", main}).at("items")[0];
    EXPECT_EQ(after_it.at("restorable")[0].at("base_snapshot"), second.at("id"));
    EXPECT_EQ(after_it.at("first"), plan.at("incarnations")[0].at("keep_from"));
    expect_exact(main, ledger, ledger.back().second);
    expect_error(
        host().bpg_error({"branch", "create", "shop/x", "--pitr", time_text(ledger[4].second)}), 5,
        "not_restorable");
    // The older snapshot is still what it was.
    create("shop/old", {"--snapshot", first.at("id")});
    EXPECT_EQ(host().branch("shop/old").at("state"), "running");
    expect_refused(host(), {"wal", "cleanup", main, "--days", "-1"},
                   {2, "usage", "\"-1\" is no number of days", "it takes a whole number",
                    "for example --days 7"});
}

TEST_P(PointsInTime, DeletingTheSnapshotTheyNeedSaysSo) {
    const std::string main = ledger_database("shop");
    write(main, 2);
    const Json first = host().bpg_json({"snapshot", "list", main}).at("items").back();
    const Json second = host().bpg_json({"snapshot", "create", main});
    const Json job = host().bpg_json({"-y", "snapshot", "delete", first.at("id")});
    ASSERT_EQ(job.at("warnings").size(), 1U) << job.dump(2);
    EXPECT_EQ(job.at("warnings")[0],
              fmt::format("restorable is {} to now; without this snapshot restorable is {} to now",
                          first.at("consistent_at").get<std::string>(),
                          second.at("consistent_at").get<std::string>()));
}

TEST_P(PointsInTime, PinnedWithItsWalASnapshotGoesOnReachingLaterTimes) {
    const std::string main = ledger_database("shop");
    write(main, 3);
    const Json first = host().bpg_json({"snapshot", "list", main}).at("items").back();
    host().bpg_json({"snapshot", "pin", first.at("id"), "--with-wal"});
    execute(host().url(main), "SELECT pg_switch_wal()");
    write(main, 2);
    host().bpg_json({"snapshot", "create", main});
    const Ledger ledger = read_ledger(host().url(main));
    host().bpg_json({"wal", "cleanup", main, "--days", "0"});
    expect_exact(main, ledger, ledger[1].second);
}

/// PostgreSQL archives by itself; what bpgd knows afterwards it reads from the directory.
TEST_P(PointsInTime, TheArchiveGrowsWhileBpgdIsDown) {
    const std::string main = ledger_database("shop");
    write(main, 2);
    const std::string url = host().url(main);
    host().kill_daemon();
    const int segments = long_mode() ? 100 : 8;
    for (int i = 0; i < segments; ++i) {
        execute(url, "INSERT INTO ledger (note) VALUES ('down')");
        execute(url, "SELECT pg_switch_wal()");
    }
    const auto archived = [&url] {
        return query_number(url, "SELECT archived_count FROM pg_stat_archiver");
    };
    EXPECT_TRUE(eventually([&] { return archived() >= segments; }, 60s)) << archived();
    EXPECT_EQ(query_number(url, "SELECT failed_count FROM pg_stat_archiver"), 0);
    const Ledger ledger = read_ledger(url);
    host().start_daemon();
    const Json info = host().bpg_json({"wal", "info", main}).at("items")[0];
    EXPECT_GE(info.at("segments"), segments);
    EXPECT_EQ(info.at("gaps"), Json::array());
    expect_exact(main, ledger, ledger[ledger.size() / 2].second);
}

/// Of a branch that is down: its last WAL lies in its volume alone.
class GoneSource : public PointsInTime {};

TEST_P(GoneSource, IsWhatARestoreSaysThatLacksItsLastWal) {
    const std::string main = ledger_database("shop");
    create("shop/dev");
    write("shop/dev", 5);
    const WallTime target = now();
    host().bpg_json({"stop", "shop/dev"});
    ASSERT_EQ(host().stop_daemon(), 0);
    host().start_daemon({"--crash-at", "branch-create.start_instance.before_run"});
    const std::string id = host()
                               .bpg_json({"--no-wait", "branch", "create", "shop/then", "--from",
                                          "shop/dev", "--pitr", time_text(target)})
                               .at("id");
    ASSERT_TRUE(host().wait_for_daemon_end(60s).has_value());
    // As when its volume is destroyed just before its last WAL is copied.
    const auto spool = host().volumes() / "shop-then" / "wal-spool";
    ASSERT_GT(std::filesystem::remove_all(spool), 1U) << spool;
    const auto volume = host().volumes() / "shop-dev";
    const auto away = host().volumes() / ".away";
    std::filesystem::rename(volume, away);
    host().start_daemon();
    const Json job = host().finished_job(id);
    std::filesystem::rename(away, volume);
    EXPECT_EQ(job.at("state"), "failed");
    EXPECT_EQ(job.at("error").at("code"), "parent_gone") << job.dump(2);
    EXPECT_EQ(job.at("error").at("title"), "what is to be restored is gone");
    EXPECT_EQ(job.at("error").at("detail"), "it was destroyed since");
    EXPECT_FALSE(host().branch_exists("shop/then"));
}

INSTANTIATE_TEST_SUITE_P(Btrfs, GoneSource, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Btrfs, BrokenWal, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, BrokenWal, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Btrfs, PointsInTime, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, PointsInTime, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);

}  // namespace
}  // namespace bpg::test
