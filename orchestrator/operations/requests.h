// From a user's request to a job: checks what can be checked, fixes every outside name, and submits
// the job with its reservation in one commit. Each function answers with the job, or with an open
// job of the very same request (attach). Refusals are thrown bpg::Errors. Loop thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "jobs/queue.h"
#include "orchestrator/operations/services.h"

namespace bpg::operations {

using jobs::RequestKey;

struct DbCreateRequest {
    std::string name;
    std::string pg_version;  ///< "" is the configured default; processes only
    std::string image;       ///< the same of containers
};

struct BranchCreateRequest {
    std::string ref;
    std::string from;  ///< "" is <database>/main
    bool fast = false;
};

/// Which ports branches may get, and whether one is free outside of the catalog.
struct PortPolicy {
    int first = 5432;
    int last = 6431;
    /// True when nobody listens there and no cluster under /etc/postgresql claims it. Blocking.
    std::function<bool(int port)> is_free;
};

class Requests {
  public:
    Requests(Services& services, jobs::Queue& queue, PortPolicy ports,
             runtime::EngineRequest default_engine)
        : services_(services),
          queue_(queue),
          ports_(std::move(ports)),
          default_engine_(std::move(default_engine)) {}

    asio::awaitable<jobs::Job> db_create(DbCreateRequest request, RequestKey key);
    asio::awaitable<jobs::Job> db_delete(std::string name, bool force, RequestKey key);
    asio::awaitable<jobs::Job> branch_create(BranchCreateRequest request, RequestKey key);
    asio::awaitable<jobs::Job> branch_delete(std::string ref, bool force, RequestKey key);
    /// `operation`: "start", "stop" or "restart".
    asio::awaitable<jobs::Job> control(std::string operation, std::string ref, bool force,
                                       RequestKey key);
    /// From the supervisor: starts an instance that should run, at housekeeping priority.
    asio::awaitable<jobs::Job> start_again(std::string branch_id);

  private:
    asio::awaitable<int> choose_port();
    /// 0 where a branch shares what its parent has.
    std::uint64_t size_of_copy(const catalog::Branch& parent) const;
    jobs::Submission submission(std::string_view operation, std::string target,
                                nlohmann::json params, nlohmann::json data, RequestKey key) const;
    /// An open job to attach to; throws `busy` when another job has this target.
    asio::awaitable<std::optional<jobs::Job>> attach(std::string operation, std::string target,
                                                     nlohmann::json params);
    asio::awaitable<jobs::Job> submit_control(std::string operation, std::string branch_id,
                                              bool force, jobs::Priority priority, RequestKey key);

    Services& services_;
    jobs::Queue& queue_;
    PortPolicy ports_;
    runtime::EngineRequest default_engine_;
};

}  // namespace bpg::operations
