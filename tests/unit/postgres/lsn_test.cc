// Log sequence numbers and segment names.
#include "orchestrator/postgres/lsn.h"

#include <gtest/gtest.h>

#include <random>

namespace bpg::postgres {
namespace {

constexpr std::uint32_t kSegment = 16U << 20U;

TEST(Lsn, ReadsBackWhatItWrites) {
    const auto seed = std::random_device{}();
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    for (int i = 0; i < 1000; ++i) {
        const Lsn lsn{random() >> (random() % 64)};
        EXPECT_EQ(parse_lsn(to_string(lsn)), lsn) << to_string(lsn);
    }
}

TEST(Lsn, IsWrittenAsPostgresPrintsIt) {
    EXPECT_EQ(to_string(Lsn{0x16B3748}), "0/16B3748");
    EXPECT_EQ(to_string(Lsn{0x1'0000'0000}), "1/0");
    EXPECT_EQ(parse_lsn("a/ff"), Lsn{0xA'0000'00FF});
}

TEST(Lsn, RefusesWhatIsNoLsn) {
    for (const char* text : {"", "/", "0", "0/", "/0", "0/0/0", "0/123456789", "g/0", "0/-1",
                             " 0/1", "0/1 ", "0x1/0", "+1/0"}) {
        EXPECT_FALSE(parse_lsn(text)) << "'" << text << "'";
    }
}

TEST(SegmentName, CountsInLogFilesOfFourGigabytes) {
    EXPECT_EQ(segment_name(1, Lsn{0x2000028}, kSegment), "000000010000000000000002");
    EXPECT_EQ(segment_name(0x1A, Lsn{0}, kSegment), "0000001A0000000000000000");
    EXPECT_EQ(segment_name(1, Lsn{0x5'FFFF'FFFF}, kSegment), "0000000100000005000000FF");
    EXPECT_EQ(segment_name(1, Lsn{0x6'0000'0000}, kSegment), "000000010000000600000000");
}

TEST(SegmentName, AtABoundaryIsTheSegmentThatBeginsThere) {
    EXPECT_EQ(segment_name(1, Lsn{0x2FFFFFF}, kSegment), "000000010000000000000002");
    EXPECT_EQ(segment_name(1, Lsn{0x3000000}, kSegment), "000000010000000000000003");
}

TEST(SegmentName, FollowsTheSegmentSize) {
    EXPECT_EQ(segment_name(1, Lsn{0xFFFF'FFFF}, 1U << 20U), "000000010000000000000FFF");
    EXPECT_EQ(segment_name(1, Lsn{0x1'4000'0000}, 1U << 30U), "000000010000000100000001");
}

}  // namespace
}  // namespace bpg::postgres
