// The command lines by which PostgreSQL calls bpg-wal. PostgreSQL gives them to a shell, so every
// word is quoted, and what PostgreSQL would take for a placeholder is doubled (SEC-5). Pure.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace bpg::wal {

/// archive_command: into the archive at `archive`.
std::string archive_command(const std::filesystem::path& helper,
                            const std::filesystem::path& archive);

/// Which WAL a recovery may have, and which it must find.
struct RestoreBounds {
    std::vector<std::uint32_t> timelines;  ///< oldest first; no segment of another is given out
    std::string from;                      ///< first and last segment that must be there
    std::string until;                     ///< no later one is given out either
    std::string history;  ///< "00000003.history" that must be there; empty on timeline 1
};

/// restore_command: from the archive at `archive`, or from `spool`, which is looked at first.
std::string restore_command(const std::filesystem::path& helper,
                            const std::filesystem::path& archive,
                            const std::filesystem::path& spool, const RestoreBounds& bounds);

}  // namespace bpg::wal
