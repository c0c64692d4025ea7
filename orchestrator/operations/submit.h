// Any operation by its name, with the long flags of its command as parameters: `bpg job submit`.
#pragma once

#include <map>
#include <string>

#include "orchestrator/operations/requests.h"

namespace bpg::operations {

/// By the long flag without dashes: {"target": "prod/dev", "fast": "true"}.
using Parameters = std::map<std::string, std::string>;

/// Throws kInvalid `operation_unknown`.
void check_operation(const std::string& operation);

/// Refusals are those of the operation's own request, and kInvalid `operation_unknown`,
/// `parameter_missing`, `parameter_unknown` and `parameter_invalid`.
asio::awaitable<jobs::Job> submit(Requests& requests, std::string operation, Parameters parameters,
                                  RequestKey key);

}  // namespace bpg::operations
