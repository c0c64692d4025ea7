// Times, durations and sizes as users write them: what is read is what was meant, or nothing.
#include "orchestrator/base/clock.h"

#include <gtest/gtest.h>

namespace bpg {
namespace {

using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

TEST(Time, ShowsMicrosecondsInUtc) {
    EXPECT_EQ(format_time(WallTime(microseconds(0))), "1970-01-01T00:00:00.000000Z");
    EXPECT_EQ(format_time(WallTime(microseconds(1'795'425'723'123'456))),
              "2026-11-23T09:22:03.123456Z");
}

TEST(Time, ReadsBackWhatItShows) {
    const WallTime now = SystemClock().now();
    EXPECT_EQ(parse_time(format_time(now)), now);
}

TEST(Time, ReadsAnyZoneAndFraction) {
    const auto utc = parse_time("2026-11-23T09:22:03Z");
    ASSERT_TRUE(utc);
    EXPECT_EQ(parse_time("2026-11-23T10:22:03+01:00"), utc);
    EXPECT_EQ(parse_time("2026-11-23T09:22:03.5Z"), *utc + milliseconds(500));
}

TEST(Time, RefusesWhatIsNoTime) {
    for (const char* text : {"", "yesterday", "2026-11-23", "2026-13-01T00:00:00Z",
                             "2026-11-23T09:22:03", "2026-11-23T09:22:03Zx"}) {
        EXPECT_FALSE(parse_time(text)) << text;
    }
}

TEST(Duration, ReadsEveryUnitAndJoinsThem) {
    EXPECT_EQ(parse_duration("5ms"), milliseconds(5));
    EXPECT_EQ(parse_duration("60s"), seconds(60));
    EXPECT_EQ(parse_duration("1h30m"), minutes(90));
    EXPECT_EQ(parse_duration("7d"), hours(168));
    EXPECT_EQ(parse_duration("2w"), hours(336));
    EXPECT_EQ(parse_duration("0s"), milliseconds(0));
}

TEST(Duration, RefusesWhatIsMalformedOrTooLong) {
    for (const char* text : {"", "5", "m", "5x", "-5s", "1.5h", "5 s", "s5",
                             "99999999999999999999s", "999999999999w"}) {
        EXPECT_FALSE(parse_duration(text)) << text;
    }
}

TEST(Duration, IsShownAsItIsRead) {
    EXPECT_EQ(format_duration(milliseconds(0)), "0s");
    EXPECT_EQ(format_duration(minutes(90)), "1h30m");
    for (const std::int64_t count : {1LL, 999LL, 61'001LL, 86'400'000LL, 1'234'567'890LL}) {
        EXPECT_EQ(parse_duration(format_duration(milliseconds(count))), milliseconds(count));
    }
}

TEST(Size, ReadsBinaryUnits) {
    EXPECT_EQ(parse_size("4096"), 4096U);
    EXPECT_EQ(parse_size("4096B"), 4096U);
    EXPECT_EQ(parse_size("1k"), 1024U);
    EXPECT_EQ(parse_size("512MiB"), 512ULL << 20U);
    EXPECT_EQ(parse_size("10G"), 10ULL << 30U);
    EXPECT_EQ(parse_size("10GB"), 10ULL << 30U);
    EXPECT_EQ(parse_size("2TiB"), 2ULL << 40U);
}

TEST(Size, RefusesWhatIsMalformedOrTooLarge) {
    for (const char* text : {"", "G", "10X", "-1", "1.5G", "10 G", "iB", "10iB", "99999999P",
                             "99999999999999999999"}) {
        EXPECT_FALSE(parse_size(text)) << text;
    }
}

}  // namespace
}  // namespace bpg
