// Putting files into an archive: what is taken, what is refused, and what becomes of a file that is
// there already.
#include "orchestrator/wal/archive.h"

#include <fcntl.h>
#include <sys/file.h>

#include <atomic>
#include <thread>

#include "orchestrator/wal/verify.h"
#include "tests/unit/wal/wal_fixture.h"

namespace bpg::wal::test {
namespace {

class Archive : public WalTest {
  protected:
    /// A segment in pg_wal that is whole and not the one that was archived.
    void write_another(const WalBuilder& wal, std::uint64_t index) const {
        WalBuilder other(wal.shape());
        other.commit(at_second(77));
        put(pg_wal() / wal.name(index), other.segment(index));
    }
};

TEST_F(Archive, TakesEveryKindOfFileOnceAndAgain) {
    const WalBuilder wal = write_segments(1);
    put(pg_wal() / (wal.name(0) + ".partial"), wal.segment(0));
    put(pg_wal() / (wal.name(0) + ".00000028.backup"), "START WAL LOCATION: 0/100028\n");
    put(pg_wal() / "00000002.history", "1\t0/3000158\tx\n");
    for (const std::string& suffix : {"", ".partial", ".00000028.backup"}) {
        const std::string name = wal.name(0) + suffix;
        EXPECT_EQ(archive_it(name).outcome, ArchiveOutcome::kArchived) << name;
        EXPECT_EQ(archive_it(name).outcome, ArchiveOutcome::kWasThere) << name;
        EXPECT_EQ(plain_of(name), bytes_of(pg_wal() / name));
    }
    EXPECT_EQ(archive_it("00000002.history").outcome, ArchiveOutcome::kArchived);
    EXPECT_EQ(archive_it("00000002.history").outcome, ArchiveOutcome::kWasThere);
    EXPECT_EQ(archived(), (std::vector<std::string>{wal.name(0) + ".00000028.backup.zst",
                                                    wal.name(0) + ".partial.zst",
                                                    wal.name(0) + ".zst", "00000002.history.zst"}));
    EXPECT_TRUE(verify_archive(archive()).empty());
}

TEST_F(Archive, RefusesNamesThatPostgresDoesNotArchive) {
    const WalBuilder wal = write_segments(1);
    for (const char* name : {"", "x", "../000000010000000000000001", "RECOVERYXLOG",
                             "000000010000000000000001.zst", "000000010000000000000001.tmp"}) {
        const ErrorInfo error = error_of([&] {
            const UniqueFd directory = open_directory(pg_wal());
            archive_file({.source_directory_fd = directory.get(),
                          .source_shown = "pg_wal",
                          .source_name = wal.name(0),
                          .name = name,
                          .archive = archive(),
                          .server = std::nullopt});
        });
        EXPECT_EQ(error.code, "wal_name_invalid") << name;
    }
    EXPECT_TRUE(archived().empty());
}

TEST_F(Archive, RefusesWhatIsNotTheSegmentOfItsNameAndServer) {
    const WalBuilder wal = write_segments(2);
    const std::string name = wal.name(0);
    const auto why = [&](const std::string& content) {
        put(pg_wal() / name, content);
        const ErrorInfo error = error_of([&] { archive_it(name); });
        EXPECT_EQ(error.code, "wal_source_wrong");
        EXPECT_NE(error.message.find(name), std::string::npos);
        return error.detail;
    };
    EXPECT_EQ(why(wal.segment(1)), "it holds segment 000000010000000000000002");
    EXPECT_EQ(why(wal.segment(0).substr(0, 1000)), "it has 1000 bytes instead of 1048576");
    EXPECT_EQ(why(""), "it does not begin as WAL of PostgreSQL 13 to 18 does");
    EXPECT_EQ(why(std::string(kSmallSegment, '\0')),
              "it does not begin as WAL of PostgreSQL 13 to 18 does");
    EXPECT_EQ(why(WalBuilder({.system_identifier = 5}).segment(0)),
              "it is of the cluster 5, and this one is 7300000000000000001");
    WalBuilder later;
    later.set_timeline(2);
    std::string newer = later.segment(0);
    newer[4] = 2;
    EXPECT_EQ(why(newer), "it is of timeline 2");
    const WalBuilder large({.first = {1, 1}, .segment_size = 2 * kSmallSegment});
    EXPECT_EQ(why(large.segment(0)), "segments of this server have 1048576 bytes");
    EXPECT_TRUE(archived().empty());
}

TEST_F(Archive, RefusesLinksAndWhatIsNoFile) {
    const WalBuilder wal = write_segments(1);
    const fs::path source = pg_wal() / wal.name(0);
    fs::rename(source, root_ / "secret");
    EXPECT_EQ(error_of([&] { archive_it(wal.name(0)); }).code, "wal_source_missing");
    fs::create_symlink(root_ / "secret", source);
    EXPECT_EQ(error_of([&] { archive_it(wal.name(0)); }).code, "symlink_refused");
    fs::remove(source);
    ASSERT_EQ(::mkfifo(source.c_str(), 0600), 0);
    EXPECT_EQ(error_of([&] { archive_it(wal.name(0)); }).code, "not_a_regular_file");
    fs::remove(source);
    fs::rename(root_ / "secret", source);
    // In the archive: what the link names stays as it is, and the link too.
    put(root_ / "host_file", "precious");
    fs::create_symlink(root_ / "host_file", stored(wal.name(0)));
    EXPECT_EQ(error_of([&] { archive_it(wal.name(0)); }).code, "symlink_refused");
    EXPECT_EQ(bytes_of(root_ / "host_file"), "precious");
    fs::remove(stored(wal.name(0)));
    fs::create_symlink(archive(), root_ / "link");
    EXPECT_EQ(error_of([&] {
                  const UniqueFd directory = open_directory(pg_wal());
                  archive_file({.source_directory_fd = directory.get(),
                                .source_shown = "pg_wal",
                                .source_name = wal.name(0),
                                .name = wal.name(0),
                                .archive = root_ / "link",
                                .server = std::nullopt});
              }).code,
              "symlink_refused");
    EXPECT_TRUE(archived().empty());
}

TEST_F(Archive, NeverReplacesAGoodFileByAnother) {
    const WalBuilder wal = write_segments(1);
    archive_it(wal.name(0));
    const std::string before = bytes_of(stored(wal.name(0)));
    write_another(wal, 0);
    const ErrorInfo error = error_of([&] { archive_it(wal.name(0)); });
    EXPECT_EQ(error.code, "wal_differs");
    EXPECT_EQ(error.kind, ErrorKind::kConflict);
    EXPECT_NE(error.detail.find("in pg_wal"), std::string::npos);
    EXPECT_NE(error.detail.find(archive().native()), std::string::npos);
    EXPECT_EQ(bytes_of(stored(wal.name(0))), before);
    // The same for a file of another length, and for one that only a newer version can read.
    put(pg_wal() / "00000002.history", "1\t0/3000158\tx\n");
    archive_it("00000002.history");
    put(pg_wal() / "00000002.history", "1\t0/3000158\tx\n\n");
    EXPECT_EQ(error_of([&] { archive_it("00000002.history"); }).code, "wal_differs");
    EXPECT_EQ(archived().size(), 2U);
}

TEST_F(Archive, ReplacesADamagedLeftoverInsteadOfFailingForEver) {
    const WalBuilder wal = write_segments(1);
    archive_it(wal.name(0));
    const fs::path path = stored(wal.name(0));
    const std::string good = bytes_of(path);
    std::string flipped = good;
    flipped[good.size() / 2] = static_cast<char>(~flipped[good.size() / 2]);
    for (const std::string& bad : {good.substr(0, good.size() / 2), std::string(), flipped,
                                   std::string(good.size(), '\0'), wal.segment(0)}) {
        put(path, bad);
        EXPECT_EQ(archive_it(wal.name(0)).outcome, ArchiveOutcome::kReplacedDamaged);
        EXPECT_EQ(plain_of(wal.name(0)), wal.segment(0));
        EXPECT_EQ(archived().size(), 1U) << "nothing beside it";
    }
}

TEST_F(Archive, CountsACommitWhereItsRecordEnds) {
    WalBuilder wal;
    wal.commit(at_second(1));
    wal.fill_up_to(32);
    const std::uint64_t end = wal.commit(at_second(2));
    ASSERT_GT(end, 2ULL * kSmallSegment) << "the record crosses the boundary";
    wal.commit(at_second(3));
    wal.fill_up_to(48);
    ASSERT_EQ(wal.record(10, 0, "twenty-two bytes here."), 3ULL * kSmallSegment)
        << "this one ends at it";
    wal.filler(5);
    for (const std::uint64_t index : {0, 1, 2})
        put(pg_wal() / wal.name(index), wal.segment(index));
    const ArchivedMetadata first = archive_it(wal.name(0)).metadata;
    const ArchivedMetadata second = archive_it(wal.name(1)).metadata;
    const ArchivedMetadata third = archive_it(wal.name(2)).metadata;
    EXPECT_EQ(first.last_commit_at, at_second(1));
    EXPECT_EQ(first.wal_end, 2ULL * kSmallSegment);
    EXPECT_EQ(second.first_commit_at, at_second(2));
    EXPECT_EQ(second.last_commit_at, at_second(3));
    EXPECT_EQ(second.wal_end, 3ULL * kSmallSegment);
    EXPECT_EQ(third.first_commit_at, std::nullopt);
    EXPECT_EQ(third.wal_end, wal.at());
    // Without the segment before it is not seen, and nothing else changes.
    fs::remove(stored(wal.name(1)));
    fs::remove(pg_wal() / wal.name(0));
    EXPECT_EQ(archive_it(wal.name(1)).metadata.first_commit_at, at_second(3));
    // Nor when that is another's, as a recycled one is.
    fs::remove(stored(wal.name(1)));
    put(pg_wal() / wal.name(0), wal.segment(2));
    const ArchivedMetadata again = archive_it(wal.name(1)).metadata;
    EXPECT_EQ(again.first_commit_at, at_second(3));
    EXPECT_EQ(again.wal_end, 3ULL * kSmallSegment);
}

TEST_F(Archive, SaysWhereTheWalOfAnUnfinishedSegmentEnds) {
    WalBuilder wal;
    wal.commit(at_second(1));
    put(pg_wal() / wal.name(0), wal.segment(0));
    EXPECT_EQ(archive_it(wal.name(0)).metadata.wal_end, wal.at());
}

TEST_F(Archive, MayBeDoneByManyAtOnce) {
    const WalBuilder wal = write_segments(8);
    // Of two, what lies there is damaged.
    put(stored(wal.name(2)), "half");
    put(stored(wal.name(5)), std::string(5000, '\0'));
    std::atomic<int> made{0};
    std::vector<std::jthread> archivers;
    archivers.reserve(4);
    for (int archiver = 0; archiver < 4; ++archiver) {
        archivers.emplace_back([&] {
            for (std::uint64_t index = 0; index < 8; ++index) {
                try {
                    made += archive_it(wal.name(index)).outcome != ArchiveOutcome::kWasThere;
                } catch (const std::exception& failure) {
                    ADD_FAILURE() << failure.what();
                }
            }
        });
    }
    archivers.clear();
    EXPECT_GE(made, 8);
    EXPECT_EQ(archived().size(), 8U);
    for (std::uint64_t index = 0; index < 8; ++index)
        EXPECT_EQ(plain_of(wal.name(index)), wal.segment(index));
}

TEST_F(Archive, GivesItsFilesToTheOwnerOfTheArchive) {
    const FileOwner nobody = lookup_user("nobody");
    ASSERT_EQ(::chown(archive().c_str(), nobody.uid, nobody.gid), 0);
    const WalBuilder wal = write_segments(1);
    archive_it(wal.name(0));
    put(stored(wal.name(0)), "damaged");
    archive_it(wal.name(0));
    struct stat facts{};
    ASSERT_EQ(::stat(stored(wal.name(0)).c_str(), &facts), 0);
    EXPECT_EQ(facts.st_uid, nobody.uid);
    EXPECT_EQ(facts.st_gid, nobody.gid);
    EXPECT_EQ(facts.st_mode & 07777U, 0600U);
}

TEST_F(Archive, RemovesTemporaryFilesOfTheDeadAndOfNobodyElse) {
    const WalBuilder wal = write_segments(1);
    put(stored(wal.name(0)), "damaged");
    put(archive() / ".bpg-dead.tmp", "x");
    put(archive() / ".bpg-alive.tmp", "x");
    put(archive() / ".hidden", "x");
    put(archive() / "bpg-old.tmp", "x");
    const UniqueFd alive(::open((archive() / ".bpg-alive.tmp").c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_EQ(::flock(alive.get(), LOCK_EX), 0);
    archive_it(wal.name(0));
    EXPECT_EQ(archived(), (std::vector<std::string>{".bpg-alive.tmp", ".hidden",
                                                    wal.name(0) + ".zst", "bpg-old.tmp"}));
    const auto faults = verify_archive(archive());
    ASSERT_EQ(faults.size(), 2U) << "what is being written is nobody's business";
    EXPECT_EQ(faults[0].file, ".hidden");
    EXPECT_EQ(faults[0].error.code, "wal_foreign_file");
    EXPECT_EQ(faults[1].file, "bpg-old.tmp");
}

TEST_F(Archive, NamesWhatIsDamagedMissingOrForeignWhenVerified) {
    const WalBuilder wal = write_segments(3);
    for (const std::uint64_t index : {0, 1, 2})
        archive_it(wal.name(index));
    EXPECT_TRUE(verify_archive(archive()).empty());
    fs::resize_file(stored(wal.name(1)), 1000);
    fs::create_directory(archive() / "000000010000000000000009.zst");
    put(archive() / wal.name(0), wal.segment(0));
    const auto faults = verify_archive(archive());
    ASSERT_EQ(faults.size(), 3U);
    EXPECT_EQ(faults[0].file, wal.name(0));
    EXPECT_EQ(faults[0].error.code, "wal_foreign_file");
    EXPECT_EQ(faults[1].file, wal.name(1) + ".zst");
    EXPECT_EQ(faults[1].error.code, "wal_damaged");
    EXPECT_EQ(faults[2].error.code, "not_a_regular_file");
    EXPECT_TRUE(verify_archive(archive(), {wal.name(0), wal.name(2)}).empty());
    EXPECT_EQ(verify_archive(archive(), {"00000009.history"}).at(0).error.code, "wal_missing");
}

TEST_F(Archive, ReadsTheIdentityOfAServerFromItsControlFile) {
    const UniqueFd directory = open_directory(data());
    const auto server = read_server_identity(directory.get());
    ASSERT_TRUE(server);
    EXPECT_EQ(server->system_identifier, kSystem);
    EXPECT_EQ(server->segment_size, kSmallSegment);
    put(data() / "global/pg_control", "short");
    EXPECT_EQ(error_of([&] { read_server_identity(directory.get()); }).code,
              "not_a_data_directory");
    fs::remove(data() / "global/pg_control");
    EXPECT_FALSE(read_server_identity(directory.get()));
}

}  // namespace
}  // namespace bpg::wal::test
