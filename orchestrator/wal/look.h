// A look at the WAL of one incarnation: its archive, and the pg_wal of its server. Both are hostile
// input: no link is followed, and what is not what its name says does not count. Blocks; no state.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/base/files.h"
#include "orchestrator/wal/archives.h"

namespace bpg::wal {

/// The segments in pg_wal that hold what their names say, up to the one that is being written;
/// nothing of what was recycled for later use. In order.
std::vector<SegmentId> segments_in(int pg_wal_fd, const std::string& shown,
                                   const WalServer& server);

/// The pg_wal of a server; empty when there is none.
UniqueFd open_pg_wal(const WalServer& server);

/// Whether an archived file that looks whole is known to be damaged.
using IsDamaged = std::function<bool(const std::string& file_name)>;

/// See Archives::look().
Holding look_at(const std::filesystem::path& archive, const std::optional<WalServer>& server,
                const IsDamaged& is_damaged);

}  // namespace bpg::wal
