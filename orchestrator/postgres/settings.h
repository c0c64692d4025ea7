// Settings of PostgreSQL: which are bpgd's, how a value is written, and what PostgreSQL's own files
// make of a line. Pure functions.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "orchestrator/postgres/data_directory.h"

namespace bpg::postgres {

/// 'it''s': a value as a configuration file takes it. The value holds no control characters.
std::string quote_setting(std::string_view value);

/// Throws kInvalid `setting_invalid` for what is no name or value of a setting (an `include` would
/// be a directive), `setting_owned` for one that bpgd owns.
void check_setting(const std::string& name, const std::string& value);

/// The lower-case name a line of a configuration file sets; nothing for comments and empty lines.
std::optional<std::string> setting_on_line(std::string_view line);

/// The value that a configuration file gives to a setting, without its quotes: that of its last
/// line that sets it; nothing when none does. Files it includes are not looked at.
std::optional<std::string> setting_in(std::string_view file, std::string_view name);

/// postgresql.auto.conf of a parent without what must not reach a clone: the settings that say
/// where the parent listens, archives, recovers and replicates. All other lines stay byte for byte.
std::string without_inherited_settings(std::string_view auto_conf);

/// conf/postgresql.conf. `data` is the data directory whose own postgresql.conf is included.
std::string postgresql_conf(const std::filesystem::path& data,
                            const std::map<std::string, std::string>& settings, int version_major);
/// conf/pg_hba.conf.
/// Where an instance's clients come from.
enum class Clients {
    kLoopback,   ///< this host, through the loopback interface
    kTls,        ///< this host, and others with TLS
    kPublished,  ///< wherever the runtime publishes the port; they appear to come from its gateway
};
std::string pg_hba_conf(bool open, Clients clients);
/// conf/pg_ident.conf.
std::string pg_ident_conf();

/// The major version in the content of PG_VERSION; nothing when it is none of 13 to 18.
std::optional<int> parse_pg_version(std::string_view content);

/// Whether a `network.listen` address is reached from this machine only.
bool is_loopback(std::string_view listen);

}  // namespace bpg::postgres
