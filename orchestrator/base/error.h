// The one error type of the daemon: a fact with a fix. It is thrown wherever something goes wrong
// and translated at three borders only: HTTP (problem+json), the job engine (retry, undo or stuck)
// and the command line (exit code). Expected refusals are values (catalog's can_apply), not throws.
#pragma once

#include <exception>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace bpg {

/// What kind of failure it is: decides HTTP status, exit code, and whether a job tries again.
enum class ErrorKind {
    kInvalid,      ///< the request is malformed or can never succeed          422, exit 2
    kNotFound,     ///< something named does not exist                          404, exit 3
    kPermission,   ///< the caller may not                                      403, exit 4
    kConflict,     ///< exists, protected, has children, busy                   409, exit 5
    kExhausted,    ///< out of space, ports, queue slots                        507, exit 8
    kUnavailable,  ///< temporary; a job that meets it tries again              503, exit 6
    kTimeout,      ///< a deadline passed                                       500, exit 1
    kCancelled,    ///< stopped on request                                      500, exit 1
    kCorrupt,      ///< data is not what it must be; never retried              500, exit 1
    kInternal,     ///< a bug, or an answer nobody expected                     500, exit 1
};

std::string_view to_string(ErrorKind kind);
/// Unknown text reads as kInternal, so that an old program can show a newer record.
ErrorKind error_kind_from_string(std::string_view text);

/// The parts of an error, as a plain value: what is persisted in a job and sent over the wire.
struct ErrorInfo {
    ErrorKind kind = ErrorKind::kInternal;
    std::string code;     ///< stable, snake_case, e.g. "branch_exists"
    std::string message;  ///< what failed, one line without a final full stop
    std::string detail;   ///< why; may be several lines (a log excerpt), may be empty
    std::string hint;     ///< how to fix it; may be empty

    bool operator==(const ErrorInfo&) const = default;
};

void to_json(nlohmann::json& out, const ErrorInfo& info);
void from_json(const nlohmann::json& in, ErrorInfo& info);

class Error : public std::exception {
  public:
    explicit Error(ErrorInfo info);
    Error(ErrorKind kind, std::string code, std::string message, std::string detail = {},
          std::string hint = {});

    const ErrorInfo& info() const { return info_; }
    ErrorKind kind() const { return info_.kind; }
    const std::string& code() const { return info_.code; }
    /// "message: detail", for logs.
    const char* what() const noexcept override { return text_.c_str(); }

  private:
    ErrorInfo info_;
    std::string text_;
};

/// An Error about a failed system call: `action` in the form "open /x"; the kind follows errno
/// (ENOSPC, EDQUOT: kExhausted; EACCES, EPERM: kPermission; else kInternal, EROFS as `read_only`).
Error errno_error(std::string_view action, int errno_value);

/// Turns any exception into its parts; what is no Error becomes kInternal, code "internal".
ErrorInfo describe(const std::exception_ptr& failure);

}  // namespace bpg
