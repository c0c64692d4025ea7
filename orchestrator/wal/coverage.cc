#include "orchestrator/wal/coverage.h"

#include <algorithm>

namespace bpg::wal {
namespace {

bool is_last(const Holding& holding, SegmentId segment) {
    const auto next = holding.segments.upper_bound(segment);
    return next == holding.segments.end() || next->first.timeline != segment.timeline;
}

/// The last commit in an unbroken range.
std::optional<WallTime> last_commit(const Holding& holding, SegmentId first, SegmentId last) {
    std::optional<WallTime> latest;
    for (auto at = holding.segments.lower_bound(first);
         at != holding.segments.end() && at->first <= last; ++at) {
        const auto& commit = at->second.last_commit;
        if (commit && (!latest || *commit > *latest)) latest = commit;
    }
    return latest;
}

std::vector<Base> by_time(std::vector<Base> bases) {
    std::sort(bases.begin(), bases.end(), [](const Base& one, const Base& other) {
        return std::pair(one.at, one.snapshot_id) < std::pair(other.at, other.snapshot_id);
    });
    return bases;
}

/// Nothing: no point in time can be restored from this base.
struct Reach {
    SegmentId until;
    std::optional<WallTime> to;  ///< nothing: up to now
};
std::optional<Reach> reach_of(const Holding& holding, const Base& base) {
    const auto until = unbroken_until(holding, base.first);
    if (!until) return std::nullopt;
    if (holding.is_live && is_last(holding, *until)) return Reach{*until, std::nullopt};
    const auto commit = last_commit(holding, base.first, *until);
    if (is_last(holding, *until)) return Reach{*until, std::max(base.at, commit.value_or(base.at))};
    // Recovery stops at a later commit, so there must be one: what is in the gap is not known.
    if (!commit || *commit <= base.at) return std::nullopt;
    return Reach{*until, *commit - std::chrono::microseconds(1)};
}

/// The newest base for which `is_early_enough`, and how far it reaches.
template <class Early>
std::optional<std::pair<Base, Reach>> newest(const Holding& holding, const std::vector<Base>& bases,
                                             Early is_early_enough) {
    const std::vector<Base> sorted = by_time(bases);
    for (auto base = sorted.rbegin(); base != sorted.rend(); ++base) {
        if (!is_early_enough(*base)) continue;
        const auto reach = reach_of(holding, *base);
        if (!reach) return std::nullopt;  // an older one would meet the same gap
        return std::pair(*base, *reach);
    }
    return std::nullopt;
}

RestorePlan plan_of(const Holding& holding, const Base& base, const Reach& reach) {
    return {base, reach.until, reach.until.number - base.first.number + 1,
            is_last(holding, reach.until)};
}

/// The base whose WAL must be kept for times since `horizon`. One that may go with a branch counts
/// only where no other is early enough.
const Base* deciding(const std::vector<Base>& sorted, WallTime horizon) {
    const Base* found = nullptr;
    const Base* passing = nullptr;
    for (const Base& base : sorted) {
        if (base.at > horizon) break;
        (base.is_durable ? found : passing) = &base;
    }
    if (found == nullptr) found = passing;
    if (found == nullptr && !sorted.empty()) found = &sorted.front();
    return found;
}

}  // namespace

std::vector<Gap> gaps(const Holding& holding) {
    std::vector<Gap> found;
    const SegmentId* before = nullptr;
    for (const auto& [segment, facts] : holding.segments) {
        if (before != nullptr && before->timeline == segment.timeline &&
            before->number + 1 < segment.number) {
            found.push_back(
                {{segment.timeline, before->number + 1}, {segment.timeline, segment.number - 1}});
        }
        before = &segment;
    }
    return found;
}

std::optional<SegmentId> unbroken_until(const Holding& holding, SegmentId first) {
    auto at = holding.segments.find(first);
    if (at == holding.segments.end()) return std::nullopt;
    SegmentId last = first;
    for (++at; at != holding.segments.end(); ++at) {
        if (at->first != SegmentId{last.timeline, last.number + 1}) break;
        last = at->first;
    }
    return last;
}

std::vector<Window> windows(const Holding& holding, const std::vector<Base>& bases) {
    std::vector<Window> found;
    std::optional<SegmentId> until;
    for (const Base& base : by_time(bases)) {
        const auto reach = reach_of(holding, base);
        // A base within a window that is there already opens none of its own.
        if (!reach || (until && *until == reach->until)) continue;
        found.push_back({base.at, reach->to, base.snapshot_id});
        until = reach->until;
    }
    return found;
}

std::optional<RestorePlan> plan_time(const Holding& holding, const std::vector<Base>& bases,
                                     WallTime target) {
    const auto found =
        newest(holding, bases, [target](const Base& base) { return base.at <= target; });
    if (!found) return std::nullopt;
    const auto& [base, reach] = *found;
    // Behind the last commit nothing happened, unless a gap says that this is not known.
    const bool covers = !reach.to || target <= *reach.to || is_last(holding, reach.until);
    if (!covers) return std::nullopt;
    return plan_of(holding, base, reach);
}

std::optional<RestorePlan> plan_lsn(const Holding& holding, const std::vector<Base>& bases,
                                    std::uint64_t target) {
    const auto found =
        newest(holding, bases, [target](const Base& base) { return base.lsn <= target; });
    if (!found) return std::nullopt;
    const auto& [base, reach] = *found;
    if (target / holding.segment_size > reach.until.number) return std::nullopt;
    return plan_of(holding, base, reach);
}

std::optional<RestorePlan> plan_all(const Holding& holding, const std::vector<Base>& bases) {
    const auto found = newest(holding, bases, [](const Base&) { return true; });
    if (!found) return std::nullopt;
    return plan_of(holding, found->first, found->second);
}

bool is_needed(const Holding& holding, const std::vector<Base>& bases,
               const std::string& snapshot_id) {
    std::optional<SegmentId> until;
    for (const Base& base : by_time(bases)) {
        const auto reach = reach_of(holding, base);
        if (!reach) continue;
        // An earlier one that reaches as far opens every time that this one does.
        if (base.snapshot_id == snapshot_id) return !until || *until != reach->until;
        until = reach->until;
    }
    return false;
}

CleanupPlan plan_cleanup(const Holding& holding, const std::vector<Base>& bases, WallTime horizon) {
    CleanupPlan plan;
    const std::vector<Base> sorted = by_time(bases);
    const Base* base = deciding(sorted, horizon);
    if (base == nullptr) return plan;
    SegmentId keep = base->first;
    for (const Base& pinned : sorted) {
        if (pinned.keeps_wal) keep = std::min(keep, pinned.first);
    }
    plan.keep_from = keep;
    plan.base_snapshot = base->snapshot_id;
    Holding left = holding;
    for (const auto& [segment, facts] : holding.segments) {
        if (segment >= keep || !facts.archived) continue;
        plan.remove.push_back(segment);
        plan.bytes += facts.stored_bytes;
        left.segments.erase(segment);
    }
    for (const Base& other : sorted) {
        const bool reached = reach_of(holding, other).has_value();
        if (reached && other.first < keep) plan.stranded.push_back(other.snapshot_id);
    }
    plan.windows = windows(left, bases);
    return plan;
}

}  // namespace bpg::wal
