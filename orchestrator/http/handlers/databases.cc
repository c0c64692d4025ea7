#include "orchestrator/http/handlers/databases.h"

#include "orchestrator/base/error.h"
#include "orchestrator/base/id.h"
#include "orchestrator/http/render.h"
#include "orchestrator/operations/db_create.h"

namespace bpg::http {
namespace {

using nlohmann::json;

asio::awaitable<Response> create(ApiServices& api, Request request, operations::RequestKey key) {
    Fields fields(request, Fields::Body::kNeeded);
    operations::DbCreateRequest wanted;
    wanted.name = fields.text("name");
    wanted.pg_version = fields.optional_text("pg_version").value_or("");
    wanted.image = fields.optional_text("image").value_or("");
    const bool if_not_exists = fields.flag("if_not_exists");
    fields.finish();
    check_name("database", wanted.name);
    if (if_not_exists) {
        const auto creation =
            co_await find_creation(api, std::string(operations::DbCreate::kName), wanted.name);
        if (creation) co_return co_await job_response(api, std::move(request), *creation);
        // With an open job on it, it is on its way out: the request is refused as busy below.
        const catalog::Database* found = api.catalog.find_database(wanted.name);
        if (found != nullptr && !api.queue.find_open_on(wanted.name)) {
            co_return json_response(200, database_json(api.catalog, *found));
        }
    }
    jobs::Job job = co_await api.requests.db_create(std::move(wanted), key);
    co_return co_await job_response(api, std::move(request), std::move(job));
}

asio::awaitable<Response> list(ApiServices& api, Request) {
    json items = json::array();
    for (const catalog::Database* database : api.catalog.databases()) {
        items.push_back(database_json(api.catalog, *database));
    }
    co_return list_response(std::move(items));
}

asio::awaitable<Response> get(ApiServices& api, Request request) {
    const catalog::Database& database = api.catalog.database(request.param("db"));
    co_return json_response(200, database_json(api.catalog, database));
}

asio::awaitable<Response> remove(ApiServices& api, Request request, operations::RequestKey key) {
    Fields(request, Fields::Body::kOptional).finish();
    const bool force = query_flag(request, "force");
    jobs::Job job = co_await api.requests.db_delete(request.param("db"), force, key);
    co_return co_await job_response(api, std::move(request), std::move(job));
}

asio::awaitable<Response> change(ApiServices& api, Request request, operations::RequestKey key) {
    Fields fields(request, Fields::Body::kNeeded);
    const std::string name = fields.text("name");
    fields.finish();
    const std::string id = api.catalog.database(request.param("db")).id;
    co_await api.requests.db_rename(request.param("db"), name, key);
    co_return json_response(200, database_json(api.catalog, *api.catalog.database_by_id(id)));
}

}  // namespace

void add_database_routes(Router& router, ApiServices& api) {
    add_mutation(router, api, "POST", "/v1/databases", create);
    add_route(router, api, "GET", "/v1/databases", list);
    add_route(router, api, "GET", "/v1/databases/{db}", get);
    add_mutation(router, api, "PATCH", "/v1/databases/{db}", change);
    add_mutation(router, api, "DELETE", "/v1/databases/{db}", remove);
}

}  // namespace bpg::http
