#include "orchestrator/supervisor.h"

#include <boost/asio/co_spawn.hpp>

#include "orchestrator/base/log.h"
#include "orchestrator/base/signal.h"

namespace bpg {
namespace {

using catalog::Branch;
using catalog::BranchState;

constexpr int kRestartsMax = 5;
constexpr std::chrono::minutes kHealthyAfter{5};

}  // namespace

Supervisor::Supervisor(asio::any_io_executor loop, operations::Services& services,
                       jobs::Queue& queue, operations::Requests& requests, jobs::Store& store)
    : loop_(std::move(loop)),
      services_(services),
      instances_(services),
      queue_(queue),
      requests_(requests),
      store_(store) {}

asio::awaitable<void> Supervisor::look_at_all() {
    jobs::Batch batch;
    for (const Branch* found : services_.catalog.branches()) {
        if (found->state != BranchState::kRunning) continue;
        Branch branch = *found;
        if (!co_await is_known_to_be_gone(branch)) continue;
        branch.state = BranchState::kFailed;
        branch.warnings = {"its instance was not running when bpgd started"};
        services_.catalog.put(branch, batch);
    }
    co_await store_.commit(std::move(batch));
}

asio::awaitable<bool> Supervisor::is_known_to_be_gone(const Branch& branch) {
    if (runtime_is_away_) co_return false;  // asking for each would take each its deadline
    const runtime::InstanceRef instance = instances_.ref(branch);
    try {
        const runtime::InstanceStatus status = co_await services_.runtime.inspect(instance);
        co_return !status.running;
    } catch (const Error& error) {
        // What ran goes on in a container; the watchers find out when the runtime is back.
        log::warning("whether instances run is not known", {{"why", error.what()}});
        runtime_is_away_ = true;
        co_return false;
    }
}

bool Supervisor::is_ours_to_start(const std::string& branch_id) const {
    const Branch* branch = services_.catalog.branch_by_id(branch_id);
    if (branch == nullptr || !branch->should_run) return false;
    if (branch->state != BranchState::kRunning && branch->state != BranchState::kFailed) {
        return false;
    }
    return !queue_.find_open_on(services_.catalog.ref_of(*branch));
}

asio::awaitable<void> Supervisor::run() {
    while (true) {
        std::erase_if(ended_, [this](const std::string& id) {
            return services_.catalog.branch_by_id(id) == nullptr;
        });
        for (const Branch* branch : services_.catalog.branches()) {
            const std::string id = branch->id;
            if (watched_.contains(id) || !is_ours_to_start(id)) continue;
            watched_.insert(id);
            asio::co_spawn(loop_, watch(id), [this, id](std::exception_ptr failure) {
                watched_.erase(id);
                if (!failure) return;
                log::warning("watching an instance failed",
                             {{"branch", id}, {"why", describe(failure).message}});
            });
        }
        const auto soon = std::chrono::steady_clock::now() + std::chrono::seconds(5);
        co_await queue_.changed().wait_until(soon);
    }
}

asio::awaitable<void> Supervisor::watch(std::string branch_id) {
    const auto began = std::chrono::steady_clock::now();
    const runtime::InstanceRef instance =
        instances_.ref(*services_.catalog.branch_by_id(branch_id));
    co_await note_running(branch_id);
    ended_.erase(branch_id);
    if (!is_unfinished(branch_id)) co_await services_.runtime.wait_until_gone(instance);
    ended_.insert(branch_id);
    if (!is_ours_to_start(branch_id)) co_return;  // a job stopped it, or works on it
    if (std::chrono::steady_clock::now() - began > kHealthyAfter) restarts_.erase(branch_id);
    const int failures = restarts_[branch_id]++;
    if (failures >= kRestartsMax) {
        co_await give_up(branch_id);
        co_return;
    }
    log::warning("an instance ended by itself and is started again", {{"branch", branch_id}});
    if (failures > 0) co_await pause_for(std::chrono::seconds(1 << failures));
    if (!is_ours_to_start(branch_id)) co_return;
    try {
        co_await start_again(branch_id);
    } catch (const Error& error) {
        // No job was taken, so this was no restart; the next round asks again.
        if (error.kind() == ErrorKind::kExhausted) --restarts_[branch_id];
        throw;
    }
}

/// It may run, but nobody was let in: the job that started it failed before its password was its
/// own. A start finishes that.
bool Supervisor::is_unfinished(const std::string& branch_id) const {
    const Branch* branch = services_.catalog.branch_by_id(branch_id);
    return branch != nullptr && branch->state == BranchState::kFailed && branch->password_due;
}

/// One that was given up for dead while the runtime did not answer may run all the same.
asio::awaitable<void> Supervisor::note_running(std::string branch_id) {
    const Branch* found = services_.catalog.branch_by_id(branch_id);
    if (found->state == BranchState::kRunning || found->password_due) co_return;
    const runtime::InstanceRef instance = instances_.ref(*found);
    const runtime::InstanceStatus status = co_await services_.runtime.inspect(instance);
    if (!status.running || !is_ours_to_start(branch_id)) co_return;
    Branch branch = *services_.catalog.branch_by_id(branch_id);
    branch.state = BranchState::kRunning;
    branch.warnings.clear();
    jobs::Batch batch;
    services_.catalog.put(branch, batch);
    co_await store_.commit(std::move(batch));
}

asio::awaitable<void> Supervisor::start_again(std::string branch_id) {
    const jobs::Job job = co_await requests_.start_again(branch_id);
    co_await queue_.wait_until_final(job.id, std::chrono::steady_clock::time_point::max());
}

asio::awaitable<void> Supervisor::give_up(std::string branch_id) {
    Branch branch = *services_.catalog.branch_by_id(branch_id);
    restarts_.erase(branch_id);
    branch.state = BranchState::kFailed;
    branch.should_run = false;
    branch.warnings = {
        "its instance ended again and again; bpg start starts it once you have "
        "looked at its log " +
        instances_.log_path(branch).string()};
    jobs::Batch batch;
    services_.catalog.put(branch, batch);
    co_await store_.commit(std::move(batch));
}

}  // namespace bpg
