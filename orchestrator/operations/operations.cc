#include "orchestrator/operations/operations.h"

#include <stdexcept>

#include "orchestrator/operations/branch_create.h"
#include "orchestrator/operations/branch_delete.h"
#include "orchestrator/operations/branch_promote.h"
#include "orchestrator/operations/branch_sync.h"
#include "orchestrator/operations/db_create.h"
#include "orchestrator/operations/db_delete.h"
#include "orchestrator/operations/instance_control.h"
#include "orchestrator/operations/password_rotate.h"
#include "orchestrator/operations/prune.h"
#include "orchestrator/operations/snapshot_delete.h"
#include "orchestrator/operations/snapshot_take.h"
#include "orchestrator/operations/trash_purge.h"
#include "orchestrator/operations/undo_delete.h"
#include "orchestrator/operations/wal_cleanup.h"

namespace bpg::operations {
namespace {

template <class Op>
void add(jobs::OperationRegistry& registry, Services* services) {
    registry.add<Op>([services](jobs::JobContext& context) {
        if (services == nullptr) throw std::logic_error("a described operation cannot run");
        return std::make_unique<Op>(*services, context);
    });
}

void add_all(jobs::OperationRegistry& registry, Services* services) {
    add<DbCreate>(registry, services);
    add<DbDelete>(registry, services);
    add<BranchCreate>(registry, services);
    add<BranchDelete>(registry, services);
    add<BranchSync>(registry, services);
    add<BranchPromote>(registry, services);
    add<UndoDelete>(registry, services);
    add<TrashPurge>(registry, services);
    add<SnapshotTake>(registry, services);
    add<SnapshotDelete>(registry, services);
    add<WalCleanup>(registry, services);
    add<Prune>(registry, services);
    add<PasswordRotate>(registry, services);
    add<Start>(registry, services);
    add<Stop>(registry, services);
    add<Restart>(registry, services);
}

}  // namespace

void register_operations(jobs::OperationRegistry& registry, Services& services) {
    add_all(registry, &services);
}

void describe_operations(jobs::OperationRegistry& registry) {
    add_all(registry, nullptr);
}

}  // namespace bpg::operations
