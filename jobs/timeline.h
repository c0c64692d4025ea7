// How the engine waits: for a while, until something wakes it, or both. Tests put a timeline of
// their own here, so that an hour of back-off takes no time.
#pragma once

#include <chrono>

#include "orchestrator/base/signal.h"

namespace bpg::jobs {

/// Loop thread only.
class Timeline {
  public:
    using Point = std::chrono::steady_clock::time_point;

    Timeline() = default;
    virtual ~Timeline() = default;
    Timeline(const Timeline&) = delete;
    Timeline& operator=(const Timeline&) = delete;

    virtual Point now() const { return std::chrono::steady_clock::now(); }
    /// Returns when `wake` is notified or `until` has come.
    virtual asio::awaitable<void> wait(Signal& wake, Point until) const {
        co_await wake.wait_until(until);
    }
};

}  // namespace bpg::jobs
