// What a branch-create at a point in time does more than any other: it secures the WAL up to that
// point, lets PostgreSQL recover from the archive of another incarnation, and understands why a
// recovery ended (PITR-1..9).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "jobs/step.h"
#include "orchestrator/operations/instances.h"
#include "orchestrator/operations/restore_target.h"
#include "orchestrator/operations/services.h"

namespace bpg::operations {

/// What such a create remembers. Empty target: it is none.
struct Restore {
    RestoreTarget target;
    std::string source_incarnation;  ///< whose WAL is replayed; a sync moves it to another record
    std::string own_snapshot_id;
    std::uint32_t timeline = 0;  ///< of the WAL; explicit, never "latest" (LIN-3)
    std::string from;            ///< first and last segment that recovery may need
    std::string until;
    std::uint32_t segment_size = 16U << 20U;
    std::uint64_t bytes = 0;      ///< of WAL from the one to the other
    bool is_behind_last = false;  ///< nothing was committed after the target: recover all there is
    bool was_healed = false;      ///< a damaged segment was archived anew, once
    /// As many prepared transactions as there was no place for; the start behind it makes some.
    std::uint32_t prepared_transactions = 0;

    bool is_wanted() const { return target.is_set(); }
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(Restore, target, source_incarnation,
                                                own_snapshot_id, timeline, from, until,
                                                segment_size, bytes, is_behind_last, was_healed,
                                                prepared_transactions)

/// Loop thread only.
class PointInTime {
  public:
    PointInTime(Services& services, jobs::JobContext& context)
        : services_(services), context_(context) {}

    /// A running source is fenced, so that recovery finds a commit behind the target, and its last
    /// WAL is archived; of one that is down, all that it wrote. Then the range is known and whole,
    /// or this throws. `base_id`: the snapshot that recovery was to begin from. The one that it
    /// begins from: a cleanup may have made another one necessary.
    asio::awaitable<std::string> secure_wal(Restore& restore, std::string base_id);
    /// Throws kNotFound `parent_gone` when the volume of what is restored was destroyed, as after a
    /// sync that a restore has waited for where no trash is kept. Asked when something is missing.
    asio::awaitable<void> require_source(Restore restore);
    /// Puts what a source that is down has not archived into the new volume.
    asio::awaitable<void> bring_tail(Restore restore, std::filesystem::path volume);
    asio::awaitable<void> remove_tail(std::filesystem::path volume);

    Recovery recovery(const Restore& restore, const std::filesystem::path& volume) const;

    /// Tells how far recovery is.
    asio::awaitable<void> show_progress(Restore restore, std::filesystem::path data);

    /// Why PostgreSQL ended instead of becoming ready, by its log.
    enum class Verdict {
        kTargetBeforeBase,  ///< an older snapshot is needed (E6)
        kTargetBehindLast,  ///< the WAL is all there, and ends before the target (PITR-4)
        kWalBroken,         ///< a segment is missing or damaged
        kTooFewPlaces,      ///< for the transactions that were prepared in that WAL (HYG-3)
        kOther,
    };
    static Verdict verdict(const std::string& log);
    /// Archives the source's WAL again; true when something may be whole now.
    asio::awaitable<bool> heal(Restore& restore);
    /// True when the next start makes more places for prepared transactions than this one had: as
    /// many as there were where the WAL was written, which recovery has noted in pg_control.
    asio::awaitable<bool> can_make_places(Restore& restore, std::filesystem::path data);
    /// The newest base that is older than this one; empty when there is none.
    std::string older_base(const Restore& restore, const std::string& base_id) const;
    /// Names the segment, and what can still be restored.
    asio::awaitable<Error> broken_wal(Restore restore, std::string log);

  private:
    const catalog::Branch& source(const Restore& restore) const;

    Services& services_;
    jobs::JobContext& context_;
};

/// What is to be restored was destroyed: kNotFound `parent_gone`.
Error source_is_gone();
/// No time that can be restored is this one: kConflict `not_restorable`, with the nearest that are.
Error not_restorable(const std::string& ref, const RestoreTarget& target,
                     const std::vector<wal::Window>& windows, const std::vector<wal::Gap>& gaps,
                     std::uint32_t segment_size);

}  // namespace bpg::operations
