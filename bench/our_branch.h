// `bpg branch create`, timed as its user sees it.
#pragma once

#include <string>

#include "bench/sample.h"
#include "tests/harness/host.h"

namespace bpg::bench {

/// From the start of the command line to a SELECT 1 on the new branch: the time until the command
/// returned, and that of a connection. Asking for the password between the two is not counted. The
/// parts are the job's own steps, what lies between them, and what is outside of the job.
Sample create_branch(const test::TestHost& host, const std::string& ref, bool fast);

}  // namespace bpg::bench
