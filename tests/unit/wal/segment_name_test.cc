// Names of WAL files, and what follows what.
#include "orchestrator/wal/segment_name.h"

#include <gtest/gtest.h>

namespace bpg::wal {
namespace {

constexpr std::uint32_t kMiB = 1U << 20U;

TEST(SegmentName, CountsInLogFilesOfFourGiBWhateverTheSizeOfASegment) {
    EXPECT_EQ(segment_name({1, 0xFF}, 16 * kMiB), "0000000100000000000000FF");
    EXPECT_EQ(segment_name({1, 0x100}, 16 * kMiB), "000000010000000100000000");
    EXPECT_EQ(segment_name({1, 0xFFF}, kMiB), "000000010000000000000FFF");
    EXPECT_EQ(segment_name({1, 0x1000}, kMiB), "000000010000000100000000");
    EXPECT_EQ(segment_name({0xABCDEF01, 7}, 1024 * kMiB), "ABCDEF010000000100000003");
}

TEST(SegmentName, IsReadBackForEverySizeAndAcrossLogFiles) {
    for (std::uint32_t size = kMiB; size <= 1024 * kMiB; size *= 2) {
        EXPECT_TRUE(is_segment_size(size));
        const std::uint64_t per_log_file = (1ULL << 32U) / size;
        for (const std::uint64_t number : {std::uint64_t{0}, std::uint64_t{1}, per_log_file - 1,
                                           per_log_file, 5 * per_log_file + 1}) {
            const SegmentId segment{3, number};
            EXPECT_EQ(parse_segment_name(segment_name(segment, size), size), segment);
            EXPECT_EQ(segment_at(3, begin_of(segment, size), size), segment);
            EXPECT_EQ(segment_at(3, begin_of(next(segment), size) - 1, size), segment);
            EXPECT_EQ(previous(next(segment)), segment);
        }
    }
    EXPECT_EQ(previous({3, 0}), std::nullopt);
}

TEST(SegmentName, RefusesWhatNoSegmentOfThatSizeIsCalled) {
    EXPECT_TRUE(parse_segment_name("0000000100000000000000FF", 16 * kMiB));
    EXPECT_FALSE(parse_segment_name("000000010000000000000100", 16 * kMiB));
    EXPECT_TRUE(parse_segment_name("000000010000000000000100", kMiB));
    EXPECT_FALSE(parse_segment_name("000000000000000000000001", kMiB)) << "timeline 0";
    for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{kMiB} / 2,
                                     std::uint64_t{3} * kMiB, std::uint64_t{2048} * kMiB}) {
        EXPECT_FALSE(is_segment_size(size)) << size;
    }
}

TEST(SegmentName, OrdersByTimelineAndThenByPosition) {
    EXPECT_LT((SegmentId{1, 300}), (SegmentId{2, 3}));
    EXPECT_LT((SegmentId{2, 0xFF}), (SegmentId{2, 0x100}));
}

TEST(WalName, IsOneOfTheFourKindsThatPostgresArchives) {
    const auto kind = [](std::string_view text) { return parse_wal_name(text)->kind; };
    EXPECT_EQ(kind("0000000A00000001000000FE"), WalKind::kSegment);
    EXPECT_EQ(kind("0000000A00000001000000FE.partial"), WalKind::kPartial);
    EXPECT_EQ(kind("0000000A00000001000000FE.00000028.backup"), WalKind::kBackup);
    EXPECT_EQ(kind("0000000A.history"), WalKind::kHistory);
    const auto name = parse_wal_name("0000000A00000001000000FE.00000028.backup");
    EXPECT_EQ(name->timeline, 10U);
    EXPECT_EQ(name->segment(), "0000000A00000001000000FE");
    EXPECT_FALSE(name->holds_wal());
    EXPECT_TRUE(parse_wal_name("0000000A00000001000000FE.partial")->holds_wal());
    EXPECT_EQ(parse_wal_name(history_name(10))->text, "0000000A.history");
    EXPECT_EQ(parse_wal_name("0000000A.history")->segment(), "");
}

TEST(WalName, IsNothingElse) {
    using namespace std::string_view_literals;
    for (const std::string_view text : {""sv,
                                        "."sv,
                                        ".."sv,
                                        "00000001"sv,
                                        "history"sv,
                                        "1.history"sv,
                                        "00000000.history"sv,
                                        "0000000a.history"sv,
                                        "00000001.histor"sv,
                                        "00000001.history "sv,
                                        "00000001.history.zst"sv,
                                        "00000001000000000000000"sv,
                                        "0000000100000000000000011"sv,
                                        "00000001000000000000000g"sv,
                                        "0000000100000000000000fe"sv,
                                        "../00000001000000000000"sv,
                                        "000000010000000000000001/"sv,
                                        "000000010000000000000001.part"sv,
                                        "000000010000000000000001.partial2"sv,
                                        "000000010000000000000001.backup"sv,
                                        "000000010000000000000001.0000002.backup"sv,
                                        "000000010000000000000001.0000002g.backup"sv,
                                        "000000010000000000000001.00000028.backup.old"sv,
                                        "000000010000000000000001.00000028"sv,
                                        "000000010000000000000001\0"sv,
                                        "RECOVERYXLOG"sv}) {
        EXPECT_FALSE(parse_wal_name(text)) << text;
    }
}

}  // namespace
}  // namespace bpg::wal
