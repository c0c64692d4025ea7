#include "orchestrator/http/handlers/pauses.h"

#include "orchestrator/base/error.h"
#include "orchestrator/base/json.h"
#include "orchestrator/base/log.h"

namespace bpg::http {
namespace {

using nlohmann::json;

constexpr std::size_t kReasonMax = 500;
constexpr std::string_view kLane = "lane/";
constexpr std::string_view kDatabase = "database/";

jobs::Pause of_lane(const std::string& name) {
    if (!jobs::priority_from_string(name)) {
        throw Error(ErrorKind::kInvalid, "lane_unknown",
                    "there is no lane \"" + log::printable(name) + "\"",
                    "the lanes are interactive, scheduled and housekeeping", "correct its name");
    }
    return {std::string(kLane) + name, "the " + name + " lane", {}, {}};
}

jobs::Pause of_database(const ApiServices& api, const std::string& name) {
    const catalog::Database& database = api.catalog.database(name);
    return {std::string(kDatabase) + database.id, "database " + database.name, {}, {}};
}

json pause_json(const ApiServices& api, const jobs::Pause& pause) {
    json object{{"lane", nullptr},
                {"database", nullptr},
                {"reason", pause.reason},
                {"since", format_time(pause.since)}};
    if (pause.resource.starts_with(kLane)) {
        object["lane"] = pause.resource.substr(kLane.size());
    } else {
        const std::string id = pause.resource.substr(kDatabase.size());
        const auto* database = api.catalog.database_by_id(id);
        object["database"] = database == nullptr ? id : database->name;
    }
    return object;
}

asio::awaitable<Response> list(ApiServices& api, Request) {
    json items = json::array();
    for (const auto& [resource, pause] : api.pauses.all())
        items.push_back(pause_json(api, pause));
    co_return list_response(std::move(items));
}

asio::awaitable<Response> pause(ApiServices& api, Request request) {
    Fields fields(request, Fields::Body::kNeeded);
    const auto lane = fields.optional_text("lane");
    const auto database = fields.optional_text("database");
    const std::string reason = fields.optional_text("reason").value_or("");
    fields.finish();
    if (lane.has_value() == database.has_value()) {
        throw Error(ErrorKind::kInvalid, "field_invalid", "a pause is of a lane or of a database",
                    lane ? "both were given" : "neither was given", "give one of them");
    }
    if (reason.size() > kReasonMax) {
        throw Error(ErrorKind::kInvalid, "field_invalid", "the reason is too long",
                    "it may have 500 bytes", "shorten it");
    }
    jobs::Pause made = lane ? of_lane(*lane) : of_database(api, *database);
    made.reason = log::printable(reason);
    made.since = api.clock.now();
    const std::string resource = made.resource;
    co_await api.pauses.pause(std::move(made));
    api.queue.changed().notify();
    co_return json_response(200, pause_json(api, api.pauses.all().at(resource)));
}

asio::awaitable<Response> resume(ApiServices& api, jobs::Pause which) {
    if (!co_await api.pauses.resume(which.resource)) {
        throw Error(ErrorKind::kConflict, "not_paused", which.shown_as + " is not paused",
                    "nobody paused it, or it was resumed already", "there is nothing to do");
    }
    api.queue.changed().notify();
    co_return json_response(200, {{"resumed", which.shown_as}});
}

asio::awaitable<Response> resume_lane(ApiServices& api, Request request) {
    co_return co_await resume(api, of_lane(request.param("lane")));
}

asio::awaitable<Response> resume_database(ApiServices& api, Request request) {
    co_return co_await resume(api, of_database(api, request.param("db")));
}

}  // namespace

void add_pause_routes(Router& router, ApiServices& api) {
    add_route(router, api, "GET", "/v1/pauses", list);
    add_route(router, api, "POST", "/v1/pauses", pause);
    add_route(router, api, "DELETE", "/v1/pauses/lanes/{lane}", resume_lane);
    add_route(router, api, "DELETE", "/v1/pauses/databases/{db}", resume_database);
}

}  // namespace bpg::http
