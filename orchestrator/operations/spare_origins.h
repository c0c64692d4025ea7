// Snapshots that branches were cut from and that no branch hangs on any more. They go with the last
// such branch, unless some time of their own branch can be restored from one alone, as behind a gap
// in its WAL: that one goes when a cleanup has taken that WAL, or with its branch.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "jobs/step.h"
#include "orchestrator/operations/services.h"

namespace bpg::operations {

/// Those that nothing hangs on, as far as the catalog knows.
std::vector<catalog::Snapshot> unclaimed_origins(const Services& services);

class SpareOrigins {
  public:
    SpareOrigins(Services& services, jobs::JobContext& context)
        : services_(services), context_(context) {}

    /// Nobody hangs on it, and every time that it opens is open without it.
    asio::awaitable<bool> may_go(catalog::Snapshot snapshot);
    /// Destroys all that may go, but for those of which the caller knows that they are gone. Begins
    /// anew each time.
    asio::awaitable<void> destroy(std::set<std::string> gone = {});
    /// What destroy() destroyed leaves the catalog.
    void forget(jobs::Batch& batch) const;

  private:
    asio::awaitable<bool> is_needed_to_restore(catalog::Snapshot snapshot);
    asio::awaitable<bool> is_there(wal::Base base);

    Services& services_;
    jobs::JobContext& context_;
    std::vector<std::string> destroyed_;
};

/// Counts as gone from the call on, unless it fails: nothing that is to last is built on it.
asio::awaitable<void> destroy_snapshot(Services& services, storage::SnapshotRef snapshot);
/// The same. False: a volume hangs on it. That may be another than the catalog thinks: where ZFS
/// lets a clone take over what a destroyed volume had, the clone hangs on what that volume hung on.
/// Such a snapshot is kept on record, and goes with the last of them.
asio::awaitable<bool> destroy_unless_cloned(Services& services, storage::SnapshotRef snapshot);

}  // namespace bpg::operations
