#include "orchestrator/operations/explain.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "orchestrator/base/error.h"
#include "orchestrator/operations/instances.h"

namespace bpg::operations {
namespace {

using jobs::Direction;
using jobs::Job;
using jobs::JobState;
using nlohmann::json;

/// Branches whose volume and server are looked at. Each costs a command or two, and who waits for a
/// job asks often.
constexpr std::size_t kLookedAtMax = 8;

/// Of every operation: their States name branches in the same way.
std::set<std::string> branches_of(const Job& job) {
    std::set<std::string> ids;
    for (const char* member : {"branch_id", "parent_id"}) {
        const auto found = job.data.find(member);
        if (found != job.data.end() && found->is_string()) ids.insert(found->get<std::string>());
    }
    const auto several = job.data.find("branch_ids");
    if (several != job.data.end() && several->is_array()) {
        for (const json& id : *several)
            ids.insert(id.get<std::string>());
    }
    ids.erase("");
    return ids;
}

asio::awaitable<std::string> look_at_volume(Services& services, std::string volume) {
    try {
        const auto found = co_await services.storage.find_volume(volume);
        co_return found ? "is there" : "is not there";
    } catch (const Error& error) {
        co_return fmt::format("is not known ({})", error.what());
    }
}

asio::awaitable<std::string> look_at_instance(Services& services, runtime::InstanceRef instance) {
    try {
        const auto status = co_await services.runtime.inspect(instance);
        co_return status.running ? fmt::format("runs as process {}", status.pid) : "does not run";
    } catch (const Error& error) {
        co_return fmt::format("is not known ({})", error.what());
    }
}

asio::awaitable<json> look_at_world(Services& services, std::set<std::string> branch_ids) {
    json world = json::array();
    const Instances instances(services);
    for (const std::string& id : branch_ids) {
        if (world.size() == kLookedAtMax) {
            const std::size_t left = branch_ids.size() - kLookedAtMax;
            world.push_back(fmt::format("and {} more branch{}", left, left == 1 ? "" : "es"));
            break;
        }
        const catalog::Branch* found = services.catalog.branch_by_id(id);
        if (found == nullptr) {
            world.push_back(fmt::format("branch {} is not in the catalog", id));
            continue;
        }
        const catalog::Branch branch = *found;
        const runtime::InstanceRef instance = instances.ref(branch);
        const std::string ref = services.catalog.ref_of(branch);
        const std::string volume = co_await look_at_volume(services, branch.volume);
        const std::string server = co_await look_at_instance(services, instance);
        world.push_back(fmt::format("{} ({}): volume {} {}, PostgreSQL {}", ref,
                                    catalog::to_string(branch.state), branch.volume, volume,
                                    server));
    }
    co_return world;
}

std::string next_of(const Job& job) {
    const auto row = jobs::row_of(job, job.step);
    const std::string purpose = row ? job.steps[*row].purpose : "";
    const std::string step = fmt::format("{} ({})", job.step, purpose);
    if (job.state == JobState::kStuck) return "nothing, until: bpg job retry " + job.id;
    if (jobs::is_final(job.state)) return "nothing: it has ended";
    if (job.direction == Direction::kUndo) return "undo " + step;
    if (job.direction == Direction::kRewind) {
        return fmt::format("undo {}, back to {}, then forward again", step, job.rewind_to);
    }
    switch (job.state) {
        case JobState::kQueued:
            return "begin with " + step;
        case JobState::kRetrying:
            return "try again: " + step;
        default:
            return "finish " + step;
    }
}

/// Who holds a lock that the job needs and does not have.
json holder_of(const jobs::Queue& queue, const Job& job) {
    const std::size_t row = jobs::row_of(job, job.step).value_or(0);
    for (const jobs::Lock& lock : job.locks) {
        if (lock.held || !jobs::needs(job, lock, row) || jobs::is_final(job.state)) continue;
        const auto obstacle = queue.locks().obstacle(job.number, lock);
        if (!obstacle) continue;
        const Job& holder = queue.open_job(obstacle->job);
        return {{"job", holder.id},
                {"operation", holder.operation},
                {"target", holder.target},
                {"step", holder.step},
                {"state", std::string(to_string(holder.state))},
                {"lock", obstacle->shown_as}};
    }
    return nullptr;
}

}  // namespace

asio::awaitable<json> explain(Services& services, const jobs::Queue& queue, Job job) {
    json done = json::array();
    for (const jobs::StepRecord& step : job.steps) {
        if (step.state == "done") done.push_back(step.name);
    }
    json explained{{"done", std::move(done)},
                   {"step", job.step},
                   {"next", next_of(job)},
                   {"held_by", holder_of(queue, job)}};
    explained["world"] = co_await look_at_world(services, branches_of(job));
    co_return explained;
}

}  // namespace bpg::operations
