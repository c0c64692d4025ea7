// Makes jobs of fires, on time and exactly once: a fire is written in the same commit as its job,
// so a kill at any moment leaves both or none. A fire that cannot become a job now (its target is
// busy, the queue is full) is tried again until it is too old to catch up; one that never can is
// recorded with the reason. Keeps an eye on the wall clock: after a jump nothing is deleted until
// somebody has looked (`bpg schedule resume`).
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <functional>
#include <map>
#include <set>
#include <string>

#include "jobs/queue.h"
#include "jobs/store.h"
#include "orchestrator/base/clock.h"
#include "scheduler/schedules.h"

namespace bpg::scheduler {

namespace asio = boost::asio;

/// The two clocks of this machine.
ClockReading read_clocks();

/// Loop thread only.
class Scheduler {
  public:
    /// Any operation as a job: how the daemon submits one. `parameters` as in `bpg job submit`.
    using Submit = std::function<asio::awaitable<jobs::Job>(
        std::string operation, std::map<std::string, std::string> parameters,
        jobs::RequestKey key)>;

    Scheduler(asio::any_io_executor executor, Schedules& schedules, jobs::Queue& queue,
              jobs::Store& store, Submit submit, std::function<ClockReading()> clocks = read_clocks)
        : executor_(std::move(executor)),
          schedules_(schedules),
          queue_(queue),
          store_(store),
          submit_(std::move(submit)),
          clocks_(std::move(clocks)) {}

    /// Until the process ends.
    asio::awaitable<void> run();

    // The verbs. Each is one commit, and answers a repeated key with what it did then.
    /// Throws as check_schedule() does, and kConflict `schedule_exists`.
    asio::awaitable<void> create(Schedule schedule, jobs::RequestKey key);
    /// All of it but its name. A new expression, zone or operation begins now: nothing is made up
    /// for.
    asio::awaitable<void> change(std::string name, std::function<void(Schedule&)> edit,
                                 jobs::RequestKey key);
    asio::awaitable<void> pause(std::string name, std::string reason, jobs::RequestKey key);
    /// What would have fired meanwhile is passed. kConflict `not_paused`.
    asio::awaitable<void> resume(std::string name, jobs::RequestKey key);
    /// Jobs and snapshots that it made stay.
    asio::awaitable<void> remove(std::string name, jobs::RequestKey key);
    /// Fires now, paused or not. `force`: also while its last job is open, and what follows may
    /// remove more than retention.max_fraction. kConflict `busy`, and what the operation refuses.
    asio::awaitable<jobs::Job> run_now(std::string name, bool force, jobs::RequestKey key);

    WallTime now() const { return clocks_().wall; }

  private:
    using Steady = std::chrono::steady_clock;
    /// What a job is made for.
    struct Fire {
        WallTime at{};
        std::uint64_t stands_for = 1;
        bool is_forced = false;
        bool was_queued = false;
        Decision decision;  ///< what is recorded with it; empty of a fire by hand
    };

    void begin();
    void watch_clock();
    void pause_deleting(std::string_view why);
    void note_time();
    void spawn(std::string name, asio::awaitable<void> work);
    asio::awaitable<void> look_at(std::string name);
    asio::awaitable<void> follow_up(std::string name);
    asio::awaitable<void> prune(std::string name);
    asio::awaitable<void> overlap(std::string name, Decision decision);
    asio::awaitable<void> fire(std::string name, Fire fire);
    asio::awaitable<jobs::Job> submit_fire(std::string name, Fire fire, jobs::RequestKey key);
    void note_fire(Schedule& schedule, const Fire& fire, const std::string& job_id) const;
    asio::awaitable<void> record(std::string name, std::function<void(Schedule&)> edit);
    asio::awaitable<void> put_off_or(std::string name, ErrorInfo error,
                                     std::function<void(Schedule&)> give_up);
    bool is_open(const std::string& job_id) const;
    bool is_waiting(const std::string& name) const;
    Steady::time_point next_look() const;

    asio::any_io_executor executor_;
    Schedules& schedules_;
    jobs::Queue& queue_;
    jobs::Store& store_;
    Submit submit_;
    std::function<ClockReading()> clocks_;
    ClockReading last_reading_;
    std::optional<WallTime> recorded_time_;
    std::set<std::string> at_work_;                      ///< somebody looks at these just now
    std::map<std::string, Steady::time_point> put_off_;  ///< and at these not before then
};

}  // namespace bpg::scheduler
