#include "orchestrator/operations/pool_space.h"

#include <fmt/format.h>

#include "orchestrator/base/error.h"
#include "orchestrator/base/log.h"

namespace bpg::operations {
namespace {

/// What the parent and its branch may write before the branch answers, with room to spare: a
/// checkpoint and a WAL segment of 16 MiB on the one, two segments and the checkpoint that ends
/// recovery on the other; for a new database, initdb and its first WAL. A parent that finds no
/// space for WAL crashes, so a pool with less is left alone.
constexpr std::uint64_t kSpaceToStart = 128U << 20U;

}  // namespace

asio::awaitable<void> require_pool_space(Services& services, std::uint64_t copied) {
    const std::uint64_t needed = kSpaceToStart + copied;
    std::uint64_t free = 0;
    try {
        free = co_await services.storage.free_bytes(needed);
    } catch (const Error& error) {
        // A pool that is away for a while is the job's to wait for.
        log::debug("the free space of the pool is not known", {{"why", error.what()}});
        co_return;
    }
    if (free >= needed) co_return;
    constexpr std::uint64_t kMiB = 1U << 20U;
    throw Error(ErrorKind::kExhausted, "pool_full", "the pool is full",
                fmt::format("{} MiB are free, a new instance needs {} MiB to start", free / kMiB,
                            needed / kMiB),
                "delete branches, or make the pool larger");
}

}  // namespace bpg::operations
