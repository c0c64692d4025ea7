#include "orchestrator/http/wire.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace bpg::http {
namespace {

std::string text_member(const nlohmann::json& object, const char* name) {
    const auto found = object.find(name);
    if (found == object.end() || !found->is_string()) return {};
    return found->get<std::string>();
}

}  // namespace

int http_status(ErrorKind kind) {
    switch (kind) {
        case ErrorKind::kInvalid:
            return 422;
        case ErrorKind::kNotFound:
            return 404;
        case ErrorKind::kPermission:
            return 403;
        case ErrorKind::kConflict:
            return 409;
        case ErrorKind::kExhausted:
            return 507;
        case ErrorKind::kUnavailable:
            return 503;
        case ErrorKind::kTimeout:
        case ErrorKind::kCancelled:
        case ErrorKind::kCorrupt:
        case ErrorKind::kInternal:
            return 500;
    }
    return 500;
}

ErrorKind kind_of_status(int status) {
    switch (status) {
        case 401:
        case 403:
            return ErrorKind::kPermission;
        case 404:
            return ErrorKind::kNotFound;
        case 409:
            return ErrorKind::kConflict;
        case 429:
        case 507:
            return ErrorKind::kExhausted;
        case 503:
            return ErrorKind::kUnavailable;
        case 400:
        case 422:
            return ErrorKind::kInvalid;
        default:
            return ErrorKind::kInternal;
    }
}

ExitCode exit_code(ErrorKind kind) {
    switch (kind) {
        case ErrorKind::kInvalid:
            return ExitCode::kUsage;
        case ErrorKind::kNotFound:
            return ExitCode::kNotFound;
        case ErrorKind::kPermission:
            return ExitCode::kPermission;
        case ErrorKind::kConflict:
            return ExitCode::kConflict;
        case ErrorKind::kExhausted:
            return ExitCode::kExhausted;
        case ErrorKind::kUnavailable:
            return ExitCode::kUnreachable;
        case ErrorKind::kTimeout:
        case ErrorKind::kCancelled:
        case ErrorKind::kCorrupt:
        case ErrorKind::kInternal:
            return ExitCode::kFailed;
    }
    return ExitCode::kFailed;
}

ExitCode exit_code_of_failed_job(ErrorKind kind) {
    return kind == ErrorKind::kUnavailable ? ExitCode::kFailed : exit_code(kind);
}

ExitCode exit_code_of_status(int status) {
    return exit_code(kind_of_status(status));
}

nlohmann::json problem(const ErrorInfo& info) {
    return {{"type", "urn:betterpg:error:" + info.code},
            {"title", info.message},
            {"status", http_status(info.kind)},
            {"detail", info.detail},
            {"code", info.code},
            {"hint", info.hint},
            {"kind", std::string(to_string(info.kind))}};
}

ErrorInfo error_from_problem(int status, const nlohmann::json& body) {
    ErrorInfo info;
    info.kind = kind_of_status(status);
    if (body.is_object()) {
        const std::string kind = text_member(body, "kind");
        // A 5xx says little; the kind says more. Any other status decides the exit code by itself.
        if (!kind.empty() && status >= 500 && status != 503 && status != 507) {
            info.kind = error_kind_from_string(kind);
        }
        info.code = text_member(body, "code");
        info.message = text_member(body, "title");
        info.detail = text_member(body, "detail");
        info.hint = text_member(body, "hint");
    }
    if (info.code.empty()) info.code = fmt::format("http_{}", status);
    if (info.message.empty())
        info.message = fmt::format("bpgd answered with HTTP status {}", status);
    return info;
}

bool is_final_job_state(std::string_view state) {
    return state == "succeeded" || state == "failed" || state == "cancelled" || state == "stuck";
}

}  // namespace bpg::http
