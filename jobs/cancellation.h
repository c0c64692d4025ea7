// A request to cancel a job, shared by whoever asks for it and whoever works on the job.
#pragma once

#include <atomic>

#include "orchestrator/base/error.h"
#include "orchestrator/base/signal.h"

namespace bpg::jobs {

struct Cancellation {
    std::atomic<bool> is_requested{false};  ///< set on the loop, read on any thread
    Signal wake;  ///< ends the pauses of the job: it was cancelled, or bpgd stops. Loop thread.
};

/// The error of a job that was cancelled.
inline ErrorInfo cancelled_error() {
    return {ErrorKind::kCancelled, "job_cancelled", "the job was cancelled",
            "somebody asked for it", "submit it again to have it done"};
}

}  // namespace bpg::jobs
