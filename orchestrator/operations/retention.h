// What the schedules of a branch let go of its snapshots and its WAL, as one plan: the facts that
// the pure planner (scheduler/retention) needs, and its verdicts put together. `bpg retention plan`
// shows such a plan, and the operation prune executes one.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/operations/services.h"
#include "scheduler/retention.h"

namespace bpg::operations {

/// Of snapshots that a schedule made: "schedule:<name>".
std::string made_by_schedule(const std::string& schedule);

struct RetentionQuery {
    std::string branch_id;
    std::string schedule;    ///< of what this one made only; empty: every schedule of the branch
    WallTime at{};           ///< as if it were then
    bool is_forced = false;  ///< however many go at once
};

struct BranchRetention {
    struct Item {
        std::string snapshot_id;
        std::string created_by;
        scheduler::Verdict verdict;
    };
    std::vector<Item> items;          ///< oldest first
    std::vector<std::string> remove;  ///< snapshot ids, oldest first
    std::optional<int> days;          ///< the longest that a schedule of the branch asks for
    bool is_whole_window = false;     ///< there is a snapshot as old as that
    std::uint32_t segment_size = 0;
    wal::CleanupPlan wal;  ///< with `days`: of the current incarnation, once `remove` is gone
    std::vector<std::string> notes;
    std::optional<ErrorInfo> refusal;  ///< why it must not be executed
    std::string hash;                  ///< the same for the same removals and the same WAL
};

/// Looks at the WAL; loop thread.
asio::awaitable<BranchRetention> plan_retention(Services& services, RetentionQuery query);

/// Throws kConflict `retention_plan_changed` when `now` is not the plan that was agreed to.
void check_same_plan(const std::string& agreed_hash, const BranchRetention& now);

nlohmann::json retention_json(const BranchRetention& plan);
std::vector<std::string> retention_in_words(const BranchRetention& plan);

}  // namespace bpg::operations
