// Segment headers and history files.
#include "orchestrator/postgres/wal_files.h"

#include <gtest/gtest.h>

#include <cstring>

namespace bpg::postgres {
namespace {

constexpr std::uint32_t kSegment = 16U << 20U;

std::string header(std::uint32_t timeline, std::uint64_t begin, std::uint32_t segment_size) {
    std::string bytes(40, '\0');
    const std::uint16_t magic = 0xD110;
    const std::uint16_t info = 0x0002;
    std::memcpy(bytes.data(), &magic, 2);
    std::memcpy(bytes.data() + 2, &info, 2);
    std::memcpy(bytes.data() + 4, &timeline, 4);
    std::memcpy(bytes.data() + 8, &begin, 8);
    std::memcpy(bytes.data() + 32, &segment_size, 4);
    return bytes;
}

TEST(SegmentHeader, TellsARecycledFileFromTheSegmentItIsNamedAfter) {
    const Lsn begin{3ULL * kSegment};
    EXPECT_TRUE(segment_header_matches(header(1, begin.value, kSegment), 1, begin, kSegment));
    EXPECT_FALSE(segment_header_matches(header(1, kSegment, kSegment), 1, begin, kSegment));
    EXPECT_FALSE(segment_header_matches(header(1, begin.value, 1U << 20U), 1, begin, kSegment));
    EXPECT_FALSE(segment_header_matches(std::string(40, '\0'), 1, Lsn{0}, kSegment));
    EXPECT_FALSE(segment_header_matches("", 1, Lsn{0}, kSegment));
}

TEST(SegmentHeader, OfATimelinesFirstSegmentMayNameAnOlderOneButNoNewer) {
    const Lsn begin{kSegment};
    EXPECT_TRUE(segment_header_matches(header(1, begin.value, kSegment), 2, begin, kSegment));
    EXPECT_FALSE(segment_header_matches(header(3, begin.value, kSegment), 2, begin, kSegment));
}

TEST(History, SaysWhereItsTimelineBegan) {
    EXPECT_EQ(last_switch_point("1\t0/2000158\tno recovery target specified\n"), Lsn{0x2000158});
    EXPECT_EQ(last_switch_point("1\t0/2000158\treason\n\n# a comment\n2\t1/A0\tbefore 9/9\n"),
              (Lsn{0x1'0000'00A0}));
    EXPECT_EQ(last_switch_point(""), std::nullopt);
    EXPECT_EQ(last_switch_point("# 1 0/1\nnonsense\n"), std::nullopt);
}

}  // namespace
}  // namespace bpg::postgres
