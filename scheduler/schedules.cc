#include "scheduler/schedules.h"

#include "orchestrator/base/error.h"
#include "orchestrator/base/json.h"
#include "orchestrator/base/log.h"

namespace bpg::scheduler {
namespace {

using jobs::kinds::kSchedule;

Schedules::Entry entry_of(Schedule schedule) {
    Schedules::Entry entry;
    try {
        entry.zone = load_zone(schedule.tz);
        entry.expression = CronExpression::parse(schedule.cron, schedule.name, schedule.created_at);
    } catch (const Error& error) {
        entry.broken = error.info().message;
    }
    entry.schedule = std::move(schedule);
    return entry;
}

}  // namespace

void Schedules::load(const jobs::Store& store) {
    store.scan(kSchedule, [this](std::string_view, std::string_view value) {
        place(schedule_from_record(nlohmann::json::parse(value)));
        return true;
    });
}

const Schedules::Entry* Schedules::find(const std::string& name) const {
    const auto found = entries_.find(name);
    return found == entries_.end() ? nullptr : &found->second;
}

const Schedules::Entry& Schedules::get(const std::string& name) const {
    if (const Entry* found = find(name)) return *found;
    throw Error(ErrorKind::kNotFound, "schedule_not_found",
                "there is no schedule \"" + log::printable(name) + "\"",
                "it was never made, or it was deleted", "bpg schedule list shows what there is");
}

std::vector<const Schedule*> Schedules::of_target(std::string_view target) const {
    std::vector<const Schedule*> found;
    for (const auto& [name, entry] : entries_) {
        if (entry.schedule.target == target) found.push_back(&entry.schedule);
    }
    return found;
}

std::vector<std::string> Schedules::due(WallTime now) const {
    std::vector<std::string> names;
    for (const auto& [time, name] : by_fire_) {
        if (time > now) break;
        names.push_back(name);
    }
    return names;
}

void Schedules::put(const Schedule& schedule, jobs::Batch& batch) {
    batch.put(std::string(kSchedule) + schedule.name, json_text(to_record(schedule)));
    place(schedule);
}

void Schedules::remove(const std::string& name, jobs::Batch& batch) {
    batch.remove(std::string(kSchedule) + name);
    forget(name);
}

void Schedules::retarget(const std::string& from, const std::string& to, jobs::Batch& batch) {
    std::vector<Schedule> changed;
    for (const auto& [name, entry] : entries_) {
        const std::string& target = entry.schedule.target;
        const bool is_it = target == from;
        const bool is_below = target.starts_with(from + "/");
        if (!is_it && !is_below) continue;
        Schedule schedule = entry.schedule;
        schedule.target = to + target.substr(from.size());
        changed.push_back(std::move(schedule));
    }
    for (const Schedule& schedule : changed)
        put(schedule, batch);
}

void Schedules::place(Schedule schedule) {
    const std::string name = schedule.name;
    forget(name);
    if (!schedule.paused && schedule.next_fire) by_fire_.emplace(*schedule.next_fire, name);
    if (schedule.prune_due || schedule.queued_fire) waiting_.insert(name);
    entries_.insert_or_assign(name, entry_of(std::move(schedule)));
}

void Schedules::forget(const std::string& name) {
    const auto found = entries_.find(name);
    if (found == entries_.end()) return;
    const Schedule& schedule = found->second.schedule;
    if (schedule.next_fire) by_fire_.erase({*schedule.next_fire, name});
    waiting_.erase(name);
    entries_.erase(found);
}

}  // namespace bpg::scheduler
