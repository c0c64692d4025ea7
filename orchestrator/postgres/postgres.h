// The postgres port: what bpgd asks of a running server, one verb a need. There is no query(): all
// SQL lives behind it in pqxx_postgres.cc. Verbs speak over the instance's own unix socket, peer
// authenticated; only verify_login() takes the path and password a user takes.
//
// What answers is treated as hostile (spec section 9): `search_path` empty, names quoted, statement
// and lock timeouts set, event triggers off where the version can, results bounded and checked.
//
// All verbs are called on the loop thread and offload. Errors: kUnavailable `postgres_unreachable`
// (cannot connect), kConflict `wrong_instance` (another branch answers), kInternal `postgres_error`
// with the server's message as detail, kTimeout `postgres_timeout`.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/base/clock.h"
#include "orchestrator/base/secret.h"
#include "orchestrator/postgres/lsn.h"

namespace bpg::postgres {

namespace asio = boost::asio;

/// Where an instance listens for us, and who must answer there.
struct Endpoint {
    std::filesystem::path socket_directory;
    int port = 0;
    std::string branch_id;  ///< every connection checks `bpg.branch_id` first (wrong_instance)
    int major = 0;          ///< its version where known: 15; asking for it costs a refused login
};

/// What pg_backup_start said. Times are the parent's clock.
struct BackupStart {
    Lsn lsn;
    std::uint32_t timeline = 0;
    std::uint32_t segment_size = 0;
};

/// What pg_backup_stop said (SNAP-9, NA-4).
struct BackupStop {
    Lsn lsn;
    std::string label;           ///< backup_label, byte for byte
    std::string tablespace_map;  ///< byte for byte, often empty
};

/// Where the parent stood right after a snapshot returned (SNAP-9).
struct Position {
    Lsn lsn;  ///< pg_current_wal_insert_lsn()
    WallTime at;
};

/// One session with a parent, held while the storage takes its snapshot.
class ParentSession {
  public:
    virtual ~ParentSession() = default;
    /// Asked after the storage snapshot.
    virtual asio::awaitable<Position> position() = 0;
};

/// One session in backup mode. Losing it, or destroying this object, ends the backup on the server.
class BackupSession : public ParentSession {
  public:
    virtual const BackupStart& start() const = 0;
    /// pg_backup_stop(wait_for_archive => false), in the same session (E5). Once.
    virtual asio::awaitable<BackupStop> stop() = 0;
};

/// What matters of a running parent before it is branched.
struct ParentFacts {
    int version_num = 0;                  ///< server_version_num
    bool fsync = true;                    ///< fsync=off: not snapshot-able while running (SNAP-5)
    bool full_page_writes = true;         ///< off: refused on btrfs and copy (SNAP-5, HLT-8)
    std::int64_t unlogged_relations = 0;  ///< emptied in the branch (SNAP-8)
    std::int64_t prepared_transactions = 0;  ///< survive into the branch and hold locks
    bool has_subscriptions = false;          ///< the clone must not run them (E12)
};

/// What a server that has just become ready says of itself (HLT-1).
struct ReadyFacts {
    std::uint32_t timeline = 0;
    std::string system_identifier;
};

class Postgres {
  public:
    virtual ~Postgres() = default;

    /// Waits until postmaster.pid says "ready" (looked at every 2 ms), then asks one real query:
    /// right branch, not in recovery. `alive` is asked meanwhile; when it answers false the wait
    /// ends with kInternal `postgres_refused`. kTimeout `postgres_not_ready` after `deadline`.
    /// In the same session role `postgres` gets this SCRAM verifier (the password itself never
    /// goes over the wire) and LOGIN SUPERUSER; the role is made if the data has lost it. Empty:
    /// roles are left as they are.
    virtual asio::awaitable<ReadyFacts> await_ready(const std::filesystem::path& data_directory,
                                                    const Endpoint& endpoint,
                                                    std::function<asio::awaitable<bool>()> alive,
                                                    std::chrono::milliseconds deadline,
                                                    std::string verifier) = 0;

    virtual asio::awaitable<ParentFacts> inspect_parent(const Endpoint& endpoint) = 0;
    /// SET synchronous_commit=local first (SNAP-1); pg_backup_start(label, fast => true), in the
    /// spelling of the server's version. With `keep_wal` a temporary physical slot that reserves
    /// WAL is made first in the same session (NA-2).
    virtual asio::awaitable<std::unique_ptr<BackupSession>> start_backup(const Endpoint& endpoint,
                                                                         std::string label,
                                                                         bool keep_wal) = 0;
    /// Commits a WAL record with synchronous_commit=local: every transaction acknowledged before is
    /// on disk when it returns, asynchronous ones included (E1b).
    virtual asio::awaitable<std::unique_ptr<ParentSession>> fence(const Endpoint& endpoint) = 0;

    /// The same fence, then the next segment is begun: what was committed before is in whole
    /// segments that can be archived, with the fence's own commit behind it (PITR-3). Where the
    /// whole segments end.
    virtual asio::awaitable<Position> switch_wal(const Endpoint& endpoint) = 0;

    /// Disables every subscription of every dbname, without contacting a publisher.
    virtual asio::awaitable<void> disable_subscriptions(const Endpoint& endpoint) = 0;
    /// CHECKPOINT.
    virtual asio::awaitable<void> checkpoint(const Endpoint& endpoint) = 0;

    /// Logs in as a user would, over TCP with the password, and asks one query: the branch's
    /// published endpoint works. kUnavailable `postgres_unreachable` if not.
    virtual asio::awaitable<void> verify_login(std::string host, int port, Secret password,
                                               std::string branch_id) = 0;
};

/// A SCRAM-SHA-256 verifier as pg_authid stores it (RFC 5803), with a random salt, 4096 iterations.
/// Our passwords are ASCII, so SASLprep changes nothing. CPU-bound (about 2 ms): call it in a pool.
std::string scram_verifier(const Secret& password);

}  // namespace bpg::postgres
