// Whether a TCP port may be given to a branch (spec section 3, "Ports").
#pragma once

#include <string>

namespace bpg {

/// False when it cannot be bound on 127.0.0.1, [::1] or `listen`, or when a cluster under
/// /etc/postgresql claims it, running or not. Blocking: reads those files.
bool port_is_free(int port, const std::string& listen);

}  // namespace bpg
