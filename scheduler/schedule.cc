#include "scheduler/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "orchestrator/base/error.h"
#include "orchestrator/base/id.h"

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
                                                retention, days, overlap, catch_up, paused,
                                                pause_reason, created_at, handled_until, last_fire,
                                                next_fire, last_job, queued_fire, queued_for,
                                                prune_due, prune_is_forced, missed, overlap_skipped,
                                                refusal)

namespace {

constexpr std::chrono::minutes kBackMax = kClockTolerance;
constexpr std::chrono::hours kForwardMax{3};
constexpr int kDaysMax = 36'500;
constexpr std::chrono::hours kCatchUpMax{366 * 24};
constexpr std::string_view kSnapshot = "snapshot";
constexpr std::string_view kWalCleanup = "wal-cleanup";
constexpr std::string_view kPrune = "prune";
constexpr std::array<std::string_view, 6> kDeletingOperations{
    kPrune, kWalCleanup, "snapshot-delete", "branch-delete", "db-delete", "trash-purge"};

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
    return is_deletion || prunes(schedule);
}

bool prunes(const Schedule& schedule) {
    return schedule.op == kSnapshot && (schedule.retention.let_go() || schedule.days);
}

std::map<std::string, std::string> job_parameters(const Schedule& schedule) {
    auto parameters = schedule.parameters;
    if (!schedule.target.empty()) parameters["target"] = schedule.target;
    if (schedule.days && schedule.op == kWalCleanup) {
        parameters["days"] = std::to_string(*schedule.days);
    }
    return parameters;
}

namespace {

void check_days(const Schedule& schedule) {
    const std::string& op = schedule.op;
    const bool takes_days = op == kSnapshot || op == kWalCleanup || op == kPrune;
    if (schedule.days && !takes_days) {
        throw Error(ErrorKind::kInvalid, "days_invalid", op + " takes no --days",
                    "days are of WAL: of snapshot, wal-cleanup and prune", "leave out --days");
    }
    if (op == kWalCleanup && !schedule.days) {
        throw Error(ErrorKind::kInvalid, "days_invalid", "wal-cleanup needs --days",
                    "it says for how long every point in time stays restorable",
                    "for example --days 7");
    }
    if (schedule.days && (*schedule.days < 0 || *schedule.days > kDaysMax)) {
        throw Error(ErrorKind::kInvalid, "days_invalid",
                    fmt::format("{} is no number of days", *schedule.days),
                    fmt::format("it is 0 to {}", kDaysMax), "for example --days 7");
    }
}

}  // namespace

void check_schedule(const Schedule& schedule) {
    check_name("schedule", schedule.name);
    check_keep_rules(schedule.retention);
    if (schedule.op != kSnapshot && schedule.retention != KeepRules{}) {
        throw Error(ErrorKind::kInvalid, "keep_invalid", schedule.op + " takes no --keep rules",
                    "a schedule removes only snapshots that it made itself",
                    "give them with --op snapshot");
    }
    check_days(schedule);
    if (schedule.catch_up < std::chrono::milliseconds(0) || schedule.catch_up > kCatchUpMax) {
        throw Error(ErrorKind::kInvalid, "catch_up_invalid",
                    "\"" + format_duration(schedule.catch_up) + "\" is too long to catch up",
                    "it is 0s to 366d", "for example --catch-up 24h");
    }
    load_zone(schedule.tz);
    CronExpression::parse(schedule.cron, schedule.name, schedule.created_at);
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
