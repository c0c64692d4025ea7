// What several operations do with a branch's instance: start it, wait until it answers, open it to
// its user, stop it. Each verb can be repeated.
#pragma once

#include <string>

#include "orchestrator/operations/services.h"

namespace bpg::operations {

/// Loop thread only. The branch must be in the catalog.
class Instances {
  public:
    explicit Instances(Services& services) : services_(services) {}

    runtime::InstanceRef ref(const catalog::Branch& branch) const;
    postgres::Endpoint endpoint(const catalog::Branch& branch) const;
    std::filesystem::path data_directory(const catalog::Branch& branch) const;
    std::filesystem::path log_path(const catalog::Branch& branch) const;

    /// Writes the files bpgd owns and starts PostgreSQL. `open`: users may connect from the first
    /// moment (false until the branch has its own password).
    asio::awaitable<void> start(std::string branch_id, bool open);
    /// A real query was answered by the right branch.
    asio::awaitable<postgres::ReadyFacts> await_ready(std::string branch_id);
    /// Gives the superuser the branch's own password (SCRAM verifier only), lets users in, and logs
    /// in as one: what `bpg url` prints works when this returns.
    asio::awaitable<void> open_to_users(std::string branch_id);
    asio::awaitable<void> stop(std::string branch_id, runtime::StopMode mode);
    /// Stops at once and removes what is left of the instance; for undo and delete.
    asio::awaitable<void> remove(std::string branch_id);
    /// Removes the instance's log; for branches that go. Success when there is none.
    asio::awaitable<void> remove_log(std::string branch_id);

  private:
    const catalog::Branch& branch(const std::string& id) const;
    asio::awaitable<void> write_config(std::string branch_id, bool open);

    Services& services_;
};

}  // namespace bpg::operations
