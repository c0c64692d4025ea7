// The DataDirectories port on files of this machine. All file work runs on the pool given.
#pragma once

#include "orchestrator/base/offload.h"
#include "orchestrator/postgres/data_directory.h"

namespace bpg::postgres {

class LocalDataDirectories final : public DataDirectories {
  public:
    /// The pool outlives this object.
    explicit LocalDataDirectories(BlockingPool& pool) : pool_(pool) {}

    asio::awaitable<ControlFile> control_file(const std::filesystem::path& data) override;
    asio::awaitable<void> check_source(const std::filesystem::path& data, bool running) override;
    asio::awaitable<bool> has_unlogged_relations(const std::filesystem::path& data) override;
    asio::awaitable<void> prepare_clone(const CloneSpec& spec) override;
    asio::awaitable<void> mark_prepared(const CloneSpec& spec) override;
    asio::awaitable<void> write_owned_config(const OwnedConfig& config) override;
    asio::awaitable<StartNeeds> start_needs(const OwnedConfig& config) override;
    asio::awaitable<void> copy_wal(const std::filesystem::path& source_data,
                                   const std::filesystem::path& target_data,
                                   const BackupStart& start, Lsn stop) override;
    asio::awaitable<std::optional<std::string>> newest_wal(const std::filesystem::path& data,
                                                           const std::string& from,
                                                           const std::string& until) override;
    asio::awaitable<std::optional<Lsn>> fork_point(const std::filesystem::path& data,
                                                   std::uint32_t timeline) override;

  private:
    BlockingPool& pool_;
};

}  // namespace bpg::postgres
