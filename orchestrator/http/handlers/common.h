// What the handlers share: reading bodies, idempotency, and the answer of a mutation.
#pragma once

#include <optional>
#include <set>
#include <string>

#include "orchestrator/http/handlers/register.h"

namespace bpg::http {

/// Throws kUnavailable `starting` until the daemon is ready.
void require_ready(const ApiServices& api);

Response json_response(const nlohmann::json& body, int status = 200);
nlohmann::json items(nlohmann::json list);

/// A JSON object with only these fields: kInvalid `body_invalid`, `field_unknown`. An empty body is
/// {}.
nlohmann::json read_body(const Request& request, const std::set<std::string>& fields);
/// A field of a type, or the default: kInvalid `field_invalid` with its JSON pointer.
std::string text_field(const nlohmann::json& body, const std::string& name, bool required = false);
bool flag_field(const nlohmann::json& body, const std::string& name);

/// `?name=1`
bool query_flag(const Request& request, const std::string& name);

operations::RequestKey request_key(const Request& request);
/// The job this Idempotency-Key already stands for.
std::optional<jobs::Job> repeated(const ApiServices& api, const Request& request);

/// 202 with Location, or with `Prefer: wait=N` the job as it is after at most N seconds.
asio::awaitable<Response> job_answer(ApiServices& api, const Request& request, jobs::Job job);

}  // namespace bpg::http
