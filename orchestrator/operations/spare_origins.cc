#include "orchestrator/operations/spare_origins.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "orchestrator/base/error.h"
#include "orchestrator/operations/shared_snapshots.h"
#include "orchestrator/operations/wal_holding.h"

namespace bpg::operations {

using catalog::Branch;
using catalog::Snapshot;

std::vector<Snapshot> unclaimed_origins(const Services& services) {
    const std::set<std::string> claimed = services.shared_snapshots.claimed();
    std::vector<Snapshot> found;
    for (const auto& [id, snapshot] : services.catalog.snapshots()) {
        const bool is_origin = snapshot.kind == "origin" && !snapshot.pinned;
        if (is_origin && !claimed.contains(id)) found.push_back(snapshot);
    }
    return found;
}

asio::awaitable<bool> SpareOrigins::may_go(Snapshot snapshot) {
    if (co_await is_needed_to_restore(snapshot)) co_return false;
    // Meanwhile a branch may have been cut from it.
    co_return !services_.shared_snapshots.is_claimed(snapshot.id);
}

asio::awaitable<void> SpareOrigins::destroy(std::set<std::string> gone) {
    destroyed_.clear();
    for (const Snapshot& snapshot : unclaimed_origins(services_)) {
        if (gone.contains(snapshot.id)) continue;
        if (!co_await may_go(snapshot)) continue;
        services_.shared_snapshots.close(snapshot.id);
        if (co_await destroy_unless_cloned(services_, {snapshot.volume, snapshot.id})) {
            destroyed_.push_back(snapshot.id);
        }
    }
}

void SpareOrigins::forget(jobs::Batch& batch) const {
    for (const std::string& id : destroyed_)
        services_.catalog.remove_snapshot(id, batch);
}

asio::awaitable<bool> SpareOrigins::is_needed_to_restore(Snapshot snapshot) {
    const Branch* owner = services_.catalog.branch_of_incarnation(snapshot.incarnation_id);
    if (owner == nullptr || owner->is_destroyed || !owner->archives) co_return false;
    const std::string branch_id = owner->id;
    wal::Holding holding;
    try {
        holding = co_await look_at_wal(services_, branch_id);
    } catch (const Error& error) {
        // Better one snapshot too many than a time that is lost.
        context_.warn(fmt::format("snapshot {} stays, it is not known whether it is needed: {}",
                                  snapshot.id, error.what()));
        co_return true;
    }
    owner = services_.catalog.branch_by_id(branch_id);
    if (owner == nullptr) co_return false;
    std::set<std::string> there;
    for (const wal::Base& base : bases_that_stay(services_, *owner)) {
        if (co_await is_there(base)) there.insert(base.snapshot_id);
    }
    // All at one moment, with no wait until this one goes: of two that open the same times, and
    // that two jobs look at, one must stay.
    owner = services_.catalog.branch_by_id(branch_id);
    if (owner == nullptr) co_return false;
    std::vector<wal::Base> bases = bases_that_stay(services_, *owner);
    std::erase_if(bases, [&there](const auto& base) { return !there.contains(base.snapshot_id); });
    co_return wal::is_needed(holding, bases, snapshot.id);
}

/// One that may go without being asked for may have been destroyed by an earlier bpgd that did not
/// come to record it.
asio::awaitable<bool> SpareOrigins::is_there(wal::Base base) {
    if (base.is_durable || services_.shared_snapshots.is_claimed(base.snapshot_id)) co_return true;
    const Snapshot* snapshot = services_.catalog.snapshot_by_id(base.snapshot_id);
    if (snapshot == nullptr) co_return false;
    const storage::SnapshotRef place{snapshot->volume, snapshot->id};
    co_return co_await services_.storage.snapshot_exists(place);
}

asio::awaitable<void> destroy_snapshot(Services& services, storage::SnapshotRef snapshot) {
    services.shared_snapshots.go(snapshot.id);
    try {
        co_await services.storage.destroy_snapshot(snapshot);
    } catch (...) {  // it is there still, whatever the reason
        services.shared_snapshots.stay(snapshot.id);
        throw;
    }
}

asio::awaitable<bool> destroy_unless_cloned(Services& services, storage::SnapshotRef snapshot) {
    try {
        co_await destroy_snapshot(services, snapshot);
    } catch (const Error& error) {
        if (error.code() != "snapshot_has_clones") throw;
        co_return false;
    }
    co_return true;
}

}  // namespace bpg::operations
