// A storage snapshot of a branch in backup mode: start of backup, snapshot and stop in one
// PostgreSQL session. The stop may be left running beside other work, since on an atomic driver
// nobody needs it to start a clone; what it says is needed before the snapshot is recorded.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <memory>
#include <optional>
#include <string>

#include "orchestrator/base/beside.h"
#include "orchestrator/operations/services.h"

namespace bpg::operations {

/// Backup mode, from start to stop. Lost with the daemon: who needs it then begins again.
class BackupInProgress {
  public:
    explicit BackupInProgress(std::unique_ptr<postgres::BackupSession> session);

    const postgres::BackupStart& start() const;
    asio::awaitable<postgres::Position> position();
    /// Lets pg_backup_stop run beside whatever the caller does next. Once is enough.
    asio::awaitable<void> begin_stop();
    /// What the stop said, once it has; begins it if need be.
    asio::awaitable<postgres::BackupStop> stopped();

  private:
    std::shared_ptr<postgres::BackupSession> session_;
    std::optional<Beside<postgres::BackupStop>> stop_;
};

/// Refuses a parent that cannot be copied while it runs (SNAP-5, HLT-8); warnings of the rest.
std::vector<std::string> check_parent(const postgres::ParentFacts& facts, const std::string& ref);

/// The record of a snapshot taken in backup mode.
catalog::Snapshot snapshot_record(const catalog::Branch& branch, std::string snapshot_id,
                                  const postgres::BackupStart& start,
                                  const postgres::BackupStop& stop,
                                  const postgres::Position& position, WallTime now);

/// The label in backup_label and in `snapshot list`: "bpg <ref> <snapshot id>".
std::string backup_label_of(const std::string& ref, const std::string& snapshot_id);

}  // namespace bpg::operations
