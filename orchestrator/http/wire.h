// What the command line and the server must agree on: how an error travels (RFC 9457 problem
// objects), how a kind of failure becomes an HTTP status and an exit code, and the few names both
// sides spell. Pure functions; no HTTP library, so that `bpg` stays small.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "orchestrator/base/error.h"

namespace bpg::http {

inline constexpr std::string_view kProblemContentType = "application/problem+json";
inline constexpr std::string_view kJsonContentType = "application/json";
inline constexpr std::string_view kEventsContentType = "application/x-ndjson";
inline constexpr std::string_view kIdempotencyKeyHeader = "Idempotency-Key";

/// The code of the 503 answered until the store is read and every instance has been looked at.
inline constexpr std::string_view kStartingCode = "starting";

/// Types of job events that a reader shows with their time; it ignores types it does not know.
inline constexpr std::string_view kEventStepDone = "step_done";      ///< data.duration_ms
inline constexpr std::string_view kEventStepUndone = "step_undone";  ///< data.duration_ms

/// Exit codes of `bpg` (spec.md section 3).
enum class ExitCode : int {
    kOk = 0,
    kFailed = 1,
    kUsage = 2,
    kNotFound = 3,
    kPermission = 4,
    kConflict = 5,
    kUnreachable = 6,
    kTimedOut = 7,
    kExhausted = 8,
    kInterrupted = 130,
};

int http_status(ErrorKind kind);
/// The nearest kind for a status without a problem object (from a proxy, say).
ErrorKind kind_of_status(int status);

/// How `bpg` ends when a request is answered with an error of this kind.
ExitCode exit_code(ErrorKind kind);
/// How it ends for a job that ended with such an error: the daemon was there, so never
/// kUnreachable.
ExitCode exit_code_of_failed_job(ErrorKind kind);
/// The same as exit_code(), from the status alone.
ExitCode exit_code_of_status(int status);

/// {"type","title","status","detail","code","hint","kind"}
nlohmann::json problem(const ErrorInfo& info);
/// Reads a problem object back. Whatever is missing or of the wrong type is made up from `status`.
ErrorInfo error_from_problem(int status, const nlohmann::json& body);

/// Whether a job in this state changes no more by itself: succeeded, failed, cancelled, stuck.
bool is_final_job_state(std::string_view state);

}  // namespace bpg::http
