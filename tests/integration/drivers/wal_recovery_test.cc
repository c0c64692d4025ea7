// bpg-wal under a real PostgreSQL: archiving that nothing stops for good, and recoveries that are
// exact or fail, naming what is missing. Each of the ways in which a recovery goes wrong in silence
// is tried here.
#include "tests/integration/drivers/wal_fixture.h"

namespace bpg::test {
namespace {

class WalArchiving : public WalServers {
  protected:
    static int failed_count(const Instance& server) {
        return std::stoi(server.sql("SELECT failed_count FROM pg_stat_archiver"));
    }
    /// The next segment that will be archived, of a server on timeline 1.
    static std::string next_segment(const Instance& server) {
        return segment(1, lsn(server, "pg_current_wal_insert_lsn()"));
    }
};

TEST_F(WalArchiving, GoesOnWhereAHalfCopiedFileOfTheNameLies) {
    Instance server(drivers_);
    server.start_ready(archiving());
    const std::string name = next_segment(server);
    write_file_durably(stored(name), std::string(5'000'000, 'x'), 0600, server.owner());
    EXPECT_EQ(switch_and_archive(server, 1), name);
    const std::string last = switch_and_archive(server, 1);
    EXPECT_EQ(failed_count(server), 0);
    EXPECT_TRUE(wal::verify_archive(archive()).empty());
    // And where the very same file lies, as after a crash of the server.
    server.stop();
    write_file_durably(server.data() / "pg_wal/archive_status" / (last + ".ready"), "", 0600,
                       server.owner());
    fs::remove(server.data() / "pg_wal/archive_status" / (last + ".done"));
    server.start_ready(archiving());
    wait_for([&] {
        return fs::exists(server.data() / "pg_wal/archive_status" / (last + ".done")) ||
               !fs::exists(server.data() / "pg_wal" / last);
    });
    EXPECT_EQ(failed_count(server), 0);
}

TEST_F(WalArchiving, FailsCountedAndLoudWhereAnotherGoodFileHasTheNameAndThenGoesOn) {
    Instance other(drivers_);
    other.start_ready(archiving());
    const std::string name = switch_and_archive(other, 1);
    const std::string before = content_of(stored(name));
    other.kill();
    Instance server(drivers_);
    server.start_ready(archiving());
    ASSERT_EQ(next_segment(server), name) << "both began as the same cluster";
    server.sql("CREATE TABLE t AS SELECT 1");
    server.sql("SELECT pg_switch_wal()");
    wait_for([&] { return failed_count(server) > 0; });
    EXPECT_EQ(content_of(stored(name)), before);
    EXPECT_NE(content_of(server.log()).find("bpg-wal: wal_differs: " + name), std::string::npos);
    fs::remove(stored(name));
    wait_for([&] { return fs::exists(stored(name)); }, 90s);
    EXPECT_TRUE(wal::verify_archive(archive()).empty());
}

TEST_F(WalArchiving, LosesNothingWhenItsHelperIsKilled) {
    Instance server(drivers_);
    server.start_ready(archiving());
    // PostgreSQL starts its archiver again ten seconds after it has died of this, and looks whether
    // it should whenever somebody connects.
    const auto is_archived = [&](const std::string& name) {
        server.sql("SELECT 1");
        return fs::exists(stored(name));
    };
    std::atomic<int> kills{0};
    std::vector<std::string> names;
    {
        const std::jthread killer([&](const std::stop_token& stop) {
            while (!stop.stop_requested() && kills == 0) {
                for (const auto& process : find_processes_with_argument(helper_.native()))
                    kills += ::kill(process.pid, SIGKILL) == 0;
            }
        });
        for (int i = 0; i < 50 && kills == 0; ++i) {
            server.sql(
                "SELECT pg_logical_emit_message(true, 'test', repeat(md5(now()::text), "
                "100000))");
            names.push_back(segment(1, lsn(server, "pg_switch_wal() - 1")));
        }
        wait_for([&] { return kills > 0; });
    }
    wait_for([&] { return is_archived(names.back()); }, 60s);
    for (const std::string& name : names)
        EXPECT_TRUE(fs::exists(stored(name))) << name;
    EXPECT_TRUE(wal::verify_archive(archive()).empty());
    for (const auto& entry : fs::directory_iterator(archive()))
        EXPECT_FALSE(entry.path().filename().native().starts_with('.')) << entry.path();
}

class WalRecovery : public WalServers {
  protected:
    /// A base on timeline 1, then rows 1 to 4, each in a segment of its own, all archived.
    void make_parent() {
        parent_ = std::make_unique<Instance>(drivers_);
        parent_->start_ready(archiving());
        parent_->sql("CREATE TABLE t (id int)");
        parent_->stop();
        base_ = std::make_unique<Instance>(drivers_);
        shell_free({"rm", "-r", base_->data().native()});
        base_->copy_data(parent_->data());
        parent_->start_ready(archiving());
        for (int row = 1; row <= 4; ++row) {
            parent_->sql(fmt::format("INSERT INTO t VALUES ({})", row));
            segments_.push_back(switch_and_archive(*parent_, 1));
        }
        bounds_ = {{1}, segments_.front(), segments_.back(), ""};
    }
    /// An instance that begins as the base.
    std::unique_ptr<Instance> from_base() {
        auto instance = std::make_unique<Instance>(drivers_, Instance::From::kNothing);
        instance->copy_data(base_->data());
        return instance;
    }
    static std::string rows(const Instance& instance) {
        return instance.sql("SELECT coalesce(string_agg(id::text, ',' ORDER BY id), '') FROM t");
    }
    /// A branch at the base: its own timeline 2, archived beside the parent's, from the same
    /// segment on, with rows 20 and 21. Its two segments.
    std::pair<std::string, std::string> archive_a_branch() {
        const auto branch = from_base();
        Settings settings = archiving();
        settings.emplace_back("restore_command", "exit 1");
        const Recovery recovery = recover(*branch, settings);
        EXPECT_EQ(recovery.timeline, 2U) << recovery.log;
        branch->sql("INSERT INTO t VALUES (20)");
        const std::string first = switch_and_archive(*branch, 2);
        branch->sql("INSERT INTO t VALUES (21)");
        const std::string last = switch_and_archive(*branch, 2);
        wait_for([&] { return fs::exists(stored("00000002.history")); });
        branch->stop();
        EXPECT_EQ(first.substr(8), segments_.front().substr(8)) << "the same segment on both";
        return {first, last};
    }

    std::unique_ptr<Instance> parent_;
    std::unique_ptr<Instance> base_;
    std::vector<std::string> segments_;
    wal::RestoreBounds bounds_;
};

TEST_F(WalRecovery, ReachesTheEndOfTheArchiveAndOfWhatAStoppedServerHadNotArchived) {
    make_parent();
    const auto archived = from_base();
    Recovery recovery = recover(*archived, recovering(bounds_));
    ASSERT_TRUE(recovery.is_open) << recovery.log;
    EXPECT_EQ(recovery.timeline, 2U);
    EXPECT_EQ(rows(*archived), "1,2,3,4");
    EXPECT_FALSE(fs::exists(archived->data() / "pg_wal/RECOVERYXLOG"));

    parent_->sql("INSERT INTO t VALUES (5)");
    const std::string tail = segment(1, lsn(*parent_, "pg_current_wal_insert_lsn()"));
    parent_->kill();
    const auto spooled = put_into_spool(*parent_, tail);
    EXPECT_LT(spooled.metadata.wal_end % kSegment, kSegment / 2U) << "it is nearly empty";
    bounds_.until = tail;
    const auto whole = from_base();
    recovery = recover(*whole, recovering(bounds_));
    ASSERT_TRUE(recovery.is_open) << recovery.log;
    EXPECT_EQ(rows(*whole), "1,2,3,4,5");
    fs::remove(spool() / (tail + ".zst"));
    const auto without = from_base();
    recovery = recover(*without, recovering(bounds_));
    EXPECT_FALSE(recovery.is_open) << "the tail was promised";
    EXPECT_NE(recovery.log.find("bpg-wal: wal_missing: WAL file " + tail), std::string::npos);
}

TEST_F(WalRecovery, FailsAndNamesTheSegmentThatIsMissingTruncatedZeroedOrFlipped) {
    make_parent();
    parent_->stop();
    const std::string name = segments_.at(2);
    const std::string good = content_of(stored(name));
    std::string flipped = good;
    flipped[good.size() - 20] = static_cast<char>(flipped[good.size() - 20] ^ 4);
    std::string zeroed = good;
    zeroed.replace(good.size() / 2, good.size() / 4, good.size() / 4, '\0');
    const std::pair<std::string, std::optional<std::string>> damages[] = {
        {"missing", std::nullopt},
        {"truncated", good.substr(0, good.size() / 2)},
        {"zeroed", zeroed},
        {"flipped", flipped}};
    for (const auto& [what, content] : damages) {
        fs::remove(stored(name));
        if (content) write_file_durably(stored(name), *content, 0600, parent_->owner());
        const auto instance = from_base();
        const Recovery recovery = recover(*instance, recovering(bounds_));
        EXPECT_FALSE(recovery.is_open) << what << ": it was opened without all of its rows";
        const std::string said =
            fmt::format("bpg-wal: {}: WAL file {}", content ? "wal_damaged" : "wal_missing", name);
        EXPECT_NE(recovery.log.find(said), std::string::npos) << what << "\n" << recovery.log;
        EXPECT_FALSE(fs::exists(instance->data() / "pg_wal/00000002.history")) << "promoted";
    }
    fs::remove(stored(name));
    write_file_durably(stored(name), good, 0600, parent_->owner());
    const auto healed = from_base();
    ASSERT_TRUE(recover(*healed, recovering(bounds_)).is_open);
    EXPECT_EQ(rows(*healed), "1,2,3,4");
}

TEST_F(WalRecovery, FollowsTheNewerTimelineAndNeverTheOlderOnesLaterRows) {
    make_parent();
    const auto [first, last] = archive_a_branch();

    bounds_ = {{1, 2}, segments_.front(), last, "00000002.history"};
    const auto right = from_base();
    Recovery recovery = recover(*right, recovering(bounds_));
    ASSERT_TRUE(recovery.is_open) << recovery.log;
    EXPECT_EQ(recovery.timeline, 3U);
    EXPECT_EQ(rows(*right), "20,21");

    // With its first segment gone PostgreSQL asks for the parent's, which has the parent's rows.
    fs::rename(stored(first), root_ / "kept");
    const auto wrong = from_base();
    recovery = recover(*wrong, recovering(bounds_));
    EXPECT_FALSE(recovery.is_open);
    EXPECT_NE(recovery.log.find("bpg-wal: wal_missing: WAL file " + first), std::string::npos);
    fs::rename(root_ / "kept", stored(first));
    fs::rename(stored("00000002.history"), root_ / "kept");
    const auto lost = from_base();
    recovery = recover(*lost, recovering(bounds_));
    EXPECT_FALSE(recovery.is_open);
    EXPECT_NE(recovery.log.find("bpg-wal: wal_history_missing"), std::string::npos);
}

/// By itself PostgreSQL would follow the newest timeline that the archive has, that is the branch's
/// (E7, LIN-3). The timeline it is told keeps it from that, and so does the helper by itself.
TEST_F(WalRecovery, StaysOnItsOwnTimelineThoughABranchArchivedBesideIt) {
    make_parent();
    archive_a_branch();
    for (const char* timeline : {"1", "latest"}) {
        const auto restored = from_base();
        Settings settings = recovering(bounds_);
        settings[1].second = timeline;
        const Recovery recovery = recover(*restored, settings);
        ASSERT_TRUE(recovery.is_open) << timeline << "\n" << recovery.log;
        EXPECT_EQ(recovery.timeline, 3U) << "the next that is free";
        EXPECT_EQ(rows(*restored), "1,2,3,4") << timeline;
    }
}

TEST_F(WalRecovery, StopsWhenTheHelperItselfCannotRun) {
    make_parent();
    parent_->stop();
    for (const char* command : {"/nowhere/bpg-wal restore %f %p", "exit 137"}) {
        const auto instance = from_base();
        Settings settings = recovering(bounds_);
        settings[0].second = command;
        EXPECT_FALSE(recover(*instance, settings).is_open) << command;
    }
    // As it is called by mistake: any misuse must stop it too.
    const auto instance = from_base();
    Settings settings = recovering(bounds_);
    settings[0].second = helper_.native() + " restore --archiv " + archive().native() + " %f %p";
    const Recovery recovery = recover(*instance, settings);
    EXPECT_FALSE(recovery.is_open);
    EXPECT_NE(recovery.log.find("bpg-wal: usage: there is no option --archiv"), std::string::npos);
}

}  // namespace
}  // namespace bpg::test
