// The gauges of bpgd, set from what is known in memory right before a scrape: nothing is asked of
// disk or runtime, and nobody waits.
#pragma once

#include <cstddef>
#include <string>

#include "jobs/queue.h"
#include "metrics/instruments.h"
#include "orchestrator/operations/services.h"
#include "orchestrator/supervisor.h"
#include "orchestrator/wal_watch.h"

namespace bpg {

/// Loop thread only.
class Gauges {
  public:
    /// Series a branch are of at most `most` branches.
    Gauges(metrics::Instruments& metrics, const operations::Services& services,
           const jobs::Queue& queue, const Supervisor& supervisor, const WalWatch& wal_watch,
           std::string pool, std::size_t most)
        : metrics_(metrics),
          services_(services),
          queue_(queue),
          supervisor_(supervisor),
          wal_watch_(wal_watch),
          pool_(std::move(pool)),
          most_(most) {}

    /// `space`: of the pool, as last measured.
    void set(const storage::Space& space);

  private:
    void set_jobs();
    void set_branches();
    void set_snapshots();
    void set_schedules();

    metrics::Instruments& metrics_;
    const operations::Services& services_;
    const jobs::Queue& queue_;
    const Supervisor& supervisor_;
    const WalWatch& wal_watch_;
    const std::string pool_;
    const std::size_t most_;
};

}  // namespace bpg
