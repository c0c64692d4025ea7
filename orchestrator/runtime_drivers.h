// Which runtime driver the configuration means. With storage_drivers the only place that names
// concrete drivers.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <memory>
#include <string>
#include <vector>

#include "orchestrator/base/offload.h"
#include "orchestrator/config/config.h"
#include "orchestrator/runtime/runtime.h"

namespace bpg {

struct RuntimeChoice {
    std::string driver;   ///< "docker", "process"
    std::string version;  ///< of the Docker Engine, or the newest native PostgreSQL as configured
    std::string reason;   ///< one sentence
};

/// Blocking: docker where it answers, else process, unless the configuration says which. Throws
/// kUnavailable `runtime_unavailable` or kNotFound `postgres_not_found` when that is not there.
RuntimeChoice choose_runtime(const config::Config& config);

/// Replaces `auto` by what works here; blocking. Does not look whether a driver that is named
/// works: instances outlive a dockerd that is down for a while.
void settle_runtime(config::Config& config);

// All that follows wants a settled configuration.

/// Whether instances run as a user of this machine that must pass the directories above its volume.
bool instances_need_passage(const config::Config& config);

/// Keeps a reference to `pool`; `executor` is the loop's.
std::unique_ptr<runtime::Runtime> open_runtime(const config::Config& config, BlockingPool& pool,
                                               asio::any_io_executor executor);

/// What a database runs when its user chose nothing.
runtime::EngineRequest default_engine(const config::Config& config);

/// How branches are kept apart, in a sentence, for init and status.
std::string isolation_of(const runtime::Runtime& runtime);
std::vector<std::string> runtime_warnings(const std::string& driver);

}  // namespace bpg
