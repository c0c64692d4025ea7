// trash-purge: destroys what waits in the trash, all items of a job together, clones before what
// they hang on.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "orchestrator/operations/destruction.h"

namespace bpg::operations {

struct TrashPurgeState {
    std::vector<std::string> items;
    std::vector<std::string> branch_ids;
    std::vector<std::string> database_ids;

    const std::vector<std::string>& all_branch_ids() const { return branch_ids; }
    const std::vector<std::string>& all_database_ids() const { return database_ids; }
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(TrashPurgeState, items, branch_ids, database_ids)

class TrashPurge : public DestroyingRows<TrashPurgeState> {
  public:
    static constexpr std::string_view kName = "trash-purge";
    using State = TrashPurgeState;
    using DestroyingRows::DestroyingRows;

    static std::span<const jobs::Step<TrashPurge>> steps();
    void record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
    nlohmann::json result(const State& state) const;
};

}  // namespace bpg::operations
