// The Postgres port over libpqxx. Every verb makes a connection of its own, uses it and closes it,
// all on the pool; only a backup keeps one.
#pragma once

#include <memory>
#include <string>

#include "orchestrator/base/offload.h"
#include "orchestrator/postgres/postgres.h"

namespace bpg::postgres {

class VersionMemory;

class PqxxPostgres final : public Postgres {
  public:
    /// The pool outlives this object and every session it made.
    explicit PqxxPostgres(BlockingPool& pool);
    ~PqxxPostgres() override;

    asio::awaitable<ReadyFacts> await_ready(const std::filesystem::path& data_directory,
                                            const Endpoint& endpoint,
                                            std::function<asio::awaitable<bool>()> alive,
                                            std::chrono::milliseconds deadline,
                                            std::string verifier) override;
    asio::awaitable<ParentFacts> inspect_parent(const Endpoint& endpoint) override;
    asio::awaitable<std::unique_ptr<BackupSession>> start_backup(const Endpoint& endpoint,
                                                                 std::string label,
                                                                 bool keep_wal) override;
    asio::awaitable<Position> switch_wal(const Endpoint& endpoint) override;
    asio::awaitable<std::unique_ptr<ParentSession>> fence(const Endpoint& endpoint) override;
    asio::awaitable<void> disable_subscriptions(const Endpoint& endpoint) override;
    asio::awaitable<void> checkpoint(const Endpoint& endpoint) override;
    asio::awaitable<void> verify_login(std::string host, int port, Secret password,
                                       std::string branch_id) override;

  private:
    asio::awaitable<std::optional<ReadyFacts>> ask_ready(Endpoint endpoint, std::string verifier,
                                                         std::string& refusal);
    void learn_version(const std::filesystem::path& data_directory, const std::string& branch_id);

    BlockingPool& pool_;
    std::shared_ptr<VersionMemory> versions_;
};

/// Whether the content of postmaster.pid says that this port's server is ready and its process
/// lives.
bool says_ready(const std::string& postmaster_pid, int port);

}  // namespace bpg::postgres
