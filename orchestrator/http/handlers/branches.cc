#include "orchestrator/http/handlers/branches.h"

#include <fmt/format.h>

#include "orchestrator/base/error.h"
#include "orchestrator/base/log.h"
#include "orchestrator/base/offload.h"
#include "orchestrator/base/signal.h"
#include "orchestrator/http/render.h"
#include "orchestrator/operations/branch_create.h"
#include "orchestrator/operations/instances.h"

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
    wanted.snapshot = fields.optional_text("snapshot").value_or("");
    wanted.ttl = fields.optional_duration("ttl");
    if (wanted.ttl && wanted.ttl->count() == 0) wanted.ttl.reset();
    wanted.stopped = fields.flag("stopped");
    wanted.no_archive = fields.flag("no_archive");
    wanted.target =
        operations::parse_target({fields.optional_text("pitr"), fields.optional_text("at_lsn"),
                                  fields.optional_text("at_restore_point")},
                                 api.clock.now());
    const bool is_dry_run = fields.flag("dry_run");
    const bool if_not_exists = fields.flag("if_not_exists");
    fields.finish();
    catalog::split_ref(wanted.ref);
    if (wanted.from.find('/') != std::string::npos) catalog::split_ref(wanted.from);
    if (is_dry_run) {
        if (!wanted.target.is_set()) {
            throw Error(ErrorKind::kInvalid, "dry_run_without_target",
                        "--dry-run goes with a point in time only",
                        "any other create takes what is there now", "leave out --dry-run");
        }
        co_return json_response(200, co_await api.requests.plan_branch_restore(std::move(wanted)));
    }
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
    operations::BranchDeleteRequest wanted;
    wanted.ref = ref_of(request);
    wanted.force = query_flag(request, "force");
    wanted.recursive = query_flag(request, "recursive");
    wanted.purge = query_flag(request, "purge");
    if (query_flag(request, "dry_run")) {
        co_return json_response(200, api.requests.plan_branch_delete(wanted));
    }
    jobs::Job job = co_await api.requests.branch_delete(std::move(wanted), key);
    co_return co_await job_response(api, std::move(request), std::move(job));
}

asio::awaitable<Response> sync(ApiServices& api, Request request, operations::RequestKey key) {
    Fields fields(request, Fields::Body::kOptional);
    const bool fast = fields.flag("fast");
    const bool is_dry_run = fields.flag("dry_run");
    fields.finish();
    const std::string ref = ref_of(request);
    if (is_dry_run) co_return json_response(200, api.requests.plan_branch_sync(ref, fast));
    jobs::Job job = co_await api.requests.branch_sync(ref, fast, key);
    co_return co_await job_response(api, std::move(request), std::move(job));
}

asio::awaitable<Response> promote(ApiServices& api, Request request, operations::RequestKey key) {
    Fields fields(request, Fields::Body::kOptional);
    const std::string old_name = fields.optional_text("old_name").value_or("");
    const bool is_dry_run = fields.flag("dry_run");
    fields.finish();
    const std::string ref = ref_of(request);
    if (is_dry_run) {
        co_return json_response(200, api.requests.plan_branch_promote(ref, old_name));
    }
    jobs::Job job = co_await api.requests.branch_promote(ref, old_name, key);
    co_return co_await job_response(api, std::move(request), std::move(job));
}

asio::awaitable<Response> rename(ApiServices& api, Request request, operations::RequestKey key) {
    Fields fields(request, Fields::Body::kNeeded);
    const std::string name = fields.text("name");
    fields.finish();
    const std::string id = api.catalog.branch(ref_of(request)).id;
    co_await api.requests.branch_rename(ref_of(request), name, key);
    co_return json_response(200, branch_json(api.catalog, *api.catalog.branch_by_id(id)));
}

asio::awaitable<Response> rotate_password(ApiServices& api, Request request,
                                          operations::RequestKey key) {
    Fields(request, Fields::Body::kOptional).finish();
    jobs::Job job = co_await api.requests.password_rotate(ref_of(request), key);
    co_return co_await job_response(api, std::move(request), std::move(job));
}

/// "port" is a number, or "auto".
std::optional<int> port_field(Fields& fields, const json& body) {
    const auto found = body.find("port");
    if (found != body.end() && found->is_string()) {
        const auto text = fields.optional_text("port");
        if (*text == "auto") return 0;
        throw Error(ErrorKind::kInvalid, "field_invalid",
                    "\"" + log::printable(*text) + "\" is no port", "it takes a number, or auto",
                    "send a number");
    }
    const auto number = fields.optional_number("port");
    if (!number) return std::nullopt;
    if (*number >= 1 && *number <= 65535) return static_cast<int>(*number);
    throw Error(ErrorKind::kInvalid, "field_invalid", fmt::format("{} is no port", *number),
                "ports are 1 to 65535", "send another number, or \"auto\"");
}

asio::awaitable<Response> change(ApiServices& api, Request request, operations::RequestKey key) {
    Fields fields(request, Fields::Body::kNeeded);
    operations::BranchChanges changes;
    changes.is_protected = fields.optional_flag("protected");
    changes.ttl = fields.optional_duration("ttl");
    changes.port = port_field(fields, json::parse(request.body));
    changes.settings = fields.texts("pg");
    fields.finish();
    const std::string id = api.catalog.branch(ref_of(request)).id;
    auto job = co_await api.requests.branch_set(ref_of(request), std::move(changes), key);
    if (job) co_return co_await job_response(api, std::move(request), std::move(*job));
    co_return json_response(200, branch_json(api.catalog, *api.catalog.branch_by_id(id)));
}

constexpr std::chrono::milliseconds kLookAtLog{300};

/// The log of a branch's PostgreSQL; with `follow` for as long as the reader listens.
asio::awaitable<void> send_log(ApiServices& api, std::string branch_id, std::size_t lines,
                               bool follow, StreamWriter& writer) {
    const operations::Instances instances(api.services);
    std::string from;
    while (true) {
        const catalog::Branch* branch = api.catalog.branch_by_id(branch_id);
        if (branch == nullptr) co_return;
        const runtime::InstanceRef instance = instances.ref(*branch);
        runtime::LogPiece piece = co_await api.services.runtime.read_log(instance, from, lines);
        from = std::move(piece.next);
        const bool had_some = !piece.text.empty();
        if (had_some && !co_await writer.write(std::move(piece.text))) co_return;
        if (!follow) co_return;
        if (!had_some) co_await pause_for(kLookAtLog);
    }
}

asio::awaitable<Response> logs(ApiServices& api, Request request) {
    constexpr std::size_t kLinesMax = 10'000;
    constexpr std::size_t kLinesUsual = 200;
    const std::string id = api.catalog.branch(ref_of(request)).id;
    const bool follow = query_flag(request, "follow");
    const std::size_t lines = query_number(request, "lines", 1, kLinesMax, kLinesUsual);
    Response response;
    response.content_type = "text/plain; charset=utf-8";
    response.stream = [&api, id, lines, follow](StreamWriter& writer) {
        return send_log(api, id, lines, follow, writer);
    };
    co_return response;
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
        [&secrets, &branch] { return secrets.find_password(branch.password()); });
    if (!password) {
        throw Error(ErrorKind::kConflict, "password_missing",
                    fmt::format("\"{}\" has no password yet", ref_of(request)),
                    fmt::format("it is {}", catalog::to_string(branch.state)),
                    "wait until its job has ended: bpg job list");
    }
    Response response = json_response(200, {{"user", "postgres"},
                                            {"password", password->reveal()},
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
    add_mutation(router, api, "PATCH", "/v1/branches/{db}/{br}", change);
    add_mutation(router, api, "POST", "/v1/branches/{db}/{br}/sync", sync);
    add_mutation(router, api, "POST", "/v1/branches/{db}/{br}/promote", promote);
    add_mutation(router, api, "POST", "/v1/branches/{db}/{br}/rename", rename);
    add_mutation(router, api, "POST", "/v1/branches/{db}/{br}/rotate-password", rotate_password);
    add_route(router, api, "GET", "/v1/branches/{db}/{br}/credentials", credentials);
    add_route(router, api, "GET", "/v1/branches/{db}/{br}/logs", logs);
}

}  // namespace bpg::http
