// Keeps instances that should run running. It does not poll healthy ones: a watcher a branch sleeps
// on the instance's end. When one ends without a job having asked for it, a start job is submitted
// after a back-off; after five in a row the branch is failed and left alone.
#pragma once

#include <map>
#include <set>
#include <string>

#include "jobs/queue.h"
#include "orchestrator/operations/instances.h"
#include "orchestrator/operations/requests.h"

namespace bpg {

/// Loop thread only.
class Supervisor {
  public:
    Supervisor(asio::any_io_executor loop, operations::Services& services, jobs::Queue& queue,
               operations::Requests& requests, jobs::Store& store);

    /// Looks at every instance once, so that what `status` says is true, and records what ended
    /// while no daemon ran.
    asio::awaitable<void> look_at_all();
    /// Watches until the process ends.
    asio::awaitable<void> run();
    /// Whether the branch's instance has ended and is not seen running again yet: while it recovers
    /// after a crash the branch's state is still that it runs.
    bool has_ended(const std::string& branch_id) const { return ended_.contains(branch_id); }

  private:
    asio::awaitable<bool> is_known_to_be_gone(const catalog::Branch& branch);
    asio::awaitable<void> note_running(std::string branch_id);
    asio::awaitable<void> watch(std::string branch_id);
    asio::awaitable<void> start_again(std::string branch_id);
    asio::awaitable<void> give_up(std::string branch_id);
    bool is_unfinished(const std::string& branch_id) const;
    bool is_ours_to_start(const std::string& branch_id) const;

    asio::any_io_executor loop_;
    operations::Services& services_;
    operations::Instances instances_;
    jobs::Queue& queue_;
    operations::Requests& requests_;
    jobs::Store& store_;
    bool runtime_is_away_ = false;  ///< while looking at all
    std::set<std::string> watched_;
    std::set<std::string> ended_;  ///< ids of branches
    std::map<std::string, int> restarts_;
};

}  // namespace bpg
