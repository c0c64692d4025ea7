#include "orchestrator/http/handlers/register.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "orchestrator/base/error.h"
#include "orchestrator/base/log.h"
#include "orchestrator/http/handlers/branches.h"
#include "orchestrator/http/handlers/databases.h"
#include "orchestrator/http/handlers/jobs.h"
#include "orchestrator/http/handlers/pauses.h"
#include "orchestrator/http/handlers/schedules.h"
#include "orchestrator/http/handlers/snapshots.h"
#include "orchestrator/http/handlers/status.h"
#include "orchestrator/http/handlers/trash.h"
#include "orchestrator/http/handlers/wal.h"
#include "orchestrator/http/problem.h"
#include "orchestrator/http/render.h"
#include "orchestrator/http/wire.h"

namespace bpg::http {
namespace {

using nlohmann::json;

constexpr std::uint64_t kWaitMax = 600;
constexpr std::size_t kKeyMax = 255;

std::string dump(const json& object) {
    // Details may quote bytes from outside; what is no UTF-8 must not fail the answer.
    return object.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

using Answer = std::function<asio::awaitable<Response>(ApiServices& api, Request request)>;

asio::awaitable<Response> answer_when_ready(ApiServices& api, Answer answer, Request request) {
    if (!api.is_ready()) {
        throw Error(ErrorKind::kUnavailable, std::string(kStartingCode), "bpgd is starting",
                    "it still reads its store and looks at every instance",
                    "try again in a moment");
    }
    const std::string id = request.id;
    std::optional<Response> refused;
    try {
        co_return co_await answer(api, std::move(request));
    } catch (const Malformed& malformed) {
        refused = malformed_request(malformed.what(), id);
    }
    co_return std::move(*refused);
}

std::string pointer_to(const std::string& name) {
    return (json::json_pointer() / name).to_string();
}

Error field_error(const char* code, const std::string& name, const std::string& what,
                  const std::string& hint) {
    return {ErrorKind::kInvalid, code, what, "at " + pointer_to(name), hint};
}

Error parameter_error(const std::string& name, const std::string& takes) {
    return {ErrorKind::kInvalid, "parameter_invalid",
            fmt::format("the query parameter \"{}\" has no valid value", name), "it takes " + takes,
            "correct it, or leave it out"};
}

std::optional<std::uint64_t> parse_number(std::string_view text) {
    std::uint64_t value = 0;
    const char* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, value);
    if (parsed.ec != std::errc{} || parsed.ptr != end) return std::nullopt;
    return value;
}

std::string_view trimmed(std::string_view text) {
    const auto first = text.find_first_not_of(" \t");
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

/// N of "Prefer: …, wait=N". A preference that makes no sense is one that is not there (RFC 7240).
std::optional<std::chrono::seconds> preferred_wait(const Request& request) {
    const std::string header = request.headers.find("Prefer").value_or("");
    std::string_view rest = header;
    while (!rest.empty()) {
        const std::size_t end = std::min(rest.find(','), rest.size());
        const std::string_view preference = trimmed(rest.substr(0, end));
        rest.remove_prefix(std::min(end + 1, rest.size()));
        if (!preference.starts_with("wait=")) continue;
        const auto seconds = parse_number(trimmed(preference.substr(5)));
        if (!seconds) return std::nullopt;
        return std::chrono::seconds(std::min(*seconds, kWaitMax));
    }
    return std::nullopt;
}

std::string sha256_hex(const std::string& text) {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned int size = 0;
    if (EVP_Digest(text.data(), text.size(), digest.data(), &size, EVP_sha256(), nullptr) != 1) {
        throw Error(ErrorKind::kInternal, "digest_failed", "cannot compute a SHA-256 digest");
    }
    std::string hex;
    for (unsigned int i = 0; i < size; ++i)
        hex += fmt::format("{:02x}", digest[i]);
    return hex;
}

/// The caller's Idempotency-Key, and what the request was: method, path, query and body.
operations::RequestKey request_key(const Request& request) {
    operations::RequestKey key;
    key.idempotency_key = request.headers.find(kIdempotencyKeyHeader).value_or("");
    if (key.idempotency_key.empty()) return {};
    if (key.idempotency_key.size() > kKeyMax) {
        throw Error(ErrorKind::kInvalid, "idempotency_key_invalid",
                    "the Idempotency-Key is too long",
                    fmt::format("it has {} characters, {} are the most", key.idempotency_key.size(),
                                kKeyMax),
                    "send a shorter one, such as a UUID");
    }
    // As a JSON array: no two different requests run together into the same text.
    const json identity{request.method, request.path, request.query, sha256_hex(request.body)};
    key.request_hash = sha256_hex(identity.dump(-1, ' ', false, json::error_handler_t::replace));
    return key;
}

asio::awaitable<Response> answer_once(ApiServices& api, Mutation handler, Request request) {
    const operations::RequestKey key = request_key(request);
    if (const auto answer = api.queue.find_answer(key)) {
        co_return changed_response(api, *answer);
    }
    if (const auto known = api.queue.find_by_key(key)) {
        co_return co_await job_response(api, std::move(request), *known);
    }
    co_return co_await handler(api, std::move(request), key);
}

}  // namespace

void register_api(Router& router, ApiServices& api) {
    add_database_routes(router, api);
    add_branch_routes(router, api);
    add_job_routes(router, api);
    add_pause_routes(router, api);
    add_snapshot_routes(router, api);
    add_trash_routes(router, api);
    add_wal_routes(router, api);
    add_schedule_routes(router, api);
    add_status_routes(router, api);
}

void add_route(Router& router, ApiServices& api, std::string method, std::string_view route,
               ApiHandler handler) {
    router.add(std::move(method), route, [&api, handler](Request request) {
        return answer_when_ready(api, handler, std::move(request));
    });
}

void add_mutation(Router& router, ApiServices& api, std::string method, std::string_view route,
                  Mutation handler) {
    router.add(std::move(method), route, [&api, handler](Request request) {
        Answer answer = [handler](ApiServices& services, Request mutation) {
            return answer_once(services, handler, std::move(mutation));
        };
        return answer_when_ready(api, std::move(answer), std::move(request));
    });
}

Fields::Fields(const Request& request, Body body) {
    if (request.body.empty()) {
        if (body == Body::kOptional) return;
        throw Malformed("the body is missing; it takes a JSON object");
    }
    object_ = json::parse(request.body, nullptr, /*allow_exceptions=*/false);
    if (object_.is_discarded()) throw Malformed("the body is no JSON");
    if (!object_.is_object()) {
        throw Error(ErrorKind::kInvalid, "field_invalid", "the body is no JSON object",
                    fmt::format("it is of type {}", object_.type_name()),
                    "send an object: {\"name\": …}");
    }
}

const json* Fields::take(const std::string& name) {
    taken_.push_back(name);
    const auto found = object_.find(name);
    return found == object_.end() ? nullptr : &*found;
}

std::optional<std::string> Fields::optional_text(const std::string& name) {
    const json* value = take(name);
    if (value == nullptr) return std::nullopt;
    if (value->is_string()) return value->get<std::string>();
    throw field_error("field_invalid", name,
                      fmt::format("\"{}\" takes a string, not a {}", name, value->type_name()),
                      "send a string, or leave it out");
}

std::string Fields::text(const std::string& name) {
    const auto value = optional_text(name);
    if (value) return *value;
    throw field_error("field_missing", name, fmt::format("\"{}\" is missing", name),
                      "give it in the body of the request");
}

bool Fields::flag(const std::string& name) {
    return optional_flag(name).value_or(false);
}

std::optional<std::int64_t> Fields::optional_number(const std::string& name) {
    const json* value = take(name);
    if (value == nullptr) return std::nullopt;
    if (value->is_number_integer()) return value->get<std::int64_t>();
    throw field_error(
        "field_invalid", name,
        fmt::format("\"{}\" takes a whole number, not a {}", name, value->type_name()),
        "send a number, or leave it out");
}

std::optional<std::chrono::milliseconds> Fields::optional_duration(const std::string& name) {
    const auto text = optional_text(name);
    if (!text) return std::nullopt;
    if (*text == "none") return std::chrono::milliseconds(0);
    const auto parsed = parse_duration(*text);
    if (parsed && parsed->count() > 0) return parsed;
    throw field_error("field_invalid", name,
                      fmt::format("\"{}\" is no duration", log::printable(*text)),
                      "a duration is a number with ms, s, m, h, d or w, like 7d, or none");
}

std::optional<bool> Fields::optional_flag(const std::string& name) {
    const json* value = take(name);
    if (value == nullptr) return std::nullopt;
    if (value->is_boolean()) return value->get<bool>();
    throw field_error("field_invalid", name,
                      fmt::format("\"{}\" takes true or false, not a {}", name, value->type_name()),
                      "send true or false, or leave it out");
}

std::map<std::string, std::string> Fields::texts(const std::string& name) {
    std::map<std::string, std::string> texts;
    const json* value = take(name);
    if (value == nullptr) return texts;
    for (const auto& [key, text] : value->items()) {
        if (!value->is_object() || !text.is_string()) {
            throw field_error("field_invalid", name,
                              fmt::format("\"{}\" takes an object of texts", name),
                              "send it like {\"target\": \"prod/dev\", \"fast\": \"true\"}");
        }
        texts.emplace(key, text.get<std::string>());
    }
    return texts;
}

void Fields::finish() const {
    for (const auto& [name, value] : object_.items()) {
        if (std::find(taken_.begin(), taken_.end(), name) != taken_.end()) continue;
        throw field_error("field_unknown", name, fmt::format("there is no field \"{}\" here", name),
                          taken_.empty() ? "this request takes no fields"
                                         : fmt::format("it takes {}", fmt::join(taken_, ", ")));
    }
}

bool query_flag(const Request& request, const std::string& name) {
    const auto value = request.query_value(name);
    if (!value || *value == "0" || *value == "false") return false;
    if (*value == "1" || *value == "true") return true;
    throw parameter_error(name, "1 or 0");
}

std::uint64_t query_number(const Request& request, const std::string& name, std::uint64_t least,
                           std::uint64_t most, std::uint64_t otherwise) {
    const auto value = request.query_value(name);
    if (!value) return otherwise;
    const auto number = parse_number(*value);
    if (number && *number >= least && *number <= most) return *number;
    throw parameter_error(name, fmt::format("a whole number from {} to {}", least, most));
}

json show_job(const ApiServices& api, const jobs::Job& job) {
    return job_json(job,
                    {api.job_logs.directory(), api.queue.estimates().left(job, api.clock.now())});
}

Response json_response(int status, const json& object) {
    Response response;
    response.status = status;
    response.content_type = kJsonContentType;
    response.body = dump(object);
    return response;
}

Response changed_response(ApiServices& api, const json& answer) {
    const catalog::Catalog& catalog = api.catalog;
    if (const auto* branch = catalog.branch_by_id(answer.value("branch", ""))) {
        return json_response(200, branch_json(catalog, *branch));
    }
    if (const auto* database = catalog.database_by_id(answer.value("database", ""))) {
        return json_response(200, database_json(catalog, *database));
    }
    if (const auto* snapshot = catalog.snapshot_by_id(answer.value("snapshot", ""))) {
        return json_response(200, snapshot_json(catalog, *snapshot));
    }
    if (const auto* schedule = api.services.schedules.find(answer.value("schedule", ""))) {
        return json_response(200, schedule_json(*schedule, api.clock.now()));
    }
    throw Error(ErrorKind::kNotFound, "object_gone", "what this request changed is gone",
                "it was deleted since", "there is nothing to do");
}

Response list_response(json items) {
    return json_response(200, {{"items", std::move(items)}});
}

asio::awaitable<Response> job_response(ApiServices& api, Request request, jobs::Job job,
                                       std::string note) {
    const auto wait = preferred_wait(request);
    int status = 202;
    if (wait) {
        const auto deadline = std::chrono::steady_clock::now() + *wait;
        job = co_await api.queue.wait_until_final(job.id, deadline);
        if (jobs::is_final(job.state)) status = 200;
    }
    json object = show_job(api, job);
    if (!note.empty()) object["note"] = note;
    Response response = json_response(status, object);
    response.headers.emplace_back("Location", "/v1/jobs/" + job.id);
    if (wait) {
        response.headers.emplace_back("Preference-Applied", fmt::format("wait={}", wait->count()));
    }
    co_return response;
}

asio::awaitable<std::optional<jobs::Job>> find_creation(ApiServices& api, std::string operation,
                                                        std::string target) {
    const auto job = api.queue.find_open_on(target);
    if (!job || job->operation != operation) co_return std::nullopt;
    if (job->durable) co_return job;
    // Nobody may hear of a job that a crash could still take away.
    co_return co_await api.queue.find_open_same(operation, target, job->params);
}

}  // namespace bpg::http
