// Puts one WAL file into an archive, to the rules of ARC-2: what is in the archive under a name
// stays; the same file may be archived again and by two at once; a damaged leftover is replaced,
// since it is of no use to anybody and must not stop a server from archiving for ever. After
// SIGKILL at any instant there is the whole file or none.
//
// Blocks. Any number may run at once, in any processes and containers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "orchestrator/wal/archived_file.h"

namespace bpg::wal {

/// What the WAL of a server must say of itself.
struct ServerIdentity {
    std::uint64_t system_identifier = 0;
    std::uint32_t segment_size = 0;
};

/// From global/pg_control, whose first page may be torn while the server runs, but not these two.
/// Nothing when there is none. Throws kCorrupt `not_a_data_directory` when it makes no sense.
std::optional<ServerIdentity> read_server_identity(int data_directory_fd);

struct ArchiveRequest {
    int source_directory_fd = -1;  ///< an open pg_wal
    std::string source_shown;      ///< what errors call it
    std::string source_name;       ///< in it; no link is followed
    std::string name;              ///< %f; under which it is archived
    std::filesystem::path archive;
    std::optional<ServerIdentity> server;
};

enum class ArchiveOutcome {
    kArchived,
    kWasThere,         ///< with the same content; it is durable now
    kReplacedDamaged,  ///< what was there under this name was no whole archived file
};

struct ArchiveResult {
    ArchiveOutcome outcome = ArchiveOutcome::kArchived;
    ArchivedMetadata metadata;
};

/// After it returns the file and its name survive a power cut. Throws kInvalid `wal_name_invalid`,
/// kNotFound `wal_source_missing`, kCorrupt `wal_source_wrong` (not the WAL of that name and
/// server), kConflict `wal_differs` (another file is archived under this name), whatever
/// ArchivedFile::open() throws but `wal_damaged`, and errors of the file system.
ArchiveResult archive_file(const ArchiveRequest& request);

}  // namespace bpg::wal
