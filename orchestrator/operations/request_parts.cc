#include "orchestrator/operations/request_parts.h"

#include <fmt/format.h>

#include "orchestrator/base/error.h"
#include "orchestrator/operations/shared_snapshots.h"
#include "orchestrator/operations/wal_holding.h"

namespace bpg::operations {

jobs::Lock whole(const catalog::Database& database) {
    return {.resource = "database/" + database.id,
            .above = {"pool"},
            .mode = jobs::LockMode::kExclusive,
            .shown_as = database.name};
}

jobs::Lock lock_of(const catalog::Branch& branch, const std::string& ref, jobs::LockMode mode) {
    return {.resource = "branch/" + branch.id,
            .above = {"pool", "database/" + branch.database_id},
            .mode = mode,
            .shown_as = ref};
}

jobs::Lock archive_lock(const catalog::Branch& incarnation, const std::string& ref,
                        jobs::LockMode mode) {
    return {.resource = "wal/" + incarnation.incarnation_id,
            .above = {"pool", "database/" + incarnation.database_id},
            .mode = mode,
            .shown_as = "the WAL of " + ref};
}

jobs::Lock snapshot_lock(const std::string& snapshot_id) {
    return {.resource = "snapshot/" + snapshot_id,
            .above = {"pool"},
            .mode = jobs::LockMode::kExclusive,
            .shown_as = "snapshot " + snapshot_id};
}

WalCleanup::State cleanup_state(const catalog::Catalog& catalog, const catalog::Branch& branch,
                                int days) {
    WalCleanup::State state;
    state.branch_id = branch.id;
    state.ref = catalog.ref_of(branch);
    state.days = days;
    for (const catalog::Branch* incarnation : incarnations_of(catalog, branch))
        state.incarnations.push_back(incarnation->id);
    return state;
}

void add_cleanup_locks(std::vector<jobs::Lock>& locks, const catalog::Catalog& catalog,
                       const WalCleanup::State& cleanup) {
    for (const std::string& id : cleanup.incarnations) {
        const catalog::Branch* incarnation = catalog.branch_by_id(id);
        if (incarnation == nullptr) continue;
        locks.push_back(
            archive_lock(*incarnation, catalog.ref_of(*incarnation), jobs::LockMode::kExclusive));
    }
}

void add_last_lock(std::vector<jobs::Lock>& locks, const catalog::Branch& branch,
                   const std::string& ref) {
    locks.push_back(archive_lock(branch, ref, jobs::LockMode::kExclusive));
    locks.back().from_step = kRemoveFiles;
}

jobs::Lock whole(const catalog::Branch& branch, const std::string& ref) {
    return lock_of(branch, ref, jobs::LockMode::kExclusive);
}

void refuse(const std::optional<ErrorInfo>& refusal) {
    if (refusal) throw Error(*refusal);
}

void refuse_in_between(const catalog::Branch& branch, const std::string& ref) {
    if (branch.state != catalog::BranchState::kDeleting &&
        branch.state != catalog::BranchState::kCreating)
        return;
    throw Error(ErrorKind::kConflict, "busy", "\"" + ref + "\" is busy",
                fmt::format("it is {}", catalog::to_string(branch.state)),
                "wait until its job " + branch.last_job + " has ended");
}

bool stays(const Services& services, const std::string& snapshot_id) {
    return services.catalog.snapshot_by_id(snapshot_id) != nullptr &&
           !services.shared_snapshots.is_going(snapshot_id);
}

const catalog::Snapshot& given_snapshot(const Services& services, const std::string& id,
                                        const catalog::Branch& parent) {
    const catalog::Snapshot& snapshot = services.catalog.snapshot(id);
    if (!stays(services, snapshot.id)) {
        throw Error(ErrorKind::kNotFound, "snapshot_not_found",
                    "snapshot " + snapshot.id + " is being destroyed",
                    "no branch needs it any more, or it was deleted",
                    "bpg snapshot list shows the snapshots there are");
    }
    if (snapshot.branch_id == parent.id || snapshot.volume == parent.volume) return snapshot;
    const auto* owner = services.catalog.branch_by_id(snapshot.branch_id);
    const std::string of =
        owner == nullptr ? "a branch that is gone" : services.catalog.ref_of(*owner);
    throw Error(ErrorKind::kInvalid, "snapshot_elsewhere",
                "snapshot " + snapshot.id + " is not of " + services.catalog.ref_of(parent),
                "it is of " + of,
                owner == nullptr ? "choose one of bpg snapshot list" : "give --from " + of);
}

void take_facts(BranchCreate::State& state, const catalog::Snapshot& snapshot) {
    state.is_given = true;
    state.snapshot_id = snapshot.id;
    state.mode = snapshot.mode;
    state.line_lsn = snapshot.lsn;
    state.line_at = snapshot.consistent_at;
    // Nobody asked the parent then; looking in the clone is cheap, and does no harm.
    state.has_subscriptions = true;
}

}  // namespace bpg::operations
