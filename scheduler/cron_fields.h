// Cron within scheduler/: reading the text of an expression into fields, and civil arithmetic on
// fields. Nobody else needs this; cron_expression.h is what others include.
#pragma once

#include <absl/time/civil_time.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/absl_time.h"
#include "scheduler/cron_expression.h"

namespace bpg::scheduler {

/// The fields in the order of six; five begin with the minute.
enum CronField : std::size_t { kSecond, kMinute, kHour, kDay, kMonth, kWeekday, kFieldCount };

struct CronRange {
    std::string_view name;
    int low = 0;
    int high = 0;
};
inline constexpr std::array<CronRange, kFieldCount> kCronRanges{{{"second", 0, 59},
                                                                 {"minute", 0, 59},
                                                                 {"hour", 0, 23},
                                                                 {"day-of-month", 1, 31},
                                                                 {"month", 1, 12},
                                                                 {"day-of-week", 0, 7}}};

/// What read_cron() found, with what is worth a warning.
struct CronText {
    CronFields fields;
    std::optional<std::chrono::microseconds> interval;
    std::vector<std::string> uneven_steps;  ///< sentences
    int longest_day = 0;
};

/// Throws kInvalid `cron_invalid`.
CronText read_cron(std::string_view text, std::string_view schedule_name);

/// The days of a month that fit, bits 1-31; none where the month does not.
std::uint32_t fitting_days(const CronFields& fields, absl::CivilMonth month);

/// The first civil time at or after `from` that fits; nothing when there is none before 10000.
std::optional<absl::CivilSecond> next_civil(const CronFields& fields, absl::CivilSecond from);

/// The first change of the clock later than `after`: when, and from which civil time to which.
struct ClockChange {
    absl::Time at;
    absl::CivilSecond from;
    absl::CivilSecond to;
    bool is_gap() const { return to > from; }
};
std::optional<ClockChange> next_change(const absl::TimeZone& zone, absl::Time after);
/// The last change at or before `at`.
std::optional<ClockChange> last_change(const absl::TimeZone& zone, absl::Time at);

}  // namespace bpg::scheduler
