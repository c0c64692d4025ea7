// `bpgd init`: the one place that prepares storage and store. Safe to repeat.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>

#include "orchestrator/config/config.h"

namespace bpg {

/// The name of the program that archives and restores WAL for PostgreSQL.
inline constexpr const char* kWalHelper = "bpg-wal";

/// Makes directories, pool file, volume root and store where they are missing. Blocking; root only.
/// Answers {"storage":{driver,why,pool,root},"runtime":{driver,version,why},"warnings":[…],
/// "config_updates":{…}}: what it found and what belongs into the config file. Throws bpg::Error.
nlohmann::json initialise(const config::Config& asked);

/// Directories that every start needs too (the run directory does not survive a reboot).
void ensure_directories(const config::Config& config);

}  // namespace bpg
