// Jobs that ended stay listed for a while, by outcome, and are then removed by a job of their own.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "jobs/job_logs.h"
#include "jobs/step.h"
#include "jobs/store.h"
#include "orchestrator/base/clock.h"
#include "orchestrator/base/offload.h"

namespace bpg::jobs {

/// How long a job stays listed once it has ended.
struct Keep {
    std::chrono::milliseconds succeeded{std::chrono::days(7)};
    std::chrono::milliseconds failed{std::chrono::days(90)};
    std::chrono::milliseconds cancelled{std::chrono::days(7)};
};

class History {
  public:
    struct Expired {
        std::vector<std::string> job_ids;
        std::vector<std::string> keys;  ///< everything the store has of them
    };

    History(const Store& store, const JobLogs& logs, Keep keep)
        : store_(store), logs_(logs), keep_(keep) {}

    /// The oldest jobs that have been listed long enough, at most `max`; never an open one. Blocks:
    /// reads the whole history, on a pool.
    Expired expired(WallTime now, std::size_t max) const;
    /// Success when there are none. Blocks.
    void remove_logs(const std::vector<std::string>& job_ids) const;

  private:
    bool is_expired(const Job& job, WallTime now) const;
    void add_keys(const Job& job, std::vector<std::string>& keys) const;

    const Store& store_;
    const JobLogs& logs_;
    Keep keep_;
};

/// history-prune: some hundred jobs at a time, each whole or not at all.
class HistoryPrune {
  public:
    static constexpr std::string_view kName = "history-prune";
    struct State {
        std::size_t removed = 0;
        NLOHMANN_DEFINE_TYPE_INTRUSIVE_WITH_DEFAULT(State, removed)
    };

    HistoryPrune(const History& history, BlockingPool& pool, const Clock& clock)
        : history_(history), pool_(pool), clock_(clock) {}

    static std::span<const Step<HistoryPrune>> steps();
    void record_failure(const State&, const ErrorInfo&, Batch&) const {}
    static nlohmann::json result(const State& state) { return {{"removed", state.removed}}; }

  private:
    asio::awaitable<Progress> find_expired(State& state);
    void forget(const State& state, Batch& batch) const;

    const History& history_;
    BlockingPool& pool_;
    const Clock& clock_;
    std::vector<std::string> keys_;
};

}  // namespace bpg::jobs
