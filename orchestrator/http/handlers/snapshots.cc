#include "orchestrator/http/handlers/snapshots.h"

#include <algorithm>

#include "orchestrator/http/render.h"

namespace bpg::http {
namespace {

using nlohmann::json;

asio::awaitable<Response> create(ApiServices& api, Request request, operations::RequestKey key) {
    Fields fields(request, Fields::Body::kNeeded);
    const std::string ref = fields.text("branch");
    const std::string label = fields.optional_text("label").value_or("");
    fields.finish();
    jobs::Job job = co_await api.requests.snapshot(ref, label, "user", key);
    co_return co_await job_response(api, std::move(request), std::move(job));
}

/// Newest first; those of branches in the trash come back with them.
asio::awaitable<Response> list(ApiServices& api, Request request) {
    std::string branch_id;
    if (const auto ref = request.query_value("branch")) branch_id = api.catalog.branch(*ref).id;
    std::vector<const catalog::Snapshot*> found;
    for (const auto& [id, snapshot] : api.catalog.snapshots()) {
        const catalog::Branch* branch = api.catalog.branch_by_id(snapshot.branch_id);
        if (branch == nullptr || !branch->is_visible()) continue;
        if (branch_id.empty() || branch->id == branch_id) found.push_back(&snapshot);
    }
    std::sort(found.begin(), found.end(),
              [](const catalog::Snapshot* one, const catalog::Snapshot* other) {
                  return one->created_at > other->created_at;
              });
    json items = json::array();
    for (const catalog::Snapshot* snapshot : found)
        items.push_back(snapshot_json(api.catalog, *snapshot));
    co_return list_response(std::move(items));
}

asio::awaitable<Response> get(ApiServices& api, Request request) {
    co_return json_response(200,
                            snapshot_json(api.catalog, api.catalog.snapshot(request.param("id"))));
}

asio::awaitable<Response> change(ApiServices& api, Request request, operations::RequestKey key) {
    Fields fields(request, Fields::Body::kNeeded);
    const auto pinned = fields.optional_flag("pinned");
    const bool with_wal = fields.flag("with_wal");
    fields.finish();
    const catalog::Snapshot snapshot = api.catalog.snapshot(request.param("id"));
    co_await api.requests.snapshot_pin(snapshot.id, pinned.value_or(snapshot.pinned), with_wal,
                                       key);
    co_return json_response(200, snapshot_json(api.catalog, api.catalog.snapshot(snapshot.id)));
}

asio::awaitable<Response> remove(ApiServices& api, Request request, operations::RequestKey key) {
    Fields(request, Fields::Body::kOptional).finish();
    const bool force = query_flag(request, "force");
    jobs::Job job = co_await api.requests.snapshot_delete(request.param("id"), force, key);
    co_return co_await job_response(api, std::move(request), std::move(job));
}

}  // namespace

void add_snapshot_routes(Router& router, ApiServices& api) {
    add_mutation(router, api, "POST", "/v1/snapshots", create);
    add_route(router, api, "GET", "/v1/snapshots", list);
    add_route(router, api, "GET", "/v1/snapshots/{id}", get);
    add_mutation(router, api, "PATCH", "/v1/snapshots/{id}", change);
    add_mutation(router, api, "DELETE", "/v1/snapshots/{id}", remove);
}

}  // namespace bpg::http
