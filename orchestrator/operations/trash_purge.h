// trash-purge: destroys what waits in the trash, all items of a job together, clones before what
// they hang on.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "orchestrator/operations/destruction.h"

namespace bpg::operations {

class TrashPurge {
  public:
    static constexpr std::string_view kName = "trash-purge";

    struct State {
        std::vector<std::string> items;
        std::vector<std::string> branch_ids;
        std::vector<std::string> database_ids;
    };

    TrashPurge(Services& services, jobs::JobContext& context)
        : services_(services), destruction_(services, context) {}

    static std::span<const jobs::Step<TrashPurge>> steps();
    void record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
    nlohmann::json result(const State& state) const;

  private:
    asio::awaitable<jobs::Progress> destroy_volumes(State& state);
    asio::awaitable<jobs::Progress> destroy_snapshots(State& state);
    asio::awaitable<jobs::Progress> remove_files(State& state);
    void release_origins(const State& state, jobs::Batch& batch) const;
    void forget_snapshots(const State& state, jobs::Batch& batch) const;
    void forget(const State& state, jobs::Batch& batch) const;

    Services& services_;
    Destruction destruction_;
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(TrashPurge::State, items, branch_ids, database_ids)

}  // namespace bpg::operations
