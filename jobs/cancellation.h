// A request to end a job, shared by whoever asks for it and whoever works on the job: somebody
// cancelled it, or a deadline of it has passed.
#pragma once

#include <atomic>

#include "orchestrator/base/error.h"
#include "orchestrator/base/signal.h"

namespace bpg::jobs {

/// The error of a job that was cancelled.
inline ErrorInfo cancelled_error() {
    return {ErrorKind::kCancelled, "job_cancelled", "the job was cancelled",
            "somebody asked for it", "submit it again to have it done"};
}

struct Cancellation {
    std::atomic<bool> is_requested{false};  ///< set on the loop, read on any thread
    std::atomic<bool> is_expired{false};    ///< the same; after it `deadline` does not change
    ErrorInfo deadline;                     ///< which one has passed
    Signal wake;  ///< ends the pauses of the job: it is to end, or bpgd stops. Loop thread.

    /// Loop thread.
    void expire(ErrorInfo passed) {
        if (is_expired) return;
        deadline = std::move(passed);
        is_expired = true;
        wake.notify();
    }
    bool is_to_end() const { return is_requested || is_expired; }
    /// Why the job is to end. Any thread.
    ErrorInfo reason() const { return is_requested ? cancelled_error() : deadline; }
};

}  // namespace bpg::jobs
