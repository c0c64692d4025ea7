// branch-sync: another incarnation of a branch, cut from its parent as the parent is now. It is
// cloned, started and verified aside, reached over its own socket alone, while the old one serves;
// then both stop, the records change places in one commit, and the new one starts on the branch's
// port. Until that commit a failure leaves the old one as it was; after it the sync goes forward.
//
// What is being made is a branch record of its own that nobody sees (`replaces`). After the commit
// that record is the replaced incarnation, in the trash.
#pragma once

#include "orchestrator/operations/branch_create.h"

namespace bpg::operations {

class BranchSync : public BranchCreate {
  public:
    static constexpr std::string_view kName = "branch-sync";
    using BranchCreate::BranchCreate;

    static std::span<const jobs::Step<BranchSync>> steps();
    void record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
    nlohmann::json result(const State& state) const;

  private:
    asio::awaitable<jobs::Progress> stop_old(State& state);
    asio::awaitable<jobs::Progress> swap(State& state);
    asio::awaitable<jobs::Progress> start_branch(State& state);
    asio::awaitable<jobs::Progress> await_branch(State& state);

    asio::awaitable<void> leave_aside_snapshot(const State& state);
    asio::awaitable<void> destroy_aside(const State& state);
    asio::awaitable<void> remove_aside(const State& state);
    asio::awaitable<void> start_old(const State& state);
    asio::awaitable<void> clear_old(const State& state);

    void record_swap(const State& state, jobs::Batch& batch) const;
    void record_synced(const State& state, jobs::Batch& batch) const;
    const catalog::Branch& target(const State& state) const;
    catalog::Branch successor(const State& state) const;
};

}  // namespace bpg::operations
