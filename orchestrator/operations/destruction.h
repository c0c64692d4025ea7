// What deletes and the emptying of the trash share: moving branches to the trash, and destroying
// what waits there. Forward only, since what is destroyed does not come back.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "jobs/step.h"
#include "orchestrator/operations/instances.h"
#include "orchestrator/operations/services.h"
#include "orchestrator/operations/spare_origins.h"

namespace bpg::operations {

/// What a branch was before it was marked as deleting.
struct Doomed {
    std::string branch_id;
    catalog::BranchState state = catalog::BranchState::kStopped;
    bool should_run = false;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(Doomed, branch_id, state, should_run)

class Destruction {
  public:
    static constexpr std::string_view kIrreversible = "what it destroys does not come back";

    /// Marks them; gives back what they were. Called with the submission.
    static std::vector<Doomed> doom(catalog::Catalog& catalog,
                                    std::vector<catalog::Branch> branches,
                                    const std::string& job_id, jobs::Batch& batch);

    Destruction(Services& services, jobs::JobContext& context)
        : services_(services),
          context_(context),
          instances_(services, &context),
          origins_(services, context) {}

    /// `keep`: they may come back, so they are stopped cleanly.
    asio::awaitable<void> remove_instances(std::vector<std::string> branch_ids, bool keep);
    /// Their names and ports are free with this commit. `item` and `kind`: of one item for all of
    /// them; an empty item makes each one of its own.
    void move_to_trash(const std::vector<Doomed>& doomed, const std::string& item,
                       const std::string& kind, bool keep, jobs::Batch& batch) const;

    /// Clones before what they hang on, each with its own snapshots first: on ZFS a volume cannot
    /// go before its snapshots, nor a snapshot before what was cloned from it. Snapshots that
    /// others hang on stay, and go with the last of these.
    asio::awaitable<void> destroy_volumes(std::vector<std::string> branch_ids);
    /// Without their volumes they hang on nothing, and need no password.
    void note_destroyed(const std::vector<std::string>& branch_ids, jobs::Batch& batch) const;
    /// What is left: the branches' own snapshots, and every origin that nobody needs now.
    asio::awaitable<void> destroy_snapshots(std::vector<std::string> branch_ids);
    /// Those that destroy_snapshots() destroyed. The rest become origins of what hangs on them.
    void forget_snapshots(const std::vector<std::string>& branch_ids, jobs::Batch& batch) const;
    /// Passwords, logs and archives of WAL.
    asio::awaitable<void> remove_files(std::vector<std::string> branch_ids);
    /// With the databases that no branch is left of.
    void forget(const std::vector<std::string>& branch_ids,
                const std::vector<std::string>& database_ids, jobs::Batch& batch) const;
    /// What is not in the trash yet is what it was, or will be once the supervisor has started it.
    void note_failure(const std::vector<std::string>& branch_ids, const std::vector<Doomed>& doomed,
                      const ErrorInfo& error, jobs::Batch& batch) const;

  private:
    std::vector<std::string> still_doomed(std::vector<std::string> branch_ids) const;
    std::vector<std::string> clones_first(std::vector<std::string> branch_ids) const;
    asio::awaitable<std::vector<catalog::Snapshot>> snapshots_that_go_before(
        std::string volume, std::vector<std::string> branch_ids);
    asio::awaitable<void> destroy_volume(std::string volume, std::string owner);
    std::vector<catalog::Snapshot> snapshots_of(const std::vector<std::string>& branch_ids) const;

    Services& services_;
    jobs::JobContext& context_;
    Instances instances_;
    SpareOrigins origins_;
    /// Snapshots that this try has destroyed; they stay on record until forget_snapshots().
    std::set<std::string> destroyed_;
};

/// The rows that destroy what is in the trash: all of trash-purge, and the end of deletes that keep
/// nothing. `State` says of what, by all_branch_ids() and all_database_ids().
template <class State>
class DestroyingRows {
  public:
    DestroyingRows(Services& services, jobs::JobContext& context)
        : destruction_(services, context) {}

  protected:
    asio::awaitable<jobs::Progress> destroy_volumes(State& state) {
        const std::vector<std::string> ids = state.all_branch_ids();
        co_await destruction_.destroy_volumes(ids);
        co_return jobs::Done{};
    }
    asio::awaitable<jobs::Progress> destroy_snapshots(State& state) {
        const std::vector<std::string> ids = state.all_branch_ids();
        co_await destruction_.destroy_snapshots(ids);
        co_return jobs::Done{};
    }
    asio::awaitable<jobs::Progress> remove_files(State& state) {
        const std::vector<std::string> ids = state.all_branch_ids();
        co_await destruction_.remove_files(ids);
        co_return jobs::Done{};
    }
    void note_destroyed(const State& state, jobs::Batch& batch) const {
        destruction_.note_destroyed(state.all_branch_ids(), batch);
    }
    void forget_snapshots(const State& state, jobs::Batch& batch) const {
        destruction_.forget_snapshots(state.all_branch_ids(), batch);
    }
    void forget(const State& state, jobs::Batch& batch) const {
        destruction_.forget(state.all_branch_ids(), state.all_database_ids(), batch);
    }

    Destruction destruction_;
};

}  // namespace bpg::operations
