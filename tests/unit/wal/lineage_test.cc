// Which timeline a segment belongs to.
#include "orchestrator/wal/lineage.h"

#include <gtest/gtest.h>

namespace bpg::wal {
namespace {

using Switches = std::vector<TimelineSwitch>;
constexpr std::uint32_t kSize = 16U << 20U;

TEST(Lineage, ReadsAHistoryAsPostgresWritesIt) {
    EXPECT_EQ(parse_history("1\t0/3000158\tno recovery target specified\n\n"
                            "2\t1/A000000\tbefore 2026-11-26 13:00:00.5+00\n"),
              (Switches{{1, 0x3000158}, {2, 0x1'0A00'0000}}));
    EXPECT_EQ(parse_history(""), Switches{});
    EXPECT_EQ(parse_history("# 1 0/1 a comment\n  \t \n"), Switches{});
    EXPECT_EQ(parse_history("  3   0/20  at restore point \"x\"\r\n"), (Switches{{3, 0x20}}));
}

TEST(Lineage, RefusesWhatIsNoHistory) {
    for (const char* text : {"zstd", "1", "1 3000158", "x 0/3000158", "1 0/3000158 a\n1 0/4 b",
                             "2 0/5 a\n1 0/6 b", "1 0/6 a\n2 0/5 b", "1 G/0", "1 /5", "1 5/"}) {
        EXPECT_EQ(parse_history(text), std::nullopt) << text;
    }
}

TEST(Lineage, GivesTheSegmentOfASwitchToTheNewerTimeline) {
    const Switches switches{{1, 5ULL * kSize + 100}, {4, 9ULL * kSize}};
    const auto timeline = [&](std::uint64_t number) {
        return timeline_of_segment(switches, 6, number, kSize);
    };
    EXPECT_EQ(timeline(4), 1U);
    EXPECT_EQ(timeline(5), 4U) << "its first bytes are timeline 1's, and timeline 4 has them too";
    EXPECT_EQ(timeline(8), 4U);
    EXPECT_EQ(timeline(9), 6U) << "a switch between two segments leaves the older one whole";
    EXPECT_EQ(timeline(1'000'000), 6U);
    EXPECT_EQ(timeline_of_segment({}, 1, 7, kSize), 1U);
}

TEST(Lineage, PassesOverATimelineThatWasLeftWithinASegment) {
    // 2 began and ended in segment 5: its segment of that number was never finished.
    const Switches switches{{1, 5ULL * kSize + 100}, {2, 5ULL * kSize + 200}};
    EXPECT_EQ(timeline_of_segment(switches, 3, 4, kSize), 1U);
    EXPECT_EQ(timeline_of_segment(switches, 3, 5, kSize), 3U);
}

}  // namespace
}  // namespace bpg::wal
