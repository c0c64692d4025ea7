// branch-create: a full, isolated, writable copy of a branch, running or stopped.
//
// On an atomic driver: a snapshot in backup mode (safe), behind a WAL fence (fast) or of a stopped
// parent (clean), and a clone of it; the label stays with the snapshot. On any other: one copy in
// backup mode with the label and all WAL from start to stop (NA-1..7), and no snapshot is kept.
// Creates from one parent that arrive together share a snapshot (shared_snapshots.h).
// At a point in time: a clone of an older snapshot, which recovers from the archive
// (point_in_time.h) and then gets a snapshot of its own.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "jobs/step.h"
#include "orchestrator/operations/backup.h"
#include "orchestrator/operations/instances.h"
#include "orchestrator/operations/point_in_time.h"
#include "orchestrator/operations/services.h"
#include "orchestrator/operations/shared_snapshots.h"

namespace bpg::operations {

class BranchCreate {
  public:
    static constexpr std::string_view kName = "branch-create";

    /// What it remembers between steps. The names come from the reservation, before any effect.
    /// Its snapshot's id is reserved like the others, and replaced when it hangs on that of another
    /// create, or takes one anew; without an atomic driver it stays unused.
    struct State : SnapshotFacts {
        std::string branch_id;
        std::string parent_id;
        std::string lost_snapshot_id;  ///< the one it hung on before it had to begin again
        bool fast = false;
        bool is_given = false;  ///< the snapshot was there before, and stays
        bool stopped = false;   ///< it is left stopped
        std::uint32_t timeline = 0;
        std::string system_identifier;
        // Of a sync only, which makes another incarnation aside:
        std::string target_id;  ///< whose place it takes
        bool target_ran = false;
        bool has_swapped = false;  ///< it has taken it: forward only
        std::string old_volume;    ///< what its place was taken of
        Restore restore;           ///< of one at a point in time only
    };

    BranchCreate(Services& services, jobs::JobContext& context)
        : services_(services),
          context_(context),
          instances_(services, &context),
          point_in_time_(services, context) {}

    static std::span<const jobs::Step<BranchCreate>> steps();
    /// Behind it the parent may be stopped, or change its name.
    static std::string last_step_on_parent(bool atomic);
    /// Behind these two neither what is restored nor its archive is needed any more.
    static constexpr std::string_view kLastStepOnSource = "clone_volume";
    static constexpr std::string_view kLastStepOnArchive = "await_ready";
    void record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
    nlohmann::json result(const State& state) const;

  protected:
    asio::awaitable<jobs::Progress> take_snapshot(State& state);
    asio::awaitable<jobs::Progress> clone_volume(State& state);
    asio::awaitable<jobs::Progress> prepare_clone(State& state);
    asio::awaitable<jobs::Progress> start_instance(State& state);
    asio::awaitable<jobs::Progress> await_ready(State& state);
    asio::awaitable<jobs::Progress> open_to_users(State& state);
    asio::awaitable<jobs::Progress> finish_backup(State& state);
    asio::awaitable<jobs::Progress> publish(State& state);

    asio::awaitable<void> leave_snapshot(const State& state);
    asio::awaitable<void> destroy_volume(const State& state);
    asio::awaitable<void> remove_instance(const State& state);
    asio::awaitable<void> forget_password(const State& state);
    asio::awaitable<void> destroy_own_snapshot(const State& state);

    void record_origin(const State& state, jobs::Batch& batch) const;
    void record_snapshot(const State& state, jobs::Batch& batch) const;
    void record_own_snapshot(const State& state, jobs::Batch& batch) const;
    void record_branch(const State& state, jobs::Batch& batch) const;

    const catalog::Branch& branch(const State& state) const;

    Services& services_;
    jobs::JobContext& context_;
    Instances instances_;

  private:
    asio::awaitable<bool> parent_runs(const State& state);
    asio::awaitable<bool> lead_round(State& state, SharedSnapshots::Round& round);
    asio::awaitable<void> snapshot_running_parent(State& state, SharedSnapshots::Round& round);
    asio::awaitable<void> snapshot_stopped_parent(State& state);
    asio::awaitable<std::optional<jobs::Progress>> await_recovery(State& state);
    asio::awaitable<void> take_own_snapshot(const State& state);
    jobs::Progress begin_from(State& state, std::string older, std::string why) const;
    jobs::Progress begin_from_another(const State& state) const;
    asio::awaitable<void> let_go_of(std::string snapshot_id, const State& state);
    bool is_lost(const State& state) const;
    jobs::Progress begin_again(State& state, std::string why) const;
    catalog::Snapshot snapshot_without_session(const State& state) const;
    asio::awaitable<void> copy_parent(State& state);
    asio::awaitable<void> copy_running_parent(State& state, const storage::Identity& identity);
    asio::awaitable<void> examine_running_parent(State& state);
    template <class Session>
    asio::awaitable<std::unique_ptr<Session>> examined(
        State& state, asio::awaitable<std::unique_ptr<Session>> begin);
    void note_parent(State& state, const postgres::ParentFacts& facts);
    asio::awaitable<void> decide_timeline(State& state, std::filesystem::path data);
    const catalog::Branch& parent(const State& state) const;
    storage::SnapshotRef snapshot_ref(const State& state) const;
    storage::Identity identity(const State& state) const;
    postgres::CloneSpec clone_spec(const State& state, std::filesystem::path volume) const;

    PointInTime point_in_time_;
    std::optional<postgres::ReadyFacts> ready_;
    std::optional<catalog::Snapshot> snapshot_;  ///< that the row at work has to record
    std::string destroyed_snapshot_;             ///< that the undo destroyed, and is on record
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(BranchCreate::State, branch_id, parent_id,
                                                snapshot_id, lost_snapshot_id, fast, is_given,
                                                stopped, mode, in_backup, new_timeline, line_lsn,
                                                line_at, has_subscriptions, timeline,
                                                system_identifier, target_id, target_ran,
                                                has_swapped, old_volume, start_lsn, restore)

}  // namespace bpg::operations
