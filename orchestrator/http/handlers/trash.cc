#include "orchestrator/http/handlers/trash.h"

#include "orchestrator/http/render.h"

namespace bpg::http {
namespace {

using nlohmann::json;

asio::awaitable<Response> list(ApiServices& api, Request) {
    json items = json::array();
    for (const catalog::TrashItem& item : api.catalog.trash())
        items.push_back(trash_item_json(api.catalog, item));
    co_return list_response(std::move(items));
}

asio::awaitable<Response> bring_back(ApiServices& api, Request request,
                                     operations::RequestKey key) {
    Fields fields(request, Fields::Body::kOptional);
    const std::string as = fields.optional_text("as").value_or("");
    fields.finish();
    jobs::Job job = co_await api.requests.undo_delete(request.param("id"), as, key);
    co_return co_await job_response(api, std::move(request), std::move(job));
}

asio::awaitable<Response> purge(ApiServices& api, Request request, operations::RequestKey key) {
    Fields(request, Fields::Body::kOptional).finish();
    jobs::Job job = co_await api.requests.trash_purge(request.param("id"), key);
    co_return co_await job_response(api, std::move(request), std::move(job));
}

asio::awaitable<Response> purge_all(ApiServices& api, Request request, operations::RequestKey key) {
    Fields(request, Fields::Body::kOptional).finish();
    jobs::Job job = co_await api.requests.trash_purge("", key);
    co_return co_await job_response(api, std::move(request), std::move(job));
}

}  // namespace

void add_trash_routes(Router& router, ApiServices& api) {
    add_route(router, api, "GET", "/v1/trash", list);
    add_mutation(router, api, "DELETE", "/v1/trash", purge_all);
    add_mutation(router, api, "POST", "/v1/trash/{id}", bring_back);
    add_mutation(router, api, "DELETE", "/v1/trash/{id}", purge);
}

}  // namespace bpg::http
