// branch-delete: a branch, with --recursive all that was cut from it too, is stopped and moved to
// the trash; name and port are free then. Where nothing is to be kept, the same job destroys it.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "orchestrator/operations/destruction.h"

namespace bpg::operations {

struct BranchDeleteState {
    std::string branch_id;
    std::string ref;
    std::vector<Doomed> doomed;  ///< the branch is the last of them
    bool purge = true;           ///< nothing is kept

    std::vector<std::string> all_branch_ids() const;
    std::vector<std::string> all_database_ids() const { return {}; }
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(BranchDeleteState, branch_id, ref, doomed, purge)

class BranchDelete : public DestroyingRows<BranchDeleteState> {
  public:
    static constexpr std::string_view kName = "branch-delete";

    using State = BranchDeleteState;
    using DestroyingRows::DestroyingRows;

    static std::span<const jobs::Step<BranchDelete>> steps();
    void record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
    nlohmann::json result(const State& state) const;

  private:
    asio::awaitable<jobs::Progress> remove_instance(State& state);
    void move_to_trash(const State& state, jobs::Batch& batch) const;
};

}  // namespace bpg::operations
