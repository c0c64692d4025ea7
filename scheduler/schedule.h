// A schedule as it is stored, and the decisions about it that need no clock, store or loop: which
// fire is due, which were missed, what a jump of the wall clock means.
//
// A fire is known by its schedule and its nominal time. `handled_until` is how far fires have been
// dealt with: enqueued, counted as missed, or passed while the schedule was paused. It only grows,
// and is written in the same commit as the job, so no fire happens twice and none is lost. Making a
// schedule, resuming it, and changing its expression or zone set it to that moment.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "orchestrator/base/clock.h"
#include "orchestrator/base/json.h"
#include "scheduler/cron_expression.h"
#include "scheduler/retention.h"

namespace bpg::scheduler {

/// What a fire does while the job of the one before is open.
enum class Overlap {
    kSkip,   ///< nothing; it is counted
    kQueue,  ///< waits, one of them at most
};
NLOHMANN_JSON_SERIALIZE_ENUM(Overlap, {{Overlap::kSkip, "skip"}, {Overlap::kQueue, "queue"}})

/// Why a schedule is paused that nobody paused.
inline constexpr std::string_view kPausedByClock = "clock";
inline constexpr std::chrono::milliseconds kCatchUpDefault = std::chrono::hours(24);
/// A fire that is handled this late is on time: `--catch-up 0s` is about fires that were missed.
inline constexpr std::chrono::minutes kOnTime{1};
/// More fires than these are not counted one by one.
inline constexpr std::uint64_t kFiresCountedMax = 10'000;

/// Why a fire became no job.
struct FireRefusal {
    std::string code;
    std::string message;
    std::string detail;
    WallTime at{};

    bool operator==(const FireRefusal&) const = default;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(FireRefusal, code, message, detail, at)

struct Schedule {
    std::string name;
    std::string cron;
    std::string tz = "UTC";
    std::string op;  ///< as in `bpg job submit`
    std::string target;
    std::map<std::string, std::string> parameters;  ///< of the operation, but for the target
    KeepRules retention;                            ///< of the snapshots that this schedule makes
    /// Of a snapshot, wal-cleanup or prune: every time of the last N days stays restorable, and
    /// WAL that none of them needs goes.
    std::optional<int> days;
    Overlap overlap = Overlap::kSkip;
    std::chrono::milliseconds catch_up = kCatchUpDefault;
    bool paused = false;
    std::string pause_reason;
    WallTime created_at{};
    WallTime handled_until{};
    std::optional<WallTime> last_fire;  ///< nominal, of the last one that became a job
    std::optional<WallTime> next_fire;
    std::string last_job;
    std::optional<WallTime> queued_fire;  ///< nominal; it waits for the job of the one before
    std::uint64_t queued_for = 0;         ///< fires that it stands for
    bool prune_due = false;               ///< once last_job has succeeded
    bool prune_is_forced = false;
    std::uint64_t missed = 0;  ///< fires since it was made that ran neither on time nor late
    std::uint64_t overlap_skipped = 0;  ///< fires since it was made
    /// Of the last fire or prune that could not become a job; gone with the next that can.
    std::optional<FireRefusal> refusal;
    nlohmann::json unknown;  ///< what a later version wrote into its record, as it is
};

/// The stored record; what a later version wrote into it stays.
nlohmann::json to_record(const Schedule& schedule);
Schedule schedule_from_record(const nlohmann::json& record);

/// What to do about a schedule now.
struct Decision {
    std::optional<WallTime> fire;  ///< nominal time of the fire to enqueue
    std::uint64_t stands_for = 0;  ///< fires within catch_up that this one is run for, with itself
    std::uint64_t missed = 0;      ///< fires that are too old, and are only counted
    bool is_count_capped = false;  ///< there were more than the counts say
    WallTime handled_until{};      ///< to be recorded with it
    std::optional<WallTime> next;  ///< when to look again; nothing while paused

    bool operator==(const Decision&) const = default;
};
/// Of all fires in (handled_until, now] the newest runs, if it is within catch_up. A clock that is
/// behind `handled_until` makes nothing due: what has fired does not fire again.
Decision decide(const Schedule& schedule, const CronExpression& expression,
                const absl::TimeZone& zone, WallTime now);

/// A prune, a cleanup, a delete, a snapshot that is followed by a prune: a wrong clock must not run
/// these.
bool deletes(const Schedule& schedule);
/// After each of its snapshots those go that its rules let go, and WAL with them.
bool prunes(const Schedule& schedule);
/// The parameters of its operation, as in `bpg job submit`.
std::map<std::string, std::string> job_parameters(const Schedule& schedule);

/// Throws kInvalid: `name_invalid`, `keep_invalid`, `days_invalid`, `catch_up_invalid`,
/// `timezone_unknown`, `cron_invalid`, `cron_never_fires`.
void check_schedule(const Schedule& schedule);

/// Two clocks read together.
struct ClockReading {
    WallTime wall{};
    std::chrono::microseconds boot{};  ///< CLOCK_BOOTTIME: counts suspended time, is never set
};
enum class ClockJump { kNone, kBack, kForward };
/// Whether the wall clock was set between two readings: 5 minutes back or more, or 3 hours forward
/// or more.
ClockJump clock_jump(const ClockReading& before, const ClockReading& after);
/// Whether a start at `now` is more than 5 minutes before the last time that was recorded.
bool starts_in_the_past(WallTime last_recorded, WallTime now);
/// Pauses it if it deletes and is not paused already; true when that changed it.
bool pause_for_clock(Schedule& schedule);

}  // namespace bpg::scheduler
