// A cron expression in words: what it means, what its author may not have meant, and what daylight
// saving does to a fire.
#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "scheduler/cron_fields.h"

namespace bpg::scheduler {
namespace {

constexpr std::uint64_t kSixty = (std::uint64_t{1} << 60U) - 1;
constexpr std::uint32_t kAllHours = (1U << 24U) - 1;
constexpr std::uint32_t kAllDays = ~1U;
constexpr std::uint32_t kAllMonths = ((1U << 12U) - 1) << 1U;
constexpr std::uint32_t kAllWeekdays = (1U << 7U) - 1;
/// Times of day that are listed one by one.
constexpr int kTimesMax = 4;
constexpr int kYearsAhead = 3;

constexpr std::array<std::string_view, 13> kMonths{
    "",     "January", "February",  "March",   "April",    "May",     "June",
    "July", "August",  "September", "October", "November", "December"};
constexpr std::array<std::string_view, 7> kWeekdays{"Sunday",   "Monday", "Tuesday", "Wednesday",
                                                    "Thursday", "Friday", "Saturday"};
constexpr std::array<std::string_view, 6> kOrdinals{"",      "first",  "second",
                                                    "third", "fourth", "fifth"};
constexpr std::array<int, 13> kShortest{0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

std::vector<int> values(std::uint64_t set) {
    std::vector<int> found;
    for (; set != 0; set &= set - 1)
        found.push_back(std::countr_zero(set));
    return found;
}

std::string joined(const std::vector<std::string>& items) {
    std::string text;
    for (std::size_t i = 0; i < items.size(); ++i) {
        if (i > 0) text += i + 1 == items.size() ? " and " : ", ";
        text += items[i];
    }
    return text;
}

/// "1, 3 and 10 to 15"; three in a row and more are a range.
template <class Name>
std::string listed(const std::vector<int>& numbers, Name name) {
    std::vector<std::string> items;
    for (std::size_t i = 0; i < numbers.size();) {
        std::size_t end = i;
        while (end + 1 < numbers.size() && numbers[end + 1] == numbers[end] + 1)
            ++end;
        if (end - i < 2) end = i;
        items.push_back(end == i ? std::string(name(numbers[i]))
                                 : fmt::format("{} to {}", name(numbers[i]), name(numbers[end])));
        i = end + 1;
    }
    return joined(items);
}

std::string numbers(std::string_view noun, std::uint64_t set) {
    const auto all = values(set);
    return fmt::format("{}{} {}", noun, all.size() == 1 ? "" : "s",
                       listed(all, [](int n) { return std::to_string(n); }));
}

/// n, where `set` is 0, n, 2n … up to `span` without a shorter last step; 0 where it is not.
int even_step(std::uint64_t set, int span) {
    const auto all = values(set);
    if (all.size() < 2 || all[0] != 0) return 0;
    const int step = all[1];
    if (span % step != 0 || static_cast<int>(all.size()) != span / step) return 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
        if (all[i] != static_cast<int>(i) * step) return 0;
    }
    return step;
}

std::string hours_in_words(const CronFields& fields) {
    if (fields.any_hour) return "every hour";
    if (fields.hours == kAllHours) return "hours 0 to 23";
    return numbers("hour", fields.hours);
}

/// Empty when there are too many.
std::string times_of_day(const CronFields& fields) {
    const int count =
        std::popcount(fields.hours) * std::popcount(fields.minutes) * std::popcount(fields.seconds);
    if (fields.any_hour || count > kTimesMax) return "";
    std::vector<std::string> times;
    for (const int hour : values(fields.hours)) {
        for (const int minute : values(fields.minutes)) {
            for (const int second : values(fields.seconds)) {
                times.push_back(fields.seconds == 1
                                    ? fmt::format("{:02}:{:02}", hour, minute)
                                    : fmt::format("{:02}:{:02}:{:02}", hour, minute, second));
            }
        }
    }
    return "at " + joined(times);
}

std::string minutes_in_words(const CronFields& fields) {
    const std::string of_hours = fields.any_hour ? "" : " of " + hours_in_words(fields);
    if (fields.minutes == kSixty) return "every minute" + of_hours;
    if (const int step = even_step(fields.minutes, 60); step > 0)
        return fmt::format("every {} minutes{}", step, of_hours);
    return "at " + numbers("minute", fields.minutes) + " of " + hours_in_words(fields);
}

std::string time_in_words(const CronFields& fields) {
    if (auto times = times_of_day(fields); !times.empty()) return times;
    if (fields.seconds == 1) return minutes_in_words(fields);
    std::string text = "at " + numbers("second", fields.seconds);
    if (fields.seconds == kSixty) {
        text = "every second";
    } else if (const int step = even_step(fields.seconds, 60); step > 0) {
        text = fmt::format("every {} seconds", step);
    }
    if (fields.minutes == kSixty) {
        if (!text.starts_with("every")) text += " of every minute";
        return fields.any_hour ? text : text + " of " + hours_in_words(fields);
    }
    return text + " of " + numbers("minute", fields.minutes) + " of " + hours_in_words(fields);
}

std::string days_in_words(const CronFields& fields) {
    std::vector<std::string> items;
    if (fields.days != 0) items.push_back(numbers("day", fields.days));
    if (fields.nearest_workday != 0)
        items.push_back("the weekday nearest to " + numbers("day", fields.nearest_workday));
    if (fields.last_workday) items.emplace_back("the last weekday");
    if (fields.last_day) items.emplace_back("the last day");
    return joined(items);
}

std::string weekdays_in_words(const CronFields& fields) {
    std::vector<std::string> items;
    // A week begins with Monday when it is read aloud.
    std::vector<int> from_monday = values(fields.weekdays >> 1U);
    if ((fields.weekdays & 1U) != 0) from_monday.push_back(6);
    const auto name = [](int day) { return kWeekdays[static_cast<std::size_t>(day + 1) % 7]; };
    if (!from_monday.empty()) items.push_back(listed(from_monday, name));
    for (std::size_t day = 0; day < 7; ++day) {
        for (const int n : values(fields.nth_weekday[day])) {
            items.push_back(fmt::format("the {} {} of the month",
                                        kOrdinals[static_cast<std::size_t>(n)], kWeekdays[day]));
        }
    }
    for (const int day : values(fields.last_weekdays)) {
        items.push_back(
            fmt::format("the last {} of the month", kWeekdays[static_cast<std::size_t>(day)]));
    }
    return joined(items);
}

std::string months_in_words(std::uint32_t months) {
    return listed(values(months), [](int n) { return kMonths[static_cast<std::size_t>(n)]; });
}

bool every_day(const CronFields& fields) {
    return fields.open_days && fields.days == kAllDays;
}
bool every_weekday(const CronFields& fields) {
    return fields.open_weekdays && fields.weekdays == kAllWeekdays;
}

/// With a space before it, or empty.
std::string dates_in_words(const CronFields& fields, bool at_times) {
    const bool all_months = fields.months == kAllMonths;
    const std::string in_months = all_months ? "" : " in " + months_in_words(fields.months);
    if (every_day(fields) && every_weekday(fields))
        return (at_times ? " every day" : "") + in_months;
    if (every_day(fields)) return " on " + weekdays_in_words(fields) + in_months;
    if (every_weekday(fields)) {
        return " on " + days_in_words(fields) + " of " +
               (all_months ? "every month" : months_in_words(fields.months));
    }
    const bool is_either = !fields.open_days && !fields.open_weekdays;
    return " on " + days_in_words(fields) + " of the month" +
           (is_either ? ", or on " : ", if that is ") + weekdays_in_words(fields) +
           (all_months ? "" : "," + in_months);
}

std::string clock_time(absl::CivilSecond civil) {
    std::string text = fmt::format("{:02}:{:02}", civil.hour(), civil.minute());
    if (civil.second() != 0) text += fmt::format(":{:02}", civil.second());
    return text;
}

std::string date_text(absl::CivilSecond civil) {
    return fmt::format("{:04}-{:02}-{:02}", civil.year(), civil.month(), civil.day());
}

/// "CEST", or the offset where the zone has no letters for it.
std::string abbreviation(absl::Time time, const absl::TimeZone& zone) {
    return absl::FormatTime("%Z", time, zone);
}

/// "02:30 does not exist on 2027-03-28: it runs at 03:00 CEST"
std::string skipped_in_words(const CronFields& fields, const ClockChange& gap,
                             absl::CivilSecond first, const absl::TimeZone& zone) {
    const auto next = next_civil(fields, first + 1);
    const bool are_more = next && *next < gap.to;
    return fmt::format("{}{} on {}: {} at {} {}", clock_time(first),
                       are_more ? " and later times before " + clock_time(gap.to) + " do not exist"
                                : " does not exist",
                       date_text(first), are_more ? "they run once," : "it runs",
                       clock_time(gap.to), abbreviation(gap.at, zone));
}

}  // namespace

std::string CronExpression::describe() const {
    if (interval_) {
        return "every " +
               format_duration(std::chrono::duration_cast<std::chrono::milliseconds>(*interval_)) +
               " from the schedule's creation";
    }
    const std::string time = time_in_words(fields_);
    const bool at_times = !times_of_day(fields_).empty();
    return time + dates_in_words(fields_, at_times);
}

std::string CronExpression::note(WallTime fire, const absl::TimeZone& zone) const {
    if (interval_) return "";
    const absl::Time at = to_absl(fire);
    const absl::CivilSecond local = zone.At(at).cs;
    const auto change = last_change(zone, at);
    if (change && change->is_gap() && change->at == at && !fields_.any_hour) {
        const auto skipped = next_civil(fields_, change->from);
        if (skipped && *skipped < change->to)
            return skipped_in_words(fields_, *change, *skipped, zone);
    }
    if (zone.At(local).kind != absl::TimeZone::TimeInfo::REPEATED) return "";
    const bool is_second = change && !change->is_gap() && local < change->from;
    return fmt::format("{} comes twice on {}: this is the {}, {}{}", clock_time(local),
                       date_text(local), is_second ? "second" : "first", abbreviation(at, zone),
                       fields_.any_hour ? "" : ", and the only one that runs");
}

std::vector<std::string> CronExpression::step_warnings() const {
    std::vector<std::string> found = uneven_steps_;
    if (fields_.minutes == kSixty && !fields_.any_hour && fields_.hours != kAllHours) {
        found.emplace_back(
            "it fires every minute of the hours it names, 60 times each; a 0 in the minute field "
            "is once an hour");
    }
    return found;
}

std::vector<std::string> CronExpression::day_warnings() const {
    std::vector<std::string> found;
    if (!fields_.open_days && !fields_.open_weekdays) {
        found.emplace_back(
            "day-of-month and day-of-week are both restricted: it fires on a day that fits either "
            "of them, not only on one that fits both");
    } else if (!every_day(fields_) && !every_weekday(fields_)) {
        found.emplace_back(
            "a day field that begins with * restricts the other one: it fires only on days that "
            "fit both");
    }
    std::vector<std::string> lacking;
    for (const int month : values(fields_.months)) {
        const auto index = static_cast<std::size_t>(month);
        if (kShortest[index] >= longest_day_) continue;
        lacking.push_back(std::string(kMonths[index]) +
                          (longest_day_ == 29 ? " (in most years)" : ""));
    }
    if (!lacking.empty()) {
        found.push_back(
            fmt::format("there is no day {} in {}: it does not fire for that day then; "
                        "L is the last day of every month",
                        longest_day_, joined(lacking)));
    }
    const bool has_fifth = std::any_of(fields_.nth_weekday.begin(), fields_.nth_weekday.end(),
                                       [](std::uint32_t nth) { return (nth >> 5U & 1U) != 0; });
    if (has_fifth) {
        found.emplace_back(
            "most months have no fifth one of a weekday: it does not fire in them; L behind a "
            "weekday is the last one");
    }
    return found;
}

std::vector<std::string> CronExpression::clock_warnings(const absl::TimeZone& zone,
                                                        WallTime now) const {
    std::vector<std::string> found;
    if (fields_.any_hour) return found;
    const absl::Time end = to_absl(now + std::chrono::years(kYearsAhead));
    bool told_gap = false;
    bool told_twice = false;
    auto change = next_change(zone, to_absl(now));
    for (; change && change->at < end && !(told_gap && told_twice);
         change = next_change(zone, change->at)) {
        bool& told = change->is_gap() ? told_gap : told_twice;
        const auto civil = next_civil(fields_, std::min(change->from, change->to));
        if (told || !civil || *civil >= std::max(change->from, change->to)) continue;
        told = true;
        found.push_back(zone.name() + ": " +
                        (change->is_gap()
                             ? skipped_in_words(fields_, *change, *civil, zone)
                             : fmt::format("{} comes twice on {}: it runs the first time only",
                                           clock_time(*civil), date_text(*civil))));
    }
    return found;
}

std::vector<std::string> CronExpression::warnings(const absl::TimeZone& zone, WallTime now) const {
    if (interval_) return {};
    std::vector<std::string> found = day_warnings();
    for (auto& more : {step_warnings(), clock_warnings(zone, now)})
        found.insert(found.end(), more.begin(), more.end());
    return found;
}

}  // namespace bpg::scheduler
