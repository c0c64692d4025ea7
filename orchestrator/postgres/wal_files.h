// WAL segments and timeline histories in a data directory's pg_wal. Blocks: call it on a pool.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "orchestrator/postgres/data_directory.h"
#include "orchestrator/postgres/tree.h"

namespace bpg::postgres {

/// DataDirectories::copy_wal(): the segments from `start` to `stop`, and the histories of the
/// timelines up to theirs. Owner of the copies is that of the target's pg_wal.
void copy_wal_files(const Tree& source, const Tree& target, const BackupStart& start, Lsn stop);

/// Where the timeline of a history file began: the position on its last line; nothing when it has
/// none.
std::optional<Lsn> last_switch_point(std::string_view history);

/// Whether these first bytes of a segment say that it holds the WAL from `begin` on. A timeline's
/// first segment begins with pages of the one before, so an older timeline is right too.
bool segment_header_matches(std::string_view header, std::uint32_t timeline, Lsn begin,
                            std::uint32_t segment_size);

}  // namespace bpg::postgres
