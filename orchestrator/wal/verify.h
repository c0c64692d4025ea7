// Looking over a whole archive.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "orchestrator/base/error.h"

namespace bpg::wal {

struct ArchiveFault {
    std::string file;  ///< its name in the archive
    ErrorInfo error;
};

/// Reads every file, or those of the WAL files named, and says what is wrong with them, by name.
/// What is none of ours is `wal_foreign_file`; a name given that is not there `wal_missing`. What
/// somebody is writing at the moment is passed over.
std::vector<ArchiveFault> verify_archive(const std::filesystem::path& archive,
                                         const std::vector<std::string>& names = {});

}  // namespace bpg::wal
