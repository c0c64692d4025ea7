// bpgd: wires every part, in the order in which each needs the one before.
//
// Start: lock the state directory, mount storage, listen (answers "starting"), open the store, look
// at every instance, then serve and go on with the open jobs. Stop: no new requests, no new steps,
// running steps end within eight seconds or are gone on with at the next start; instances go on.
#pragma once

#include <functional>
#include <string>

#include "orchestrator/base/error.h"
#include "orchestrator/config/config.h"

namespace bpg {

struct DaemonOptions {
    std::string crash_at;  ///< hidden, for tests: see jobs/crashpoint.h
    std::string fail_at;
    /// Tells the user why bpgd cannot start, once its loop runs; gives the exit code.
    std::function<int(const Error&)> start_failed;
};

/// Runs until SIGTERM or SIGINT and ends the process itself, with spec section 2's exit code.
/// Throws bpg::Error when it cannot start.
[[noreturn]] void run_daemon(const config::Config& config, const DaemonOptions& options);

/// Every crash point, "<operation>.<step>.<where>", of one operation or (empty) of all.
std::vector<std::string> list_crash_points(const std::string& operation);

}  // namespace bpg
