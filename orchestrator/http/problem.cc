#include "orchestrator/http/problem.h"

#include <nlohmann/json.hpp>

#include "orchestrator/http/wire.h"

namespace bpg::http {
namespace {

// A full queue frees itself, unlike a full disk, and clients know 429 as "later".
constexpr std::string_view kQueueFull = "queue_full";

}  // namespace

Response problem_response(const ErrorInfo& info, const std::string& request_id,
                          std::optional<int> status) {
    Response response;
    response.status = info.code == kQueueFull ? 429 : http_status(info.kind);
    if (status) response.status = *status;
    nlohmann::json object = problem(info);
    object["status"] = response.status;
    object["instance"] = "/requests/" + request_id;
    response.content_type = kProblemContentType;
    // Details may quote bytes from outside; what is no UTF-8 must not become a second error.
    response.body = object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    return response;
}

Response malformed_request(const std::string& why, const std::string& request_id) {
    return problem_response(
        {ErrorKind::kInvalid, "request_malformed", "the request is not well-formed", why,
         "check the request against /openapi.json"},
        request_id, 400);
}

}  // namespace bpg::http
