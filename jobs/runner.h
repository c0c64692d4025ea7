// Lets open jobs run in order of priority and number, as far as admission allows. Waiting makes
// urgent: every five minutes in the queue count as one priority. A job that must wait says for what
// (`waiting_for`). After a restart the jobs that had started come first.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>

#include "jobs/admission.h"
#include "jobs/engine.h"
#include "jobs/queue.h"

namespace bpg::jobs {

/// Loop thread only.
class Runner {
  public:
    /// `failed` hears of exceptions nobody expected: the daemon ends then.
    Runner(asio::any_io_executor loop, Queue& queue, Engine& engine, Admission& admission,
           Slots& slots, const Clock& clock, std::function<void(std::exception_ptr)> failed);

    /// Looks for jobs that can run now, and again whenever one is submitted or ends. Ends at
    /// stop().
    asio::awaitable<void> run();

    /// Begins nothing new; waits until running rows have ended, or `deadline`. True when all ended.
    asio::awaitable<bool> drain(std::chrono::milliseconds deadline);

    std::size_t running() const { return running_.size(); }

  private:
    void dispatch();
    bool is_to_end(const Job& job) const;
    void spawn(const Job& job, asio::awaitable<void> work);

    asio::any_io_executor loop_;
    Queue& queue_;
    Engine& engine_;
    Admission& admission_;
    Slots& slots_;
    const Clock& clock_;
    std::function<void(std::exception_ptr)> failed_;
    std::set<std::uint64_t> running_;
    bool stopping_ = false;
    Signal ended_;
};

}  // namespace bpg::jobs
