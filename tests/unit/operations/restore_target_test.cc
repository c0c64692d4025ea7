// The points that users write, in every spelling, and what is said of those that are none.
#include "orchestrator/operations/restore_target.h"

#include <gtest/gtest.h>

#include "orchestrator/base/error.h"

namespace bpg::operations {
namespace {

const WallTime kNow = *parse_time("2026-11-26T12:00:00.5Z");

std::string parsed(const std::string& text) {
    return format_time(parse_past_time(text, kNow));
}

std::string refusal(const std::string& text) {
    try {
        parse_past_time(text, kNow);
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kInvalid);
        EXPECT_FALSE(error.info().hint.empty());
        return error.code();
    }
    return "";
}

TEST(PastTimes, AreReadInEverySpelling) {
    EXPECT_EQ(parsed("2025-10-07T14:30:00Z"), "2025-10-07T14:30:00.000000Z");
    EXPECT_EQ(parsed("2025-10-07 14:30:00Z"), "2025-10-07T14:30:00.000000Z");
    EXPECT_EQ(parsed("2025-10-07T14:30Z"), "2025-10-07T14:30:00.000000Z");
    EXPECT_EQ(parsed("2025-10-07t14:30:00z"), "2025-10-07T14:30:00.000000Z");
    EXPECT_EQ(parsed("2025-10-07T16:30:00+02:00"), "2025-10-07T14:30:00.000000Z");
    EXPECT_EQ(parsed("2025-10-07T16:30:00+0200"), "2025-10-07T14:30:00.000000Z");
    EXPECT_EQ(parsed("2025-10-07 16:30+02"), "2025-10-07T14:30:00.000000Z");
    EXPECT_EQ(parsed("2025-10-07T09:00:00-05:30"), "2025-10-07T14:30:00.000000Z");
    EXPECT_EQ(parsed("2025-10-07T14:30:00.999999Z"), "2025-10-07T14:30:00.999999Z");
    EXPECT_EQ(parsed("2024-02-29T00:00:00Z"), "2024-02-29T00:00:00.000000Z");
    EXPECT_EQ(parsed("  2025-10-07T14:30:00Z "), "2025-10-07T14:30:00.000000Z");
}

TEST(PastTimes, AreReadAsAges) {
    EXPECT_EQ(parsed("90m"), "2026-11-26T10:30:00.500000Z");
    EXPECT_EQ(parsed("1h30m"), "2026-11-26T10:30:00.500000Z");
    EXPECT_EQ(parsed("2 hours ago"), "2026-11-26T10:00:00.500000Z");
    EXPECT_EQ(parsed("1 day ago"), "2026-11-25T12:00:00.500000Z");
    EXPECT_EQ(parsed("30 minutes"), "2026-11-26T11:30:00.500000Z");
    EXPECT_EQ(parsed("1h ago"), "2026-11-26T11:00:00.500000Z");
    EXPECT_EQ(parsed("1s"), "2026-11-26T11:59:59.500000Z");
    EXPECT_EQ(parsed("0s"), "2026-11-26T12:00:00.500000Z");
}

TEST(PastTimes, WithoutAZoneAreRefusedWithTheSpellingsMeant) {
    for (const char* text : {"2025-10-07T14:30:00", "2025-10-07 14:30", "2025-10-07T14:30:00.5"})
        EXPECT_EQ(refusal(text), "time_without_zone") << text;
}

TEST(PastTimes, InTheFutureAreRefused) {
    EXPECT_EQ(refusal("2026-11-26T12:00:00.500001Z"), "time_in_future");
    EXPECT_EQ(refusal("2099-01-01T00:00:00Z"), "time_in_future");
    EXPECT_EQ(refusal("2026-11-26T12:00:00.500000Z"), "");
}

TEST(PastTimes, ThatAreNoneAreRefused) {
    for (const char* text : {"",
                             " ",
                             "yesterday",
                             "now",
                             "infinite-past",
                             "-1h",
                             "1",
                             "1x",
                             "2 fortnights ago",
                             "2025-13-01T00:00:00Z",
                             "2025-02-29T00:00:00Z",
                             "2025-10-07T25:00:00Z",
                             "2025-10-07",
                             "2025-10-07Z",
                             "14:30Z",
                             "2025-10-07T14:30:00CET",
                             "2025-10-07T14:30:00Zjunk",
                             "99999999999999999999h",
                             "hours ago",
                             "\x01\x02",
                             "2025-10-07T14:30:00+99:00"})
        EXPECT_EQ(refusal(text), "time_unparsable") << text;
}

TEST(Targets, AreWrittenAsPostgresTakesThem) {
    RestoreTarget target;
    target.kind = "time";
    target.time = parse_time("2026-01-02T03:04:05.000006Z");
    EXPECT_EQ(target.value(), "2026-01-02 03:04:05.000006+00");
    EXPECT_EQ(parse_lsn_target("1/ab").value(), "1/AB");
    EXPECT_EQ(parse_name_target("it's").value(), "it's");
}

TEST(Targets, AreOneAtATime) {
    EXPECT_FALSE(parse_target({}, kNow).is_set());
    EXPECT_EQ(parse_target({"1s", std::nullopt, std::nullopt}, kNow).kind, "time");
    EXPECT_THROW(parse_target({"1s", "0/1", std::nullopt}, kNow), Error);
}

TEST(Targets, ThatAreNoLsnOrNameAreRefused) {
    for (const char* text : {"", "0", "0/", "/0", "0/0", "G/1", "1/1/1", "0/123456789"})
        EXPECT_THROW(parse_lsn_target(text), Error) << text;
    for (const std::string& text : {std::string(), std::string(64, 'x'), std::string("a\nb")})
        EXPECT_THROW(parse_name_target(text), Error) << text;
    EXPECT_NO_THROW(parse_name_target(std::string(63, 'x')));
}

}  // namespace
}  // namespace bpg::operations
