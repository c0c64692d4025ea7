// What is no cron expression, and the exact words: which field, where, why, and what to write.
#include <gtest/gtest.h>

#include "tests/unit/scheduler/scheduler_fixture.h"

namespace bpg::scheduler {
namespace {

struct Refusal {
    const char* text;
    const char* message;
    const char* why;
    const char* fix;
};

void expect_refused(const Refusal& refusal, const char* code) {
    const ErrorInfo error = test::error_of([&] { test::cron(refusal.text); });
    EXPECT_EQ(error.kind, ErrorKind::kInvalid) << refusal.text;
    EXPECT_EQ(error.code, code) << refusal.text;
    EXPECT_EQ(error.message, refusal.message) << refusal.text;
    EXPECT_EQ(error.detail, refusal.why) << refusal.text;
    EXPECT_EQ(error.hint, refusal.fix) << refusal.text;
}

#define FIELD(name, position) \
    "the " name " field of the cron expression is wrong at character " position ": "

TEST(CronRefuses, ValuesThatAreNone) {
    constexpr const char* kAny = "write *, a value, a range a-b, or a step */n";
    const char* weekday = "a day-of-week is 0 to 7 (0 and 7 are Sunday), or sun to sat";
    const char* month = "a month is 1 to 12, or jan to dec";
    const Refusal refusals[] = {
        {"61 * * * *", FIELD("minute", "1") "\"61\"", "a minute is 0 to 59", "write 0 to 59"},
        {"60 * * * *", FIELD("minute", "1") "\"60\"", "a minute is 0 to 59",
         "write 0 for the full hour"},
        {"0 24 * * *", FIELD("hour", "3") "\"24\"", "an hour is 0 to 23", "write 0 for midnight"},
        {"0  1,x * * *", FIELD("hour", "6") "\"x\"", "an hour is 0 to 23", kAny},
        {"0 0 0 * *", FIELD("day-of-month", "5") "\"0\"", "a day-of-month is 1 to 31",
         "write 1 to 31"},
        {"0 0 32 * *", FIELD("day-of-month", "5") "\"32\"", "a day-of-month is 1 to 31",
         "write 1 to 31"},
        {"0 0 * 13 *", FIELD("month", "7") "\"13\"", month, "write 1 to 12"},
        {"0 0 * january *", FIELD("month", "7") "\"january\"", month, kAny},
        {"0 0 * mon *", FIELD("month", "7") "\"mon\"", month, kAny},
        {"0 0 * * 8", FIELD("day-of-week", "9") "\"8\"", weekday, "write 0 to 7"},
        {"0 0 * * jan", FIELD("day-of-week", "9") "\"jan\"", weekday, kAny},
        {"99 0 0 * * *", FIELD("second", "1") "\"99\"", "a second is 0 to 59", "write 0 to 59"},
        {"-1 * * * *", FIELD("minute", "1") "\"-1\"", "a minute is 0 to 59", kAny},
        {"1- * * * *", FIELD("minute", "1") "\"1-\"", "a minute is 0 to 59", kAny},
        {"1-2-3 * * * *", FIELD("minute", "1") "\"1-2-3\"", "a minute is 0 to 59", kAny},
        {"*5 * * * *", FIELD("minute", "1") "\"*5\"", "a minute is 0 to 59", kAny},
        {"0x5 * * * *", FIELD("minute", "1") "\"0x5\"", "a minute is 0 to 59", kAny},
        {"99999999999999999999 * * * *", FIELD("minute", "1") "\"99999999999999999999\"",
         "a minute is 0 to 59", kAny},
        {"0 0 ? * *", FIELD("day-of-month", "5") "\"?\"", "? belongs to another dialect",
         "write * instead"},
    };
    for (const Refusal& refusal : refusals)
        expect_refused(refusal, "cron_invalid");
}

TEST(CronRefuses, ListsRangesAndStepsThatAreNone) {
    const Refusal refusals[] = {
        {"1,,2 * * * *", FIELD("minute", "3") "\"1,,2\"", "a list has an empty item",
         "remove the comma"},
        {"1, * * * *", FIELD("minute", "3") "\"1,\"", "a list has an empty item",
         "remove the comma"},
        {"0 22-2 * * *", FIELD("hour", "3") "\"22-2\"", "the range \"22-2\" ends before it begins",
         "write 22-23,0-2"},
        {"0 0 * * fri-mon", FIELD("day-of-week", "9") "\"fri-mon\"",
         "the range \"fri-mon\" ends before it begins", "write 5-6,0-1"},
        {"0 0 * 12-1 *", FIELD("month", "7") "\"12-1\"", "the range \"12-1\" ends before it begins",
         "write 12,1"},
        {"*/0 * * * *", FIELD("minute", "1") "\"*/0\"", "a step is a whole number, 1 or more",
         "write it as in */5 or 10-30/5"},
        {"*/ * * * *", FIELD("minute", "1") "\"*/\"", "a step is a whole number, 1 or more",
         "write it as in */5 or 10-30/5"},
        {"*/5/5 * * * *", FIELD("minute", "1") "\"*/5/5\"", "a step is a whole number, 1 or more",
         "write it as in */5 or 10-30/5"},
        {"*/90 * * * *", FIELD("minute", "1") "\"*/90\"",
         "a step of 90 goes beyond the 60 values it steps through",
         "write @every 90m for an interval"},
        {"0 0 * * */8", FIELD("day-of-week", "9") "\"*/8\"",
         "a step of 8 goes beyond the 7 values it steps through", "write the value itself"},
        {"H(5-1) * * * *", FIELD("minute", "1") "\"H(5-1)\"", "5 is after 1",
         "write H, H(0-5) or H/2"},
        {"H( * * * *", FIELD("minute", "1") "\"H(\"", "H takes a range in brackets",
         "write H, H(0-5) or H/2"},
        {"H5 * * * *", FIELD("minute", "1") "\"H5\"", "H is followed by nothing, a range or a step",
         "write H, H(0-5) or H/2"},
        {"H/61 * * * *", FIELD("minute", "1") "\"H/61\"",
         "a step of 61 goes beyond the 60 values it steps through",
         "write @every 61m for an interval"},
    };
    for (const Refusal& refusal : refusals)
        expect_refused(refusal, "cron_invalid");
}

TEST(CronRefuses, DaySignsInTheWrongPlace) {
    constexpr const char* kDaySigns = "L and W belong to the day fields";
    constexpr const char* kMove = "move it to the day-of-month field";
    constexpr const char* kNearest = "W stands behind one day of the month, or behind L";
    constexpr const char* kNearestFix =
        "write 15W for the weekday nearest to day 15, LW for the last weekday";
    constexpr const char* kNth = "behind # stands which of them in the month, 1 to 5";
    constexpr const char* kNthFix = "write 2#1 for the first Tuesday, 5L for the last Friday";
    const Refusal refusals[] = {
        {"L * * * *", FIELD("minute", "1") "\"L\"", kDaySigns, kMove},
        {"0 0 * * 5W", FIELD("day-of-week", "9") "\"5W\"", kDaySigns, kMove},
        {"0 0 32W * *", FIELD("day-of-month", "5") "\"32W\"", kNearest, kNearestFix},
        {"0 0 W * *", FIELD("day-of-month", "5") "\"W\"", kNearest, kNearestFix},
        {"0 0 1-5W * *", FIELD("day-of-month", "5") "\"1-5W\"", kNearest, kNearestFix},
        {"0 0 L-3 * *", FIELD("day-of-month", "5") "\"L-3\"",
         "L is the last day of the month, and takes neither range nor step",
         "write L, LW, or days by number"},
        {"0 0 * * L", FIELD("day-of-week", "9") "\"L\"",
         "L alone is the last day of the month, in the day-of-month field",
         "write 5L for the last Friday of the month"},
        {"0 0 * * 2#6", FIELD("day-of-week", "9") "\"2#6\"", kNth, kNthFix},
        {"0 0 * * 2#", FIELD("day-of-week", "9") "\"2#\"", kNth, kNthFix},
    };
    for (const Refusal& refusal : refusals)
        expect_refused(refusal, "cron_invalid");
}

#define WHOLE(position) "the cron expression is wrong at character " position ": "

TEST(CronRefuses, WhatHasNotFiveOrSixFields) {
    constexpr const char* kLayout =
        "write minute hour day-of-month month day-of-week, with seconds before them or without: "
        "30 2 * * *";
    constexpr const char* kMacros =
        "write @hourly, @daily, @weekly, @monthly, @yearly or @every 15m";
    const Refusal refusals[] = {
        {"", WHOLE("1") "\"\"", "it has 0 fields, five or six are needed", kLayout},
        {"0 2 * *", WHOLE("8") "\"0 2 * *\"", "it has 4 fields, five or six are needed", kLayout},
        {"0 0 2 * * * 2027", WHOLE("13") "\"0 0 2 * * * 2027\"",
         "it has 7 fields, five or six are needed (there is none for years)", kLayout},
        {"CRON_TZ=Europe/Berlin 0 2 * * *", WHOLE("1") "\"CRON_TZ=Europe/Berlin 0 2 * * *\"",
         "the zone is not part of the expression", "give it as --tz Europe/Berlin"},
        {"@reboot", WHOLE("1") "\"@reboot\"",
         "schedules follow the clock, not starts of the machine", kMacros},
        {"@nightly", WHOLE("1") "\"@nightly\"", "there is no such abbreviation", kMacros},
        {"@daily 5", WHOLE("8") "\"@daily 5\"", "nothing stands behind @daily",
         "remove what is behind it"},
    };
    for (const Refusal& refusal : refusals)
        expect_refused(refusal, "cron_invalid");
    const std::string long_text(300, '*');
    expect_refused(
        {long_text.c_str(), WHOLE("257") "\"****************************************...\"",
         "it has 300 characters, 256 are the most", "write several schedules"},
        "cron_invalid");
}

#define INTERVAL(position) \
    "the interval of the cron expression is wrong at character " position ": "

TEST(CronRefuses, IntervalsThatAreNone) {
    constexpr const char* kFix = "write it as in @every 15m or 1h30m";
    constexpr const char* kRange = "write for example @every 15m";
    const Refusal refusals[] = {
        {"@every", INTERVAL("7") "\"@every\"", "behind @every stands one duration", kFix},
        {"@every 1h 30m", INTERVAL("11") "\"@every 1h 30m\"", "behind @every stands one duration",
         kFix},
        {"@every soon", INTERVAL("8") "\"soon\"", "an interval is a duration", kFix},
        {"@every 5", INTERVAL("8") "\"5\"", "an interval is a duration", kFix},
        {"@every -5s", INTERVAL("8") "\"-5s\"", "an interval is a duration", kFix},
        {"@every 999ms", INTERVAL("8") "\"999ms\"", "an interval is 1s to 3660d", kRange},
        {"@every 0s", INTERVAL("8") "\"0s\"", "an interval is 1s to 3660d", kRange},
        {"@every 10000w", INTERVAL("8") "\"10000w\"", "an interval is 1s to 3660d", kRange},
    };
    for (const Refusal& refusal : refusals)
        expect_refused(refusal, "cron_invalid");
}

TEST(CronRefuses, WhatCanNeverFire) {
    for (const char* text :
         {"0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 31 2-2 *", "0 0 30W 2 *", "0 0 30,31 feb */2"}) {
        const std::string message = std::string("the cron expression \"") + text + "\" never fires";
        expect_refused({text, message.c_str(), "no month that it names has such a day",
                        "correct the day-of-month, month or day-of-week field; L is the last day"},
                       "cron_never_fires");
    }
    // What is rare is not impossible, and either day field is enough when both are restricted.
    for (const char* text : {"0 0 29 2 *", "0 0 * 2 1#5", "0 0 30 2 1", "0 0 L 2 *"})
        EXPECT_NO_THROW(test::cron(text)) << text;
}

}  // namespace
}  // namespace bpg::scheduler
