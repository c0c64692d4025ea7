// The cron dialect by examples: what is read, when it fires, how it is said, and what is refused
// with which words.
#include "scheduler/cron_expression.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/unit/scheduler/scheduler_fixture.h"

namespace bpg::scheduler {
namespace {

using namespace std::chrono_literals;
using test::at;
using test::cron;
using testing::ElementsAre;
using testing::IsEmpty;

/// The next fires after a time, as they are shown locally, without seconds where these are 0.
std::vector<std::string> fires(const CronExpression& expression, std::string_view zone_name,
                               std::string_view after, std::size_t count) {
    std::vector<std::string> shown;
    for (const Occurrence& one : expression.upcoming(at(after), load_zone(zone_name), count)) {
        std::string text = one.local;
        if (const auto zeros = text.find(":00 "); zeros != std::string::npos) text.erase(zeros, 3);
        shown.push_back(text);
    }
    return shown;
}

std::vector<std::string> fires(std::string_view text, std::string_view zone, std::string_view after,
                               std::size_t count) {
    return fires(cron(text), zone, after, count);
}

TEST(CronFires, AtTheTimesThatFit) {
    struct Case {
        const char* text;
        const char* after;
        const char* next;
    };
    // 2026-03-01 is a Sunday.
    constexpr Case kCases[] = {
        {"* * * * *", "2026-03-01T10:00:00Z", "2026-03-01T10:01:00Z"},
        {"* * * * *", "2026-03-01T09:59:59.999999Z", "2026-03-01T10:00:00Z"},
        {"30 2 * * *", "2026-03-01T02:30:00Z", "2026-03-02T02:30:00Z"},
        {"30 2 * * *", "2026-03-01T02:29:59.999999Z", "2026-03-01T02:30:00Z"},
        {"*/15 * * * *", "2026-03-01T10:50:00Z", "2026-03-01T11:00:00Z"},
        {"10-30/10 9-17 * * mon-fri", "2026-03-01T00:00:00Z", "2026-03-02T09:10:00Z"},
        {"50/20 * * * *", "2026-03-01T00:00:00Z", "2026-03-01T00:50:00Z"},
        {"0 0 1 jan,JUL *", "2026-03-01T00:00:00Z", "2026-07-01T00:00:00Z"},
        {"0 0 * * 7", "2026-03-01T00:00:00Z", "2026-03-08T00:00:00Z"},
        {"0 0 * * 0", "2026-03-01T00:00:00Z", "2026-03-08T00:00:00Z"},
        {"0 0 * * fri-sun", "2026-03-01T00:00:00Z", "2026-03-06T00:00:00Z"},
        {"0 0 * * 6-0", "2026-03-01T00:00:00Z", "2026-03-07T00:00:00Z"},
        {"0 0 * * 5/2", "2026-03-01T00:00:00Z", "2026-03-06T00:00:00Z"},
        {"0 0 * * 5/2", "2026-03-06T00:00:00Z", "2026-03-13T00:00:00Z"},  // not on to Sunday
        {"0 0 13 * 5", "2026-03-01T00:00:00Z", "2026-03-06T00:00:00Z"},
        {"0 0 */2 * 1", "2026-03-02T00:00:00Z", "2026-03-09T00:00:00Z"},
        {"0 0 L * *", "2026-02-01T00:00:00Z", "2026-02-28T00:00:00Z"},
        {"0 0 L * *", "2028-02-01T00:00:00Z", "2028-02-29T00:00:00Z"},
        {"0 0 LW * *", "2026-05-01T00:00:00Z", "2026-05-29T00:00:00Z"},  // 31 May: a Sunday
        {"0 0 15W * *", "2026-03-01T00:00:00Z", "2026-03-16T00:00:00Z"},
        {"0 0 1W * *", "2026-07-31T00:00:00Z", "2026-08-03T00:00:00Z"},  // 1 August: a Saturday
        {"0 0 31W * *", "2026-04-01T00:00:00Z", "2026-05-29T00:00:00Z"},
        {"0 0 * * 2#1", "2026-03-03T00:00:00Z", "2026-04-07T00:00:00Z"},
        {"0 0 * * mon#5", "2026-03-01T00:00:00Z", "2026-03-30T00:00:00Z"},
        {"0 0 * * 5L", "2026-03-01T00:00:00Z", "2026-03-27T00:00:00Z"},
        {"0 0 * * friL", "2026-03-27T00:00:00Z", "2026-04-24T00:00:00Z"},
        {"0 0 29 2 *", "2026-03-01T00:00:00Z", "2028-02-29T00:00:00Z"},
        {"0 0 29 2 *", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"},
        {"0 0 * 2 1#5", "2026-03-01T00:00:00Z", "2044-02-29T00:00:00Z"},
        {"*/10 * * * * *", "2026-03-01T10:00:55Z", "2026-03-01T10:01:00Z"},
        {"5 30 2 * * *", "2026-03-01T02:30:00Z", "2026-03-01T02:30:05Z"},
        {" \t30  2 * * * ", "2026-03-01T00:00:00Z", "2026-03-01T02:30:00Z"},
        {"@hourly", "2026-03-01T10:00:00Z", "2026-03-01T11:00:00Z"},
        {"@daily", "2026-03-01T10:00:00Z", "2026-03-02T00:00:00Z"},
        {"@midnight", "2026-03-01T10:00:00Z", "2026-03-02T00:00:00Z"},
        {"@weekly", "2026-03-01T10:00:00Z", "2026-03-08T00:00:00Z"},
        {"@Monthly", "2026-03-01T10:00:00Z", "2026-04-01T00:00:00Z"},
        {"@yearly", "2026-03-01T10:00:00Z", "2027-01-01T00:00:00Z"},
        {"@annually", "2026-03-01T10:00:00Z", "2027-01-01T00:00:00Z"},
    };
    for (const auto& [text, after, next] : kCases) {
        EXPECT_EQ(cron(text).next_fire_time(at(after), absl::UTCTimeZone()), at(next)) << text;
    }
}

TEST(CronFires, ASkippedTimeRightAfterTheGap) {
    EXPECT_THAT(fires("30 2 * * *", "Europe/Berlin", "2027-03-27T12:00:00Z", 2),
                ElementsAre("2027-03-28 03:00 CEST", "2027-03-29 02:30 CEST"));
    EXPECT_THAT(
        fires("30 2,3 * * *", "Europe/Berlin", "2027-03-28T00:00:00Z", 3),
        ElementsAre("2027-03-28 03:00 CEST", "2027-03-28 03:30 CEST", "2027-03-29 02:30 CEST"));
    // Many skipped ones are one fire, and one that is due then anyway is the same.
    EXPECT_THAT(fires("*/10 2-3 * * *", "Europe/Berlin", "2027-03-28T00:00:00Z", 2),
                ElementsAre("2027-03-28 03:00 CEST", "2027-03-28 03:10 CEST"));
    EXPECT_THAT(fires("0 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z", 1),
                ElementsAre("2026-09-06 01:00 -03"));
    EXPECT_THAT(fires("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 1),
                ElementsAre("2026-10-04 02:30 +11"));
}

TEST(CronFires, ARepeatedTimeInItsFirstPassOnly) {
    EXPECT_THAT(fires("30 2 * * *", "Europe/Berlin", "2027-10-30T12:00:00Z", 2),
                ElementsAre("2027-10-31 02:30 CEST", "2027-11-01 02:30 CET"));
    EXPECT_THAT(fires("*/30 2 * * *", "Europe/Berlin", "2027-10-31T00:30:00Z", 1),
                ElementsAre("2027-11-01 02:00 CET"));
    // Asked for in the second pass.
    EXPECT_THAT(fires("0,30 1-3 * * *", "Europe/Berlin", "2027-10-31T01:10:00Z", 1),
                ElementsAre("2027-10-31 03:00 CET"));
}

TEST(CronFires, EveryHourByElapsedTime) {
    EXPECT_THAT(fires("30 * * * *", "Europe/Berlin", "2027-10-30T23:00:00Z", 4),
                ElementsAre("2027-10-31 01:30 CEST", "2027-10-31 02:30 CEST",
                            "2027-10-31 02:30 CET", "2027-10-31 03:30 CET"));
    EXPECT_THAT(fires("30 * * * *", "Europe/Berlin", "2027-03-28T00:00:00Z", 2),
                ElementsAre("2027-03-28 01:30 CET", "2027-03-28 03:30 CEST"));
    EXPECT_THAT(
        fires("@hourly", "America/New_York", "2027-11-07T04:30:00Z", 3),
        ElementsAre("2027-11-07 01:00 EDT", "2027-11-07 01:00 EST", "2027-11-07 02:00 EST"));
}

TEST(CronFires, EveryIntervalFromTheSchedulesCreation) {
    const WallTime made = at("2026-03-01T10:00:07.5Z");
    const auto every = CronExpression::parse("@every 90m", "a", made);
    const auto zone = load_zone("Europe/Berlin");
    EXPECT_EQ(every.next_fire_time(made - 100h, zone), made + 90min);
    EXPECT_EQ(every.next_fire_time(made, zone), made + 90min);
    EXPECT_EQ(every.next_fire_time(made + 90min - 1us, zone), made + 90min);
    EXPECT_EQ(every.next_fire_time(made + 90min, zone), made + 180min);
    EXPECT_EQ(every.last_fire_time(made, made + 1000h, zone), made + 666 * 90min);
    EXPECT_EQ(every.count_fires(made, made + 1000h, zone, 1000), (FireCount{666, false}));
    EXPECT_EQ(every.count_fires(made, made + 1000h, zone, 665), (FireCount{665, true}));
    EXPECT_EQ(CronExpression::parse("@EVERY 1s", "a", made).interval(), 1s);
    EXPECT_EQ(CronExpression::parse("@every  1h30m ", "a", made).interval(), 90min);
}

TEST(CronFires, FindsTheNewestFireOfALongTimeAndCountsToALimit) {
    const auto zone = absl::UTCTimeZone();
    const auto secondly = cron("* * * * * *");
    EXPECT_EQ(
        secondly.last_fire_time(at("2026-01-01T00:00:00Z"), at("2036-01-01T00:00:00.5Z"), zone),
        at("2036-01-01T00:00:00Z"));
    const auto leap = cron("0 0 29 2 *");
    EXPECT_EQ(leap.last_fire_time(at("2026-01-01T00:00:00Z"), at("2050-01-01T00:00:00Z"), zone),
              at("2048-02-29T00:00:00Z"));
    EXPECT_EQ(leap.last_fire_time(at("2026-01-01T00:00:00Z"), at("2028-01-01T00:00:00Z"), zone),
              std::nullopt);
    EXPECT_EQ(leap.last_fire_time(at("2028-02-28T00:00:00Z"), at("2028-02-29T00:00:00Z"), zone),
              at("2028-02-29T00:00:00Z"));
    const auto daily = cron("30 2 * * *");
    const WallTime first = at("2026-01-01T02:30:00Z");
    EXPECT_EQ(daily.count_fires(first, first + 240h, zone, 100), (FireCount{10, false}));
    EXPECT_EQ(daily.count_fires(first, first + 240h, zone, 10), (FireCount{10, false}));
    EXPECT_EQ(daily.count_fires(first, first + 240h, zone, 9), (FireCount{9, true}));
    EXPECT_EQ(daily.count_fires(first, first, zone, 9), (FireCount{0, false}));
}

TEST(CronFires, EndsWithTheYear9999) {
    const WallTime end = at("9999-12-31T00:00:00Z");
    EXPECT_EQ(cron("* * * * *").next_fire_time(end, absl::UTCTimeZone()), std::nullopt);
    EXPECT_EQ(cron("@every 1s").next_fire_time(end, absl::UTCTimeZone()), std::nullopt);
    EXPECT_EQ(cron("0 0 1 1 *").next_fire_time(end - 1us, absl::UTCTimeZone()), std::nullopt);
    EXPECT_EQ(cron("0 0 1 1 *").next_fire_time(WallTime::min(), absl::UTCTimeZone()).has_value(),
              true);
    EXPECT_EQ(cron("0 0 1 1 *").next_fire_time(WallTime::max(), absl::UTCTimeZone()), std::nullopt);
}

TEST(CronHash, SpreadsByNameAndStaysTheSame) {
    const WallTime made = at("2026-01-01T00:00:00Z");
    const auto of = [made](const char* text, const std::string& name) {
        return CronExpression::parse(text, name, made);
    };
    std::set<std::uint64_t> minutes;
    std::set<std::uint32_t> hours;
    for (int i = 0; i < 500; ++i) {
        const auto one = of("H H * * *", "schedule-" + std::to_string(i));
        minutes.insert(one.fields().minutes);
        hours.insert(one.fields().hours);
        EXPECT_EQ(one.fields(), of("H H * * *", "schedule-" + std::to_string(i)).fields());
    }
    EXPECT_EQ(minutes.size(), 60U);
    EXPECT_EQ(hours.size(), 24U);
    // Persisted schedules must not move with an upgrade: these never change.
    EXPECT_EQ(of("H H * * *", "nightly").describe(), "at 15:46 every day");
    EXPECT_EQ(of("H H(0-5) H * *", "nightly").describe(), "at 03:46 on day 22 of every month");
    EXPECT_EQ(of("H/15 * * * *", "nightly").describe(),
              "at minutes 1, 16, 31 and 46 of every hour");
    EXPECT_EQ(of("H(30-59)/10 * * * H", "nightly").describe(),
              "at minutes 36, 46 and 56 of every hour on Monday");
}

TEST(CronHash, StaysWithinItsRange) {
    for (int i = 0; i < 200; ++i) {
        const std::string name = "n" + std::to_string(i);
        const auto one = CronExpression::parse("H H(2-4) H H H", name, WallTime{});
        EXPECT_EQ(one.fields().hours & ~0b11100U, 0U);
        EXPECT_EQ(one.fields().days & ~((1U << 29U) - 2), 0U);
        EXPECT_EQ(one.fields().months & ~((1U << 13U) - 2), 0U);
        EXPECT_EQ(one.fields().weekdays & ~0x7FU, 0U);
        const auto stepped = CronExpression::parse("H(10-29)/10 * * * *", name, WallTime{});
        EXPECT_EQ(std::popcount(stepped.fields().minutes), 2);
        EXPECT_EQ(stepped.fields().minutes & ~0x3FFFFC00U, 0U);
    }
}

TEST(CronWords, SayWhatAnExpressionMeans) {
    constexpr std::pair<const char*, const char*> kCases[] = {
        {"30 2 * * *", "at 02:30 every day"},
        {"30 2,14 * * *", "at 02:30 and 14:30 every day"},
        {"5 30 2 * * *", "at 02:30:05 every day"},
        {"* * * * *", "every minute"},
        {"*/15 * * * *", "every 15 minutes"},
        {"* * * * * *", "every second"},
        {"*/10 * * * * *", "every 10 seconds"},
        {"5 * * * * *", "at second 5 of every minute"},
        {"0 * * * *", "at minute 0 of every hour"},
        {"*/7 * * * *", "at minutes 0, 7, 14, 21, 28, 35, 42, 49 and 56 of every hour"},
        {"*/30 9-17 * * 1-5", "every 30 minutes of hours 9 to 17 on Monday to Friday"},
        {"0 0-23 * * *", "at minute 0 of hours 0 to 23"},
        {"0 0 * * 0,6", "at 00:00 on Saturday and Sunday"},
        {"0 0 1 * *", "at 00:00 on day 1 of every month"},
        {"0 0 1,15,L * *", "at 00:00 on days 1 and 15 and the last day of every month"},
        {"0 0 LW 1-3 *", "at 00:00 on the last weekday of January to March"},
        {"0 0 15W * *", "at 00:00 on the weekday nearest to day 15 of every month"},
        {"0 0 * * 2#1,5L",
         "at 00:00 on the first Tuesday of the month and the last Friday of the month"},
        {"0 0 * 6 1", "at 00:00 on Monday in June"},
        {"0 0 * 6 *", "at 00:00 every day in June"},
        {"0 0 13 * 5", "at 00:00 on day 13 of the month, or on Friday"},
        {"0 0 13 6 5", "at 00:00 on day 13 of the month, or on Friday, in June"},
        {"0 0 13 * */2",
         "at 00:00 on day 13 of the month, if that is Tuesday, Thursday, Saturday and Sunday"},
        {"@every 1h30m", "every 1h30m from the schedule's creation"},
        {"@yearly", "at 00:00 on day 1 of January"},
    };
    for (const auto& [text, words] : kCases)
        EXPECT_EQ(cron(text).describe(), words) << text;
}

TEST(CronNotes, SayWhatDaylightSavingDoesToAFire) {
    const auto note = [](const char* text, const char* fire) {
        return cron(text).note(at(fire), load_zone("Europe/Berlin"));
    };
    EXPECT_EQ(note("30 2 * * *", "2027-03-28T01:00:00Z"),
              "02:30 does not exist on 2027-03-28: it runs at 03:00 CEST");
    EXPECT_EQ(note("*/15 2 * * *", "2027-03-28T01:00:00Z"),
              "02:00 and later times before 03:00 do not exist on 2027-03-28: they run once, at "
              "03:00 CEST");
    EXPECT_EQ(note("0 3 * * *", "2027-03-28T01:00:00Z"), "");
    EXPECT_EQ(note("0 * * * *", "2027-03-28T01:00:00Z"), "");
    EXPECT_EQ(
        note("30 2 * * *", "2027-10-31T00:30:00Z"),
        "02:30 comes twice on 2027-10-31: this is the first, CEST, and the only one that runs");
    EXPECT_EQ(note("30 * * * *", "2027-10-31T00:30:00Z"),
              "02:30 comes twice on 2027-10-31: this is the first, CEST");
    EXPECT_EQ(note("30 * * * *", "2027-10-31T01:30:00Z"),
              "02:30 comes twice on 2027-10-31: this is the second, CET");
    EXPECT_EQ(note("30 * * * *", "2027-10-31T02:30:00Z"), "");
    EXPECT_EQ(note("30 2 * * *", "2027-06-01T00:30:00Z"), "");
    EXPECT_EQ(note("@every 1h", "2027-10-31T01:30:00Z"), "");
}

TEST(CronNotes, StandBesideTheTimesThatFollow) {
    const auto upcoming =
        cron("30 2 * * *").upcoming(at("2027-03-27T12:00:00Z"), load_zone("Europe/Berlin"), 2);
    ASSERT_EQ(upcoming.size(), 2U);
    EXPECT_EQ(upcoming[0].at, at("2027-03-28T01:00:00Z"));
    EXPECT_EQ(upcoming[0].local, "2027-03-28 03:00:00 CEST");
    EXPECT_EQ(upcoming[0].note, "02:30 does not exist on 2027-03-28: it runs at 03:00 CEST");
    EXPECT_EQ(upcoming[1].local, "2027-03-29 02:30:00 CEST");
    EXPECT_EQ(upcoming[1].note, "");
}

std::vector<std::string> warnings(const char* text, const char* zone) {
    return cron(text).warnings(load_zone(zone), at("2027-01-01T00:00:00Z"));
}

TEST(CronWarnings, SayWhatItsAuthorMayNotHaveMeant) {
    EXPECT_THAT(warnings("0 0 13 * 5", "UTC"),
                ElementsAre("day-of-month and day-of-week are both restricted: it fires on a day "
                            "that fits either of them, not only on one that fits both"));
    EXPECT_THAT(warnings("0 0 */2 * 1", "UTC"),
                ElementsAre("a day field that begins with * restricts the other one: it fires only "
                            "on days that fit both"));
    EXPECT_THAT(
        warnings("0 0 31 * *", "UTC"),
        ElementsAre("there is no day 31 in February, April, June, September and November: "
                    "it does not fire for that day then; L is the last day of every month"));
    EXPECT_THAT(warnings("0 0 29 1,2 *", "UTC"),
                ElementsAre("there is no day 29 in February (in most years): it does not fire for "
                            "that day then; L is the last day of every month"));
    EXPECT_THAT(warnings("0 0 * * 1#5", "UTC"),
                ElementsAre("most months have no fifth one of a weekday: it does not fire in them; "
                            "L behind a weekday is the last one"));
    EXPECT_THAT(warnings("*/7 * * * *", "UTC"),
                ElementsAre("*/7 in the minute field begins again with every hour, so the last "
                            "interval of each is 4m; @every 7m is even"));
    EXPECT_THAT(warnings("* 2 * * *", "UTC"),
                ElementsAre("it fires every minute of the hours it names, 60 times each; a 0 in "
                            "the minute field is once an hour"));
}

TEST(CronWarnings, NameTheNextTimesThatDaylightSavingTouches) {
    EXPECT_THAT(
        warnings("30 2 * * *", "Europe/Berlin"),
        ElementsAre("Europe/Berlin: 02:30 does not exist on 2027-03-28: it runs at 03:00 CEST",
                    "Europe/Berlin: 02:30 comes twice on 2027-10-31: it runs the first time only"));
    // The next one only.
    EXPECT_THAT(warnings("30 2 * * *", "America/New_York"),
                ElementsAre("America/New_York: 02:30 does not exist on 2027-03-14: it runs at "
                            "03:00 EDT"));
    EXPECT_THAT(warnings("0 1 * * *", "Europe/Berlin"), IsEmpty());
    EXPECT_THAT(warnings("0 3 * * *", "Europe/Berlin"), IsEmpty());
}

TEST(CronWarnings, AreSilentAboutWhatIsPlain) {
    for (const char* text : {"30 4 * * *", "0 * * * *", "*/15 * * * *", "@daily", "0 0 L * *",
                             "0 0 1-31 * *", "@every 7m", "0 4 * * 1-5", "H H(4-6) * * *"})
        EXPECT_THAT(warnings(text, "UTC"), IsEmpty()) << text;
    EXPECT_THAT(warnings("30 * * * *", "Europe/Berlin"), IsEmpty());
}

TEST(CronZones, AreKnownByTheirIanaName) {
    EXPECT_EQ(load_zone("UTC"), absl::UTCTimeZone());
    EXPECT_EQ(load_zone("America/Argentina/Buenos_Aires").name(), "America/Argentina/Buenos_Aires");
    EXPECT_EQ(local_time_text(at("2027-07-01T00:00:00Z"), load_zone("Etc/GMT+5")),
              "2027-06-30 19:00:00 -05");
    for (const char* name : {"", "Mars/Olympus", "europe/berlin", "localtime", "../etc/passwd",
                             "Europe/../Europe/Rome", "/usr/share/zoneinfo/UTC",
                             "Fixed/UTC+05:30:00", "file:Europe/Rome", "Europe", "\x1b[1m"}) {
        const ErrorInfo error = test::error_of([name] { load_zone(name); });
        EXPECT_EQ(error.kind, ErrorKind::kInvalid) << name;
        EXPECT_EQ(error.code, "timezone_unknown") << name;
    }
    EXPECT_EQ(test::error_of([] { load_zone("Mars/Olympus"); }),
              (ErrorInfo{ErrorKind::kInvalid, "timezone_unknown",
                         "there is no time zone \"Mars/Olympus\"",
                         "it is in the system's time zone database by no such name",
                         "write an IANA name, for example Europe/Berlin or UTC"}));
}

}  // namespace
}  // namespace bpg::scheduler
