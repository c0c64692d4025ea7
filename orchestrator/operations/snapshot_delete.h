// snapshot-delete: forward only. The reservation has made sure that nothing hangs on it.
#pragma once

#include <span>
#include <string>

#include "jobs/step.h"
#include "orchestrator/operations/services.h"

namespace bpg::operations {

class SnapshotDelete {
  public:
    static constexpr std::string_view kName = "snapshot-delete";

    struct State {
        std::string snapshot_id;
        std::string volume;
    };

    SnapshotDelete(Services& services, jobs::JobContext& context)
        : services_(services), context_(context) {}

    static std::span<const jobs::Step<SnapshotDelete>> steps();
    void record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
    nlohmann::json result(const State& state) const;

  private:
    asio::awaitable<jobs::Progress> destroy_snapshot(State& state);
    asio::awaitable<void> see_whether_it_is_gone(const State& state);
    asio::awaitable<std::string> what_is_lost(std::string snapshot_id);
    void forget(const State& state, jobs::Batch& batch) const;

    Services& services_;
    jobs::JobContext& context_;
    bool is_gone_ = false;  ///< the snapshot, as the undo saw
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(SnapshotDelete::State, snapshot_id, volume)

}  // namespace bpg::operations
