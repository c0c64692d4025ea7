// What can be restored from the WAL that is held of one incarnation, and what of it may go: ranges,
// gaps, restorable windows, the choice of a base, the plan of a cleanup. Pure functions over what a
// look at the archive and at pg_wal has found; nothing is remembered that a directory does not say.
//
// An incarnation writes on one timeline. Of a clone it is the one that its first start began, and
// what lies before the fork is in the snapshot it was cloned from (LIN-1).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/base/clock.h"
#include "orchestrator/wal/segment_name.h"

namespace bpg::wal {

struct HeldSegment {
    bool archived = false;           ///< false: in pg_wal only
    std::uint64_t stored_bytes = 0;  ///< in the archive
    /// Of the commits whose records it holds.
    std::optional<WallTime> first_commit;
    std::optional<WallTime> last_commit;
};

/// What is held of an incarnation's WAL.
struct Holding {
    std::uint32_t segment_size = 16U << 20U;
    std::map<SegmentId, HeldSegment> segments;  ///< whole ones; in pg_wal the one being written too
    std::vector<std::uint32_t> histories;
    std::vector<std::string> foreign;  ///< in the archive, and none of ours
    std::uint64_t stored_bytes = 0;    ///< of the whole archive
    std::optional<WallTime> last_archived_at;
    std::uint64_t pending = 0;  ///< segments that wait to be archived
    std::optional<WallTime> oldest_pending;
    /// The server runs: what it commits from now on follows the last segment.
    bool is_live = false;
};

/// A snapshot that recovery can begin from.
struct Base {
    std::string snapshot_id;
    WallTime at{};           ///< its first restorable time, by the parent's clock (PITR-2)
    std::uint64_t lsn = 0;   ///< its first restorable position
    SegmentId first;         ///< the first segment that recovery needs beyond the snapshot's own
    bool is_durable = true;  ///< it stays until somebody deletes it
    bool keeps_wal = false;  ///< pinned with its WAL
};

struct Gap {
    SegmentId first;
    SegmentId last;
    bool operator==(const Gap&) const = default;
};

/// A range of times, each of which can be restored.
struct Window {
    WallTime from{};
    std::optional<WallTime> to;  ///< nothing: up to now
    std::string base_snapshot;   ///< that the earliest of them is restored from
    bool operator==(const Window&) const = default;
};

/// Segments that are not held between the first and the last that are.
std::vector<Gap> gaps(const Holding& holding);

/// Oldest first; they do not touch one another.
std::vector<Window> windows(const Holding& holding, const std::vector<Base>& bases);

/// The last segment that follows `first` without a gap; nothing when that itself is not held.
std::optional<SegmentId> unbroken_until(const Holding& holding, SegmentId first);

/// How a point is restored.
struct RestorePlan {
    Base base;
    SegmentId until;             ///< the last segment that recovery may need
    std::uint64_t segments = 0;  ///< from base.first to `until`
    bool reaches_end = false;    ///< no gap is behind `until`
};

/// For a time: from the newest base that is not later. Nothing when no base is early enough, or a
/// gap lies between: windows() says what there is instead.
std::optional<RestorePlan> plan_time(const Holding& holding, const std::vector<Base>& bases,
                                     WallTime target);
std::optional<RestorePlan> plan_lsn(const Holding& holding, const std::vector<Base>& bases,
                                    std::uint64_t target);

/// Whether there is a time that can be restored from this base alone.
bool is_needed(const Holding& holding, const std::vector<Base>& bases,
               const std::string& snapshot_id);

/// From the newest base to the last segment.
std::optional<RestorePlan> plan_all(const Holding& holding, const std::vector<Base>& bases);

/// What a cleanup removes so that every time since `horizon` that can be restored still can.
struct CleanupPlan {
    std::optional<SegmentId> keep_from;  ///< nothing: nothing may go
    std::string base_snapshot;           ///< that decides it
    std::vector<SegmentId> remove;       ///< oldest first; archived ones only
    std::uint64_t bytes = 0;             ///< that come back
    std::vector<std::string> stranded;   ///< snapshots that reach no later time afterwards
    std::vector<Window> windows;         ///< afterwards
};
CleanupPlan plan_cleanup(const Holding& holding, const std::vector<Base>& bases, WallTime horizon);

}  // namespace bpg::wal
