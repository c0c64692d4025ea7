// How a command gives up: an Error that already knows the exit code, and what else belongs into the
// JSON form of it (the id of a job that goes on). Everything else ends by its ErrorKind.
#pragma once

#include <string>
#include <utility>

#include "orchestrator/base/error.h"
#include "orchestrator/http/wire.h"

namespace bpg::cli {

using http::ExitCode;

class Failure : public Error {
  public:
    Failure(ExitCode exit, ErrorInfo info, std::string job_id = {})
        : Error(std::move(info)), exit_(exit), job_id_(std::move(job_id)) {}

    ExitCode exit() const { return exit_; }
    /// Empty when no job is concerned.
    const std::string& job_id() const { return job_id_; }

  private:
    ExitCode exit_;
    std::string job_id_;
};

/// A command line that cannot be understood: exit 2, code `usage`.
inline Failure usage_failure(std::string what, std::string why, std::string fix) {
    return {ExitCode::kUsage,
            {ErrorKind::kInvalid, "usage", std::move(what), std::move(why), std::move(fix)}};
}

}  // namespace bpg::cli
