// The requests about retention: what would go of a branch's snapshots and WAL, and that it goes.
#include <fmt/format.h>

#include "orchestrator/base/error.h"
#include "orchestrator/operations/prune.h"
#include "orchestrator/operations/request_parts.h"
#include "orchestrator/operations/requests.h"
#include "orchestrator/operations/retention.h"
#include "orchestrator/operations/wal_holding.h"
#include "scheduler/schedules.h"

namespace bpg::operations {
namespace {

using catalog::Branch;
using nlohmann::json;

void check_schedule_of(const Services& services, const std::string& name, const std::string& ref) {
    if (name.empty()) return;
    const scheduler::Schedule& schedule = services.schedules.get(name).schedule;
    if (schedule.op == "snapshot" && schedule.target == ref) return;
    throw Error(ErrorKind::kInvalid, "schedule_elsewhere",
                "schedule \"" + name + "\" takes no snapshots of " + ref,
                schedule.op == "snapshot" ? "it takes them of " + schedule.target
                                          : "its operation is " + schedule.op,
                "bpg schedule list shows which does");
}

}  // namespace

asio::awaitable<json> Requests::plan_retention(std::string ref, std::optional<WallTime> at) {
    const Branch& branch = services_.catalog.branch(ref);
    RetentionQuery query;
    query.branch_id = branch.id;
    query.at = at.value_or(services_.clock.now());
    const WallTime time = query.at;
    const BranchRetention plan = co_await operations::plan_retention(services_, std::move(query));
    json answer = retention_json(plan);
    answer["ref"] = ref;
    answer["at"] = format_time(time);
    co_return answer;
}

asio::awaitable<jobs::Job> Requests::prune(PruneRequest request, RequestKey key) {
    const json params{
        {"ref", request.ref}, {"schedule", request.schedule}, {"force", request.force}};
    const auto open = co_await attach(std::string(Prune::kName), request.ref, params);
    if (open) co_return *open;
    check_schedule_of(services_, request.schedule, request.ref);
    Prune::State state;
    state.branch_id = services_.catalog.branch(request.ref).id;
    state.ref = request.ref;
    state.schedule = request.schedule;
    state.is_forced = request.force;
    state.at = services_.clock.now();
    RetentionQuery query{state.branch_id, state.schedule, state.at, state.is_forced};
    const BranchRetention plan = co_await operations::plan_retention(services_, std::move(query));
    refuse(plan.refusal);
    if (!request.plan.empty()) check_same_plan(request.plan, plan);
    state.plan = plan.hash;

    const Branch& branch = services_.catalog.branch(request.ref);
    refuse_in_between(branch, request.ref);
    jobs::Submission job = submission(Prune::kName, request.ref, params, nullptr, std::move(key));
    job.locks = {lock_of(branch, request.ref, jobs::LockMode::kShared)};
    for (const std::string& id : plan.remove)
        job.locks.push_back(snapshot_lock(id));
    if (plan.days) {
        state.wal = cleanup_state(services_.catalog, branch, *plan.days);
        add_cleanup_locks(job.locks, services_.catalog, state.wal);
    }
    job.data = state;
    co_return co_await queue_.submit(std::move(job), jobs::Batch{});
}

}  // namespace bpg::operations
