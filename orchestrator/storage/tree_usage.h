// Measures what a volume occupies, by asking the file system for the extents of every file. Nothing
// is synced for it: data that waits to be written counts as its own.
#pragma once

#include "orchestrator/storage/storage.h"

namespace bpg::storage {

/// Walks the whole tree without following symbolic links; blocks, for long with many files.
/// Metadata, and small files that live in it, are not counted as used.
Usage measure_tree(int directory_fd);

}  // namespace bpg::storage
