#include "orchestrator/http/handlers/wal.h"

#include <algorithm>

#include "orchestrator/operations/instances.h"
#include "orchestrator/operations/wal_holding.h"

namespace bpg::http {
namespace {

using nlohmann::json;

std::string ref_of(const Request& request) {
    return request.param("db") + "/" + request.param("br");
}

json item_json(ApiServices& api, const catalog::Branch& shown_as,
               const catalog::Branch& incarnation, const wal::Holding& holding) {
    const std::uint32_t size = holding.segment_size;
    json gaps = json::array();
    for (const wal::Gap& gap : wal::gaps(holding)) {
        gaps.push_back({{"first", wal::segment_name(gap.first, size)},
                        {"last", wal::segment_name(gap.last, size)},
                        {"segments", gap.last.number - gap.first.number + 1}});
    }
    const auto windows = wal::windows(holding, operations::bases_of(api.catalog, incarnation));
    std::uint64_t archived = 0;
    json first = nullptr;
    json last = nullptr;
    for (const auto& [segment, facts] : holding.segments) {
        if (!facts.archived) continue;
        ++archived;
        if (first.is_null()) first = wal::segment_name(segment, size);
        last = wal::segment_name(segment, size);
    }
    const auto place = api.services.archives.place(operations::Instances::archive(incarnation));
    return {{"branch", api.catalog.ref_of(shown_as)},
            {"incarnation", incarnation.incarnation_id},
            {"incarnation_number", incarnation.incarnation_number},
            {"archiving", incarnation.archives},
            {"archive_path", place.string()},
            {"segments", archived},
            {"bytes", archived * size},
            {"compressed_bytes", holding.stored_bytes},
            {"first", std::move(first)},
            {"last", std::move(last)},
            {"last_archived_at", time_json(holding.last_archived_at)},
            {"pending", holding.pending},
            {"gaps", std::move(gaps)},
            {"foreign", holding.foreign},
            {"restorable", operations::windows_json(windows)}};
}

/// One item an incarnation held, newest first.
asio::awaitable<void> add_items(ApiServices& api, std::string branch_id, json& items) {
    std::vector<std::string> ids;
    const catalog::Branch* branch = api.catalog.branch_by_id(branch_id);
    if (branch == nullptr) co_return;
    for (const catalog::Branch* one : operations::incarnations_of(api.catalog, *branch))
        ids.push_back(one->id);
    for (const std::string& id : ids) {
        if (api.catalog.branch_by_id(id) == nullptr) continue;  // gone meanwhile
        const wal::Holding holding = co_await operations::look_at_wal(api.services, id);
        const catalog::Branch* incarnation = api.catalog.branch_by_id(id);
        const catalog::Branch* shown_as = api.catalog.branch_by_id(branch_id);
        if (incarnation == nullptr || shown_as == nullptr) continue;
        items.push_back(item_json(api, *shown_as, *incarnation, holding));
    }
}

asio::awaitable<Response> list(ApiServices& api, Request) {
    std::vector<std::string> ids;
    for (const catalog::Branch* branch : api.catalog.branches()) {
        const bool is_made = branch->state != catalog::BranchState::kCreating;
        if (is_made) ids.push_back(branch->id);
    }
    json items = json::array();
    for (const std::string& id : ids)
        co_await add_items(api, id, items);
    co_return list_response(std::move(items));
}

asio::awaitable<Response> get(ApiServices& api, Request request) {
    const std::string id = api.catalog.branch(ref_of(request)).id;
    json items = json::array();
    co_await add_items(api, id, items);
    co_return list_response(std::move(items));
}

asio::awaitable<Response> cleanup(ApiServices& api, Request request, operations::RequestKey key) {
    Fields fields(request, Fields::Body::kNeeded);
    const auto days = fields.optional_number("days");
    const bool is_dry_run = fields.flag("dry_run");
    fields.finish();
    if (!days) {
        throw Error(ErrorKind::kInvalid, "field_missing", "a cleanup needs the field \"days\"",
                    "it says for how long every point in time stays restorable",
                    "send {\"days\": 7}");
    }
    const std::string ref = ref_of(request);
    const int count = static_cast<int>(std::clamp<std::int64_t>(*days, -1, 1'000'000));
    if (is_dry_run) {
        co_return json_response(200, co_await api.requests.plan_wal_cleanup(ref, count));
    }
    jobs::Job job = co_await api.requests.wal_cleanup(ref, count, key);
    co_return co_await job_response(api, std::move(request), std::move(job));
}

}  // namespace

void add_wal_routes(Router& router, ApiServices& api) {
    add_route(router, api, "GET", "/v1/wal", list);
    add_route(router, api, "GET", "/v1/wal/{db}/{br}", get);
    add_mutation(router, api, "POST", "/v1/wal/{db}/{br}/cleanup", cleanup);
}

}  // namespace bpg::http
