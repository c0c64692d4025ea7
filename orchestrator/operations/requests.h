// From a user's request to a job: checks what can be checked, fixes every outside name, and submits
// the job with its reservation in one commit. Each function answers with the job, or with an open
// job of the very same request (attach). Refusals are thrown bpg::Errors. Loop thread only.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "jobs/queue.h"
#include "orchestrator/operations/instance_control.h"
#include "orchestrator/operations/point_in_time.h"
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
    std::string snapshot;  ///< "" takes a new one
    std::optional<std::chrono::milliseconds> ttl;
    bool stopped = false;
    bool no_archive = false;  ///< no WAL archive, so no points in time of it
    RestoreTarget target;     ///< as the parent was then; unset: as it is now
};

struct BranchDeleteRequest {
    std::string ref;
    bool force = false;
    bool recursive = false;
    bool purge = false;  ///< past the trash
};

struct PruneRequest {
    std::string ref;
    std::string schedule;  ///< of what this one made only; "": every schedule of the branch
    bool force = false;    ///< also when more than retention.max_fraction would go
    std::string plan;      ///< hash of the plan that was agreed to; "": whatever it is now
};

/// Members that are nothing stay as they are.
struct BranchChanges {
    std::optional<bool> is_protected;
    /// Zero: it lives on.
    std::optional<std::chrono::milliseconds> ttl;
    std::optional<int> port;  ///< 0: a free one
    /// An empty value takes the setting back.
    std::map<std::string, std::string> settings;
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

    /// What "now" is for a relative time.
    WallTime now() const { return services_.clock.now(); }

    asio::awaitable<jobs::Job> db_create(DbCreateRequest request, RequestKey key);
    asio::awaitable<jobs::Job> db_delete(std::string name, bool force, RequestKey key);
    asio::awaitable<jobs::Job> branch_create(BranchCreateRequest request, RequestKey key);
    asio::awaitable<jobs::Job> branch_delete(BranchDeleteRequest request, RequestKey key);
    asio::awaitable<jobs::Job> branch_sync(std::string ref, bool fast, RequestKey key);
    /// `old_name` of the old main; "" is main-<time>.
    asio::awaitable<jobs::Job> branch_promote(std::string ref, std::string old_name,
                                              RequestKey key);
    /// `what`: an item's id, or what it was called; `as`: the branch's new name, "" the old one.
    asio::awaitable<jobs::Job> undo_delete(std::string what, std::string as, RequestKey key);
    /// Of all of the trash when `what` is "".
    asio::awaitable<jobs::Job> trash_purge(std::string what, RequestKey key);
    asio::awaitable<jobs::Job> snapshot(std::string ref, std::string label, std::string created_by,
                                        RequestKey key);
    asio::awaitable<jobs::Job> snapshot_delete(std::string id, bool force, RequestKey key);
    /// Removes WAL that no time of the last `days` days needs.
    asio::awaitable<jobs::Job> wal_cleanup(std::string ref, int days, RequestKey key);
    /// Removes what the schedules of a branch let go of its snapshots, and of its WAL.
    asio::awaitable<jobs::Job> prune(PruneRequest request, RequestKey key);
    asio::awaitable<jobs::Job> password_rotate(std::string ref, RequestKey key);

    // What would be done, as {"plan": operation, …, "summary": [sentences]}; refused as the job
    // would be.
    asio::awaitable<nlohmann::json> plan_branch_restore(BranchCreateRequest request);
    asio::awaitable<nlohmann::json> plan_wal_cleanup(std::string ref, int days);
    /// What a prune would remove at that time, and why the rest stays; without a time, now.
    asio::awaitable<nlohmann::json> plan_retention(std::string ref, std::optional<WallTime> at);
    nlohmann::json plan_branch_delete(const BranchDeleteRequest& request) const;
    nlohmann::json plan_branch_sync(const std::string& ref, bool fast) const;
    nlohmann::json plan_branch_promote(const std::string& ref, const std::string& old_name) const;

    // Changes of records alone: one commit and no job. `answer` is given again for a repeated key.
    asio::awaitable<void> branch_rename(std::string ref, std::string name, RequestKey key);
    asio::awaitable<void> db_rename(std::string name, std::string new_name, RequestKey key);
    asio::awaitable<void> snapshot_pin(std::string id, bool pinned, bool with_wal, RequestKey key);
    /// A job only where a running branch has to be restarted for it.
    asio::awaitable<std::optional<jobs::Job>> branch_set(std::string ref, BranchChanges changes,
                                                         RequestKey key);
    /// `operation`: "start", "stop" or "restart".
    asio::awaitable<jobs::Job> control(std::string operation, std::string ref, bool force,
                                       RequestKey key);
    /// From the supervisor: starts an instance that should run, at housekeeping priority.
    asio::awaitable<jobs::Job> start_again(std::string branch_id);
    /// From the housekeeper: a branch whose time is over, and items whose trash time is.
    asio::awaitable<jobs::Job> expire(std::string branch_id);
    asio::awaitable<jobs::Job> purge_items(std::vector<std::string> items, jobs::Priority priority,
                                           RequestKey key);
    /// Whether the trash may let go of it: nothing hangs on what a sync replaced.
    /// `going`: ids of branches that go with it.
    bool may_purge(const catalog::TrashItem& item, const std::set<std::string>& going = {}) const;

  private:
    /// What a target means now: of which incarnation, from which snapshot.
    struct RestoreChoice {
        std::string base_id;
        Restore restore;
        std::vector<wal::Window> windows;
    };
    asio::awaitable<RestoreChoice> choose_restore(std::string parent_id, RestoreTarget target);
    const catalog::Branch& source_of(const catalog::Branch& parent,
                                     const RestoreTarget& target) const;
    void add_restore_locks(std::vector<jobs::Lock>& locks, const catalog::Branch& parent,
                           const Restore& restore) const;
    catalog::Branch parent_for(const BranchCreateRequest& request, const std::string& from) const;
    /// The lowest that is free and not in `taken`.
    asio::awaitable<int> choose_port(std::vector<int> taken = {});
    /// kConflict `port_taken`.
    asio::awaitable<int> require_port(int port);
    asio::awaitable<std::optional<ErrorInfo>> shortage(std::string_view operation);
    /// 0 where a branch shares what its parent has.
    std::uint64_t size_of_copy(const catalog::Branch& parent) const;
    jobs::Submission submission(std::string_view operation, std::string target,
                                nlohmann::json params, nlohmann::json data, RequestKey key) const;
    /// An open job to attach to; throws `busy` when another job has this target.
    asio::awaitable<std::optional<jobs::Job>> attach(std::string operation, std::string target,
                                                     nlohmann::json params);
    asio::awaitable<jobs::Job> submit_control(std::string operation, std::string branch_id,
                                              bool force, jobs::Priority priority, RequestKey key);
    asio::awaitable<jobs::Job> submit_delete(BranchDeleteRequest request, jobs::Priority priority,
                                             RequestKey key);
    asio::awaitable<jobs::Job> restart_with(catalog::Branch branch, EndpointSettings after,
                                            RequestKey key);
    asio::awaitable<jobs::Job> submit_undo_delete(catalog::TrashItem item, std::string as,
                                                  RequestKey key);
    std::vector<std::string> all_that_may_go() const;
    void refuse_while_purged(const catalog::TrashItem& item) const;
    void refuse_undo_delete(const catalog::TrashItem& item, const std::string& as) const;
    asio::awaitable<std::map<std::string, int>> ports_for_undo_delete(catalog::TrashItem item);
    void refuse_busy(const std::string& target) const;
    void refuse_fast() const;
    const catalog::Branch& parent_named(const std::string& text) const;
    std::string name_of_old_main(const std::string& old_name) const;

    Services& services_;
    jobs::Queue& queue_;
    PortPolicy ports_;
    runtime::EngineRequest default_engine_;
};

}  // namespace bpg::operations
