// Walks one job through its table: forward, and backward when it fails. Owns every commit of a job.
//
// Going forward, one commit ends a row: result, next intent, catalog change and event. A temporary
// failure (kUnavailable) is tried again after a back-off; any other turns the job round, and rows
// are undone from the failing one to the first. A cancelled job turns round the same way: between
// rows, in the pauses of a row, and wherever a row asks (JobContext::throw_if_cancelled). A job is
// parked as `stuck` when an undo keeps failing, or when bpgd has died too often in one row. A job
// of N rows costs N+1 synced commits, its submission included; one that had to wait for its locks
// costs one more.
//
// Deadlines (of a row, of the job, and of progress, for a row that tells how far it is) count while
// bpgd works on the job. One that passes ends the job as a cancel does, in the same places, with an
// error that says which; what is irreversible or is undone has none.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <random>

#include "jobs/admission.h"
#include "jobs/crashpoint.h"
#include "jobs/queue.h"
#include "jobs/slots.h"
#include "jobs/step.h"
#include "jobs/timeline.h"

namespace bpg::metrics {
class Instruments;
}

namespace bpg::jobs {

struct EngineLimits {
    int step_failures_max = 6;  ///< temporary failures of one row before it counts as permanent
    int undo_failures_max = 6;  ///< failures of one undo, not temporary ones, before it is stuck
    int rewinds_max = 3;        ///< rewinds within one attempt
    double deaths_max = 3;      ///< a job's share of the deaths of bpgd in one row, in a row
    std::chrono::milliseconds step_deadline{std::chrono::hours(12)};
    std::chrono::milliseconds job_deadline{std::chrono::hours(24)};
    std::chrono::milliseconds no_progress{std::chrono::minutes(30)};
    /// Replaced in tests, which own time.
    std::function<std::chrono::milliseconds(int failures)> backoff;
};

class Engine {
  public:
    Engine(Queue& queue, Admission& admission, Slots& slots, const OperationRegistry& registry,
           const Clock& clock, const Timeline& timeline, metrics::Instruments& metrics,
           CrashPoints& crash, EngineLimits limits);

    /// Runs an open job that holds a slot until it is final, or until stop() was called and a row
    /// ended. While it only waits it lets go of the slot.
    asio::awaitable<void> run(std::uint64_t number);
    /// Ends a job that was cancelled before anything was done for it. It needs no lock.
    asio::awaitable<void> end_unstarted(std::uint64_t number);

    /// Ends the jobs whose deadlines pass, and keeps how far the others are; never returns.
    asio::awaitable<void> watch_deadlines();

    /// Rows that run are finished; no further one is begun, and nobody pauses any more.
    void stop();

  private:
    struct Attempt;

    asio::awaitable<void> park(Job job, std::string why);
    asio::awaitable<void> resume(Attempt& attempt);
    bool is_blamed_too_often(Job& job) const;
    std::vector<std::uint64_t> jobs_with_progress() const;
    asio::awaitable<void> begin(Attempt& attempt);
    asio::awaitable<void> walk(Attempt& attempt);
    bool is_to_end(const Attempt& attempt) const;
    asio::awaitable<bool> take_locks(Attempt& attempt);
    asio::awaitable<void> wait_for_locks(Attempt& attempt, std::string why);
    void release_locks(Job& job, std::size_t row) const;
    void begin_row(Attempt& attempt);
    asio::awaitable<void> end_row(Attempt& attempt, const Progress& progress, double duration_ms);
    asio::awaitable<void> fail_row(Attempt& attempt, ErrorInfo error);
    std::optional<ErrorInfo> passed_deadline(const Attempt& attempt) const;
    void note_progress(std::uint64_t number, StepProgress progress);
    asio::awaitable<void> pause(const Attempt& attempt, std::chrono::milliseconds duration);
    asio::awaitable<void> step_forward(Attempt& attempt);
    asio::awaitable<void> finish_row(Attempt& attempt, double duration_ms, bool ends_job);
    asio::awaitable<void> turn(Attempt& attempt, ErrorInfo error);
    asio::awaitable<void> retry_row(Attempt& attempt, const ErrorInfo& error);
    asio::awaitable<void> rewind(Attempt& attempt, Rewind rewind);
    asio::awaitable<void> step_backward(Attempt& attempt);
    asio::awaitable<void> finish_undo(Attempt& attempt);
    void note_end(const Job& job);

    Queue& queue_;
    Admission& admission_;
    Slots& slots_;
    const OperationRegistry& registry_;
    const Clock& clock_;
    const Timeline& timeline_;
    metrics::Instruments& metrics_;
    CrashPoints& crash_;
    EngineLimits limits_;
    std::mt19937_64 random_{std::random_device{}()};
    bool stopping_ = false;
    std::map<std::uint64_t, Attempt*> running_;
    mutable Signal tick_;  ///< nobody notifies it
};

}  // namespace bpg::jobs
