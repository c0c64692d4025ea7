// Whether the pool has room for another instance. A parent that finds no space for WAL crashes, so
// a pool that is nearly full is left alone.
#pragma once

#include <cstdint>

#include "orchestrator/operations/services.h"

namespace bpg::operations {

/// Throws kExhausted `pool_full` when an instance, and `copied` bytes of data (0 where a branch
/// shares what its parent has), would not fit. Cheap: asked before a create is taken, and again
/// before its first effect, since others may have taken the room meanwhile.
asio::awaitable<void> require_pool_space(Services& services, std::uint64_t copied);

}  // namespace bpg::operations
