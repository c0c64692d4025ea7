// Errors as HTTP answers: application/problem+json (RFC 9457), the one form every refusal has.
#pragma once

#include <optional>
#include <string>

#include "orchestrator/base/error.h"
#include "orchestrator/http/message.h"

namespace bpg::http {

/// The status follows the kind of the error (wire.h), 429 for the code "queue_full"; `status` is
/// for what only HTTP knows (400, 405, 413 …). `instance` is the request's id.
Response problem_response(const ErrorInfo& info, const std::string& request_id,
                          std::optional<int> status = std::nullopt);

/// 400 `request_malformed`: for a body that is not what its content type says.
Response malformed_request(const std::string& why, const std::string& request_id);

}  // namespace bpg::http
