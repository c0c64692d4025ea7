// What happens to a data directory around its birth as a clone: what a source may not contain, what
// is cleared away before the first start, the mark that says it was done. Every step can be
// repeated. Blocks: call it on a pool.
#pragma once

#include "orchestrator/postgres/data_directory.h"
#include "orchestrator/postgres/tree.h"

namespace bpg::postgres {

/// Throws kInvalid `tablespace_outside`, `wal_outside`, `link_outside` when a directory that
/// PostgreSQL writes to is a symbolic link (SNAP-4): a clone has the same link, so it would write
/// into the files of its parent. Links that stay inside are refused too: PostgreSQL makes absolute
/// ones.
void refuse_links(const Tree& data);

/// PG_VERSION as a number; throws kCorrupt `not_a_data_directory`.
int read_major_version(const Tree& data);

/// pg_control, read again while it is being written.
ControlFile read_control_file(const Tree& data);

/// Whether some relation has an init fork, in base/ or in a tablespace.
bool contains_unlogged_relations(const Tree& data);

/// The mark of a prepared volume. It lies beside the data directory and is root's, so that a
/// superuser of the branch can neither forge nor remove it.
bool is_prepared(const Tree& volume, const std::string& incarnation_id);
void write_mark(const Tree& volume, const std::string& incarnation_id);

/// The clone hygiene itself, without looking at the mark or writing it.
void clean_clone(const Tree& data, const CloneSpec& spec);

}  // namespace bpg::postgres
