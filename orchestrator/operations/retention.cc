#include "orchestrator/operations/retention.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "orchestrator/operations/shared_snapshots.h"
#include "orchestrator/operations/wal_cleanup.h"
#include "orchestrator/operations/wal_holding.h"
#include "scheduler/schedules.h"
#include "scheduler/stable_hash.h"

namespace bpg::operations {
namespace {

using catalog::Branch;
using nlohmann::json;
using scheduler::RetentionInput;
using scheduler::RetentionPlan;
using scheduler::Schedule;

constexpr std::string_view kMadeBySchedule = "schedule:";

/// Those of a branch that have to do with what stays.
std::vector<const Schedule*> schedules_for(const Services& services, const Branch& branch) {
    std::vector<const Schedule*> found =
        services.schedules.of_target(services.catalog.ref_of(branch));
    std::erase_if(found, [](const Schedule* schedule) {
        return schedule->op != "snapshot" && !schedule->days;
    });
    return found;
}

std::optional<int> longest_window(const std::vector<const Schedule*>& schedules) {
    std::optional<int> days;
    for (const Schedule* schedule : schedules) {
        if (schedule->days) days = std::max(days.value_or(0), *schedule->days);
    }
    return days;
}

bool is_clock_suspect(const std::vector<const Schedule*>& schedules) {
    return std::any_of(schedules.begin(), schedules.end(), [](const Schedule* schedule) {
        return schedule->paused && schedule->pause_reason == scheduler::kPausedByClock;
    });
}

/// How far WAL leads from each base, by snapshot id; nothing: up to now.
std::optional<WallTime> reach_from(const wal::Holding& holding, const wal::Base& base) {
    const std::vector<wal::Window> windows = wal::windows(holding, {base});
    return windows.empty() ? std::optional(base.at) : windows.front().to;
}

/// Of everything that a point in time of the branch could be restored from.
std::vector<scheduler::SnapshotFacts> facts_of(const Services& services,
                                               const wal::Holding& holding,
                                               const std::vector<wal::Base>& bases) {
    std::vector<scheduler::SnapshotFacts> found;
    for (const wal::Base& base : bases) {
        const catalog::Snapshot* snapshot = services.catalog.snapshot_by_id(base.snapshot_id);
        if (snapshot == nullptr) continue;
        scheduler::SnapshotFacts facts;
        facts.id = snapshot->id;
        facts.at = base.at;
        facts.is_pinned = snapshot->pinned;
        facts.pins_wal = snapshot->pinned_with_wal;
        facts.has_branches = !services.catalog.branches_from(snapshot->id).empty() ||
                             services.shared_snapshots.is_claimed(snapshot->id);
        facts.reaches = reach_from(holding, base);
        found.push_back(std::move(facts));
    }
    return found;
}

/// One plan a schedule, each about what that one made; where there is none, one in which all stay.
std::vector<RetentionPlan> plan_each(RetentionInput input,
                                     const std::vector<const Schedule*>& makers,
                                     const std::map<std::string, std::string>& made_by) {
    if (makers.empty()) {
        input.zone = absl::UTCTimeZone();
        return {scheduler::plan_retention(input)};
    }
    std::vector<RetentionPlan> plans;
    for (const Schedule* maker : makers) {
        for (scheduler::SnapshotFacts& facts : input.snapshots)
            facts.is_own = made_by.at(facts.id) == made_by_schedule(maker->name);
        input.keep = maker->retention;
        input.zone = scheduler::load_zone(maker->tz);
        input.next_snapshot = maker->next_fire;
        plans.push_back(scheduler::plan_retention(input));
    }
    return plans;
}

/// The verdict about a snapshot is that of the schedule that made it.
void merge(std::vector<RetentionPlan> plans, const std::vector<const Schedule*>& makers,
           const std::map<std::string, std::string>& made_by, BranchRetention& merged) {
    const RetentionPlan& first = plans.front();
    for (std::size_t i = 0; i < first.verdicts.size(); ++i) {
        const std::string& id = first.verdicts[i].id;
        std::size_t judge = 0;
        for (std::size_t k = 0; k < makers.size(); ++k) {
            if (made_by.at(id) == made_by_schedule(makers[k]->name)) judge = k;
        }
        const scheduler::Verdict& verdict = plans[judge].verdicts[i];
        if (!verdict.is_kept()) merged.remove.push_back(id);
        merged.items.push_back({id, made_by.at(id), verdict});
    }
    merged.is_whole_window = first.wal.is_whole_window;
    for (std::size_t k = 0; k < plans.size(); ++k) {
        if (!merged.refusal) merged.refusal = plans[k].refusal;
        if (plans[k].note.empty() || makers.empty()) continue;
        merged.notes.push_back(fmt::format("schedule {}: {}", makers[k]->name, plans[k].note));
    }
    if (makers.empty()) merged.notes.emplace_back("no schedule takes snapshots of it");
}

std::string hash_of(const BranchRetention& plan) {
    scheduler::StableHash hash;
    for (const std::string& id : plan.remove)
        hash.add(id);
    hash.add("wal");
    if (plan.wal.keep_from) {
        hash.add(wal::segment_name(*plan.wal.keep_from, plan.segment_size));
    }
    return fmt::format("{:016x}", hash.value());
}

}  // namespace

std::string made_by_schedule(const std::string& schedule) {
    return std::string(kMadeBySchedule) + schedule;
}

asio::awaitable<BranchRetention> plan_retention(Services& services, RetentionQuery query) {
    const wal::Holding holding = co_await look_at_wal(services, query.branch_id);
    const Branch* branch = services.catalog.branch_by_id(query.branch_id);
    if (branch == nullptr) {
        throw Error(ErrorKind::kNotFound, "branch_gone", "the branch of this plan is gone");
    }
    std::vector<wal::Base> bases = bases_that_stay(services, *branch);
    const std::vector<const Schedule*> schedules = schedules_for(services, *branch);
    std::vector<const Schedule*> makers = schedules;
    std::erase_if(makers, [&query](const Schedule* one) {
        return one->op != "snapshot" || (!query.schedule.empty() && one->name != query.schedule);
    });

    BranchRetention plan;
    plan.segment_size = holding.segment_size;
    if (branch->archives) plan.days = longest_window(schedules);
    RetentionInput input;
    input.snapshots = facts_of(services, holding, bases);
    input.now = query.at;
    input.window_days = plan.days;
    input.max_fraction = query.is_forced ? 1.0 : services.settings.retention_max_fraction;
    input.is_clock_suspect = is_clock_suspect(schedules);
    const WallTime horizon = query.at - std::chrono::days(plan.days.value_or(0));
    if (plan.days) input.window_base = wal::plan_cleanup(holding, bases, horizon).base_snapshot;
    std::map<std::string, std::string> made_by;
    for (const scheduler::SnapshotFacts& facts : input.snapshots)
        made_by[facts.id] = services.catalog.snapshot_by_id(facts.id)->created_by;
    merge(plan_each(std::move(input), makers, made_by), makers, made_by, plan);

    std::erase_if(bases, [&plan](const wal::Base& base) {
        const auto& gone = plan.remove;
        return std::find(gone.begin(), gone.end(), base.snapshot_id) != gone.end();
    });
    if (plan.days) plan.wal = wal::plan_cleanup(holding, bases, horizon);
    plan.hash = hash_of(plan);
    co_return plan;
}

void check_same_plan(const std::string& agreed_hash, const BranchRetention& now) {
    if (agreed_hash == now.hash) return;
    throw Error(ErrorKind::kConflict, "retention_plan_changed",
                "the plan has changed since it was agreed to",
                fmt::format("it was {}, and is {} now", agreed_hash, now.hash),
                "look at bpg retention plan again");
}

json retention_json(const BranchRetention& plan) {
    json items = json::array();
    for (const auto& item : plan.items) {
        json rules = json::array();
        for (const scheduler::Keeper& keeper : item.verdict.kept_by)
            rules.push_back({{"rule", keeper.in_words()}, {"until", time_json(keeper.until)}});
        items.push_back({{"snapshot", item.snapshot_id},
                         {"created_by", item.created_by},
                         {"at", format_time(item.verdict.at)},
                         {"kept", item.verdict.is_kept()},
                         {"rules", std::move(rules)},
                         {"until", time_json(item.verdict.kept_until())}});
    }
    json wal = nullptr;
    if (plan.days) {
        wal = {{"days", *plan.days},
               {"whole_window", plan.is_whole_window},
               {"base_snapshot",
                plan.wal.base_snapshot.empty() ? json(nullptr) : json(plan.wal.base_snapshot)},
               {"keep_from", plan.wal.keep_from
                                 ? json(wal::segment_name(*plan.wal.keep_from, plan.segment_size))
                                 : json(nullptr)},
               {"segments", plan.wal.remove.size()},
               {"bytes", plan.wal.bytes},
               {"restorable", windows_json(plan.wal.windows)}};
    }
    return {{"items", std::move(items)},
            {"remove", plan.remove},
            {"wal", std::move(wal)},
            {"notes", plan.notes},
            {"refusal", plan.refusal ? json(*plan.refusal) : json(nullptr)},
            {"plan", plan.hash},
            {"summary", retention_in_words(plan)}};
}

std::vector<std::string> retention_in_words(const BranchRetention& plan) {
    std::vector<std::string> lines = plan.notes;
    lines.push_back(fmt::format("{} of {} snapshots go", plan.remove.size(), plan.items.size()));
    if (plan.days) {
        lines.push_back(fmt::format("{} segments of WAL go, {} bytes; {} days stay restorable",
                                    plan.wal.remove.size(), plan.wal.bytes, *plan.days));
        if (!plan.is_whole_window) {
            lines.emplace_back("no snapshot is as old as that yet: all WAL stays that one needs");
        }
    } else {
        lines.emplace_back("no schedule says --days: all WAL stays");
    }
    if (plan.refusal) {
        lines.push_back("it would be refused: " + plan.refusal->message + ": " +
                        plan.refusal->detail);
    }
    return lines;
}

}  // namespace bpg::operations
