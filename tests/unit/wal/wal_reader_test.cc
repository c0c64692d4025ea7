// Records, commit times and the exact end of WAL, on WAL made byte by byte.
#include "orchestrator/wal/wal_reader.h"

#include <random>

#include "tests/unit/wal/wal_fixture.h"

namespace bpg::wal::test {
namespace {

struct Found {
    WalFacts facts;
    std::vector<Commit> commits;
    std::vector<RestorePoint> points;
};

class WalReading : public WalTest {
  protected:
    /// Writes the segments to pg_wal and scans them.
    Found scan(const WalBuilder& wal, std::uint64_t number = 1) const {
        for (std::uint64_t index = 0; index < number; ++index)
            put(pg_wal() / wal.name(index), wal.segment(index));
        return scan_from(wal.shape());
    }
    Found scan_from(const WalShape& shape) const {
        Found found;
        const UniqueFd directory = open_directory(pg_wal());
        found.facts =
            scan_segments(directory.get(), "pg_wal", shape.first, shape.segment_size,
                          {[&](const Commit& commit) { found.commits.push_back(commit); },
                           [&](const RestorePoint& point) { found.points.push_back(point); }});
        return found;
    }
    /// Changes one segment that scan() wrote.
    void change(const WalBuilder& wal, std::uint64_t at, std::string_view bytes) const {
        const fs::path path = pg_wal() / wal.name(at / kSmallSegment - wal.shape().first.number);
        std::string content = bytes_of(path);
        content.replace(at % kSmallSegment, bytes.size(), bytes);
        put(path, content);
    }
};

TEST_F(WalReading, FindsCommitsWithTheirTimesAndTheEndOfAHalfFilledSegment) {
    WalBuilder wal;
    wal.filler(100);
    const std::uint64_t begin = wal.at();
    const std::uint64_t first = wal.commit(at_second(5, 123'456), 700);
    wal.filler(30'000);
    const std::uint64_t second = wal.commit(at_second(3), 0, /*prepared=*/true);
    const Found found = scan(wal);
    ASSERT_EQ(found.commits.size(), 2U);
    EXPECT_EQ(found.commits[0].begin, begin);
    EXPECT_EQ(found.commits[0].end, first);
    EXPECT_EQ(found.commits[0].xid, 700U);
    EXPECT_EQ(found.commits[0].at, at_second(5, 123'456));
    EXPECT_EQ(found.commits[1].end, second);
    EXPECT_EQ(found.facts.end, wal.at());
    EXPECT_EQ(found.facts.records, 4U);
    EXPECT_EQ(found.facts.commits, 2U);
    EXPECT_EQ(found.facts.first_record, kSmallSegment + 40U);
    EXPECT_EQ(found.facts.first_commit, at_second(3)) << "the earliest, not the first in the WAL";
    EXPECT_EQ(found.facts.last_commit, at_second(5, 123'456));
}

TEST_F(WalReading, SeesTimesBehindAnOriginAndATopLevelTransaction) {
    WalBuilder wal;
    using namespace std::string_literals;
    wal.commit(at_second(1), 0, false, "\xFD\x01\x00"s);
    wal.commit(at_second(2), 0, false, "\xFC\x01\x00\x00\x00"s);
    wal.commit(at_second(3), 0, false, "\xFD\x01\x00\xFC\x01\x00\x00\x00"s);
    wal.record(1, 0x00, std::string(300, '\0'));  // a long one, at PostgreSQL's own epoch
    wal.record(1, 0x20, std::string(8, '\0'));    // an abort
    wal.record(1, 0x10, std::string(8, '\0'));    // PREPARE TRANSACTION
    const Found found = scan(wal);
    ASSERT_EQ(found.commits.size(), 4U);
    EXPECT_EQ(found.commits[2].at, at_second(3));
    EXPECT_EQ(format_time(found.commits[3].at), "2000-01-01T00:00:00.000000Z");
    EXPECT_EQ(found.facts.end, wal.at());
}

TEST_F(WalReading, FindsRestorePointsByTheirNames) {
    WalBuilder wal;
    const std::uint64_t end = wal.restore_point(at_second(7), "before the migration");
    wal.restore_point(at_second(8), std::string(63, 'x'));
    const Found found = scan(wal);
    ASSERT_EQ(found.points.size(), 2U);
    EXPECT_EQ(found.points[0].name, "before the migration");
    EXPECT_EQ(found.points[0].end, end);
    EXPECT_EQ(found.points[0].at, at_second(7));
    EXPECT_EQ(found.points[1].name, std::string(63, 'x'));
}

TEST_F(WalReading, FollowsRecordsOverPagesAndSegmentsWherever) {
    // A commit that begins at each of the last places of a segment, its header cut anywhere.
    for (std::uint64_t before = 8; before <= 96; before += 8) {
        WalBuilder wal;
        wal.fill_up_to(before);
        ASSERT_EQ(wal.at(), 2ULL * kSmallSegment - before);
        wal.commit(at_second(1));
        wal.filler(3U << 20U);  // over four segments
        const std::uint64_t end = wal.commit(at_second(2));
        const Found found = scan(wal, 5);
        ASSERT_EQ(found.commits.size(), 2U) << before;
        EXPECT_EQ(found.commits[1].end, end);
        EXPECT_EQ(found.facts.end, wal.at());
    }
}

TEST_F(WalReading, PassesOverTheRestOfARecordThatBeganBeforeTheFirstSegment) {
    WalBuilder wal;
    wal.fill_up_to(64);
    wal.filler(20'000);
    wal.commit(at_second(1));
    put(pg_wal() / wal.name(1), wal.segment(1));
    WalShape second = wal.shape();
    second.first.number += 1;
    const Found found = scan_from(second);
    EXPECT_EQ(found.commits.size(), 1U);
    EXPECT_EQ(found.facts.records, 1U);
    EXPECT_EQ(found.facts.end, wal.at());
    EXPECT_GT(*found.facts.first_record, 2ULL * kSmallSegment + 20'000);
}

TEST_F(WalReading, GoesOnInTheNextSegmentBehindASwitch) {
    WalBuilder wal;
    wal.commit(at_second(1));
    EXPECT_EQ(wal.switch_segment(), 2ULL * kSmallSegment);
    EXPECT_EQ(scan(wal).facts.end, 2ULL * kSmallSegment) << "the rest of the segment is used up";
    wal.commit(at_second(2));
    const Found found = scan(wal, 2);
    EXPECT_EQ(found.commits.size(), 2U);
    EXPECT_EQ(found.facts.end, wal.at());
}

TEST_F(WalReading, GoesOnWhereARecordWasLostInACrash) {
    WalBuilder wal;
    wal.commit(at_second(1));
    const std::uint64_t kept = wal.last_record();
    wal.fill_up_to(4096);
    const std::uint64_t before = wal.last_record();
    wal.filler(30'000);
    wal.lose_rest(2ULL * kSmallSegment);
    wal.set_previous(before);
    wal.commit(at_second(2));
    const Found found = scan(wal, 2);
    EXPECT_LT(kept, before);
    EXPECT_EQ(found.commits.size(), 2U);
    EXPECT_EQ(found.facts.end, wal.at());
    // And when the record that was lost began before what is looked at.
    WalShape second = wal.shape();
    second.first.number += 1;
    EXPECT_EQ(scan_from(second).facts.end, wal.at());
}

TEST_F(WalReading, EndsBeforeARecordOfWhichAnyByteIsWrong) {
    WalBuilder wal;
    wal.commit(at_second(1));
    const std::uint64_t begin = wal.at();
    const std::uint64_t end = wal.commit(at_second(2));
    wal.commit(at_second(3));
    std::mt19937_64 random(7);
    for (std::uint64_t at = begin; at < begin + 24 + 2 + 12; ++at) {
        scan(wal);
        const char flipped = static_cast<char>(wal.segment(0)[at % kSmallSegment] ^
                                               static_cast<char>(1U << random() % 8));
        change(wal, at, {&flipped, 1});
        const Found found = scan_from(wal.shape());
        ASSERT_EQ(found.facts.end, begin) << "byte " << at - begin << " of " << end - begin;
        ASSERT_EQ(found.facts.last_commit, at_second(1));
    }
}

TEST_F(WalReading, EndsAtAPageThatIsZeroedOrAnothers) {
    WalBuilder wal;
    wal.commit(at_second(1));
    while (wal.at() < kSmallSegment + 5 * 8192)
        wal.filler(100);
    for (const std::size_t length : {8192UL, 1UL, 2UL, 16UL}) {
        scan(wal);
        change(wal, kSmallSegment + 3 * 8192, std::string(length, '\0'));
        const Found found = scan_from(wal.shape());
        EXPECT_LE(found.facts.end, kSmallSegment + 3U * 8192);
        EXPECT_GT(found.facts.end, kSmallSegment + 3U * 8192 - 200);
    }
    // The page of another place, right in all else.
    scan(wal);
    change(wal, kSmallSegment + 3 * 8192 + 8, "\x01");
    EXPECT_LE(scan_from(wal.shape()).facts.end, kSmallSegment + 3U * 8192);
}

TEST_F(WalReading, TakesNothingFromTheFormerLifeOfARecycledSegment) {
    // Segment 2 was written before as segment 1, and its WAL looks whole.
    WalBuilder old;
    old.commit(at_second(1));
    old.fill_up_to(64);
    old.filler(200);
    WalBuilder wal;
    wal.fill_up_to(7000);
    const std::uint64_t before = wal.at();
    wal.filler(12'000);
    scan(wal);
    put(pg_wal() / wal.name(1), old.segment(0));
    EXPECT_EQ(scan_from(wal.shape()).facts.end, before) << "the record was not written to its end";
    // A page of the new life, and the next still of the old.
    std::string mixed = wal.segment(1).substr(0, 8192) + old.segment(0).substr(8192);
    put(pg_wal() / wal.name(1), mixed);
    EXPECT_EQ(scan_from(wal.shape()).facts.end, wal.at());
}

TEST_F(WalReading, EndsBeforeARecordThatIsNotLinkedToTheOneBefore) {
    WalBuilder wal;
    wal.commit(at_second(1));
    const std::uint64_t end = wal.at();
    wal.set_previous(kSmallSegment + 48);
    wal.commit(at_second(2));
    EXPECT_EQ(scan(wal).facts.end, end);
    WalBuilder first;
    first.set_previous(first.at() + 100);
    first.commit(at_second(1));
    EXPECT_EQ(scan(first).facts.records, 0U) << "nothing is before what comes later";
    EXPECT_EQ(scan_from(first.shape()).facts.end, kSmallSegment);
}

TEST_F(WalReading, AcceptsTheOlderTimelineAtTheBeginningOfASegmentAndNoNewer) {
    WalBuilder wal({.first = {3, 1}});
    wal.set_timeline(3);
    wal.commit(at_second(1));
    EXPECT_EQ(scan(wal).facts.records, 1U) << "its first page is of timeline 3";
    std::string older = wal.segment(0);
    older[4] = 2;
    put(pg_wal() / wal.name(0), older);
    EXPECT_EQ(scan_from(wal.shape()).facts.records, 1U);
    older[4] = 4;
    put(pg_wal() / wal.name(0), older);
    EXPECT_EQ(scan_from(wal.shape()).facts.records, 0U);
}

TEST_F(WalReading, KnowsEveryVersionAndPageSize) {
    const std::pair<std::uint16_t, int> versions[] = {{0xD106, 13}, {0xD10D, 14}, {0xD110, 15},
                                                      {0xD113, 16}, {0xD116, 17}, {0xD118, 18}};
    for (const auto& [magic, major] : versions) {
        WalBuilder wal({.magic = magic});
        wal.commit(at_second(1));
        EXPECT_EQ(parse_segment_header(wal.segment(0))->version_major, major);
        EXPECT_EQ(scan(wal).facts.records, 1U);
    }
    for (std::uint32_t page = 1024; page <= 65'536; page *= 2) {
        WalBuilder wal({.page_size = page});
        wal.filler(200'000);
        wal.commit(at_second(1));
        EXPECT_EQ(scan(wal).facts.end, wal.at()) << page;
    }
    for (const std::uint16_t magic : {0xD105, 0xD101, 0xD119, 0x0000}) {
        WalBuilder wal({.magic = magic});
        wal.commit(at_second(1));
        EXPECT_EQ(parse_segment_header(wal.segment(0)), std::nullopt) << magic;
        EXPECT_EQ(scan(wal).facts.records, 0U);
    }
}

TEST_F(WalReading, IsTheSameInPiecesOfAnySize) {
    WalBuilder wal;
    wal.commit(at_second(1));
    wal.fill_up_to(64);
    wal.filler(30'000);
    wal.commit(at_second(2));
    for (const std::size_t size : {1UL, 39UL, 41UL, 1000UL, 8192UL, 8193UL, 131'072UL}) {
        WalScanner scanner;
        for (const std::uint64_t index : {0, 1}) {
            scanner.begin_segment({1, 1 + index}, kSmallSegment);
            const std::string segment = wal.segment(index);
            for (std::size_t at = 0; at < segment.size(); at += size)
                scanner.feed(std::string_view(segment).substr(at, size));
        }
        EXPECT_EQ(scanner.facts().end, wal.at()) << size;
        EXPECT_EQ(scanner.facts().commits, 2U);
        EXPECT_EQ(scanner.end_in_segment(), wal.at());
    }
}

TEST_F(WalReading, SurvivesRandomBytes) {
    const std::uint64_t seed = std::random_device{}();
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937_64 random(seed);
    WalBuilder wal;
    while (wal.at() < kSmallSegment + 100'000)
        wal.filler(random() % 5000);
    const std::string good = wal.segment(0);
    for (int round = 0; round < 200; ++round) {
        std::string bad = good;
        for (std::uint64_t flips = 1 + random() % 20; flips > 0; --flips)
            bad[random() % 100'000] = static_cast<char>(random());
        WalScanner scanner;
        scanner.begin_segment({1, 1}, kSmallSegment);
        scanner.feed(bad);
        EXPECT_LE(scanner.end_in_segment(), 2ULL * kSmallSegment);
        EXPECT_GE(scanner.end_in_segment(), kSmallSegment);
    }
}

TEST_F(WalReading, SaysWhatIsWrongWithASegment) {
    const WalBuilder wal({.first = {2, 0x12}});
    const auto fault = [&](const char* name, std::uint64_t size,
                           std::optional<std::uint64_t> system) {
        return fault_of_segment(parse_segment_header(wal.segment(0)), *parse_wal_name(name), size,
                                system);
    };
    EXPECT_EQ(fault("000000020000000000000012", kSmallSegment, kSystem), "");
    EXPECT_EQ(fault("000000020000000000000012.partial", kSmallSegment, std::nullopt), "");
    EXPECT_EQ(fault("000000030000000000000012", kSmallSegment, kSystem), "")
        << "a timeline's first segment begins with the older one's pages";
    EXPECT_EQ(fault("000000010000000000000012", kSmallSegment, kSystem), "it is of timeline 2");
    EXPECT_EQ(fault("000000020000000000000013", kSmallSegment, kSystem),
              "it holds segment 000000020000000000000012");
    EXPECT_EQ(fault("000000020000000000000012", 100, kSystem),
              "it has 100 bytes instead of 1048576");
    EXPECT_EQ(fault("000000020000000000000012", kSmallSegment, 5),
              "it is of the cluster 7300000000000000001, and this one is 5");
    EXPECT_EQ(fault_of_segment(parse_segment_header(std::string(40, '\0')),
                               *parse_wal_name("000000020000000000000012"), kSmallSegment, 5),
              "it does not begin as WAL of PostgreSQL 13 to 18 does");
}

}  // namespace
}  // namespace bpg::wal::test
