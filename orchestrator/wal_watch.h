// Looks at the WAL of every branch now and then, so that what `bpg status`, `branch get` and the
// metrics say of archiving is known without anybody waiting for it (ARC-6). An archiver that fails
// fills pg_wal until PostgreSQL stops: it must be seen long before.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "metrics/instruments.h"
#include "orchestrator/operations/services.h"
#include "orchestrator/wal/local_archives.h"

namespace bpg {

/// Loop thread only.
class WalWatch {
  public:
    /// `archives` works on a pool where it may take its time.
    WalWatch(operations::Services& services, wal::Archives& archives, std::filesystem::path root,
             BlockingPool& pool)
        : services_(services), archives_(archives), root_(std::move(root)), pool_(pool) {}

    /// Until the process ends.
    asio::awaitable<void> run();
    /// Of at most `most` branches.
    void set_gauges(metrics::Instruments& metrics, std::size_t most) const;
    /// That the file system of the archives is nearly full.
    std::vector<std::string> warnings() const;

  private:
    asio::awaitable<void> look_at(std::string branch_id);

    operations::Services& services_;
    wal::Archives& archives_;
    const std::filesystem::path root_;
    BlockingPool& pool_;
    double filled_ = 0;  ///< of the file system of the archives, 0 to 1
};

}  // namespace bpg
