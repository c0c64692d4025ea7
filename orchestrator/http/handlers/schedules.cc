#include "orchestrator/http/handlers/schedules.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "orchestrator/base/error.h"
#include "orchestrator/base/log.h"
#include "orchestrator/http/render.h"
#include "orchestrator/operations/submit.h"
#include "scheduler/scheduler.h"

namespace bpg::http {
namespace {

using nlohmann::json;
using scheduler::KeepRules;
using scheduler::Schedule;

constexpr std::size_t kNextMax = 1000;
constexpr std::size_t kNextDefault = 5;

int whole_number(std::int64_t value) {
    return static_cast<int>(std::clamp<std::int64_t>(value, std::numeric_limits<int>::min(),
                                                     std::numeric_limits<int>::max()));
}

Error retention_error(const std::string& why) {
    return {ErrorKind::kInvalid, "field_invalid", "the field \"retention\" has no valid value", why,
            "send it like {\"daily\": 7, \"weekly\": 4}"};
}

KeepRules keep_rules(const json& value) {
    KeepRules rules;
    if (!value.is_object()) throw retention_error("it is an object of numbers");
    for (const auto& [name, count] : value.items()) {
        const auto rule =
            std::find_if(std::begin(scheduler::kKeepRules), std::end(scheduler::kKeepRules),
                         [&](const auto& one) { return one.first == name; });
        if (rule == std::end(scheduler::kKeepRules)) {
            throw retention_error("there is no rule \"" + log::printable(name) +
                                  "\": it takes last, hourly, daily, weekly, monthly, yearly, min");
        }
        if (!count.is_number_integer()) {
            throw retention_error("\"" + name + "\" takes a whole number");
        }
        rules.*(rule->second) = whole_number(count.get<std::int64_t>());
    }
    return rules;
}

Response schedule_response(ApiServices& api, int status, const std::string& name) {
    const auto& schedules = api.services.schedules;
    return json_response(status, schedule_json(schedules.get(name), api.scheduler.now()));
}

/// What may be given with a new schedule, and changed of one that is there.
struct Given {
    std::optional<std::string> cron, tz, op, target, overlap, catch_up;
    std::optional<KeepRules> retention;
    std::optional<std::map<std::string, std::string>> parameters;
    std::optional<int> days;
    bool no_days = false;

    explicit Given(Fields& fields)
        : cron(fields.optional_text("cron")),
          tz(fields.optional_text("tz")),
          op(fields.optional_text("op")),
          target(fields.optional_text("target")),
          overlap(fields.optional_text("overlap")),
          catch_up(fields.optional_text("catch_up")) {
        if (const json* rules = fields.value("retention")) retention = keep_rules(*rules);
        if (fields.has("parameters")) parameters = fields.texts("parameters");
        const json* value = fields.value("days");
        no_days = value != nullptr && value->is_null();
        if (!no_days && value != nullptr)
            days = whole_number(fields.optional_number("days").value_or(0));
    }

    void apply(Schedule& schedule) const {
        if (cron) schedule.cron = *cron;
        if (tz) schedule.tz = *tz;
        if (op) schedule.op = *op;
        if (target) schedule.target = *target;
        if (retention) schedule.retention = *retention;
        if (parameters) schedule.parameters = *parameters;
        if (days) schedule.days = days;
        if (no_days) schedule.days.reset();
        if (overlap) schedule.overlap = overlap_of(*overlap);
        if (catch_up) schedule.catch_up = catch_up_of(*catch_up);
    }

    static scheduler::Overlap overlap_of(const std::string& text) {
        if (text == "skip") return scheduler::Overlap::kSkip;
        if (text == "queue") return scheduler::Overlap::kQueue;
        throw Error(ErrorKind::kInvalid, "overlap_invalid",
                    "\"" + log::printable(text) + "\" is no way to overlap",
                    "a fire skips, or queues, while the job of the one before is open",
                    "give skip or queue");
    }
    static std::chrono::milliseconds catch_up_of(const std::string& text) {
        const auto duration = parse_duration(text);
        if (duration) return *duration;
        throw Error(ErrorKind::kInvalid, "catch_up_invalid",
                    "\"" + log::printable(text) + "\" is no duration",
                    "a duration is a number with ms, s, m, h, d or w", "for example 24h");
    }
};

/// That it may fire at all: a mistyped name must not wait for the night to be noticed.
void check_target(const ApiServices& api, const Schedule& schedule) {
    operations::check_operation(schedule.op);
    const std::string& op = schedule.op;
    const bool makes_it = op == "db-create" || op == "branch-create" || op == "undo-delete";
    const bool takes_an_id = op == "snapshot-delete" || op == "trash-purge";
    if (makes_it || takes_an_id) return;
    if (op == "db-delete" || schedule.target.find('/') == std::string::npos) {
        const bool takes_databases = op == "db-delete" || op == "start" || op == "stop";
        if (takes_databases) {
            api.catalog.database(schedule.target);
            return;
        }
    }
    api.catalog.branch(schedule.target);
}

asio::awaitable<Response> create(ApiServices& api, Request request, operations::RequestKey key) {
    Fields fields(request, Fields::Body::kNeeded);
    Schedule schedule;
    schedule.name = fields.text("name");
    fields.text("cron");
    fields.text("op");
    Given(fields).apply(schedule);
    fields.finish();
    check_target(api, schedule);
    const std::string name = schedule.name;
    co_await api.scheduler.create(std::move(schedule), std::move(key));
    co_return schedule_response(api, 201, name);
}

asio::awaitable<Response> list(ApiServices& api, Request) {
    json items = json::array();
    for (const auto& [name, entry] : api.services.schedules.all())
        items.push_back(schedule_json(entry, api.scheduler.now()));
    co_return list_response(std::move(items));
}

asio::awaitable<Response> get(ApiServices& api, Request request) {
    co_return schedule_response(api, 200, request.param("name"));
}

/// Pausing and resuming go alone; anything else may change together.
asio::awaitable<Response> change(ApiServices& api, Request request, operations::RequestKey key) {
    const std::string name = request.param("name");
    Fields fields(request, Fields::Body::kNeeded);
    const auto paused = fields.optional_flag("paused");
    const std::string reason = fields.optional_text("pause_reason").value_or("");
    const Given given(fields);
    fields.finish();
    api.services.schedules.get(name);
    if (paused && *paused) {
        co_await api.scheduler.pause(name, reason, std::move(key));
    } else if (paused) {
        co_await api.scheduler.resume(name, std::move(key));
    } else {
        const auto edit = [&api, &given](Schedule& schedule) {
            given.apply(schedule);
            check_target(api, schedule);
        };
        co_await api.scheduler.change(name, edit, std::move(key));
    }
    co_return schedule_response(api, 200, name);
}

asio::awaitable<Response> remove(ApiServices& api, Request request, operations::RequestKey key) {
    Fields(request, Fields::Body::kOptional).finish();
    const std::string name = request.param("name");
    const json object = schedule_json(api.services.schedules.get(name), api.scheduler.now());
    co_await api.scheduler.remove(name, std::move(key));
    co_return json_response(200, object);
}

asio::awaitable<Response> run(ApiServices& api, Request request, operations::RequestKey key) {
    Fields fields(request, Fields::Body::kOptional);
    const bool force = fields.flag("force");
    fields.finish();
    const std::string name = request.param("name");
    jobs::Job job = co_await api.scheduler.run_now(name, force, std::move(key));
    co_return co_await job_response(api, std::move(request), std::move(job));
}

WallTime time_given(const Request& request, const std::string& name, WallTime otherwise) {
    const auto text = request.query_value(name);
    if (!text) return otherwise;
    const auto time = parse_time(*text);
    if (time) return *time;
    throw Error(ErrorKind::kInvalid, "parameter_invalid",
                "the parameter \"" + name + "\" has no valid value",
                "\"" + log::printable(*text) + "\" is no time with a zone",
                "give it like 2026-11-23T09:22:03Z");
}

/// Of a schedule by name, or of any expression.
asio::awaitable<Response> next(ApiServices& api, Request request) {
    const WallTime after = time_given(request, "after", api.scheduler.now());
    const auto count = query_number(request, "n", 1, kNextMax, kNextDefault);
    Schedule schedule;
    schedule.name = request.query_value("name").value_or("");
    if (schedule.name.empty()) {
        schedule.cron = request.query_value("cron").value_or("");
        schedule.tz = request.query_value("tz").value_or(schedule.tz);
        schedule.created_at = after;
    } else {
        schedule = api.services.schedules.get(schedule.name).schedule;
    }
    const absl::TimeZone zone = scheduler::load_zone(schedule.tz);
    const auto expression =
        scheduler::CronExpression::parse(schedule.cron, schedule.name, schedule.created_at);
    json items = json::array();
    for (const auto& fire : expression.upcoming(after, zone, count)) {
        items.push_back({{"at", format_time(fire.at)}, {"local", fire.local}, {"note", fire.note}});
    }
    co_return json_response(200, {{"items", std::move(items)},
                                  {"cron", schedule.cron},
                                  {"tz", schedule.tz},
                                  {"description", expression.describe()},
                                  {"warnings", expression.warnings(zone, after)}});
}

asio::awaitable<Response> retention(ApiServices& api, Request request) {
    std::optional<WallTime> at;
    if (request.query_value("at")) at = time_given(request, "at", {});
    const std::string ref = request.param("db") + "/" + request.param("br");
    co_return json_response(200, co_await api.requests.plan_retention(ref, at));
}

}  // namespace

void add_schedule_routes(Router& router, ApiServices& api) {
    add_mutation(router, api, "POST", "/v1/schedules", create);
    add_route(router, api, "GET", "/v1/schedules", list);
    add_route(router, api, "GET", "/v1/schedules/{name}", get);
    add_mutation(router, api, "PATCH", "/v1/schedules/{name}", change);
    add_mutation(router, api, "DELETE", "/v1/schedules/{name}", remove);
    add_mutation(router, api, "POST", "/v1/schedules/{name}/run", run);
    add_route(router, api, "GET", "/v1/schedules:next", next);
    add_route(router, api, "GET", "/v1/retention/{db}/{br}", retention);
}

}  // namespace bpg::http
