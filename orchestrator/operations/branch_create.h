// branch-create: a full, isolated, writable copy of a branch, running or stopped.
//
// On an atomic driver: a snapshot in backup mode (safe), behind a WAL fence (fast) or of a stopped
// parent (clean), and a clone of it; the label stays with the snapshot. On any other: one copy in
// backup mode with the label and all WAL from start to stop (NA-1..7), and no snapshot is kept.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "jobs/step.h"
#include "orchestrator/operations/backup.h"
#include "orchestrator/operations/instances.h"
#include "orchestrator/operations/services.h"

namespace bpg::operations {

class BranchCreate {
  public:
    static constexpr std::string_view kName = "branch-create";

    /// What it remembers between steps. The names come from the reservation, before any effect.
    struct State {
        std::string branch_id;
        std::string parent_id;
        std::string snapshot_id;  ///< of the snapshot it takes; unused without an atomic driver
        bool fast = false;
        std::string mode;        ///< "safe", "fast", "clean": decided when the copy is made
        bool in_backup = false;  ///< the snapshot was taken in a session that must still be stopped
        bool new_timeline = true;
        std::string line_lsn;  ///< parent's position right after the copy
        std::optional<WallTime> line_at;
        bool has_subscriptions = false;
        std::uint32_t timeline = 0;
        std::string system_identifier;
    };

    BranchCreate(Services& services, jobs::JobContext& context)
        : services_(services), context_(context), instances_(services) {}

    static std::span<const jobs::Step<BranchCreate>> steps();
    void record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
    nlohmann::json result(const State& state) const;

  private:
    asio::awaitable<jobs::Progress> take_snapshot(State& state);
    asio::awaitable<jobs::Progress> clone_volume(State& state);
    asio::awaitable<jobs::Progress> prepare_clone(State& state);
    asio::awaitable<jobs::Progress> start_instance(State& state);
    asio::awaitable<jobs::Progress> await_ready(State& state);
    asio::awaitable<jobs::Progress> open_to_users(State& state);
    asio::awaitable<jobs::Progress> finish_backup(State& state);
    asio::awaitable<jobs::Progress> publish(State& state);

    asio::awaitable<void> destroy_snapshot(const State& state);
    asio::awaitable<void> destroy_volume(const State& state);
    asio::awaitable<void> remove_instance(const State& state);
    asio::awaitable<void> forget_password(const State& state);

    void record_snapshot(const State& state, jobs::Batch& batch) const;
    void record_branch(const State& state, jobs::Batch& batch) const;

    asio::awaitable<bool> parent_runs(const State& state);
    asio::awaitable<void> snapshot_running_parent(State& state);
    asio::awaitable<void> snapshot_stopped_parent(State& state);
    asio::awaitable<void> copy_parent(State& state);
    asio::awaitable<void> copy_running_parent(State& state, const storage::Identity& identity);
    asio::awaitable<void> examine_running_parent(State& state);
    asio::awaitable<void> decide_timeline(State& state, bool running);
    const catalog::Branch& branch(const State& state) const;
    const catalog::Branch& parent(const State& state) const;
    storage::SnapshotRef snapshot_ref(const State& state) const;
    storage::Identity identity(const State& state) const;
    postgres::CloneSpec clone_spec(const State& state, std::filesystem::path volume) const;

    Services& services_;
    jobs::JobContext& context_;
    Instances instances_;
    /// Lives from take_snapshot to finish_backup, in this process only.
    std::unique_ptr<BackupInProgress> backup_;
    std::optional<catalog::Snapshot> snapshot_;
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(BranchCreate::State, branch_id, parent_id,
                                                snapshot_id, fast, mode, in_backup, new_timeline,
                                                line_lsn, line_at, has_subscriptions, timeline,
                                                system_identifier)

}  // namespace bpg::operations
