// Gives one file of an archive to a PostgreSQL that recovers, to the rules of PITR-1. PostgreSQL
// takes a restore_command's exit codes 1 to 125 for the end of the archive and then opens the
// database as it is, silently. So that answer is given only where it is known to be right; whatever
// else keeps a file from being delivered is an Error, which the helper turns into 255.
//
// Which segments are right is a matter of the lineage: the timelines of the recovery, oldest first.
// At a switch PostgreSQL 13 to 18 asks for the segment in question on the newer timeline first and,
// when that is not to be had, on the older one, whose segment has what its server wrote after the
// switch (E36). Where timelines switched is read from the last one's history file. Each segment
// number belongs to one timeline of the lineage; on another it is never given out, and not missed.
//
// Blocks. Two at once must not have the same destination.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "orchestrator/wal/archive.h"
#include "orchestrator/wal/commands.h"

namespace bpg::wal {

struct RestoreRequest {
    std::filesystem::path archive;
    /// A second archive that is looked at first; empty, or not there: none. bpgd puts into it what
    /// a stopped server had not archived, by archive_file().
    std::filesystem::path spool;
    RestoreBounds bounds;
    std::string name;                   ///< %f
    std::filesystem::path destination;  ///< %p
    /// Of the server that recovers.
    std::optional<ServerIdentity> server;
};

enum class RestoreOutcome {
    kDelivered,
    kEndOfArchive,  ///< not there, and not needed
};

/// The destination is written whole or not at all; whatever it was before is replaced. Throws
/// kNotFound `wal_missing` (within the bounds), `wal_history_missing` (the one that must be there),
/// kCorrupt `wal_damaged` and `wal_foreign` (of another cluster), kInvalid `wal_name_invalid` and
/// `wal_bounds_invalid`, and whatever keeps the archive from being read. Each names the file.
RestoreOutcome restore_file(const RestoreRequest& request);

}  // namespace bpg::wal
