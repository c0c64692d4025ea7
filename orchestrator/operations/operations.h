// Every operation the daemon knows, under the name it has in jobs, metrics and `job submit`.
#pragma once

#include "jobs/step.h"
#include "orchestrator/operations/services.h"

namespace bpg::operations {

/// `services` must outlive the registry.
void register_operations(jobs::OperationRegistry& registry, Services& services);

/// The same tables without anything to run them on; starting one is a std::logic_error.
void describe_operations(jobs::OperationRegistry& registry);

}  // namespace bpg::operations
