// What the requests share: the locks of things, and what is known of a snapshot that is there.
#pragma once

#include <optional>
#include <string>

#include "orchestrator/operations/branch_create.h"
#include "orchestrator/operations/requests.h"
#include "orchestrator/operations/services.h"
#include "orchestrator/operations/wal_cleanup.h"

namespace bpg::operations {

jobs::Lock whole(const catalog::Database& database);
jobs::Lock lock_of(const catalog::Branch& branch, const std::string& ref, jobs::LockMode mode);
jobs::Lock whole(const catalog::Branch& branch, const std::string& ref);

/// Of the archive of an incarnation.
jobs::Lock archive_lock(const catalog::Branch& incarnation, const std::string& ref,
                        jobs::LockMode mode);

jobs::Lock snapshot_lock(const std::string& snapshot_id);

/// A cleanup of all that is held of a branch's WAL, and its locks.
WalCleanup::State cleanup_state(const catalog::Catalog& catalog, const catalog::Branch& branch,
                                int days);
void add_cleanup_locks(std::vector<jobs::Lock>& locks, const catalog::Catalog& catalog,
                       const WalCleanup::State& cleanup);

/// The row of every operation that destroys in which the archives go: whoever recovers from one is
/// waited for.
inline constexpr std::string_view kRemoveFiles = "remove_files";
void add_last_lock(std::vector<jobs::Lock>& locks, const catalog::Branch& branch,
                   const std::string& ref);

void refuse(const std::optional<ErrorInfo>& refusal);

/// Of a branch on its way in or out nothing else is done: kConflict `busy`.
void refuse_in_between(const catalog::Branch& branch, const std::string& ref);

/// It is on record, and nobody is just destroying it: until the next wait, something can be built
/// on it.
bool stays(const Services& services, const std::string& snapshot_id);

/// The snapshot a branch is to be made from: by id or unique prefix, of this parent, in one of its
/// incarnations. kInvalid `snapshot_elsewhere`; kNotFound `snapshot_not_found`, one that goes, too.
const catalog::Snapshot& given_snapshot(const Services& services, const std::string& id,
                                        const catalog::Branch& parent);
/// What the create would have learnt by taking it.
void take_facts(BranchCreate::State& state, const catalog::Snapshot& snapshot);

}  // namespace bpg::operations
