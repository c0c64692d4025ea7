#include "orchestrator/http/handlers/common.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <charconv>

#include "orchestrator/http/render.h"

namespace bpg::http {
namespace {

using nlohmann::json;

constexpr int kWaitMax = 600;

std::string sha256(const std::string& text) {
    std::array<unsigned char, 32> digest{};
    unsigned int size = 0;
    if (EVP_Digest(text.data(), text.size(), digest.data(), &size, EVP_sha256(), nullptr) != 1) {
        throw Error(ErrorKind::kInternal, "digest_failed", "cannot compute a digest");
    }
    std::string hex;
    for (const unsigned char byte : digest)
        hex += fmt::format("{:02x}", byte);
    return hex;
}

Error invalid_field(const std::string& name, const std::string& wanted) {
    return {ErrorKind::kInvalid, "field_invalid", fmt::format("/{} is not valid", name),
            "it must be " + wanted, "correct the request body"};
}

/// N of "wait=N" in Prefer; 0 when it is not there.
int preferred_wait(const Request& request) {
    const auto prefer = request.headers.find("Prefer");
    if (!prefer || !prefer->starts_with("wait=")) return 0;
    int seconds = 0;
    std::from_chars(prefer->data() + 5, prefer->data() + prefer->size(), seconds);
    return std::clamp(seconds, 0, kWaitMax);
}

}  // namespace

void require_ready(const ApiServices& api) {
    if (api.is_ready()) return;
    throw Error(ErrorKind::kUnavailable, "starting", "bpgd is starting",
                "it reads its store and looks at every instance first", "try again in a moment");
}

Response json_response(const json& body, int status) {
    Response response;
    response.status = status;
    response.body = body.dump();
    return response;
}

json items(json list) {
    return {{"items", std::move(list)}};
}

json read_body(const Request& request, const std::set<std::string>& fields) {
    if (request.body.empty()) return json::object();
    json body = json::parse(request.body, nullptr, /*allow_exceptions=*/false);
    if (!body.is_object()) {
        throw Error(ErrorKind::kInvalid, "body_invalid", "the request body is no JSON object", "",
                    "send one, with Content-Type application/json");
    }
    for (const auto& [name, value] : body.items()) {
        if (fields.contains(name)) continue;
        std::string known;
        for (const std::string& field : fields)
            known += (known.empty() ? "" : ", ") + field;
        throw Error(ErrorKind::kInvalid, "field_unknown",
                    fmt::format("/{} is not a field of this request", name), "it has: " + known,
                    "correct the request body");
    }
    return body;
}

std::string text_field(const json& body, const std::string& name, bool required) {
    const auto found = body.find(name);
    if (found == body.end() || found->is_null()) {
        if (required) throw invalid_field(name, "given");
        return {};
    }
    if (!found->is_string()) throw invalid_field(name, "a string");
    return found->get<std::string>();
}

bool flag_field(const json& body, const std::string& name) {
    const auto found = body.find(name);
    if (found == body.end() || found->is_null()) return false;
    if (!found->is_boolean()) throw invalid_field(name, "true or false");
    return found->get<bool>();
}

bool query_flag(const Request& request, const std::string& name) {
    const auto value = request.query_value(name);
    return value && *value != "0" && *value != "false";
}

operations::RequestKey request_key(const Request& request) {
    return {request.headers.find("Idempotency-Key").value_or("").substr(0, 255),
            sha256(request.method + "\n" + request.path + "\n" + request.body)};
}

std::optional<jobs::Job> repeated(const ApiServices& api, const Request& request) {
    const operations::RequestKey key = request_key(request);
    return api.queue.find_by_key(key.idempotency_key, key.request_hash);
}

asio::awaitable<Response> job_answer(ApiServices& api, const Request& request, jobs::Job job) {
    const int seconds = preferred_wait(request);
    if (seconds > 0) {
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
        job = co_await api.queue.wait_until_final(job.id, deadline);
    }
    Response response = json_response(job_json(job), jobs::is_final(job.state) ? 200 : 202);
    response.headers.emplace_back("Location", "/v1/jobs/" + job.id);
    co_return response;
}

}  // namespace bpg::http
