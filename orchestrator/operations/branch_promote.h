// branch-promote: a branch's data becomes the main branch of its database. Names, ports, passwords
// and protection change places in one commit; no data moves, and both restart once. Until that
// commit a failure leaves both as they were; after it promote goes forward.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "jobs/step.h"
#include "orchestrator/operations/instances.h"
#include "orchestrator/operations/services.h"

namespace bpg::operations {

class BranchPromote {
  public:
    static constexpr std::string_view kName = "branch-promote";

    struct State {
        std::string branch_id;  ///< becomes main
        std::string main_id;    ///< was it
        std::string old_name;   ///< what the old main is called then
        bool branch_ran = false;
        bool main_ran = false;
        bool has_switched = false;
    };

    BranchPromote(Services& services, jobs::JobContext& context)
        : services_(services), context_(context), instances_(services, &context) {}

    static std::span<const jobs::Step<BranchPromote>> steps();
    void record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
    nlohmann::json result(const State& state) const;

  private:
    asio::awaitable<jobs::Progress> stop_both(State& state);
    asio::awaitable<jobs::Progress> switch_names(State& state);
    asio::awaitable<jobs::Progress> start_both(State& state);
    asio::awaitable<jobs::Progress> await_ready(State& state);
    asio::awaitable<jobs::Progress> open_to_users(State& state);
    asio::awaitable<void> start_again(const State& state);
    void record_switch(const State& state, jobs::Batch& batch) const;
    void record_running(const State& state, jobs::Batch& batch) const;
    /// Those that run from here on, the new main first.
    static std::vector<std::string> running(const State& state);
    const catalog::Branch& branch(const std::string& id) const;

    Services& services_;
    jobs::JobContext& context_;
    Instances instances_;
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(BranchPromote::State, branch_id, main_id, old_name,
                                                branch_ran, main_ran, has_switched)

}  // namespace bpg::operations
