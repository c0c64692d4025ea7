// branch-delete: a branch, with --recursive all that was cut from it too, is stopped and moved to
// the trash; name and port are free then. Where nothing is to be kept, the same job destroys it.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "orchestrator/operations/destruction.h"

namespace bpg::operations {

class BranchDelete {
  public:
    static constexpr std::string_view kName = "branch-delete";

    struct State {
        std::string branch_id;
        std::string ref;
        std::vector<Doomed> doomed;  ///< the branch is the last of them
        bool purge = true;           ///< nothing is kept
    };

    BranchDelete(Services& services, jobs::JobContext& context) : destruction_(services, context) {}

    static std::span<const jobs::Step<BranchDelete>> steps();
    void record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
    nlohmann::json result(const State& state) const;

  private:
    asio::awaitable<jobs::Progress> remove_instance(State& state);
    asio::awaitable<jobs::Progress> destroy_volume(State& state);
    asio::awaitable<jobs::Progress> destroy_snapshots(State& state);
    asio::awaitable<jobs::Progress> remove_files(State& state);
    void move_to_trash(const State& state, jobs::Batch& batch) const;
    void release_origin(const State& state, jobs::Batch& batch) const;
    void forget_snapshots(const State& state, jobs::Batch& batch) const;
    void forget(const State& state, jobs::Batch& batch) const;

    Destruction destruction_;
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(BranchDelete::State, branch_id, ref, doomed, purge)

}  // namespace bpg::operations
