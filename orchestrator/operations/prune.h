// prune: removes the snapshots that the schedules of a branch let go, then the WAL that nobody
// needs any more. What goes is fixed when it is submitted, and locked; when the plan is another one
// by the time it runs, it does nothing and says so.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "jobs/step.h"
#include "orchestrator/operations/retention.h"
#include "orchestrator/operations/services.h"
#include "orchestrator/operations/wal_cleanup.h"

namespace bpg::operations {

class Prune {
  public:
    static constexpr std::string_view kName = "prune";

    struct State {
        std::string branch_id;
        std::string ref;
        std::string schedule;
        bool is_forced = false;
        WallTime at{};     ///< the plan's
        std::string plan;  ///< its hash
        std::vector<std::string> removed;
        WalCleanup::State wal;  ///< without incarnations: none goes
    };

    Prune(Services& services, jobs::JobContext& context)
        : services_(services), context_(context), wal_cleanup_(services, context) {}

    static std::span<const jobs::Step<Prune>> steps();
    void record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
    nlohmann::json result(const State& state) const;

  private:
    asio::awaitable<jobs::Progress> check_plan(State& state);
    asio::awaitable<jobs::Progress> remove_snapshots(State& state);
    asio::awaitable<void> see_what_is_gone(const State& state);
    asio::awaitable<jobs::Progress> decide_wal(State& state);
    asio::awaitable<jobs::Progress> remove_wal(State& state);
    void forget_snapshots(const State& state, jobs::Batch& batch) const;
    void mark_wal(const State& state, jobs::Batch& batch) const;
    void forget_origins(const State& state, jobs::Batch& batch) const;
    asio::awaitable<bool> destroy(std::string snapshot_id);

    Services& services_;
    jobs::JobContext& context_;
    WalCleanup wal_cleanup_;
    std::vector<std::string> gone_;  ///< snapshots, as the undo saw
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(Prune::State, branch_id, ref, schedule, is_forced,
                                                at, plan, removed, wal)

}  // namespace bpg::operations
