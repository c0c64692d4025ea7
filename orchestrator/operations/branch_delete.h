// branch-delete and what db-delete shares with it: forward only, since what is destroyed does not
// come back. The reservation has marked the branches as deleting; a failure leaves them so, with
// the reason, and the same command goes on from there. Only a job that has not begun is cancelled.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "jobs/step.h"
#include "orchestrator/operations/instances.h"
#include "orchestrator/operations/services.h"

namespace bpg::operations {

/// What a branch was before it was marked as deleting.
struct Doomed {
    std::string branch_id;
    catalog::BranchState state = catalog::BranchState::kStopped;
    bool should_run = false;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(Doomed, branch_id, state, should_run)

/// The steps of destroying branches, for one or for all of a database.
class Destruction {
  public:
    static constexpr std::string_view kIrreversible = "what it destroys does not come back";

    /// Marks them; gives back what they were. Called with the submission.
    static std::vector<Doomed> doom(catalog::Catalog& catalog,
                                    std::vector<catalog::Branch> branches,
                                    const std::string& job_id, jobs::Batch& batch);

    Destruction(Services& services, jobs::JobContext& context)
        : services_(services), context_(context), instances_(services, &context) {}

    asio::awaitable<void> remove_instances(std::vector<std::string> branch_ids);
    /// Children before their parents, each with its own snapshots first: on ZFS a volume cannot go
    /// before its snapshots, nor a snapshot before what was cloned from it.
    asio::awaitable<void> destroy_volumes(std::vector<std::string> branch_ids);
    /// With the volumes goes what the branches hung on.
    void release_origins(const std::vector<std::string>& branch_ids, jobs::Batch& batch) const;
    /// What is left: the branches' own snapshots, and every origin that no branch hangs on now.
    asio::awaitable<void> destroy_snapshots(std::vector<std::string> branch_ids);
    /// Those that destroy_snapshots() destroyed.
    void forget_snapshots(jobs::Batch& batch) const;
    /// Passwords and logs.
    asio::awaitable<void> remove_files(std::vector<std::string> branch_ids);
    void forget(const std::vector<std::string>& branch_ids, jobs::Batch& batch) const;
    /// Of a job that was cancelled: they are what they were.
    void note_failure(const std::vector<std::string>& branch_ids, const std::vector<Doomed>& doomed,
                      const ErrorInfo& error, jobs::Batch& batch) const;

  private:
    std::vector<std::string> children_first(std::vector<std::string> branch_ids) const;
    std::vector<catalog::Snapshot> snapshots_of(const std::vector<std::string>& branch_ids) const;
    std::vector<catalog::Snapshot> unclaimed_origins() const;

    Services& services_;
    jobs::JobContext& context_;
    Instances instances_;
    std::vector<std::string> destroyed_;
};

class BranchDelete {
  public:
    static constexpr std::string_view kName = "branch-delete";

    struct State {
        std::string branch_id;
        std::string ref;
        std::vector<Doomed> doomed;
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
    void release_origin(const State& state, jobs::Batch& batch) const;
    void forget_snapshots(const State& state, jobs::Batch& batch) const;
    void forget(const State& state, jobs::Batch& batch) const;

    Destruction destruction_;
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(BranchDelete::State, branch_id, ref, doomed)

}  // namespace bpg::operations
