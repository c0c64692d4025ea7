// What a prune removes and what it keeps, and from where on WAL is kept: one pure plan over the
// snapshots of one branch, so that both follow from the same facts. Nothing is read or removed
// here; `bpg retention plan` shows a plan and the job executes one.
//
// A prune removes only snapshots that its own schedule made, and of those never one that is pinned,
// that a branch hangs on, the newest good one, or one that the recovery window needs. Of the rest
// those stay that a --keep rule holds:
//
//   last N      the N newest
//   hourly N    the newest of each hour, of the N newest hours that have one; likewise daily,
//   weekly
//               (ISO weeks, from Monday), monthly and yearly, by the calendar of the zone. Hours,
//               days … without a snapshot do not count. An hour that the clock repeats is two
//               hours.
//   min N       where the rules above leave fewer than N, the newest others up to N. A floor for
//               other rules, and none itself: alone it lets nothing go.
//
// Rules count good snapshots of the schedule only; one may be held by several. Is no rule given,
// all are kept. Bad ones are kept while no good one is newer. Of snapshots of one time the one with
// the greater id is the newer.
#pragma once

#include <absl/time/time.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "orchestrator/base/clock.h"
#include "orchestrator/base/error.h"

namespace bpg::scheduler {

/// A clock that is this far off is not trusted with a decision to delete.
inline constexpr std::chrono::minutes kClockTolerance{5};

/// --keep-*; 0 is not given.
struct KeepRules {
    int last = 0;
    int hourly = 0;
    int daily = 0;
    int weekly = 0;
    int monthly = 0;
    int yearly = 0;
    int min = 0;

    bool operator==(const KeepRules&) const = default;
    /// Something may go at all.
    bool let_go() const {
        return last > 0 || hourly > 0 || daily > 0 || weekly > 0 || monthly > 0 || yearly > 0;
    }
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(KeepRules, last, hourly, daily, weekly, monthly,
                                                yearly, min)

/// By the names that users see: --keep-<name>.
inline constexpr std::pair<std::string_view, int KeepRules::*> kKeepRules[] = {
    {"last", &KeepRules::last},       {"hourly", &KeepRules::hourly},
    {"daily", &KeepRules::daily},     {"weekly", &KeepRules::weekly},
    {"monthly", &KeepRules::monthly}, {"yearly", &KeepRules::yearly},
    {"min", &KeepRules::min},
};

/// Throws kInvalid `keep_invalid` for a count below 0 or above 100000.
void check_keep_rules(const KeepRules& rules);

struct SnapshotFacts {
    std::string id;
    WallTime at{};              ///< when it is consistent, by its server's clock
    bool is_own = false;        ///< the schedule whose rules these are made it
    bool is_good = true;        ///< can be restored and branched from
    bool is_pinned = false;     ///< never removed
    bool pins_wal = false;      ///< pinned with its WAL
    bool has_branches = false;  ///< a branch hangs on it
    /// The last time that WAL leads to from it; nothing: up to now. Where WAL has a gap, the window
    /// needs a snapshot behind the gap too.
    std::optional<WallTime> reaches;
};

struct RetentionInput {
    std::vector<SnapshotFacts> snapshots;  ///< of one branch; in any order
    KeepRules keep;
    std::optional<int> window_days;  ///< every time of the last N days stays restorable
    /// The snapshot whose WAL that takes: who looks after the WAL says which. Empty: none.
    std::string window_base;
    absl::TimeZone zone;
    WallTime now{};
    std::optional<WallTime> next_snapshot;  ///< when the schedule makes its next one, if known
    double max_fraction = 1.0;  ///< of its snapshots that one prune may remove, beyond 10
    bool is_clock_suspect = false;
};

enum class KeepRule {
    kLast,
    kHourly,
    kDaily,
    kWeekly,
    kMonthly,
    kYearly,
    kMin,
    kPinned,
    kBranch,
    kNewest,
    kWindow,
    kForeign,
    kNoRules,
    kUnproven,
};
/// "last", "daily", "pinned", "branch", "newest", "window", "other-maker", "no-rules", "unproven" …
std::string_view to_string(KeepRule rule);

/// Why a snapshot is kept.
struct Keeper {
    KeepRule rule = KeepRule::kLast;
    int place = 0;  ///< of `of`, for rules that count: 1 is the newest
    int of = 0;
    /// From then on the rule may hold it no longer, if every hour, day … until then gets a
    /// snapshot. Nothing where that hangs on what somebody does.
    std::optional<WallTime> until;

    bool operator==(const Keeper&) const = default;
    /// "daily 3 of 7", "pinned"
    std::string in_words() const;
};

struct Verdict {
    std::string id;
    WallTime at{};
    std::vector<Keeper> kept_by;  ///< all of them; empty: it goes

    bool is_kept() const { return !kept_by.empty(); }
    /// When the last of its keepers may let go; nothing when one of them says nothing.
    std::optional<WallTime> kept_until() const;
};

/// What stays of the WAL. Nothing at all may go where there is no base.
struct WalVerdict {
    std::string base_snapshot;  ///< that the window begins with: empty without window or snapshot
    std::string from_snapshot;  ///< WAL from this one on stays: the base, or an older one pinned so
    std::optional<WallTime> from;
    bool is_whole_window = false;  ///< the base is as old as the window or older

    bool operator==(const WalVerdict&) const = default;
};

struct RetentionPlan {
    std::vector<Verdict> verdicts;    ///< oldest first
    std::vector<std::string> remove;  ///< ids, oldest first: the order to remove them in
    WalVerdict wal;
    std::string note;  ///< "no --keep rule is given: all are kept", or empty
    /// It must not be executed: `retention_clock_suspect`, `retention_too_many`.
    std::optional<ErrorInfo> refusal;
};

RetentionPlan plan_retention(const RetentionInput& input);

}  // namespace bpg::scheduler
