// start, stop and restart of a branch's instance. They share their state and their steps.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>

#include "jobs/step.h"
#include "orchestrator/base/json.h"
#include "orchestrator/operations/instances.h"
#include "orchestrator/operations/services.h"

namespace bpg::operations {

/// What of a branch changes only while it is stopped.
struct EndpointSettings {
    int port = 0;
    std::map<std::string, std::string> settings;  ///< catalog::Branch::settings
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(EndpointSettings, port, settings)

struct InstanceControlState {
    std::string branch_id;
    bool force = false;  ///< immediate shutdown
    std::string ref;
    bool supervised = false;   ///< asked for by the supervisor, which decides when to give up
    bool was_running = false;  ///< start only: it ran before, and goes on whatever happens
    catalog::BranchState state_before = catalog::BranchState::kStopped;
    bool should_run_before = false;
    /// Restart only: what the branch has from then on; put back when it does not start with it.
    std::optional<EndpointSettings> after;
    EndpointSettings before;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(InstanceControlState, branch_id, force, ref,
                                                supervised, was_running, state_before,
                                                should_run_before, after, before)

/// The steps of all three.
class InstanceControl {
  public:
    using State = InstanceControlState;

    InstanceControl(Services& services, jobs::JobContext& context)
        : services_(services), context_(context), instances_(services, &context) {}

    nlohmann::json result(const State& state) const;

  protected:
    asio::awaitable<jobs::Progress> look(State& state);
    asio::awaitable<jobs::Progress> stop_instance(State& state);
    asio::awaitable<jobs::Progress> start_instance(State& state);
    asio::awaitable<jobs::Progress> await_ready(State& state);
    asio::awaitable<void> remove_instance(const State& state);
    void record_changes(const State& state, jobs::Batch& batch) const;
    void record_running(const State& state, jobs::Batch& batch) const;
    void record_stopped(const State& state, jobs::Batch& batch) const;
    /// Of a job that was cancelled; true when it was.
    bool restore(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
    void record(const State& state, catalog::BranchState branch_state, bool should_run,
                std::string warning, jobs::Batch& batch) const;
    void apply(const State& state, const EndpointSettings& settings, jobs::Batch& batch) const;
    bool password_is_due(const State& state) const;

    Services& services_;
    jobs::JobContext& context_;
    Instances instances_;
};

class Start : public InstanceControl {
  public:
    static constexpr std::string_view kName = "start";
    using InstanceControl::InstanceControl;
    static std::span<const jobs::Step<Start>> steps();
    void record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
};

class Stop : public InstanceControl {
  public:
    static constexpr std::string_view kName = "stop";
    using InstanceControl::InstanceControl;
    static std::span<const jobs::Step<Stop>> steps();
    void record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
};

class Restart : public InstanceControl {
  public:
    static constexpr std::string_view kName = "restart";
    using InstanceControl::InstanceControl;
    static std::span<const jobs::Step<Restart>> steps();
    void record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
};

}  // namespace bpg::operations
