// Copies a volume's files while they may be changing (the file part of a non-atomic base backup).
// Files that vanish or change size are normal: recovery from WAL mends them. The content is
// hostile: no symbolic link is followed, links are copied as links, sockets and devices are left
// out.
#pragma once

#include <string>

#include "orchestrator/storage/storage.h"

namespace bpg::storage {

/// Fills the empty directory `target_fd` from `source_fd` by the plan; mode and owner of everything
/// are kept, holes stay holes. The identity file of the source is never copied. Blocks for as long
/// as the data takes; nothing is synced. Throws kCorrupt `file_torn` when plan.last never became
/// whole.
void copy_tree(int source_fd, int target_fd, const CopyPlan& plan);

}  // namespace bpg::storage
