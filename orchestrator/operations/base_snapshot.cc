#include "orchestrator/operations/base_snapshot.h"

#include "orchestrator/operations/backup.h"
#include "orchestrator/operations/instances.h"

namespace bpg::operations {
namespace {

/// Of this id, which was not there a moment ago: a command of an attempt that was given up took
/// effect only now. What it froze is unknown, so it goes when this is tried again.
asio::awaitable<void> take(storage::Storage& storage, const storage::SnapshotRef& place) {
    std::optional<Error> failure;
    try {
        co_await storage.snapshot(place);
    } catch (const Error& error) {
        failure = error;
    }
    if (!failure) co_return;
    if (failure->code() != "snapshot_exists") throw *failure;
    throw Error(ErrorKind::kUnavailable, failure->code(), failure->info().message,
                "an earlier attempt took it late", "it is destroyed and taken again");
}

asio::awaitable<catalog::Snapshot> of_running(Services& services, jobs::JobContext& context,
                                              const catalog::Branch& branch,
                                              const storage::SnapshotRef& place) {
    const Instances instances(services);
    const postgres::Endpoint endpoint = instances.endpoint(branch);
    const std::string ref = services.catalog.ref_of(branch);
    const postgres::ParentFacts facts = co_await services.postgres.inspect_parent(endpoint);
    for (std::string& warning : check_parent(facts, ref))
        context.warn(std::move(warning));
    const auto session = co_await services.postgres.start_backup(
        endpoint, backup_label_of(ref, place.id), /*keep_wal=*/false);
    co_await take(services.storage, place);
    const postgres::Position position = co_await session->position();
    const postgres::BackupStop stop = co_await session->stop();
    co_return snapshot_record(branch, place.id, session->start(), stop, position,
                              services.clock.now());
}

asio::awaitable<catalog::Snapshot> of_stopped(Services& services, const catalog::Branch& branch,
                                              const storage::SnapshotRef& place) {
    const Instances instances(services);
    const std::filesystem::path data = instances.data_directory(branch);
    const postgres::ControlFile control = co_await services.data_directories.control_file(data);
    co_await take(services.storage, place);
    catalog::Snapshot snapshot;
    snapshot.id = place.id;
    snapshot.branch_id = branch.id;
    snapshot.incarnation_id = branch.incarnation_id;
    snapshot.volume = branch.volume;
    snapshot.created_at = services.clock.now();
    snapshot.consistent_at = snapshot.created_at;
    snapshot.start_lsn = postgres::to_string(control.redo);
    snapshot.lsn = postgres::to_string(control.checkpoint);
    snapshot.timeline = control.timeline;
    snapshot.mode = "clean";
    co_return snapshot;
}

}  // namespace

asio::awaitable<catalog::Snapshot> take_base_snapshot(Services& services, jobs::JobContext& context,
                                                      catalog::Branch branch,
                                                      std::string snapshot_id) {
    const storage::SnapshotRef place{branch.volume, snapshot_id};
    co_await services.storage.destroy_snapshot(place);
    Instances instances(services, &context);
    const bool running = co_await instances.is_running(branch.id);
    const std::filesystem::path data = instances.data_directory(branch);
    co_await services.data_directories.check_source(data, running);
    catalog::Snapshot snapshot = running ? co_await of_running(services, context, branch, place)
                                         : co_await of_stopped(services, branch, place);
    snapshot.kind = "base";
    snapshot.system_identifier = branch.system_identifier;
    co_return snapshot;
}

}  // namespace bpg::operations
