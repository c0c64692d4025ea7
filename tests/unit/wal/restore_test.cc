// What a recovery is given, what it is told to be the end of the archive, and what stops it.
#include "orchestrator/wal/restore.h"

#include "tests/unit/wal/wal_fixture.h"

namespace bpg::wal::test {
namespace {

using Outcome = RestoreOutcome;

class Restore : public WalTest {
  protected:
    void SetUp() override {
        WalTest::SetUp();
        request_ = {.archive = archive(),
                    .spool = {},
                    .bounds = {},
                    .name = "",
                    .destination = pg_wal() / "RECOVERYXLOG",
                    .server = ServerIdentity{kSystem, kSmallSegment}};
    }

    Outcome restore(const std::string& name) {
        request_.name = name;
        return restore_file(request_);
    }
    ErrorInfo fault(const std::string& name) {
        return error_of([&] { restore(name); });
    }
    /// Segments `first` to `last` of a timeline, archived, and not in pg_wal any more.
    WalBuilder archive_segments(std::uint32_t timeline, std::uint64_t first, std::uint64_t last) {
        WalShape shape;
        shape.first = {timeline, first};
        WalBuilder wal = write_segments(last - first + 1, shape);
        for (std::uint64_t index = 0; index <= last - first; ++index) {
            archive_it(wal.name(index));
            fs::remove(pg_wal() / wal.name(index));
        }
        return wal;
    }
    void archive_history(const std::string& name, const std::string& content) {
        put(pg_wal() / name, content);
        archive_it(name);
        fs::remove(pg_wal() / name);
    }
    static std::string segment(std::uint32_t timeline, std::uint64_t number) {
        return segment_name({timeline, number}, kSmallSegment);
    }
    std::string delivered() const { return bytes_of(request_.destination); }
    bool is_clean() const {
        return std::distance(fs::directory_iterator(pg_wal()), fs::directory_iterator()) == 0;
    }

    RestoreRequest request_;
};

TEST_F(Restore, DeliversTheFileAndReplacesWhatWasThere) {
    const WalBuilder wal = archive_segments(1, 3, 4);
    EXPECT_EQ(restore(segment(1, 3)), Outcome::kDelivered);
    EXPECT_EQ(delivered(), wal.segment(0));
    EXPECT_EQ(restore(segment(1, 4)), Outcome::kDelivered);
    EXPECT_EQ(delivered(), wal.segment(1));
    EXPECT_EQ(std::distance(fs::directory_iterator(pg_wal()), fs::directory_iterator()), 1);
}

TEST_F(Restore, SaysEndOfArchiveOnlyOutsideOfWhatMustBeThere) {
    archive_segments(1, 3, 8);
    request_.bounds = {{1}, segment(1, 3), segment(1, 6), ""};
    fs::remove(stored(segment(1, 3)));
    fs::remove(stored(segment(1, 5)));
    fs::remove(stored(segment(1, 6)));
    EXPECT_EQ(restore(segment(1, 2)), Outcome::kEndOfArchive) << "the snapshot's own pg_wal has it";
    for (const std::uint64_t number : {3, 5, 6}) {
        const ErrorInfo error = fault(segment(1, number));
        EXPECT_EQ(error.code, "wal_missing");
        EXPECT_EQ(error.message, "WAL file " + segment(1, number) + " is missing");
        EXPECT_NE(error.detail.find(segment(1, 3) + " to " + segment(1, 6)), std::string::npos);
    }
    EXPECT_EQ(restore(segment(1, 4)), Outcome::kDelivered);
    EXPECT_EQ(restore(segment(1, 7)), Outcome::kEndOfArchive)
        << "its source may have gone on since";
    EXPECT_EQ(restore(segment(1, 9)), Outcome::kEndOfArchive);
}

TEST_F(Restore, TakesAMissingBoundForNoBound) {
    EXPECT_EQ(restore(segment(1, 5)), Outcome::kEndOfArchive) << "nothing must be there";
    request_.bounds = {{1}, segment(1, 3), "", ""};
    EXPECT_EQ(restore(segment(1, 2)), Outcome::kEndOfArchive);
    EXPECT_EQ(fault(segment(1, 1'000'000)).code, "wal_missing");
    request_.bounds = {{1}, "", segment(1, 3), ""};
    EXPECT_EQ(fault(segment(1, 0)).code, "wal_missing");
    EXPECT_EQ(restore(segment(1, 4)), Outcome::kEndOfArchive);
}

TEST_F(Restore, StopsARecoveryAtADamagedFileWhereverItIs) {
    archive_segments(1, 3, 8);
    request_.bounds = {{1}, segment(1, 4), segment(1, 8), ""};
    for (const std::uint64_t number : {3, 5, 8}) {
        const fs::path path = stored(segment(1, number));
        const auto size = fs::file_size(path);
        fs::resize_file(path, size / 2);
        EXPECT_EQ(fault(segment(1, number)).code, "wal_damaged");
        fs::resize_file(path, size);  // the second half is zeros now
        const ErrorInfo error = fault(segment(1, number));
        EXPECT_EQ(error.code, "wal_damaged");
        EXPECT_NE(error.message.find(segment(1, number)), std::string::npos);
    }
    EXPECT_TRUE(is_clean()) << "nothing was delivered, not even in part";
}

TEST_F(Restore, StopsARecoveryAtWhatItCannotRead) {
    archive_segments(1, 3, 3);
    request_.bounds = {{1}, segment(1, 3), segment(1, 3), ""};
    fs::rename(stored(segment(1, 3)), root_ / "x");
    fs::create_symlink(root_ / "x", stored(segment(1, 3)));
    EXPECT_EQ(fault(segment(1, 3)).code, "symlink_refused");
    request_.archive = root_ / "nowhere";
    EXPECT_EQ(fault(segment(1, 3)).code, "system_call_failed");
    EXPECT_EQ(fault(segment(1, 9)).code, "system_call_failed") << "not even past the end";
    request_.archive = archive();
    EXPECT_EQ(fault("RECOVERYXLOG").code, "wal_name_invalid");
    request_.bounds.until = "zzz";
    EXPECT_EQ(fault(segment(1, 9)).code, "wal_bounds_invalid");
}

TEST_F(Restore, NeverGivesOutASegmentOfATimelineThatIsNotFollowed) {
    archive_segments(1, 3, 5);
    archive_segments(2, 3, 5);
    request_.bounds = {{2}, segment(2, 4), segment(2, 5), ""};
    EXPECT_EQ(restore(segment(1, 4)), Outcome::kEndOfArchive);
    EXPECT_EQ(restore(segment(3, 4)), Outcome::kEndOfArchive);
    EXPECT_EQ(restore(segment(2, 4)), Outcome::kDelivered);
    EXPECT_TRUE(delivered().find('\0') != std::string::npos);
}

/// Timeline 1 was left in segment 5, and its server wrote on.
class RestoreOverASwitch : public Restore {
  protected:
    void SetUp() override {
        Restore::SetUp();
        older_ = archive_segments(1, 3, 7);
        WalShape shape;
        shape.first = {2, 5};
        newer_ = write_segments(3, shape);
        for (const std::uint64_t index : {0, 1, 2})
            archive_it(newer_.name(index));
        for (const std::uint64_t index : {0, 1, 2})
            fs::remove(pg_wal() / newer_.name(index));
        archive_history("00000002.history", fmt::format("1\t0/{:X}\tx\n", 5 * kSmallSegment + 99));
        request_.bounds = {{1, 2}, segment(1, 3), segment(2, 7), "00000002.history"};
    }
    WalBuilder older_;
    WalBuilder newer_;
};

TEST_F(RestoreOverASwitch, GivesEachSegmentFromTheTimelineItBelongsTo) {
    EXPECT_EQ(restore("00000002.history"), Outcome::kDelivered);
    // In the order in which PostgreSQL asks: the newest timeline first.
    EXPECT_EQ(restore(segment(2, 4)), Outcome::kEndOfArchive) << "2 had not begun yet";
    EXPECT_EQ(restore(segment(1, 4)), Outcome::kDelivered);
    EXPECT_EQ(delivered(), older_.segment(1));
    EXPECT_EQ(restore(segment(2, 5)), Outcome::kDelivered);
    EXPECT_EQ(delivered(), newer_.segment(0));
    EXPECT_EQ(restore(segment(1, 5)), Outcome::kEndOfArchive)
        << "it has what came after the switch";
    EXPECT_EQ(restore(segment(1, 6)), Outcome::kEndOfArchive);
    EXPECT_EQ(restore(segment(2, 7)), Outcome::kDelivered);
    EXPECT_EQ(restore(segment(2, 8)), Outcome::kEndOfArchive);
    EXPECT_EQ(restore("00000003.history"), Outcome::kEndOfArchive) << "asked for a new number";
}

TEST_F(RestoreOverASwitch, StopsWhereTheFirstSegmentOfTheNewTimelineIsMissing) {
    fs::remove(stored(segment(2, 5)));
    EXPECT_EQ(fault(segment(2, 5)).code, "wal_missing");
    EXPECT_EQ(restore(segment(1, 5)), Outcome::kEndOfArchive);
}

TEST_F(RestoreOverASwitch, MissesASegmentOfTheOlderTimelineOnlyThere) {
    fs::remove(stored(segment(1, 4)));
    EXPECT_EQ(restore(segment(2, 4)), Outcome::kEndOfArchive);
    EXPECT_EQ(fault(segment(1, 4)).code, "wal_missing");
}

TEST_F(RestoreOverASwitch, StopsWithoutAHistoryThatSaysWhereItWas) {
    const std::string history = bytes_of(stored("00000002.history"));
    put(stored("00000002.history"), history.substr(0, 100));
    EXPECT_EQ(fault("00000002.history").code, "wal_damaged");
    EXPECT_EQ(fault(segment(1, 3)).code, "wal_damaged");
    fs::remove(stored("00000002.history"));
    EXPECT_EQ(fault("00000002.history").code, "wal_history_missing");
    EXPECT_EQ(fault(segment(1, 3)).code, "wal_bounds_invalid");
    archive_history("00000002.history", "nonsense\n");
    EXPECT_EQ(fault(segment(1, 3)).code, "wal_damaged");
    request_.server.reset();
    EXPECT_EQ(fault(segment(1, 3)).code, "wal_bounds_invalid") << "how large are segments?";
}

TEST_F(Restore, LooksIntoTheSpoolFirstAndStopsAtDamageThere) {
    const WalBuilder wal = archive_segments(1, 3, 3);
    request_.spool = spool();
    WalShape shape;
    shape.first = {1, 4};
    WalBuilder tail(shape);
    tail.commit(at_second(1));
    put(pg_wal() / tail.name(0), tail.segment(0));
    const UniqueFd directory = open_directory(pg_wal());
    archive_file({.source_directory_fd = directory.get(),
                  .source_shown = "pg_wal",
                  .source_name = tail.name(0),
                  .name = tail.name(0),
                  .archive = spool(),
                  .server = ServerIdentity{kSystem, kSmallSegment}});
    fs::remove(pg_wal() / tail.name(0));
    request_.bounds = {{1}, segment(1, 3), segment(1, 4), ""};
    EXPECT_EQ(restore(segment(1, 3)), Outcome::kDelivered);
    EXPECT_EQ(delivered(), wal.segment(0));
    EXPECT_EQ(restore(segment(1, 4)), Outcome::kDelivered);
    EXPECT_EQ(delivered(), tail.segment(0));
    EXPECT_EQ(restore(segment(1, 4)), Outcome::kDelivered) << "PostgreSQL may ask twice";
    fs::resize_file(spool() / (segment(1, 4) + ".zst"), 500);
    EXPECT_EQ(fault(segment(1, 4)).code, "wal_damaged");
    request_.spool = root_ / "no-such-spool";
    EXPECT_EQ(restore(segment(1, 3)), Outcome::kDelivered);
    EXPECT_EQ(fault(segment(1, 4)).code, "wal_missing");
}

TEST_F(Restore, StopsARecoveryWithTheWalOfAnotherCluster) {
    archive_segments(1, 3, 3);
    request_.server = ServerIdentity{kSystem + 1, kSmallSegment};
    const ErrorInfo error = fault(segment(1, 3));
    EXPECT_EQ(error.code, "wal_foreign");
    EXPECT_NE(error.detail.find("7300000000000000002"), std::string::npos);
    request_.server = ServerIdentity{kSystem, 16 * kSmallSegment};
    EXPECT_EQ(fault(segment(1, 3)).code, "wal_damaged");
    request_.server.reset();
    EXPECT_EQ(restore(segment(1, 3)), Outcome::kDelivered) << "outside of a data directory";
}

TEST_F(Restore, DoesNotFollowALinkInThePlaceOfTheDestination) {
    const WalBuilder wal = archive_segments(1, 3, 3);
    put(root_ / "precious", "precious");
    fs::create_symlink(root_ / "precious", request_.destination);
    EXPECT_EQ(restore(segment(1, 3)), Outcome::kDelivered);
    EXPECT_EQ(bytes_of(root_ / "precious"), "precious");
    EXPECT_FALSE(fs::is_symlink(request_.destination));
    EXPECT_EQ(delivered(), wal.segment(0));
}

}  // namespace
}  // namespace bpg::wal::test
