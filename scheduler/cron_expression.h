// When a schedule fires. The dialect: five fields, or six with seconds first; names, lists, ranges,
// steps, weekdays 0-7, L, LW, nW, d#n, dL, H, @hourly … @yearly, and "@every D". Pure and bounded:
// no clock is read, nothing loops without an end, and what can never fire is refused when read.
//
// Days. A day field that begins with `*` (also `*/2`) is open, any other is restricted. Are both
// restricted, a day fires that fits either; else one that fits both (Vixie's rule).
//
// Daylight saving. With an hour field `*` an expression follows elapsed time: it fires whenever the
// clock on the wall shows a time that fits, so twice in an hour that comes twice, and not for what
// a gap left out. Any other fires once for each local time that fits: one that is skipped right
// after the gap, one that comes twice when it comes first. What falls on one instant is one fire.
// "@every D" knows no zone: the schedule's creation + D, + 2 D …
#pragma once

#include <absl/time/time.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "orchestrator/base/clock.h"

namespace bpg::scheduler {

/// By its IANA name ("Europe/Berlin", "UTC"). Throws kInvalid `timezone_unknown`. Reads a file the
/// first time a name is asked for.
absl::TimeZone load_zone(std::string_view name);

/// "2027-03-28 03:00:00 CEST"
std::string local_time_text(WallTime time, const absl::TimeZone& zone);

/// What an expression means, resolved: bit n of a set stands for value n.
struct CronFields {
    std::uint64_t seconds = 0;
    std::uint64_t minutes = 0;
    std::uint32_t hours = 0;
    std::uint32_t days = 0;      ///< 1-31
    std::uint32_t months = 0;    ///< 1-12
    std::uint32_t weekdays = 0;  ///< 0-6, Sunday is 0

    bool last_day = false;                       ///< L
    bool last_workday = false;                   ///< LW
    std::uint32_t nearest_workday = 0;           ///< nW: days 1-31
    std::uint32_t last_weekdays = 0;             ///< dL: 0-6
    std::array<std::uint32_t, 7> nth_weekday{};  ///< d#n: of weekday d, bits 1-5

    bool any_hour = false;       ///< the hour field is `*`: follows elapsed time
    bool open_days = false;      ///< the field begins with `*`
    bool open_weekdays = false;  ///< the field begins with `*`

    bool operator==(const CronFields&) const = default;
};

/// One fire as it is shown to users.
struct Occurrence {
    WallTime at{};
    std::string local;  ///< local_time_text()
    std::string note;   ///< what daylight saving does to it; mostly empty
};

/// Fires in a range, counted up to a limit.
struct FireCount {
    std::uint64_t fires = 0;
    bool is_more = false;  ///< there are more, and nobody counted them

    bool operator==(const FireCount&) const = default;
};

class CronExpression {
  public:
    /// `name` and `created_at` are the schedule's: what H is made from, and what @every counts
    /// from. Throws kInvalid `cron_invalid` with field and position, or `cron_never_fires`.
    static CronExpression parse(std::string_view text, std::string_view name, WallTime created_at);

    /// The first fire later than `after`. Nothing only beyond the year 9999.
    std::optional<WallTime> next_fire_time(WallTime after, const absl::TimeZone& zone) const;

    /// The newest fire in (since, until]; costs some tens of next_fire_time.
    std::optional<WallTime> last_fire_time(WallTime since, WallTime until,
                                           const absl::TimeZone& zone) const;

    /// Fires in (since, until]: exact up to `limit`, which bounds the time it takes.
    FireCount count_fires(WallTime since, WallTime until, const absl::TimeZone& zone,
                          std::uint64_t limit) const;

    /// The next `count` fires after `after`, with their remarks.
    std::vector<Occurrence> upcoming(WallTime after, const absl::TimeZone& zone,
                                     std::size_t count) const;

    /// What daylight saving does to this fire, in a sentence; empty where it does nothing.
    std::string note(WallTime fire, const absl::TimeZone& zone) const;

    /// In plain words: "at 02:30 on Monday to Friday".
    std::string describe() const;

    /// What its author may not have meant, a sentence each. The zone is looked at for three years
    /// from `now`.
    std::vector<std::string> warnings(const absl::TimeZone& zone, WallTime now) const;

    const std::string& text() const { return text_; }
    /// Of "@every D"; nothing for any other.
    std::optional<std::chrono::microseconds> interval() const { return interval_; }
    const CronFields& fields() const { return fields_; }
    bool follows_elapsed_time() const { return interval_ || fields_.any_hour; }

  private:
    CronExpression() = default;

    std::optional<WallTime> next_interval(WallTime after) const;
    std::optional<absl::Time> next_elapsed(absl::Time from, const absl::TimeZone& zone) const;
    std::optional<absl::Time> next_local(absl::Time after, const absl::TimeZone& zone) const;
    std::vector<std::string> step_warnings() const;
    std::vector<std::string> day_warnings() const;
    std::vector<std::string> clock_warnings(const absl::TimeZone& zone, WallTime now) const;

    std::string text_;
    CronFields fields_;
    std::optional<std::chrono::microseconds> interval_;
    WallTime anchor_{};
    /// As written and not by H: what warnings speak about.
    std::vector<std::string> uneven_steps_;
    int longest_day_ = 0;  ///< the highest single day of the month in the text
};

}  // namespace bpg::scheduler
