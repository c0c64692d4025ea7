#include "scheduler/schedule.h"

#include <algorithm>
#include <array>

template <>
struct nlohmann::adl_serializer<std::chrono::milliseconds> {
    static void to_json(nlohmann::json& out, std::chrono::milliseconds value) {
        out = value.count();
    }
    static void from_json(const nlohmann::json& in, std::chrono::milliseconds& value) {
        value = std::chrono::milliseconds(in.get<std::int64_t>());
    }
};

namespace bpg::scheduler {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(Schedule, name, cron, tz, op, target, parameters,
                                                retention, overlap, catch_up, paused, pause_reason,
                                                created_at, handled_until, last_fire, next_fire,
                                                last_job, missed, overlap_skipped)

namespace {

constexpr std::chrono::minutes kBackMax = kClockTolerance;
constexpr std::chrono::hours kForwardMax{3};
constexpr std::array<std::string_view, 6> kDeletingOperations{
    "prune", "wal-cleanup", "snapshot-delete", "branch-delete", "db-delete", "trash-purge"};

}  // namespace

nlohmann::json to_record(const Schedule& schedule) {
    nlohmann::json record = schedule;
    add_unknown(record, schedule.unknown);
    return record;
}

Schedule schedule_from_record(const nlohmann::json& record) {
    static const nlohmann::json known = Schedule{};
    auto schedule = record.get<Schedule>();
    schedule.unknown = unknown_members(record, known);
    return schedule;
}

Decision decide(const Schedule& schedule, const CronExpression& expression,
                const absl::TimeZone& zone, WallTime now) {
    Decision decision;
    const WallTime since = std::max(schedule.handled_until, schedule.created_at);
    decision.handled_until = std::max(since, now);
    if (schedule.paused) return decision;
    decision.next = expression.next_fire_time(decision.handled_until, zone);
    const auto newest = expression.last_fire_time(since, now, zone);
    if (!newest) {
        decision.handled_until = since;  // nothing to record
        return decision;
    }
    const auto window = std::max<std::chrono::microseconds>(schedule.catch_up, kOnTime);
    // The window holds `now - window` itself; ranges of fires are open at their beginning.
    const WallTime oldest = std::max(since, now - window - std::chrono::microseconds(1));
    const FireCount late = expression.count_fires(oldest, now, zone, kFiresCountedMax);
    const FireCount lost = expression.count_fires(since, oldest, zone, kFiresCountedMax);
    if (late.fires > 0) decision.fire = newest;
    decision.stands_for = late.fires;
    decision.missed = lost.fires;
    decision.is_count_capped = late.is_more || lost.is_more;
    return decision;
}

bool deletes(const Schedule& schedule) {
    const bool is_deletion = std::find(kDeletingOperations.begin(), kDeletingOperations.end(),
                                       schedule.op) != kDeletingOperations.end();
    return is_deletion || (schedule.op == "snapshot" && schedule.retention.let_go());
}

ClockJump clock_jump(const ClockReading& before, const ClockReading& after) {
    const auto set = (after.wall - before.wall) - (after.boot - before.boot);
    if (set <= -kBackMax) return ClockJump::kBack;
    return set >= kForwardMax ? ClockJump::kForward : ClockJump::kNone;
}

bool starts_in_the_past(WallTime last_recorded, WallTime now) {
    return now < last_recorded - kClockTolerance;
}

bool pause_for_clock(Schedule& schedule) {
    if (schedule.paused || !deletes(schedule)) return false;
    schedule.paused = true;
    schedule.pause_reason = kPausedByClock;
    return true;
}

}  // namespace bpg::scheduler
