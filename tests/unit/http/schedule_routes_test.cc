// The routes of schedules: what a request may say, what is answered, what is refused.
#include "tests/unit/http/handlers_fixture.h"

namespace bpg::http::test {
namespace {

class ScheduleRoutes : public HandlersTest {
  protected:
    ScheduleRoutes() { add_prod(); }

    static json nightly() {
        return {{"name", "nightly"},
                {"cron", "30 2 * * *"},
                {"tz", "Europe/Berlin"},
                {"op", "snapshot"},
                {"target", "prod/main"},
                {"retention", {{"daily", 7}, {"weekly", 4}}},
                {"days", 7},
                {"overlap", "queue"},
                {"catch_up", "2h"}};
    }
    static json with(json body, const std::string& member, json value) {
        body[member] = std::move(value);
        return body;
    }
};

TEST_F(ScheduleRoutes, AScheduleHasEveryMemberThatItWasGiven) {
    const Response made = call("POST", "/v1/schedules", nightly());
    EXPECT_EQ(made.status, 201) << made.body;
    const json schedule = object(made);
    const json given = nightly();
    for (const auto& [member, value] : given.items())
        EXPECT_EQ(schedule.at(member), value) << member;
    EXPECT_EQ(schedule.at("description"), "at 02:30 every day");
    EXPECT_EQ(schedule.at("paused"), false);
    for (const char* member : {"pause_reason", "last_fire", "last_job", "refusal"})
        EXPECT_TRUE(schedule.at(member).is_null()) << member;
    EXPECT_EQ(object(call("GET", "/v1/schedules/nightly")), schedule);
    EXPECT_EQ(object(call("GET", "/v1/schedules")).at("items"), json::array({schedule}));
    const json status = object(call("GET", "/v1/status"));
    ASSERT_EQ(status.at("schedules").at("next").size(), 1U);
    EXPECT_EQ(status.at("schedules").at("next")[0].at("name"), "nightly");
    EXPECT_EQ(status.at("schedules").at("next")[0].at("at"), schedule.at("next_fire"));
}

TEST_F(ScheduleRoutes, ARepeatedKeyMakesOneSchedule) {
    const std::vector<std::pair<std::string, std::string>> key{{"Idempotency-Key", "k1"}};
    const json made = object(call("POST", "/v1/schedules", nightly(), key));
    EXPECT_EQ(object(call("POST", "/v1/schedules", nightly(), key)), made);
    expect_refused(call("POST", "/v1/schedules", nightly()), 409, "schedule_exists");
}

TEST_F(ScheduleRoutes, WhatIsChangedIsChangedAndTheRestStays) {
    const json made = object(call("POST", "/v1/schedules", nightly()));
    const json changed =
        object(call("PATCH", "/v1/schedules/nightly",
                    {{"cron", "@hourly"}, {"retention", {{"last", 3}}}, {"days", nullptr}}));
    EXPECT_EQ(changed.at("cron"), "@hourly");
    EXPECT_EQ(changed.at("retention"), (json{{"last", 3}}));
    EXPECT_TRUE(changed.at("days").is_null());
    for (const char* member : {"tz", "op", "target", "overlap", "catch_up", "created_at"})
        EXPECT_EQ(changed.at(member), made.at(member)) << member;
    EXPECT_NE(changed.at("next_fire"), made.at("next_fire"));
    const json paused =
        object(call("PATCH", "/v1/schedules/nightly", {{"paused", true}, {"pause_reason", "x"}}));
    EXPECT_EQ(paused.at("pause_reason"), "x");
    EXPECT_TRUE(paused.at("next_fire").is_null());
    EXPECT_EQ(object(call("PATCH", "/v1/schedules/nightly", {{"paused", false}})).at("next_fire"),
              changed.at("next_fire"));
    expect_refused(call("PATCH", "/v1/schedules/nightly", {{"target", "prod/none"}}), 404,
                   "branch_not_found");
    EXPECT_EQ(object(call("GET", "/v1/schedules/nightly")).at("target"), "prod/main");
}

TEST_F(ScheduleRoutes, WhatCannotBeMeantIsRefused) {
    const auto refused = [this](const std::string& member, json value, int status,
                                const std::string& code) {
        SCOPED_TRACE(member);
        expect_refused(call("POST", "/v1/schedules", with(nightly(), member, std::move(value))),
                       status, code);
    };
    refused("name", "Nightly!", 422, "name_invalid");
    refused("cron", "* * *", 422, "cron_invalid");
    refused("cron", 5, 422, "field_invalid");
    refused("tz", "Mars/Olympus", 422, "timezone_unknown");
    refused("op", "backup", 422, "operation_unknown");
    refused("target", "prod", 422, "ref_invalid");
    refused("target", "prod/none", 404, "branch_not_found");
    refused("retention", {{"dayly", 7}}, 422, "field_invalid");
    refused("retention", {{"daily", "7"}}, 422, "field_invalid");
    refused("retention", {{"daily", -1}}, 422, "keep_invalid");
    refused("retention", {{"daily", 1'000'000'000'000}}, 422, "keep_invalid");
    refused("days", -1, 422, "days_invalid");
    refused("days", "7", 422, "field_invalid");
    refused("overlap", "twice", 422, "overlap_invalid");
    refused("catch_up", "soon", 422, "catch_up_invalid");
    refused("catch_up", "9999d", 422, "catch_up_invalid");
    refused("every", "day", 422, "field_unknown");
    EXPECT_EQ(object(call("GET", "/v1/schedules")).at("items"), json::array());
    expect_refused(call("DELETE", "/v1/schedules/none"), 404, "schedule_not_found");
    expect_refused(call("POST", "/v1/schedules/none/run"), 404, "schedule_not_found");
}

TEST_F(ScheduleRoutes, TheNextTimesOfAnyExpression) {
    const json next = object(call(
        "GET", "/v1/schedules:next?cron=0%204%20*%20*%20*&n=2&after=2026-11-26T10:00:00%2B02:00"));
    ASSERT_EQ(next.at("items").size(), 2U);
    EXPECT_EQ(next.at("items")[0].at("at"), "2026-11-27T04:00:00.000000Z");
    EXPECT_EQ(next.at("items")[1].at("local"), "2026-11-28 04:00:00 UTC");
    expect_refused(call("GET", "/v1/schedules:next?cron=@daily&n=0"), 422, "parameter_invalid");
    expect_refused(call("GET", "/v1/schedules:next?cron=@daily&after=now"), 422,
                   "parameter_invalid");
    expect_refused(call("GET", "/v1/schedules:next"), 422, "cron_invalid");
    expect_refused(call("GET", "/v1/schedules:next?name=none"), 404, "schedule_not_found");
}

TEST_F(ScheduleRoutes, AScheduleThatIsDeletedIsShownOnceMore) {
    const json made = object(call("POST", "/v1/schedules", nightly()));
    EXPECT_EQ(object(call("DELETE", "/v1/schedules/nightly")), made);
    expect_refused(call("GET", "/v1/schedules/nightly"), 404, "schedule_not_found");
}

}  // namespace
}  // namespace bpg::http::test
