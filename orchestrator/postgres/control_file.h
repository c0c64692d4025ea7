// global/pg_control, the file that says what state a cluster is in: our own parser, since no
// pg_controldata of the right version need be installed. Knows PostgreSQL 13 to 18 on little-endian
// 64-bit machines. Pure functions over bytes: reading the file is the caller's.
#pragma once

#include <string>
#include <string_view>

#include "orchestrator/postgres/data_directory.h"

namespace bpg::postgres {

/// Throws kCorrupt `control_file_torn` when the checksum is wrong (a reader of a running cluster
/// tries again), kInvalid `control_file_unknown` for a version this program does not know.
ControlFile parse_control_file(std::string_view content);

/// The same bytes with a checkpoint location that no WAL has. A copy made in backup mode is right
/// only together with its backup_label, which names the true location: with these bytes it cannot
/// start without (NA-6). Throws like parse_control_file().
std::string without_checkpoint(std::string_view content);

}  // namespace bpg::postgres
