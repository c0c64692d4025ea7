#include "jobs/runner.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>

namespace bpg::jobs {
namespace {

constexpr std::chrono::minutes kAgeing{5};

/// 0 is the most urgent.
int urgency(const Job& job, WallTime now) {
    const int lanes_up = static_cast<int>((now - job.created_at) / kAgeing);
    return std::max(0, static_cast<int>(job.priority) - std::max(0, lanes_up));
}

/// Runs first: those that had started, then by urgency, then by age.
bool comes_before(const Job& one, const Job& other, WallTime now) {
    const bool one_started = one.started_at.has_value();
    const bool other_started = other.started_at.has_value();
    if (one_started != other_started) return one_started;
    if (!one_started && urgency(one, now) != urgency(other, now)) {
        return urgency(one, now) < urgency(other, now);
    }
    return one.number < other.number;
}

}  // namespace

Runner::Runner(asio::any_io_executor loop, Queue& queue, Engine& engine, Admission& admission,
               Slots& slots, const Clock& clock, std::function<void(std::exception_ptr)> failed)
    : loop_(std::move(loop)),
      queue_(queue),
      engine_(engine),
      admission_(admission),
      slots_(slots),
      clock_(clock),
      failed_(std::move(failed)) {}

asio::awaitable<void> Runner::run() {
    while (!stopping_) {
        dispatch();
        co_await queue_.changed().wait_until(std::chrono::steady_clock::time_point::max());
    }
}

void Runner::dispatch() {
    std::vector<const Job*> waiting;
    for (const auto& [number, job] : queue_.open_jobs()) {
        if (job->durable && !running_.contains(number) && !is_final(job->state)) {
            waiting.push_back(job.get());
        }
    }
    const auto cancelled = std::partition(waiting.begin(), waiting.end(),
                                          [this](const Job* job) { return !is_to_end(*job); });
    for (auto it = cancelled; it != waiting.end(); ++it)
        spawn(**it, engine_.end_unstarted((*it)->number));
    waiting.erase(cancelled, waiting.end());
    std::sort(waiting.begin(), waiting.end(),
              [now = clock_.now()](const Job* one, const Job* other) {
                  return comes_before(*one, *other, now);
              });
    admission_.begin_round();
    for (const Job* job : waiting) {
        std::string why = job->admitted ? std::string() : admission_.take(*job);
        if (why.empty()) {
            spawn(*job, engine_.run(job->number));
        } else {
            queue_.show(job->number, job->state, std::move(why));
        }
    }
}

/// Cancelled before anything was done for it.
bool Runner::is_to_end(const Job& job) const {
    return job.fresh && job.state == JobState::kQueued && queue_.is_cancel_requested(job.number);
}

void Runner::spawn(const Job& job, asio::awaitable<void> work) {
    const std::uint64_t number = job.number;
    running_.insert(number);
    asio::co_spawn(loop_, std::move(work), [this, number](std::exception_ptr failure) {
        running_.erase(number);
        slots_.release(number);
        if (failure) failed_(failure);
        ended_.notify();
        queue_.changed().notify();
    });
}

asio::awaitable<bool> Runner::drain(std::chrono::milliseconds deadline) {
    stopping_ = true;
    admission_.close();
    engine_.stop();
    queue_.changed().notify();
    const auto until = std::chrono::steady_clock::now() + deadline;
    while (!running_.empty()) {
        if (!co_await ended_.wait_until(until)) co_return running_.empty();
    }
    co_return true;
}

}  // namespace bpg::jobs
