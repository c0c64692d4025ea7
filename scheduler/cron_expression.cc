#include "scheduler/cron_expression.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "orchestrator/base/error.h"
#include "scheduler/cron_fields.h"

namespace bpg::scheduler {
namespace {

constexpr int kYearMax = 9999;
constexpr WallTime kEnd = std::chrono::sys_days(std::chrono::year(kYearMax) / 12 / 31);
/// The calendar repeats after 400 years: what does not fire in them never does.
constexpr int kMonthsOfCycle = 400 * 12;
/// Far more clock changes than stand between any time and the next fire.
constexpr int kChangesMax = 2000;
constexpr std::uint32_t kFirstOfWeeks =
    (1U << 1U) | (1U << 8U) | (1U << 15U) | (1U << 22U) | (1U << 29U);  // days 1, 8, 15, 22, 29

/// The lowest bit of `set` that is not below `from`; -1 when there is none.
int next_bit(std::uint64_t set, int from) {
    if (from > 63) return -1;
    const std::uint64_t rest = set & (~std::uint64_t{0} << static_cast<unsigned>(from));
    return rest == 0 ? -1 : std::countr_zero(rest);
}

int days_in(absl::CivilMonth month) {
    return static_cast<int>(absl::CivilDay(month + 1) - absl::CivilDay(month));
}

/// 0-6, Sunday is 0.
int weekday_of(absl::CivilDay day) {
    return (static_cast<int>(absl::GetWeekday(day)) + 1) % 7;  // Abseil begins with Monday
}

/// The day of Monday to Friday that is nearest to `day` and in the same month.
int nearest_workday(int day, int weekday, int length) {
    if (weekday == 6) return day == 1 ? 3 : day - 1;
    if (weekday == 0) return day == length ? day - 2 : day + 1;
    return day;
}

std::uint32_t month_days(const CronFields& fields, int first_weekday, int length) {
    std::uint32_t days = fields.days;
    const auto bit = [](int day) { return 1U << static_cast<unsigned>(day); };
    const auto weekday = [first_weekday](int day) { return (first_weekday + day - 1) % 7; };
    if (fields.last_day) days |= bit(length);
    if (fields.last_workday) days |= bit(nearest_workday(length, weekday(length), length));
    for (int day = next_bit(fields.nearest_workday, 1); day > 0 && day <= length;
         day = next_bit(fields.nearest_workday, day + 1)) {
        days |= bit(nearest_workday(day, weekday(day), length));
    }
    return days;
}

std::uint32_t week_days(const CronFields& fields, int first_weekday, int length) {
    std::uint32_t days = 0;
    for (int weekday = 0; weekday < 7; ++weekday) {
        const int first = 1 + (weekday - first_weekday + 7) % 7;
        const std::uint32_t all = kFirstOfWeeks << static_cast<unsigned>(first - 1);
        if ((fields.weekdays >> static_cast<unsigned>(weekday) & 1U) != 0) days |= all;
        const std::uint32_t nth = fields.nth_weekday[static_cast<std::size_t>(weekday)];
        for (int n = next_bit(nth, 1); n > 0; n = next_bit(nth, n + 1)) {
            const int day = first + 7 * (n - 1);
            if (day <= length) days |= 1U << static_cast<unsigned>(day);
        }
        if ((fields.last_weekdays >> static_cast<unsigned>(weekday) & 1U) != 0) {
            days |= 1U << static_cast<unsigned>(first + (length - first) / 7 * 7);
        }
    }
    return days;
}

struct TimeOfDay {
    int hour = 0;
    int minute = 0;
    int second = 0;
};

/// The first time of day at or after `from` that fits.
std::optional<TimeOfDay> next_time(const CronFields& fields, TimeOfDay from) {
    const int first_minute = next_bit(fields.minutes, 0);
    const int first_second = next_bit(fields.seconds, 0);
    int hour = next_bit(fields.hours, from.hour);
    if (hour == from.hour) {
        int minute = next_bit(fields.minutes, from.minute);
        if (minute == from.minute) {
            const int second = next_bit(fields.seconds, from.second);
            if (second >= 0) return TimeOfDay{hour, minute, second};
            minute = next_bit(fields.minutes, from.minute + 1);
        }
        if (minute >= 0) return TimeOfDay{hour, minute, first_second};
        hour = next_bit(fields.hours, from.hour + 1);
    }
    if (hour < 0) return std::nullopt;
    return TimeOfDay{hour, first_minute, first_second};
}

/// When a civil time happens: one that is skipped right after the gap, one that comes twice first.
absl::Time first_pass(const absl::TimeZone& zone, absl::CivilSecond civil) {
    const absl::TimeZone::TimeInfo info = zone.At(civil);
    return info.kind == absl::TimeZone::TimeInfo::SKIPPED ? info.trans : info.pre;
}

ClockChange change_of(const absl::TimeZone& zone, const absl::TimeZone::CivilTransition& change) {
    return {zone.At(change.to).trans, change.from, change.to};
}

absl::Time whole_second(WallTime time) {
    return absl::FromUnixSeconds(
        std::chrono::floor<std::chrono::seconds>(time.time_since_epoch()).count());
}

}  // namespace

std::optional<ClockChange> next_change(const absl::TimeZone& zone, absl::Time after) {
    absl::TimeZone::CivilTransition change;
    while (zone.NextTransition(after, &change)) {
        const ClockChange found = change_of(zone, change);
        if (found.from != found.to) return found;
        after = found.at;  // only the name of the time changes
    }
    return std::nullopt;
}

std::optional<ClockChange> last_change(const absl::TimeZone& zone, absl::Time at) {
    absl::TimeZone::CivilTransition change;
    absl::Time before = at + absl::Seconds(1);
    while (zone.PrevTransition(before, &change)) {
        const ClockChange found = change_of(zone, change);
        if (found.from != found.to) return found;
        before = found.at;
    }
    return std::nullopt;
}

std::uint32_t fitting_days(const CronFields& fields, absl::CivilMonth month) {
    if ((fields.months >> static_cast<unsigned>(month.month()) & 1U) == 0) return 0;
    const int length = days_in(month);
    const int first_weekday = weekday_of(absl::CivilDay(month));
    const std::uint32_t by_month = month_days(fields, first_weekday, length);
    const std::uint32_t by_week = week_days(fields, first_weekday, length);
    const bool is_either = !fields.open_days && !fields.open_weekdays;
    const std::uint32_t whole = ((2U << static_cast<unsigned>(length)) - 1) & ~1U;
    return (is_either ? by_month | by_week : by_month & by_week) & whole;
}

std::optional<absl::CivilSecond> next_civil(const CronFields& fields, absl::CivilSecond from) {
    absl::CivilMonth month(from);
    std::uint32_t days = fitting_days(fields, month) & (~0U << static_cast<unsigned>(from.day()));
    TimeOfDay earliest{from.hour(), from.minute(), from.second()};
    int day = from.day();
    for (int months = 0; months <= kMonthsOfCycle && month.year() <= kYearMax; ++months) {
        while (days != 0) {
            const int found = std::countr_zero(days);
            if (found != day) earliest = {};
            if (const auto time = next_time(fields, earliest)) {
                return absl::CivilSecond(month.year(), month.month(), found, time->hour,
                                         time->minute, time->second);
            }
            days &= days - 1;
        }
        ++month;
        days = fitting_days(fields, month);
        earliest = {};
        day = 0;
    }
    return std::nullopt;
}

absl::TimeZone load_zone(std::string_view name) {
    // Abseil would also take a path, "localtime", and other names that are no IANA ones.
    constexpr std::size_t kNameMax = 64;
    const bool is_plain = !name.empty() && name.size() <= kNameMax && name.front() >= 'A' &&
                          name.front() <= 'Z' && name.find("..") == std::string_view::npos &&
                          std::all_of(name.begin(), name.end(), [](char c) {
                              return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                                     (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '+' ||
                                     c == '/';
                          });
    absl::TimeZone zone;
    if (is_plain && !name.starts_with("Fixed/") &&
        absl::LoadTimeZone(absl::string_view(name.data(), name.size()), &zone)) {
        return zone;
    }
    std::string shown(name.substr(0, kNameMax));
    for (char& c : shown) {
        if (c < ' ' || c > '~') c = '?';
    }
    const bool has_any = absl::LoadTimeZone("Europe/London", &zone);
    throw Error(ErrorKind::kInvalid, "timezone_unknown",
                fmt::format("there is no time zone \"{}\"", shown),
                has_any ? "it is in the system's time zone database by no such name"
                        : "this machine has no time zone database",
                has_any ? "write an IANA name, for example Europe/Berlin or UTC"
                        : "install the package tzdata, or use UTC");
}

std::string local_time_text(WallTime time, const absl::TimeZone& zone) {
    return absl::FormatTime("%E4Y-%m-%d %H:%M:%S %Z", to_absl(time), zone);
}

CronExpression CronExpression::parse(std::string_view text, std::string_view name,
                                     WallTime created_at) {
    CronText read = read_cron(text, name);
    CronExpression expression;
    expression.text_ = text;
    expression.fields_ = read.fields;
    expression.interval_ = read.interval;
    expression.anchor_ = created_at;
    expression.uneven_steps_ = std::move(read.uneven_steps);
    expression.longest_day_ = read.longest_day;
    if (!expression.interval_ && !next_civil(read.fields, absl::CivilSecond(2000, 1, 1))) {
        throw Error(ErrorKind::kInvalid, "cron_never_fires",
                    fmt::format("the cron expression \"{}\" never fires", expression.text_),
                    "no month that it names has such a day",
                    "correct the day-of-month, month or day-of-week field; L is the last day");
    }
    return expression;
}

std::optional<WallTime> CronExpression::next_interval(WallTime after) const {
    if (after < anchor_) return anchor_ + *interval_;
    const auto passed = (after - anchor_) / *interval_;
    return anchor_ + (passed + 1) * *interval_;
}

std::optional<absl::Time> CronExpression::next_elapsed(absl::Time from,
                                                       const absl::TimeZone& zone) const {
    for (int changes = 0; changes < kChangesMax; ++changes) {
        const absl::CivilSecond local = zone.At(from).cs;
        const auto civil = next_civil(fields_, local);
        if (!civil) return std::nullopt;
        // Until the clock changes, local time is elapsed time.
        const absl::Time fire = from + absl::Seconds(*civil - local);
        const auto change = next_change(zone, from);
        if (!change || fire < change->at) return fire;
        from = change->at;
        if (change->to < local) continue;  // it repeats times that were passed over here
        const absl::TimeZone::TimeInfo info = zone.At(*civil);
        if (info.kind != absl::TimeZone::TimeInfo::SKIPPED) return info.pre;
        from = info.trans;
    }
    return std::nullopt;
}

std::optional<absl::Time> CronExpression::next_local(absl::Time after,
                                                     const absl::TimeZone& zone) const {
    const absl::CivilSecond local = zone.At(after).cs;
    absl::CivilSecond from = local + 1;
    const absl::TimeZone::TimeInfo info = zone.At(local);
    if (info.kind == absl::TimeZone::TimeInfo::REPEATED && after >= info.trans) {
        // The second pass: what is left of it has had its turn in the first.
        if (const auto change = last_change(zone, after)) from = std::max(from, change->from);
    }
    while (const auto civil = next_civil(fields_, from)) {
        const absl::Time fire = first_pass(zone, *civil);
        if (fire > after) return fire;
        from = *civil + 1;
    }
    return std::nullopt;
}

std::optional<WallTime> CronExpression::next_fire_time(WallTime after,
                                                       const absl::TimeZone& zone) const {
    if (after >= kEnd) return std::nullopt;
    if (interval_) return next_interval(after);
    const absl::Time second = whole_second(after);
    const auto fire =
        fields_.any_hour ? next_elapsed(second + absl::Seconds(1), zone) : next_local(second, zone);
    if (!fire) return std::nullopt;
    return from_absl(*fire);
}

std::optional<WallTime> CronExpression::last_fire_time(WallTime since, WallTime until,
                                                       const absl::TimeZone& zone) const {
    auto newest = next_fire_time(since, zone);
    if (!newest || *newest > until) return std::nullopt;
    // `newest` is a fire, nothing fires from `end` to `until`; halve what lies between.
    WallTime end = until;
    while (true) {
        const auto next = next_fire_time(*newest, zone);
        if (!next || *next > until) return newest;
        newest = next;
        const WallTime middle = *newest + (end - *newest) / 2;
        const auto later = next_fire_time(middle, zone);
        if (later && *later <= until) {
            newest = later;
        } else {
            end = middle;
        }
    }
}

FireCount CronExpression::count_fires(WallTime since, WallTime until, const absl::TimeZone& zone,
                                      std::uint64_t limit) const {
    if (until <= since) return {};
    if (interval_) {
        const auto whole = [this](WallTime time) {
            return time < anchor_ ? std::int64_t{0} : (time - anchor_) / *interval_;
        };
        const auto fires = static_cast<std::uint64_t>(whole(until) - whole(since));
        return {std::min(fires, limit), fires > limit};
    }
    FireCount count;
    auto fire = next_fire_time(since, zone);
    for (; fire && *fire <= until; fire = next_fire_time(*fire, zone)) {
        if (count.fires == limit) return {limit, true};
        ++count.fires;
    }
    return count;
}

std::vector<Occurrence> CronExpression::upcoming(WallTime after, const absl::TimeZone& zone,
                                                 std::size_t count) const {
    std::vector<Occurrence> fires;
    auto fire = next_fire_time(after, zone);
    for (; fire && fires.size() < count; fire = next_fire_time(*fire, zone)) {
        fires.push_back({*fire, local_time_text(*fire, zone), note(*fire, zone)});
    }
    return fires;
}

}  // namespace bpg::scheduler
