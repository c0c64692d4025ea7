// One connection to one server, with everything set that makes it safe to speak to a server whose
// data somebody hostile has changed: empty search_path, time limits on both sides, event triggers
// off, no notice ever printed, the right branch checked before anything else. Only pqxx_postgres.cc
// uses it. Blocks; one thread at a time, except Cutoff.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <pqxx/pqxx>
#include <string>

#include "orchestrator/base/secret.h"
#include "orchestrator/postgres/postgres.h"

namespace bpg::postgres {

/// Ends a wait for an answer from another thread: statement_timeout is the server's, and one that
/// is stopped or hostile does not keep it. Thread-safe.
class Cutoff {
  public:
    /// From now on cut() shuts this socket down (-1: none). Returns the one watched before.
    int watch(int socket);
    void cut();
    bool was_cut() const;

  private:
    mutable std::mutex mutex_;
    int socket_ = -1;
    bool cut_ = false;
};

/// The major version of each branch's server, so that a connection can be made with the settings
/// that version knows at the first attempt. Thread-safe.
class VersionMemory {
  public:
    std::optional<int> find(const std::string& branch_id) const;
    void remember(const std::string& branch_id, int major);

  private:
    mutable std::mutex mutex_;
    std::map<std::string, int> majors_;
};

/// Where to connect, as whom, and for how long to wait.
struct SessionTarget {
    std::string host;  ///< a directory for a unix socket
    int port = 0;
    std::string branch_id;
    int major = 0;  ///< 0: as remembered
    std::string dbname = "postgres";
    Secret password;  ///< empty: none is sent
    std::chrono::milliseconds statement_timeout{10'000};
};

class Session {
  public:
    /// Connects as role postgres and checks the branch. Errors are those of the port.
    Session(const SessionTarget& target, VersionMemory& versions);

    /// Runs one statement in a transaction of its own. Errors are those of the port.
    pqxx::result ask(const std::string& sql);
    pqxx::result ask(const std::string& sql, const std::string& parameter);

    /// server_version_num
    int version() const { return connection_->server_version(); }
    int socket() const { return connection_->sock(); }
    std::string quote_name(const std::string& name) { return connection_->quote_name(name); }
    std::string quote(const std::string& text) { return connection_->quote(text); }
    /// Error messages without the statement and its values.
    void be_terse() { connection_->set_verbosity(pqxx::connection_base::terse); }

  private:
    void connect(const SessionTarget& target, bool event_triggers_off);
    void check_branch(const std::string& branch_id);

    std::unique_ptr<pqxx::connection> connection_;
    std::unique_ptr<pqxx::quiet_errorhandler> quiet_;  // goes before the connection it belongs to
};

/// A text value of a result that is there and no longer than `max`; throws kInternal
/// `postgres_error` otherwise, as the other three do for what is no such value.
std::string text_value(const pqxx::field& field, std::size_t max = 1024);
Lsn lsn_value(const pqxx::field& field);
std::int64_t integer_value(const pqxx::field& field);
bool bool_value(const pqxx::field& field);

/// A value in a libpq connection string.
std::string quote_conninfo(const std::string& value);

}  // namespace bpg::postgres
