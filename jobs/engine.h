// Walks one job through its table: forward, and backward when it fails. Owns every commit of a job.
//
// Going forward, one commit ends a row: result, next intent, catalog change and event. A temporary
// failure (kUnavailable) is tried again after a back-off; any other turns the job round, and rows
// are undone from the failing one to the first. A cancelled job turns round the same way: between
// rows, in the pauses of a row, and wherever a row asks (JobContext::throw_if_cancelled). A job is
// parked as `stuck` when an undo keeps failing, or when bpgd has died too often in one row. A job
// of N rows costs N+1 synced commits, its submission included.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <functional>
#include <random>
#include <set>

#include "jobs/crashpoint.h"
#include "jobs/queue.h"
#include "jobs/slots.h"
#include "jobs/step.h"

namespace bpg::metrics {
class Instruments;
}

namespace bpg::jobs {

struct EngineLimits {
    int step_failures_max = 6;  ///< temporary failures of one row before it counts as permanent
    int undo_failures_max = 6;  ///< failures of one undo, not temporary ones, before it is stuck
    int rewinds_max = 3;        ///< rewinds within one attempt
    int deaths_max = 3;         ///< deaths of bpgd in one row, one after the other
    /// Replaced in tests, which own time.
    std::function<std::chrono::milliseconds(int failures)> backoff;
};

class Engine {
  public:
    Engine(Queue& queue, Slots& slots, const OperationRegistry& registry, const Clock& clock,
           metrics::Instruments& metrics, CrashPoints& crash, EngineLimits limits);

    /// Runs an open job that holds a slot until it is final, or until stop() was called and a row
    /// ended. While it only waits it lets go of the slot.
    asio::awaitable<void> run(std::uint64_t number);
    /// Ends a job that was cancelled before anything was done for it. It needs no lock.
    asio::awaitable<void> end_unstarted(std::uint64_t number);

    /// Rows that run are finished; no further one is begun, and nobody pauses any more.
    void stop();

  private:
    struct Attempt;

    asio::awaitable<void> park(Job job, std::string why);
    asio::awaitable<void> resume(Attempt& attempt);
    asio::awaitable<void> walk(Attempt& attempt);
    bool is_to_cancel(const Attempt& attempt) const;
    asio::awaitable<void> pause(const Attempt& attempt, std::chrono::milliseconds duration);
    asio::awaitable<void> step_forward(Attempt& attempt);
    asio::awaitable<void> finish_row(Attempt& attempt, double duration_ms);
    asio::awaitable<void> turn(Attempt& attempt, ErrorInfo error);
    asio::awaitable<void> retry_row(Attempt& attempt, const ErrorInfo& error);
    asio::awaitable<void> rewind(Attempt& attempt, Rewind rewind);
    asio::awaitable<void> step_backward(Attempt& attempt);
    asio::awaitable<void> finish_undo(Attempt& attempt);
    void note_end(const Job& job);

    Queue& queue_;
    Slots& slots_;
    const OperationRegistry& registry_;
    const Clock& clock_;
    metrics::Instruments& metrics_;
    CrashPoints& crash_;
    EngineLimits limits_;
    std::mt19937_64 random_{std::random_device{}()};
    bool stopping_ = false;
    std::set<std::uint64_t> running_;
};

}  // namespace bpg::jobs
