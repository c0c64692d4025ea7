// What a job stands at, for people: what it has done, what is there outside, what comes next, and
// who keeps it waiting.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "jobs/queue.h"
#include "orchestrator/operations/services.h"

namespace bpg::operations {

/// {done[], step, world[], next, held_by}: `world` says of every branch the job is about what
/// storage and runtime show right now, or why that is not known; `held_by` is the open job that
/// holds the lock it waits for, or null. Changes nothing. Loop thread.
asio::awaitable<nlohmann::json> explain(Services& services, const jobs::Queue& queue,
                                        jobs::Job job);

}  // namespace bpg::operations
