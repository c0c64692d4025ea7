#include "orchestrator/operations/operations.h"

#include <stdexcept>

#include "orchestrator/operations/branch_create.h"
#include "orchestrator/operations/branch_delete.h"
#include "orchestrator/operations/db_create.h"
#include "orchestrator/operations/db_delete.h"
#include "orchestrator/operations/instance_control.h"

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
