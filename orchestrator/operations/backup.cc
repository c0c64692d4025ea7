#include "orchestrator/operations/backup.h"

#include <fmt/format.h>

#include "orchestrator/base/error.h"

namespace bpg::operations {

namespace {

/// Owns the session, which must outlive an operation that ends before the stop does.
asio::awaitable<postgres::BackupStop> stop_backup(
    std::shared_ptr<postgres::BackupSession> session) {
    co_return co_await session->stop();
}

}  // namespace

BackupInProgress::BackupInProgress(std::unique_ptr<postgres::BackupSession> session)
    : session_(std::move(session)) {}

const postgres::BackupStart& BackupInProgress::start() const {
    return session_->start();
}

asio::awaitable<postgres::Position> BackupInProgress::position() {
    return session_->position();
}

asio::awaitable<void> BackupInProgress::begin_stop() {
    if (stop_) co_return;
    stop_ = co_await Beside<postgres::BackupStop>::begin(stop_backup(session_));
}

asio::awaitable<postgres::BackupStop> BackupInProgress::stopped() {
    co_await begin_stop();
    co_return co_await stop_->result();
}

std::vector<std::string> check_parent(const postgres::ParentFacts& facts, const std::string& ref) {
    if (!facts.fsync) {
        throw Error(ErrorKind::kConflict, "parent_fsync_off",
                    "\"" + ref + "\" runs with fsync=off and cannot be branched while it runs",
                    "what it acknowledged may not be on disk in the right order",
                    "stop it first (bpg stop " + ref + "), or set fsync=on and restart it");
    }
    if (!facts.full_page_writes) {
        throw Error(
            ErrorKind::kConflict, "parent_full_page_writes_off",
            "\"" + ref + "\" runs with full_page_writes=off and cannot be branched while it runs",
            "a page torn by the copy could not be repaired",
            "stop it first (bpg stop " + ref + "), or set full_page_writes=on");
    }
    std::vector<std::string> warnings;
    if (facts.unlogged_relations > 0) {
        warnings.push_back(
            fmt::format("{} unlogged relation(s) of {} are empty in this branch: PostgreSQL resets "
                        "them after a "
                        "snapshot of a running server",
                        facts.unlogged_relations, ref));
    }
    if (facts.prepared_transactions > 0) {
        warnings.push_back(fmt::format(
            "{} prepared transaction(s) of {} are in this branch too and hold their locks",
            facts.prepared_transactions, ref));
    }
    return warnings;
}

catalog::Snapshot snapshot_record(const catalog::Branch& branch, std::string snapshot_id,
                                  const postgres::BackupStart& start,
                                  const postgres::BackupStop& stop,
                                  const postgres::Position& position, WallTime now) {
    catalog::Snapshot snapshot;
    snapshot.id = std::move(snapshot_id);
    snapshot.branch_id = branch.id;
    snapshot.incarnation_id = branch.incarnation_id;
    snapshot.volume = branch.volume;
    snapshot.created_at = now;
    snapshot.consistent_at = position.at;
    snapshot.start_lsn = postgres::to_string(start.lsn);
    snapshot.stop_lsn = postgres::to_string(stop.lsn);
    snapshot.lsn = postgres::to_string(position.lsn);
    snapshot.timeline = start.timeline;
    snapshot.mode = "safe";
    snapshot.backup_label = stop.label;
    snapshot.tablespace_map = stop.tablespace_map;
    snapshot.system_identifier = branch.system_identifier;
    return snapshot;
}

std::string backup_label_of(const std::string& ref, const std::string& snapshot_id) {
    return fmt::format("bpg {} {}", ref, snapshot_id);
}

}  // namespace bpg::operations
