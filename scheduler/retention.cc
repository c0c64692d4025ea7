#include "scheduler/retention.h"

#include <absl/time/civil_time.h>
#include <fmt/format.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "scheduler/absl_time.h"

namespace bpg::scheduler {
namespace {

constexpr int kCountMax = 100'000;
/// A prune of no more than these is never too much.
constexpr std::size_t kFewEnough = 10;

/// A row of calendar periods of a zone.
struct Calendar {
    KeepRule rule;
    int KeepRules::* count;
    /// When the period begins that `time` is in: what tells two of them apart.
    WallTime (*begin)(WallTime time, const absl::TimeZone& zone);
    /// When the period begins that is `periods` behind the one that begins at `begin`.
    WallTime (*later)(WallTime begin, int periods, const absl::TimeZone& zone);
};

/// When a civil day begins: a midnight that is skipped right after the gap, the first of two.
WallTime begin_of_day(absl::CivilDay day, const absl::TimeZone& zone) {
    const absl::TimeZone::TimeInfo info = zone.At(absl::CivilSecond(day));
    return from_absl(info.kind == absl::TimeZone::TimeInfo::SKIPPED ? info.trans : info.pre);
}

absl::CivilDay day_of(WallTime time, const absl::TimeZone& zone) {
    return absl::CivilDay(zone.At(to_absl(time)).cs);
}

// An hour that comes twice begins twice, so its passes are told apart.
WallTime begin_of_hour(WallTime time, const absl::TimeZone& zone) {
    const absl::TimeZone::CivilInfo info = zone.At(to_absl(time));
    const absl::Duration into = absl::Minutes(info.cs.minute()) + absl::Seconds(info.cs.second());
    return from_absl(to_absl(time) - into - info.subsecond);
}

absl::CivilDay monday_of(absl::CivilDay day) {
    return absl::PrevWeekday(day + 1, absl::Weekday::monday);
}

/// The first day of the civil period that begins with or before `day`, and one some periods later.
template <class Period>
WallTime begin_of(WallTime time, const absl::TimeZone& zone) {
    return begin_of_day(absl::CivilDay(Period(day_of(time, zone))), zone);
}
template <class Period>
WallTime later_by(WallTime begin, int periods, const absl::TimeZone& zone) {
    return begin_of_day(absl::CivilDay(Period(day_of(begin, zone)) + periods), zone);
}

WallTime begin_of_week(WallTime time, const absl::TimeZone& zone) {
    return begin_of_day(monday_of(day_of(time, zone)), zone);
}
WallTime weeks_later(WallTime begin, int weeks, const absl::TimeZone& zone) {
    return begin_of_day(monday_of(day_of(begin, zone)) + std::ptrdiff_t{7} * weeks, zone);
}
WallTime hours_later(WallTime begin, int hours, const absl::TimeZone& zone) {
    return begin_of_hour(begin + std::chrono::hours(hours), zone);
}

constexpr Calendar kCalendars[] = {
    {KeepRule::kHourly, &KeepRules::hourly, begin_of_hour, hours_later},
    {KeepRule::kDaily, &KeepRules::daily, begin_of<absl::CivilDay>, later_by<absl::CivilDay>},
    {KeepRule::kWeekly, &KeepRules::weekly, begin_of_week, weeks_later},
    {KeepRule::kMonthly, &KeepRules::monthly, begin_of<absl::CivilMonth>,
     later_by<absl::CivilMonth>},
    {KeepRule::kYearly, &KeepRules::yearly, begin_of<absl::CivilYear>, later_by<absl::CivilYear>},
};

/// Makes one plan. `facts_` and `verdicts_` go side by side, oldest first.
class Planner {
  public:
    explicit Planner(const RetentionInput& input) : input_(input), facts_(input.snapshots) {
        std::sort(facts_.begin(), facts_.end(), [](const auto& one, const auto& other) {
            return std::tie(one.at, one.id) < std::tie(other.at, other.id);
        });
        for (const SnapshotFacts& facts : facts_)
            plan_.verdicts.push_back({facts.id, facts.at, {}});
        for (std::size_t i = facts_.size(); i-- > 0;) {
            if (facts_[i].is_own && facts_[i].is_good) counted_.push_back(i);
        }
    }

    RetentionPlan make() {
        if (input_.keep.let_go()) {
            apply_last();
            for (const Calendar& calendar : kCalendars)
                apply_calendar(calendar);
            apply_min();
        } else {
            plan_.note = "no --keep rule is given: all snapshots are kept";
        }
        apply_facts();
        apply_window();
        for (const Verdict& verdict : plan_.verdicts) {
            if (!verdict.is_kept()) plan_.remove.push_back(verdict.id);
        }
        decide_refusal();
        return std::move(plan_);
    }

  private:
    void keep(std::size_t index, Keeper keeper) { plan_.verdicts[index].kept_by.push_back(keeper); }

    void apply_last() {
        const auto count = static_cast<std::size_t>(input_.keep.last);
        for (std::size_t k = 0; k < std::min(count, counted_.size()); ++k) {
            const bool is_next = k + 1 == count;
            keep(counted_[k], {KeepRule::kLast, static_cast<int>(k) + 1, input_.keep.last,
                               is_next ? input_.next_snapshot : std::nullopt});
        }
    }

    void apply_calendar(const Calendar& calendar) {
        const int count = input_.keep.*calendar.count;
        int place = 0;
        WallTime newest_begin{};
        std::optional<WallTime> begin;
        for (const std::size_t index : counted_) {
            const WallTime mine = calendar.begin(facts_[index].at, input_.zone);
            if (begin == mine) continue;
            begin = mine;
            if (++place > count) return;
            if (place == 1) newest_begin = mine;
            keep(index, {calendar.rule, place, count,
                         calendar_end(calendar, newest_begin, count - place + 1, place == 1)});
        }
    }

    /// When as many periods have begun behind the newest one as push this one out; of the newest
    /// itself, when another snapshot of the same period takes its place.
    std::optional<WallTime> calendar_end(const Calendar& calendar, WallTime newest_begin,
                                         int periods, bool is_newest) const {
        const WallTime period_now = calendar.begin(input_.now, input_.zone);
        const bool is_open = period_now <= newest_begin;
        const WallTime soonest = std::max(input_.now, input_.next_snapshot.value_or(input_.now));
        if (is_newest && is_open) {
            if (!input_.next_snapshot) return std::nullopt;
            if (soonest < calendar.later(newest_begin, 1, input_.zone)) return soonest;
        }
        const WallTime pushed = is_open ? calendar.later(newest_begin, periods, input_.zone)
                                        : calendar.later(period_now, periods - 1, input_.zone);
        return std::max(pushed, soonest);
    }

    void apply_min() {
        const int count = input_.keep.min;
        int kept = 0;
        for (const std::size_t index : counted_)
            kept += plan_.verdicts[index].is_kept() ? 1 : 0;
        for (const std::size_t index : counted_) {
            if (kept >= count) return;
            if (plan_.verdicts[index].is_kept()) continue;
            keep(index, {KeepRule::kMin, ++kept, count, std::nullopt});
        }
    }

    void apply_facts() {
        const auto newest_good = std::find_if(facts_.rbegin(), facts_.rend(),
                                              [](const auto& facts) { return facts.is_good; });
        for (std::size_t i = 0; i < facts_.size(); ++i) {
            const SnapshotFacts& facts = facts_[i];
            const bool is_behind_good =
                newest_good != facts_.rend() && i + 1 < std::size_t(facts_.rend() - newest_good);
            if (facts.is_pinned || facts.pins_wal) keep(i, {KeepRule::kPinned, 0, 0, {}});
            if (facts.has_branches) keep(i, {KeepRule::kBranch, 0, 0, {}});
            if (!counted_.empty() && i == counted_.front()) keep(i, {KeepRule::kNewest, 0, 0, {}});
            if (!facts.is_own) keep(i, {KeepRule::kForeign, 0, 0, {}});
            if (!input_.keep.let_go()) keep(i, {KeepRule::kNoRules, 0, 0, {}});
            if (!facts.is_good && !is_behind_good) keep(i, {KeepRule::kUnproven, 0, 0, {}});
        }
    }

    std::optional<std::size_t> base_of_window() const {
        for (std::size_t i = 0; i < facts_.size(); ++i) {
            if (facts_[i].id == input_.window_base) return i;
        }
        return std::nullopt;
    }

    void apply_window() {
        if (!input_.window_days) return;
        const auto length = std::chrono::days(*input_.window_days);
        const auto base = base_of_window();
        if (!base) return;
        plan_.wal.base_snapshot = facts_[*base].id;
        plan_.wal.is_whole_window = facts_[*base].at <= input_.now - length;
        // It is needed until the next one is old enough to take its place.
        const auto next =
            std::find_if(facts_.begin() + static_cast<std::ptrdiff_t>(*base) + 1, facts_.end(),
                         [](const auto& facts) { return facts.is_good; });
        std::optional<WallTime> until = input_.next_snapshot;
        if (next != facts_.end()) until = next->at;
        if (until) *until += length;
        keep(*base, {KeepRule::kWindow, 0, 0, until});
        keep_behind_gaps(*base);
        std::size_t from = *base;
        for (std::size_t i = facts_.size(); i-- > 0;) {
            if (facts_[i].pins_wal && facts_[i].is_good) from = std::min(from, i);
        }
        plan_.wal.from_snapshot = facts_[from].id;
        plan_.wal.from = facts_[from].at;
    }

    /// From the base a gap in the WAL may end what can be restored: the first snapshot that leads
    /// further is needed too, and so on.
    void keep_behind_gaps(std::size_t base) {
        std::optional<WallTime> covered = facts_[base].reaches;
        for (std::size_t i = base + 1; i < facts_.size() && covered; ++i) {
            const SnapshotFacts& facts = facts_[i];
            if (!facts.is_good || (facts.reaches && *facts.reaches <= *covered)) continue;
            keep(i, {KeepRule::kWindow, 0, 0, std::nullopt});
            covered = facts.reaches;
        }
    }

    void decide_refusal() {
        const auto newest = facts_.empty() ? input_.now : facts_.back().at;
        const bool is_ahead = newest > input_.now + kClockTolerance;
        const bool deletes = !plan_.remove.empty() || input_.window_days;
        if (deletes && (input_.is_clock_suspect || is_ahead)) {
            plan_.refusal =
                ErrorInfo{ErrorKind::kConflict, "retention_clock_suspect",
                          "the prune does not run while the clock is in doubt",
                          is_ahead ? fmt::format("the newest snapshot is of {}, and it is {} now",
                                                 format_time(newest), format_time(input_.now))
                                   : "the clock has jumped",
                          "set the clock right, then: bpg schedule resume"};
            return;
        }
        std::size_t own = 0;
        for (const SnapshotFacts& facts : facts_)
            own += facts.is_own ? 1 : 0;
        const std::size_t count = plan_.remove.size();
        const bool is_too_many =
            count > kFewEnough &&
            static_cast<double>(count) > input_.max_fraction * static_cast<double>(own);
        if (!is_too_many) return;
        plan_.refusal = ErrorInfo{
            ErrorKind::kConflict, "retention_too_many",
            fmt::format("the prune would remove {} of {} snapshots", count, own),
            fmt::format("more than retention.max_fraction ({}) of them and more than {} go at once",
                        input_.max_fraction, kFewEnough),
            "look at bpg retention plan; if it is meant: bpg schedule run --force"};
    }

    const RetentionInput& input_;
    std::vector<SnapshotFacts> facts_;
    std::vector<std::size_t> counted_;  ///< own and good, newest first
    RetentionPlan plan_;
};

}  // namespace

std::string_view to_string(KeepRule rule) {
    switch (rule) {
        case KeepRule::kLast:
            return "last";
        case KeepRule::kHourly:
            return "hourly";
        case KeepRule::kDaily:
            return "daily";
        case KeepRule::kWeekly:
            return "weekly";
        case KeepRule::kMonthly:
            return "monthly";
        case KeepRule::kYearly:
            return "yearly";
        case KeepRule::kMin:
            return "min";
        case KeepRule::kPinned:
            return "pinned";
        case KeepRule::kBranch:
            return "branch";
        case KeepRule::kNewest:
            return "newest";
        case KeepRule::kWindow:
            return "window";
        case KeepRule::kForeign:
            return "other-maker";
        case KeepRule::kNoRules:
            return "no-rules";
        case KeepRule::kUnproven:
            return "unproven";
    }
    return "unknown";
}

void check_keep_rules(const KeepRules& rules) {
    for (const auto& [name, member] : kKeepRules) {
        const int count = rules.*member;
        if (count >= 0 && count <= kCountMax) continue;
        throw Error(ErrorKind::kInvalid, "keep_invalid",
                    fmt::format("{} is no number of snapshots for --keep-{}", count, name),
                    fmt::format("it is 0 to {}", kCountMax),
                    fmt::format("for example --keep-{} 7; 0 is the same as leaving it out", name));
    }
}

std::string Keeper::in_words() const {
    if (of == 0) return std::string(to_string(rule));
    return fmt::format("{} {} of {}", to_string(rule), place, of);
}

std::optional<WallTime> Verdict::kept_until() const {
    std::optional<WallTime> latest;
    for (const Keeper& keeper : kept_by) {
        if (!keeper.until) return std::nullopt;
        latest = std::max(latest, keeper.until);
    }
    return latest;
}

RetentionPlan plan_retention(const RetentionInput& input) {
    return Planner(input).make();
}

}  // namespace bpg::scheduler
