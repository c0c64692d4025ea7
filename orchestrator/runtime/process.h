// The process runtime: PostgreSQL instances as native processes of one system user. It isolates
// branches by data directory, socket directory and port, not by user: a superuser of one branch can
// reach the files of another (the specification says so to users).
//
// An instance is known by two arguments of its postmaster, `bpg.branch_id=<id>` and `-D <data>`, so
// it is found again in /proc by a bpgd that was killed. What is remembered here is only a shortcut.
#pragma once

#include <sys/types.h>

#include <boost/asio/any_io_executor.hpp>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "orchestrator/base/offload.h"
#include "orchestrator/runtime/runtime.h"

namespace bpg::runtime {

class Installations;

struct ProcessSettings {
    std::filesystem::path bin_dir;  ///< runtime.process.bin_dir; may be empty
    std::string user = "postgres";  ///< runtime.process.user
};

class ProcessRuntime final : public Runtime {
  public:
    using Settings = ProcessSettings;

    /// Throws kNotFound `user_not_found`. The pool outlives this object; `executor` is the loop's.
    ProcessRuntime(Settings settings, BlockingPool& pool, asio::any_io_executor executor);
    ~ProcessRuntime() override;

    std::string_view driver() const override { return "process"; }
    asio::awaitable<std::string> version() override;
    asio::awaitable<Engine> find_engine(EngineRequest request) override;
    asio::awaitable<Engine> prepare_engine(Engine engine, FetchReport report) override;
    Reach reach(const std::string& listen) const override { return {listen, false}; }
    asio::awaitable<std::string> init_data_directory(const InitSpec& spec) override;
    /// A process has nothing to be made before it starts.
    asio::awaitable<void> make_ready(const InstanceSpec&) override { co_return; }
    asio::awaitable<void> start(const InstanceSpec& spec) override;
    asio::awaitable<void> stop(const InstanceRef& instance, StopMode mode,
                               std::chrono::milliseconds timeout) override;
    asio::awaitable<void> remove(const InstanceRef& instance) override;
    asio::awaitable<void> reload(const InstanceRef& instance) override;
    asio::awaitable<InstanceStatus> inspect(const InstanceRef& instance) override;
    asio::awaitable<void> wait_until_gone(const InstanceRef& instance) override;
    asio::awaitable<std::string> log_tail(const InstanceRef& instance, std::size_t lines) override;
    asio::awaitable<LogPiece> read_log(const InstanceRef& instance, std::string from,
                                       std::size_t lines) override;

  private:
    /// A process that cannot be mistaken for a later one with its pid.
    struct Identity {
        pid_t pid = 0;
        std::uint64_t start_time = 0;
    };
    class Watch;
    /// Branch id and data directory: a branch has two data directories while it is replaced.
    using Key = std::pair<std::string, std::filesystem::path>;

    /// The running postmaster; pid 0 when there is none.
    asio::awaitable<Identity> find(Key key);
    asio::awaitable<std::filesystem::path> bin_dir_for(std::string version);
    asio::awaitable<void> end_inits(std::filesystem::path data, std::chrono::milliseconds patience);
    asio::awaitable<void> end_init(Identity process, std::chrono::milliseconds patience);
    asio::awaitable<void> wait_for_free_directory(std::filesystem::path data_directory);
    asio::awaitable<void> kill_children(std::shared_ptr<Watch> postmaster);
    asio::awaitable<bool> end_process(std::shared_ptr<Watch> watch, StopMode mode,
                                      std::chrono::milliseconds timeout);
    asio::awaitable<bool> wait_for_end(std::shared_ptr<Watch> watch,
                                       std::chrono::milliseconds timeout);
    void forget(const Key& key, pid_t pid);

    FileOwner user_;
    BlockingPool& pool_;
    asio::any_io_executor executor_;
    std::shared_ptr<Installations> installations_;
    std::map<Key, Identity> known_;  ///< loop thread only
};

}  // namespace bpg::runtime
