// How many jobs work at once. A job takes a slot when it starts, lets go of it while it only waits,
// and takes one again before it goes on. One of them is kept for interactive jobs.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstddef>
#include <cstdint>
#include <map>

#include "jobs/job.h"
#include "orchestrator/base/signal.h"

namespace bpg::jobs {

/// Loop thread only.
class Slots {
  public:
    explicit Slots(std::size_t count) : count_(count) {}

    /// For a job that begins: false when none is free, or others wait for one to go on.
    bool try_take(std::uint64_t job, Priority priority);
    /// For a job that goes on; returns at once after open_all().
    asio::awaitable<void> take(std::uint64_t job, Priority priority);
    /// Nothing when it holds none.
    void release(std::uint64_t job);
    /// bpgd stops: nobody waits any more.
    void open_all();

  private:
    bool is_free(Priority priority) const;

    std::size_t count_;
    bool is_open_ = false;
    std::size_t going_on_ = 0;  ///< jobs that wait in take()
    std::map<std::uint64_t, Priority> held_;
    Signal freed_;
};

}  // namespace bpg::jobs
