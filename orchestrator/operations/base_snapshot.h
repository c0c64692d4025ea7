// A snapshot of a branch that stands for itself: of a running one in backup mode (safe), of a
// stopped one as it is (clean). Base of branches and of PITR.
#pragma once

#include <string>

#include "jobs/step.h"
#include "orchestrator/operations/services.h"

namespace bpg::operations {

/// Begins from nothing each time: a snapshot of this id whose record was lost is taken anew. The
/// record has all but who made it and its label. Atomic drivers only.
asio::awaitable<catalog::Snapshot> take_base_snapshot(Services& services, jobs::JobContext& context,
                                                      catalog::Branch branch,
                                                      std::string snapshot_id);

}  // namespace bpg::operations
