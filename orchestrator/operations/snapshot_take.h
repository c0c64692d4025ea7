// snapshot: one more base snapshot of a branch, visible only once its record is durable.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "jobs/step.h"
#include "orchestrator/operations/services.h"

namespace bpg::operations {

class SnapshotTake {
  public:
    static constexpr std::string_view kName = "snapshot";

    struct State {
        std::string branch_id;
        std::string snapshot_id;
        std::string volume;  ///< that it is taken of, once the branch is locked
        std::string label;
        std::string created_by;
    };

    SnapshotTake(Services& services, jobs::JobContext& context)
        : services_(services), context_(context) {}

    static std::span<const jobs::Step<SnapshotTake>> steps();
    void record_failure(const State&, const ErrorInfo&, jobs::Batch&) const {}
    nlohmann::json result(const State& state) const;

  private:
    asio::awaitable<jobs::Progress> look(State& state);
    asio::awaitable<jobs::Progress> take_snapshot(State& state);
    asio::awaitable<void> destroy_snapshot(const State& state);
    void record(const State& state, jobs::Batch& batch) const;

    Services& services_;
    jobs::JobContext& context_;
    std::optional<catalog::Snapshot> snapshot_;
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(SnapshotTake::State, branch_id, snapshot_id, volume,
                                                label, created_by)

}  // namespace bpg::operations
