#include "orchestrator/base/error.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

namespace bpg {
namespace {

constexpr std::array<std::pair<ErrorKind, std::string_view>, 10> kKindNames{{
    {ErrorKind::kInvalid, "invalid"},
    {ErrorKind::kNotFound, "not_found"},
    {ErrorKind::kPermission, "permission"},
    {ErrorKind::kConflict, "conflict"},
    {ErrorKind::kExhausted, "exhausted"},
    {ErrorKind::kUnavailable, "unavailable"},
    {ErrorKind::kTimeout, "timeout"},
    {ErrorKind::kCancelled, "cancelled"},
    {ErrorKind::kCorrupt, "corrupt"},
    {ErrorKind::kInternal, "internal"},
}};

std::string joined(const ErrorInfo& info) {
    return info.detail.empty() ? info.message : info.message + ": " + info.detail;
}

}  // namespace

std::string_view to_string(ErrorKind kind) {
    for (const auto& [value, name] : kKindNames) {
        if (value == kind) return name;
    }
    return "internal";
}

ErrorKind error_kind_from_string(std::string_view text) {
    for (const auto& [value, name] : kKindNames) {
        if (name == text) return value;
    }
    return ErrorKind::kInternal;
}

void to_json(nlohmann::json& out, const ErrorInfo& info) {
    out = {{"kind", std::string(to_string(info.kind))},
           {"code", info.code},
           {"title", info.message},
           {"detail", info.detail},
           {"hint", info.hint}};
}

void from_json(const nlohmann::json& in, ErrorInfo& info) {
    info.kind = error_kind_from_string(in.value("kind", "internal"));
    info.code = in.value("code", "internal");
    info.message = in.value("title", "");
    info.detail = in.value("detail", "");
    info.hint = in.value("hint", "");
}

Error::Error(ErrorInfo info) : info_(std::move(info)), text_(joined(info_)) {}

Error::Error(ErrorKind kind, std::string code, std::string message, std::string detail,
             std::string hint)
    : Error(ErrorInfo{kind, std::move(code), std::move(message), std::move(detail),
                      std::move(hint)}) {}

Error errno_error(std::string_view action, int errno_value) {
    const std::string why = std::generic_category().message(errno_value);
    const std::string what = fmt::format("cannot {}", action);
    switch (errno_value) {
        case ENOSPC:
        case EDQUOT:
            return {ErrorKind::kExhausted, "no_space", what, why,
                    "free space or enlarge the file system, then try again"};
        case EACCES:
        case EPERM:
            return {ErrorKind::kPermission, "not_permitted", what, why,
                    "bpgd needs root and the directories it was initialised with"};
        case EROFS:
            return {ErrorKind::kInternal, "read_only", what, why,
                    "make the file system writable again (mount -o remount,rw), then try again"};
        default:
            return {ErrorKind::kInternal, "system_call_failed", what, why, ""};
    }
}

ErrorInfo describe(const std::exception_ptr& failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const Error& error) {
        return error.info();
    } catch (const std::exception& error) {
        return {ErrorKind::kInternal, "internal", "an unexpected failure", error.what(),
                "this is a bug in BetterPG; the log of bpgd says more"};
    }
}

}  // namespace bpg
