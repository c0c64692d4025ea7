#include "orchestrator/http/handlers/branches.h"

#include <fmt/format.h>

#include "orchestrator/base/error.h"
#include "orchestrator/base/offload.h"
#include "orchestrator/http/render.h"
#include "orchestrator/operations/branch_create.h"

namespace bpg::http {
namespace {

using nlohmann::json;

std::string ref_of(const Request& request) {
    return request.param("db") + "/" + request.param("br");
}

/// Said when what is there was cut from another branch than the one asked for.
std::string note_about_parent(const std::string& ref, const std::string& parent,
                              const std::string& asked) {
    if (asked.empty() || parent == asked) return {};
    return fmt::format("{} was there already, made from {}, not from {}", ref,
                       parent.empty() ? "nothing" : parent, asked);
}

/// The answer when the branch exists or is being created; nothing when it has to be made, or is on
/// its way out (which the request for it then refuses).
asio::awaitable<std::optional<Response>> answer_existing(ApiServices& api, Request request,
                                                         std::string ref, std::string from) {
    auto creation = co_await find_creation(api, std::string(operations::BranchCreate::kName), ref);
    if (creation) {
        const std::string note = note_about_parent(ref, creation->params.value("from", ""), from);
        co_return co_await job_response(api, std::move(request), std::move(*creation), note);
    }
    const catalog::Branch* found = api.catalog.find_branch(ref);
    if (found == nullptr) co_return std::nullopt;
    if (found->state == catalog::BranchState::kCreating) {
        // A first branch is made by the job of its database.
        const std::string database = ref.substr(0, ref.find('/'));
        if (const auto job = api.queue.find_open_on(database); job && job->durable) {
            co_return co_await job_response(api, std::move(request), *job);
        }
    }
    if (found->state == catalog::BranchState::kDeleting) co_return std::nullopt;
    json object = branch_json(api.catalog, *found);
    const std::string parent =
        object["parent"].is_string() ? object["parent"].get<std::string>() : "";
    const std::string note = note_about_parent(ref, parent, from);
    if (!note.empty()) object["note"] = note;
    co_return json_response(200, object);
}

asio::awaitable<Response> create(ApiServices& api, Request request, operations::RequestKey key) {
    Fields fields(request, Fields::Body::kNeeded);
    operations::BranchCreateRequest wanted;
    wanted.ref = fields.text("ref");
    wanted.from = fields.optional_text("from").value_or("");
    wanted.fast = fields.flag("fast");
    const bool if_not_exists = fields.flag("if_not_exists");
    fields.finish();
    catalog::split_ref(wanted.ref);
    if (!wanted.from.empty()) catalog::split_ref(wanted.from);
    if (if_not_exists) {
        auto existing = co_await answer_existing(api, request, wanted.ref, wanted.from);
        if (existing) co_return std::move(*existing);
    }
    jobs::Job job = co_await api.requests.branch_create(std::move(wanted), key);
    co_return co_await job_response(api, std::move(request), std::move(job));
}

asio::awaitable<Response> list(ApiServices& api, Request request) {
    std::string database_id;
    if (const auto name = request.query_value("database")) {
        database_id = api.catalog.database(*name).id;
    }
    json items = json::array();
    for (const catalog::Branch* branch : api.catalog.branches(database_id)) {
        items.push_back(branch_json(api.catalog, *branch));
    }
    co_return list_response(std::move(items));
}

asio::awaitable<Response> get(ApiServices& api, Request request) {
    const catalog::Branch& branch = api.catalog.branch(ref_of(request));
    co_return json_response(200, branch_json(api.catalog, branch));
}

asio::awaitable<Response> remove(ApiServices& api, Request request, operations::RequestKey key) {
    Fields(request, Fields::Body::kOptional).finish();
    const bool force = query_flag(request, "force");
    jobs::Job job = co_await api.requests.branch_delete(ref_of(request), force, key);
    co_return co_await job_response(api, std::move(request), std::move(job));
}

asio::awaitable<Response> control(ApiServices& api, Request request, operations::RequestKey key,
                                  std::string operation) {
    Fields fields(request, Fields::Body::kOptional);
    const bool force = fields.flag("force");
    fields.finish();
    jobs::Job job =
        co_await api.requests.control(std::move(operation), ref_of(request), force, key);
    co_return co_await job_response(api, std::move(request), std::move(job));
}

asio::awaitable<Response> start(ApiServices& api, Request request, operations::RequestKey key) {
    return control(api, std::move(request), std::move(key), "start");
}
asio::awaitable<Response> stop(ApiServices& api, Request request, operations::RequestKey key) {
    return control(api, std::move(request), std::move(key), "stop");
}
asio::awaitable<Response> restart(ApiServices& api, Request request, operations::RequestKey key) {
    return control(api, std::move(request), std::move(key), "restart");
}

/// The only answer with a password in it: for whoever the kernel says is on this machine and may
/// open the socket, never for a connection over a network.
asio::awaitable<Response> credentials(ApiServices& api, Request request) {
    if (!request.peer) {
        throw Error(ErrorKind::kPermission, "credentials_local_only",
                    "passwords are given out over the unix socket only",
                    "this connection has no peer credentials", "ask over the socket of bpgd");
    }
    const catalog::Branch branch = api.catalog.branch(ref_of(request));
    const SecretStore& secrets = api.services.secrets;
    const auto password = co_await api.services.pool.run(
        [&secrets, &branch] { return secrets.find_password(branch.id); });
    if (!password) {
        throw Error(ErrorKind::kConflict, "password_missing",
                    fmt::format("\"{}\" has no password yet", ref_of(request)),
                    fmt::format("it is {}", catalog::to_string(branch.state)),
                    "wait until its job has ended: bpg job list");
    }
    Response response = json_response(200, {{"user", "postgres"},
                                            {"password", *password},
                                            {"host", branch.host},
                                            {"port", branch.port},
                                            {"dbname", "postgres"}});
    response.headers.emplace_back("Cache-Control", "no-store");
    co_return response;
}

}  // namespace

void add_branch_routes(Router& router, ApiServices& api) {
    add_mutation(router, api, "POST", "/v1/branches", create);
    add_route(router, api, "GET", "/v1/branches", list);
    add_route(router, api, "GET", "/v1/branches/{db}/{br}", get);
    add_mutation(router, api, "DELETE", "/v1/branches/{db}/{br}", remove);
    add_mutation(router, api, "POST", "/v1/branches/{db}/{br}/start", start);
    add_mutation(router, api, "POST", "/v1/branches/{db}/{br}/stop", stop);
    add_mutation(router, api, "POST", "/v1/branches/{db}/{br}/restart", restart);
    add_route(router, api, "GET", "/v1/branches/{db}/{br}/credentials", credentials);
}

}  // namespace bpg::http
