// Whether a store that had to be cut lost anything that somebody was told of: what is outside and
// what the store knows must belong together.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <filesystem>

#include "orchestrator/catalog/catalog.h"
#include "orchestrator/storage/storage.h"

namespace bpg {

/// Nothing is made outside before the store has it on disk, and nothing leaves the store before it
/// is gone outside. So a volume of ours that no branch knows, or a branch without its volume,
/// proves a loss: kCorrupt `store_lost_jobs`, which names them. `kept`: the store as it was found.
boost::asio::awaitable<void> require_nothing_lost(const catalog::Catalog& catalog,
                                                  storage::Storage& storage,
                                                  const std::filesystem::path& kept);

}  // namespace bpg
