// What several operations do with a branch's instance: start it, wait until it answers, open it to
// its user, stop it. Each verb can be repeated.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "jobs/step.h"
#include "orchestrator/operations/services.h"
#include "orchestrator/wal/commands.h"

namespace bpg::operations {

/// As the catalog keeps it, and back.
runtime::Engine engine_of(const catalog::Database& database);
void set_engine(catalog::Database& database, const runtime::Engine& engine);

/// Where the WAL of a start comes from that restores a point in time.
struct Recovery {
    std::filesystem::path archive;  ///< of another incarnation; only read
    std::filesystem::path spool;    ///< in the volume; looked at first
    wal::RestoreBounds bounds;
    std::uint32_t timeline = 0;  ///< that it follows
    /// A setting of PostgreSQL and its value; nothing: to the end of the WAL.
    std::optional<std::pair<std::string, std::string>> target;
};

/// Loop thread only. The branch must be in the catalog.
class Instances {
  public:
    /// With the context of a job, waits end when it is cancelled.
    explicit Instances(Services& services, const jobs::JobContext* context = nullptr)
        : services_(services), context_(context) {}

    /// What the branches of a database run.
    runtime::Engine engine(const catalog::Branch& branch) const;
    FileOwner owner(const catalog::Branch& branch) const { return engine(branch).user; }
    runtime::InstanceRef ref(const catalog::Branch& branch) const;
    postgres::Endpoint endpoint(const catalog::Branch& branch) const;
    std::filesystem::path data_directory(const catalog::Branch& branch) const;
    std::filesystem::path log_path(const catalog::Branch& branch) const;
    static wal::ArchiveRef archive(const catalog::Branch& branch) {
        return {branch.volume, branch.incarnation_id};
    }

    asio::awaitable<bool> is_running(std::string branch_id);
    /// Makes sure that the branch's PostgreSQL can be run here, before anything is made for it.
    asio::awaitable<void> prepare_engine(std::string branch_id);
    /// Writes the files bpgd owns and starts PostgreSQL. `open`: users may connect from the first
    /// moment (false until the branch has its own password).
    asio::awaitable<void> start(std::string branch_id, bool open,
                                std::optional<Recovery> recovery = std::nullopt);
    /// Makes the next start() of a branch that runs short, with what its record will be then: of
    /// the same id, with other data.
    asio::awaitable<void> make_ready(catalog::Branch successor);
    /// A real query was answered by the right branch.
    asio::awaitable<postgres::ReadyFacts> await_ready(std::string branch_id);
    /// The same for a new one, whose superuser has the branch's own password then (SCRAM verifier
    /// only), made while the server starts.
    asio::awaitable<postgres::ReadyFacts> await_ready_with_password(std::string branch_id);
    /// The same for one that recovers from an archive, which may take however long: `watch` is
    /// called now and then meanwhile.
    asio::awaitable<postgres::ReadyFacts> await_recovery(
        std::string branch_id, std::function<asio::awaitable<void>()> watch);
    /// Gives the superuser of a running branch this SCRAM verifier.
    asio::awaitable<void> set_verifier(std::string branch_id, std::string verifier);
    /// Makes the branch's own password if there is none; a running server does not learn of it.
    asio::awaitable<void> ensure_password(std::string branch_id);
    /// Success when there is none.
    asio::awaitable<void> forget_password(std::string branch_id);
    /// Lets users in, and logs in as one: what `bpg url` prints works when this returns.
    asio::awaitable<void> open_to_users(std::string branch_id);
    /// Stops it and removes what is left of the instance: a stopped branch has no container.
    asio::awaitable<void> stop(std::string branch_id, runtime::StopMode mode);
    /// Stops it and leaves what else there is of the instance.
    asio::awaitable<void> halt(std::string branch_id, runtime::StopMode mode);
    /// Removes what is left of an instance of this branch on another volume than it has now.
    asio::awaitable<void> clear_place(std::string branch_id, std::string volume);
    /// Stops it cleanly if it lets itself be stopped within some seconds, else at once.
    asio::awaitable<void> stop_or_kill(std::string branch_id);
    /// Stops and removes it at once, whatever state it is in; for undo and delete.
    asio::awaitable<void> remove(std::string branch_id);
    /// Removes the instance's log and the archives of its WAL; for branches that go. Success when
    /// there is none.
    asio::awaitable<void> remove_files(std::string branch_id);

  private:
    const catalog::Branch& branch(const std::string& id) const;
    asio::awaitable<runtime::InstanceSpec> prepare_start(catalog::Branch place, bool open,
                                                         std::optional<Recovery> recovery);
    asio::awaitable<void> write_config(catalog::Branch place, bool open);
    postgres::OwnedConfig config(const catalog::Branch& branch, bool open) const;
    asio::awaitable<bool> archives_now(catalog::Branch place, bool minimal_wal);
    postgres::WalSettings wal_settings(const catalog::Branch& branch, bool archives,
                                       const std::optional<Recovery>& recovery) const;
    void show_wal(const catalog::Branch& branch, bool archives,
                  const std::optional<Recovery>& recovery, runtime::InstanceSpec& spec) const;
    /// How long a start may take, and what is done while it does.
    struct Patience {
        std::chrono::milliseconds deadline;
        std::function<asio::awaitable<void>()> watch;
    };
    asio::awaitable<postgres::ReadyFacts> await_ready(std::string branch_id, std::string verifier,
                                                      Patience patience);
    asio::awaitable<std::string> own_verifier(std::string branch_id);
    asio::awaitable<void> let_users_in(std::string branch_id);
    void throw_if_cancelled() const;
    asio::awaitable<void> log_start_up(const runtime::InstanceRef& instance);

    Services& services_;
    const jobs::JobContext* context_;
};

}  // namespace bpg::operations
