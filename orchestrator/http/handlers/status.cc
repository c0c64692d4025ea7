#include "orchestrator/http/handlers/status.h"

#include <fmt/format.h>

#include <algorithm>

#include "orchestrator/http/render.h"
#include "scheduler/schedules.h"

namespace bpg::http {
namespace {

using nlohmann::json;

constexpr std::size_t kSchedulesShown = 5;

/// What the data of a database could be brought back from: of its main, as last looked at.
json protection_json(const catalog::Catalog& catalog, const catalog::Database& database) {
    std::optional<WallTime> newest;
    std::optional<catalog::ArchiveFacts> known;
    if (const auto* main =
            catalog.find_branch(fmt::format("{}/{}", database.name, catalog::kMain))) {
        for (const catalog::Snapshot* snapshot : catalog.snapshots_of(main->id)) {
            newest = std::max(newest, std::optional(snapshot->created_at));
        }
        known = catalog.wal(main->id);
    }
    const catalog::ArchiveFacts wal = known.value_or(catalog::ArchiveFacts{});
    return {{"newest_snapshot_at", time_json(newest)},
            {"restorable_from", time_json(wal.restorable_from)},
            {"restorable_to", time_json(wal.restorable_to)},
            {"gaps", known ? json(wal.gaps) : json(nullptr)},  // null: not looked at yet
            {"last_archived_at", time_json(wal.last_archived_at)},
            {"pending_segments", known ? json(wal.pending) : json(nullptr)},
            {"oldest_pending_at", time_json(wal.oldest_pending)}};
}

json databases_json(const catalog::Catalog& catalog) {
    json databases = json::array();
    for (const catalog::Database* database : catalog.databases()) {
        json branches = json::array();
        for (const catalog::Branch* branch : catalog.branches(database->id)) {
            branches.push_back(branch_summary_json(catalog, *branch));
        }
        databases.push_back({{"name", database->name},
                             {"branches", std::move(branches)},
                             {"protection", protection_json(catalog, *database)}});
    }
    return databases;
}

json jobs_json(const ApiServices& api) {
    std::size_t queued = 0;
    std::size_t running = 0;
    for (const auto& [number, job] : api.queue.open_jobs()) {
        if (job->state == jobs::JobState::kQueued) {
            ++queued;
        } else if (!jobs::is_final(job->state)) {
            ++running;
        }
    }
    const std::size_t failed = api.queue.failed_last_day();
    return {{"queued", queued}, {"running", running}, {"failed_24h", failed}};
}

/// The soonest first.
json schedules_json(const ApiServices& api) {
    std::vector<const scheduler::Schedule*> upcoming;
    for (const auto& [name, entry] : api.services.schedules.all()) {
        if (entry.schedule.next_fire) upcoming.push_back(&entry.schedule);
    }
    const auto shown = std::min(upcoming.size(), kSchedulesShown);
    std::partial_sort(
        upcoming.begin(), upcoming.begin() + static_cast<std::ptrdiff_t>(shown), upcoming.end(),
        [](const auto* one, const auto* other) { return *one->next_fire < *other->next_fire; });
    json next = json::array();
    for (std::size_t i = 0; i < shown; ++i) {
        next.push_back({{"name", upcoming[i]->name},
                        {"op", upcoming[i]->op},
                        {"target", upcoming[i]->target},
                        {"at", format_time(*upcoming[i]->next_fire)}});
    }
    return {{"next", std::move(next)}};
}

void add_schedule_warnings(const ApiServices& api, json& warnings) {
    for (const auto& [name, entry] : api.services.schedules.all()) {
        const scheduler::Schedule& schedule = entry.schedule;
        if (schedule.paused && schedule.pause_reason == scheduler::kPausedByClock) {
            warnings.push_back(
                fmt::format("schedule {} is paused because the clock was set: look "
                            "at it, then bpg schedule resume {}",
                            name, name));
        }
        if (!entry.broken.empty()) {
            warnings.push_back(fmt::format("schedule {} cannot fire: {}", name, entry.broken));
        }
        if (schedule.refusal) {
            warnings.push_back(fmt::format("the last fire of schedule {} became no job: {}", name,
                                           schedule.refusal->message));
        }
    }
}

json warnings_json(const ApiServices& api) {
    json warnings = api.warnings_json ? api.warnings_json() : json::array();
    for (const catalog::Branch* branch : api.catalog.branches()) {
        for (const std::string& warning : branch->warnings) {
            warnings.push_back(api.catalog.ref_of(*branch) + ": " + warning);
        }
    }
    for (const auto& [number, job] : api.queue.open_jobs()) {
        if (job->state != jobs::JobState::kStuck) continue;
        warnings.push_back(fmt::format("job {} ({} of {}) is stuck: bpg job get {}", job->id,
                                       job->operation, job->target, job->id));
    }
    add_schedule_warnings(api, warnings);
    for (const auto& [resource, pause] : api.pauses.all()) {
        warnings.push_back(fmt::format("{} is paused since {}{}", pause.shown_as,
                                       format_time(pause.since),
                                       pause.reason.empty() ? "" : ": " + pause.reason));
    }
    return warnings;
}

asio::awaitable<Response> status(ApiServices& api, Request) {
    const auto up = std::chrono::duration_cast<std::chrono::seconds>(
        std::chrono::steady_clock::now() - api.started);
    co_return json_response(200,
                            {{"daemon", {{"version", BPG_VERSION}, {"uptime_seconds", up.count()}}},
                             {"storage", api.storage_json()},
                             {"runtime", api.runtime_json()},
                             {"databases", databases_json(api.catalog)},
                             {"jobs", jobs_json(api)},
                             {"schedules", schedules_json(api)},
                             {"warnings", warnings_json(api)}});
}

asio::awaitable<Response> readiness(ApiServices&, Request) {
    co_return json_response(200, {{"status", "ready"}});
}

/// Also while bpgd is starting: it says that the loop turns, nothing else.
asio::awaitable<Response> health(Request) {
    co_return json_response(200, {{"status", "ok"}});
}

}  // namespace

void add_status_routes(Router& router, ApiServices& api) {
    add_route(router, api, "GET", "/v1/status", status);
    add_route(router, api, "GET", "/readyz", readiness);
    router.add("GET", "/healthz", health);
}

}  // namespace bpg::http
