// How a user's programs reach a branch: a connection URL, PG* variables, a password file for psql.
// Pure text; the password comes from GET …/credentials, which answers over the unix socket only.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "orchestrator/base/secret.h"

namespace bpg::cli {

struct Credentials {
    std::string host;
    std::uint16_t port = 0;
    std::string user;
    Secret password;  ///< empty: left out everywhere
    std::string dbname;
};

/// Reads the answer of …/credentials, or a branch object (then without a password). Throws
/// kConflict `no_endpoint` while the branch has no host and port.
Credentials credentials_from(const nlohmann::json& object);

/// postgresql://user:password@host:port/dbname, every part percent-encoded.
std::string connection_url(const Credentials& credentials);

/// PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE, in that order.
std::vector<std::pair<std::string, std::string>> connection_variables(
    const Credentials& credentials);

/// NAME=value as a POSIX shell reads it; quoted where it has to be.
std::string shell_assignment(const std::string& name, const std::string& value);

/// One line of a libpq password file, for this host, port and user only.
std::string password_file_line(const Credentials& credentials);

}  // namespace bpg::cli
