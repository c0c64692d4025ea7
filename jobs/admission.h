// Which job may go on: it needs a slot, the locks of its row, and a lane and a database that are
// not paused. Jobs are asked in order, and nobody is given what a job before it waits for.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "jobs/job.h"
#include "jobs/locks.h"
#include "jobs/pauses.h"
#include "jobs/queue.h"
#include "jobs/slots.h"

namespace bpg::jobs {

/// Loop thread only. Puts itself into the queue, which asks it at every submission.
class Admission {
  public:
    Admission(Queue& queue, Slots& slots, const Pauses& pauses)
        : queue_(queue), slots_(slots), pauses_(pauses) {
        queue_.on_submission([this](Job& job) { admit(job); });
    }

    /// What follows is asked for the waiting jobs one by one, the most urgent first.
    void begin_round();
    /// A slot and the locks of its row; or why not, in words, and the job has precedence over those
    /// asked later.
    std::string take(const Job& job);

    /// The locks of a row, for a job that runs; or why not, and it has precedence over every job
    /// that has not begun. Notes in `job` which ones it holds; true in `grew` when there are more.
    std::string take_row(Job& job, std::size_t row, bool& grew);
    /// It does not wait for locks any more.
    void stop_waiting(std::uint64_t job) { running_waiters_.erase(job); }

    /// Nothing new begins.
    void close() { is_closed_ = true; }

  private:
    void admit(Job& job);
    std::string held_by_other(const Job& job, std::size_t row) const;
    std::string wanted_before(const Job& job, std::size_t row) const;
    std::string obstacle(const Job& job, std::size_t row) const;
    void want(const Job& job, std::size_t row);

    Queue& queue_;
    Slots& slots_;
    const Pauses& pauses_;
    LockTable wanted_;  ///< by jobs that have to wait: of this round, and submitted since
    bool slot_is_wanted_ = false;
    std::map<std::uint64_t, std::vector<Lock>> running_waiters_;
    bool is_closed_ = false;
};

}  // namespace bpg::jobs
