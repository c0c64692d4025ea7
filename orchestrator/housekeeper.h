// What happens by itself when its time has come: branches whose TTL is over go to the trash, what
// has waited there long enough is destroyed, earlier and oldest first where free space is short,
// snapshots that nothing hangs on any more go, and the names that volumes carry outside follow a
// rename. Each is a job of the housekeeping lane, but for the names. Once a second, and whenever
// jobs come or end.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "jobs/queue.h"
#include "orchestrator/config/config.h"
#include "orchestrator/operations/requests.h"
#include "orchestrator/operations/services.h"

namespace bpg {

/// Loop thread only.
class Housekeeper {
  public:
    /// `space`: of the pool, as last measured.
    Housekeeper(operations::Services& services, jobs::Queue& queue, operations::Requests& requests,
                jobs::Store& store, config::Reserve reserve, std::function<storage::Space()> space)
        : services_(services),
          queue_(queue),
          requests_(requests),
          store_(store),
          reserve_(reserve),
          space_(std::move(space)) {}

    /// Until the process ends.
    asio::awaitable<void> run();

  private:
    using Steady = std::chrono::steady_clock;

    asio::awaitable<void> expire_branches();
    asio::awaitable<void> note_overdue(std::string branch_id);
    asio::awaitable<void> empty_trash();
    asio::awaitable<void> destroy_spare_origins();
    asio::awaitable<void> learn_names();
    asio::awaitable<void> follow_names();
    std::vector<std::string> due_items() const;
    bool is_trash_being_emptied() const;
    bool has_open_job(const std::string& job_id) const;
    bool is_put_off(const std::string& what) const;
    void put_off(const std::string& what);

    operations::Services& services_;
    jobs::Queue& queue_;
    operations::Requests& requests_;
    jobs::Store& store_;
    config::Reserve reserve_;
    std::function<storage::Space()> space_;
    std::map<std::string, Steady::time_point> put_off_;  ///< what was asked for, until when
    /// Snapshot id → when it is to be destroyed; for ever away once that was tried.
    std::map<std::string, Steady::time_point> spare_;
    Steady::time_point spare_looked_at_{};
    std::map<std::string, std::string> names_;  ///< branch id → the ref its volume carries
};

}  // namespace bpg
