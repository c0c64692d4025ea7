// All SQL of bpgd. Every name in it is either pg_catalog's (search_path is empty, so nothing else
// is found) or quoted.
#include "orchestrator/postgres/pqxx_postgres.h"

#include <fmt/format.h>
#include <signal.h>

#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <charconv>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/id.h"
#include "orchestrator/base/signal.h"
#include "orchestrator/postgres/scram.h"
#include "orchestrator/postgres/session.h"
#include "orchestrator/postgres/settings.h"

namespace bpg::postgres {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kShort{10'000};
/// For what waits for a checkpoint: as long as one may take on slow disks.
constexpr milliseconds kLong{600'000};
/// How long after its statement_timeout a server may still answer before the connection is cut.
constexpr milliseconds kGrace{5'000};
constexpr milliseconds kReadyPause{2};
constexpr milliseconds kAlivePause{50};
/// After a refused attempt: each one costs the server a process.
constexpr milliseconds kRefusedPause{20};
constexpr std::size_t kLabelMax = 64 * 1024;
constexpr std::size_t kTablespaceMapMax = 1U << 20U;
constexpr std::size_t kNamesMax = 10'000;

constexpr const char* kPositionQuery =
    "SELECT pg_current_wal_insert_lsn(),"
    " (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

SessionTarget target_of(const Endpoint& endpoint, milliseconds timeout = kShort) {
    return {.host = endpoint.socket_directory.native(),
            .port = endpoint.port,
            .branch_id = endpoint.branch_id,
            .major = endpoint.major,
            .dbname = "postgres",
            .password = {},
            .statement_timeout = timeout};
}

/// Cuts the connection when `limit` has passed, unless it is destroyed before. Loop thread.
class Alarm {
  public:
    Alarm(const asio::any_io_executor& executor, milliseconds limit,
          const std::shared_ptr<Cutoff>& cutoff)
        : timer_(executor, limit) {
        timer_.async_wait([cutoff](const boost::system::error_code& failure) {
            if (!failure) cutoff->cut();
        });
    }

  private:
    asio::steady_timer timer_;
};

/// Runs `work(session)` while `cutoff` can end its waits.
template <class Work>
auto with_cutoff(Session& session, Cutoff& cutoff, Work& work) {
    struct Restore {
        Cutoff& cutoff;
        int socket;
        ~Restore() { cutoff.watch(socket); }
    };
    const Restore restore{cutoff, cutoff.watch(session.socket())};
    const auto too_late = [] {
        return Error(ErrorKind::kTimeout, "postgres_timeout", "PostgreSQL took too long",
                     "the server has stopped answering");
    };
    if (cutoff.was_cut()) throw too_late();
    try {
        return work(session);
    } catch (const Error&) {
        if (cutoff.was_cut()) throw too_late();
        throw;
    }
}

/// A connection, `work(session, cutoff)` on it, and its end: all on the pool, within `limit`.
template <class Work>
asio::awaitable<std::invoke_result_t<Work&, Session&, Cutoff&>> on_session(
    BlockingPool& pool, std::shared_ptr<VersionMemory> versions, SessionTarget target,
    milliseconds limit, Work work) {
    const auto cutoff = std::make_shared<Cutoff>();
    const Alarm alarm(co_await asio::this_coro::executor, limit + kGrace, cutoff);
    auto task = [&] {
        Session session(target, *versions);
        auto guarded = [&](Session& there) { return work(there, *cutoff); };
        return with_cutoff(session, *cutoff, guarded);
    };
    co_return co_await pool.run(std::move(task));
}

/// The same for work that takes one short statement.
template <class Work>
asio::awaitable<std::invoke_result_t<Work&, Session&>> on_session(
    BlockingPool& pool, std::shared_ptr<VersionMemory> versions, SessionTarget target, Work work) {
    const milliseconds limit = target.statement_timeout;
    auto guarded = [work = std::move(work)](Session& session, Cutoff&) mutable {
        return work(session);
    };
    co_return co_await on_session(pool, std::move(versions), std::move(target), limit,
                                  std::move(guarded));
}

/// `work` in another dbname, while the session the cutoff was watching waits.
template <class Work>
auto on_other_dbname(const SessionTarget& target, VersionMemory& versions, Cutoff& cutoff,
                     Work& work) {
    Session there(target, versions);
    return with_cutoff(there, cutoff, work);
}

Position position_of(Session& session) {
    const auto answer = session.ask(kPositionQuery);
    return {.lsn = lsn_value(answer.at(0)[0]),
            .at = WallTime(std::chrono::microseconds(integer_value(answer.at(0)[1])))};
}

std::uint32_t timeline_of(const std::string& segment) {
    std::uint32_t timeline = 0;
    const auto [end, failure] = std::from_chars(
        segment.data(), segment.data() + std::min<std::size_t>(8, segment.size()), timeline, 16);
    if (segment.size() != 24 || failure != std::errc() || end != segment.data() + 8) {
        throw Error(ErrorKind::kInternal, "postgres_error",
                    "PostgreSQL gave an answer nobody expected",
                    "'" + segment + "' is no WAL segment");
    }
    return timeline;
}

BackupStart begin_backup(Session& session, const std::string& label, bool keep_wal) {
    // A user's time limit on idle sessions would end the backup during a long copy.
    if (session.version() >= 140'000) session.ask("SET idle_session_timeout = 0");
    if (keep_wal) {
        session.ask("SELECT pg_create_physical_replication_slot($1::name, true, true)",
                    "bpg_" + random_hex(8));
    }
    const std::string call = session.version() >= 150'000
                                 ? "pg_backup_start($1::text, fast => true)"
                                 : "pg_start_backup($1::text, true, false)";
    const auto started = session.ask("SELECT " + call, label);
    const Lsn lsn = lsn_value(started.at(0)[0]);
    const auto facts = session.ask(
        "SELECT pg_walfile_name($1::pg_lsn),"
        " (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size')",
        to_string(lsn));
    return {.lsn = lsn,
            .timeline = timeline_of(text_value(facts.at(0)[0], 64)),
            .segment_size = static_cast<std::uint32_t>(integer_value(facts.at(0)[1]))};
}

BackupStop end_backup(Session& session) {
    const std::string call = session.version() >= 150'000
                                 ? "pg_backup_stop(wait_for_archive => false)"
                                 : "pg_stop_backup(false, false)";
    const auto answer = session.ask("SELECT lsn, labelfile, spcmapfile FROM " + call);
    const auto row = answer.at(0);
    return {.lsn = lsn_value(row[0]),
            .label = text_value(row[1], kLabelMax),
            .tablespace_map = row[2].is_null() ? "" : text_value(row[2], kTablespaceMapMax)};
}

/// A session that outlives one call.
class KeptSession {
  public:
    KeptSession(BlockingPool& pool, std::shared_ptr<Session> session)
        : pool_(pool), session_(std::move(session)) {}
    ~KeptSession() {
        // Closing speaks to the server, so it is not for this thread.
        pool_.post([session = std::move(session_)]() mutable { session.reset(); });
    }
    KeptSession(const KeptSession&) = delete;
    KeptSession& operator=(const KeptSession&) = delete;

    template <class Work>
    asio::awaitable<std::invoke_result_t<Work&, Session&>> run(Work work, milliseconds limit) {
        const auto cutoff = std::make_shared<Cutoff>();
        const Alarm alarm(co_await asio::this_coro::executor, limit + kGrace, cutoff);
        auto task = [session = session_, cutoff, &work] {
            return with_cutoff(*session, *cutoff, work);
        };
        co_return co_await pool_.run(std::move(task));
    }

  private:
    BlockingPool& pool_;
    std::shared_ptr<Session> session_;
};

class PqxxParent final : public ParentSession {
  public:
    PqxxParent(BlockingPool& pool, std::shared_ptr<Session> session)
        : kept_(pool, std::move(session)) {}

    asio::awaitable<Position> position() override {
        co_return co_await kept_.run(position_of, kShort);
    }

  private:
    KeptSession kept_;
};

class PqxxBackup final : public BackupSession {
  public:
    PqxxBackup(BlockingPool& pool, std::shared_ptr<Session> session, BackupStart start)
        : kept_(pool, std::move(session)), start_(start) {}

    const BackupStart& start() const override { return start_; }

    asio::awaitable<Position> position() override {
        co_return co_await kept_.run(position_of, kShort);
    }

    asio::awaitable<BackupStop> stop() override { co_return co_await kept_.run(end_backup, kLong); }

  private:
    KeptSession kept_;
    BackupStart start_;
};

/// The dbnames one can connect to. Templates hold no tables of users.
std::vector<std::string> dbnames(Session& session) {
    const auto answer = session.ask(
        "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY oid");
    if (answer.size() > kNamesMax) {
        throw Error(ErrorKind::kExhausted, "too_many_dbnames",
                    "the instance has too many databases",
                    fmt::format("{} of them", answer.size()));
    }
    std::vector<std::string> names;
    for (const auto& row : answer)
        names.push_back(text_value(row[0], 64));
    return names;
}

std::int64_t count_unlogged(Session& session) {
    // Tables and, from 15 on, sequences: what a user made and will miss. Indexes follow their
    // table.
    const auto answer = session.ask(
        "SELECT count(*) FROM pg_class WHERE relpersistence = 'u' AND relkind IN ('r', 'S')");
    return integer_value(answer.at(0)[0]);
}

ParentFacts facts_of(Session& session) {
    const auto answer = session.ask(
        "SELECT current_setting('fsync')::bool, current_setting('full_page_writes')::bool,"
        " (SELECT count(*) FROM pg_prepared_xacts), EXISTS (SELECT FROM pg_subscription)");
    const auto row = answer.at(0);
    ParentFacts facts;
    facts.version_num = session.version();
    facts.fsync = bool_value(row[0]);
    facts.full_page_writes = bool_value(row[1]);
    facts.prepared_transactions = integer_value(row[2]);
    // A disabled one counts too: it may be enabled before the snapshot is taken.
    facts.has_subscriptions = bool_value(row[3]);
    return facts;
}

void write_verifier(Session& session, const std::string& verifier) {
    // The verifier is no password, but nobody's log needs it either.
    session.be_terse();
    for (const char* quiet : {"SET log_statement = 'none'", "SET log_min_duration_statement = -1",
                              "SET log_duration = off", "SET log_min_error_statement = 'panic'"}) {
        session.ask(quiet);
    }
    const auto found = session.ask("SELECT FROM pg_roles WHERE rolname = 'postgres'");
    session.ask(std::string(found.empty() ? "CREATE" : "ALTER") +
                " ROLE postgres WITH LOGIN SUPERUSER CONNECTION LIMIT -1 VALID UNTIL 'infinity'"
                " PASSWORD " +
                session.quote(verifier));
}

/// The enabled subscriptions, by the dbname each lives in: pg_subscription is one for all of them.
std::map<std::string, std::vector<std::string>> enabled_subscriptions(Session& session) {
    const auto answer = session.ask(
        "SELECT d.datname, s.subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid"
        " WHERE s.subenabled");
    std::map<std::string, std::vector<std::string>> found;
    for (const auto& row : answer) {
        found[text_value(row[0], 64)].push_back(text_value(row[1], 64));
    }
    return found;
}

void disable_all_subscriptions(Session& session, SessionTarget target, VersionMemory& versions,
                               Cutoff& cutoff) {
    std::string refused;
    for (const auto& [dbname, names] : enabled_subscriptions(session)) {
        target.dbname = dbname;
        auto work = [&subscriptions = names](Session& there) {
            for (const std::string& name : subscriptions) {
                there.ask("ALTER SUBSCRIPTION " + there.quote_name(name) + " DISABLE");
            }
        };
        try {
            on_other_dbname(target, versions, cutoff, work);
        } catch (const Error& failure) {
            refused = dbname + ": " + failure.info().detail;
        }
    }
    const auto left = enabled_subscriptions(session);
    if (left.empty()) return;
    throw Error(
        ErrorKind::kInternal, "subscriptions_enabled",
        fmt::format("subscriptions of dbname {} could not be disabled", left.begin()->first),
        refused, "drop or disable them on the parent, then branch it again");
}

ReadyFacts ready_facts(Session& session, bool& in_recovery) {
    // The name of the current segment is asked inside CASE: during recovery it would be an error.
    const auto answer = session.ask(
        "SELECT pg_is_in_recovery(), (SELECT system_identifier FROM pg_control_system()),"
        " CASE WHEN pg_is_in_recovery() THEN '' ELSE"
        " pg_walfile_name(pg_current_wal_insert_lsn()) END");
    const auto row = answer.at(0);
    in_recovery = bool_value(row[0]);
    if (in_recovery) return {};
    return {.timeline = timeline_of(text_value(row[2], 64)),
            .system_identifier = text_value(row[1], 32)};
}

}  // namespace

PqxxPostgres::PqxxPostgres(BlockingPool& pool)
    : pool_(pool), versions_(std::make_shared<VersionMemory>()) {}

PqxxPostgres::~PqxxPostgres() = default;

bool says_ready(const std::string& postmaster_pid, int port) {
    std::vector<std::string_view> lines;
    std::string_view rest = postmaster_pid;
    while (!rest.empty() && lines.size() < 8) {
        const auto length = std::min(rest.find('\n'), rest.size());
        lines.push_back(rest.substr(0, length));
        rest.remove_prefix(std::min(length + 1, rest.size()));
    }
    if (lines.size() < 8) return false;
    // A crash leaves the file behind with "ready" in it, until the next start replaces it.
    pid_t pid = 0;
    const auto parsed = std::from_chars(lines[0].data(), lines[0].data() + lines[0].size(), pid);
    if (parsed.ec != std::errc() || pid <= 0) return false;
    if (::kill(pid, 0) != 0 && errno == ESRCH) return false;
    if (lines[3] != std::to_string(port)) return false;
    const std::string_view status = lines[7];
    return status.substr(0, status.find_last_not_of(' ') + 1) == "ready";
}

asio::awaitable<ReadyFacts> PqxxPostgres::await_ready(const std::filesystem::path& data_directory,
                                                      const Endpoint& endpoint,
                                                      std::function<asio::awaitable<bool>()> alive,
                                                      milliseconds deadline, std::string verifier) {
    if (!verifier.empty() && !is_scram_verifier(verifier)) {
        throw Error(ErrorKind::kInternal, "verifier_invalid", "cannot set the branch's password",
                    "this is no SCRAM verifier, and a password is never sent");
    }
    const auto end = steady_clock::now() + deadline;
    auto next_alive = steady_clock::now() + kAlivePause;
    const std::filesystem::path pid_file = data_directory / "postmaster.pid";
    std::string refusal;  // of the last attempt
    // On the pool: a read waits for what PostgreSQL writes there.
    auto learn = [this, data_directory, id = endpoint.branch_id] {
        learn_version(data_directory, id);
    };
    co_await pool_.run(std::move(learn));
    while (true) {
        milliseconds pause = kReadyPause;
        auto look = [pid_file, port = endpoint.port] {
            return says_ready(read_file(pid_file, 4096).value_or(""), port);
        };
        if (co_await pool_.run(std::move(look))) {
            const auto facts = co_await ask_ready(endpoint, verifier, refusal);
            if (facts) co_return *facts;
            pause = kRefusedPause;
        }
        const auto now = steady_clock::now();
        if (now >= next_alive) {
            if (!co_await alive()) {
                throw Error(ErrorKind::kInternal, "postgres_refused", "PostgreSQL did not start",
                            "it ended before it was ready");
            }
            next_alive = steady_clock::now() + kAlivePause;
        }
        if (now >= end) {
            throw Error(ErrorKind::kTimeout, "postgres_not_ready",
                        "PostgreSQL was not ready in time",
                        fmt::format("it has not finished starting within {} ms", deadline.count()) +
                            (refusal.empty() ? "" : "; it says: " + refusal));
        }
        asio::steady_timer timer(co_await asio::this_coro::executor, pause);
        co_await timer.async_wait(asio::use_awaitable);
    }
}

/// Nothing when the server cannot be asked yet; `refusal` is why.
asio::awaitable<std::optional<ReadyFacts>> PqxxPostgres::ask_ready(Endpoint endpoint,
                                                                   std::string verifier,
                                                                   std::string& refusal) {
    auto work = [verifier](Session& session) -> std::optional<ReadyFacts> {
        bool in_recovery = false;
        ReadyFacts facts = ready_facts(session, in_recovery);
        if (in_recovery) return std::nullopt;
        if (!verifier.empty()) write_verifier(session, verifier);
        return facts;
    };
    try {
        co_return co_await on_session(pool_, versions_, target_of(endpoint), std::move(work));
    } catch (const Error& failure) {
        if (failure.kind() != ErrorKind::kUnavailable) throw;
        refusal = failure.info().detail;
        co_return std::nullopt;
    }
}

void PqxxPostgres::learn_version(const std::filesystem::path& data_directory,
                                 const std::string& branch_id) {
    const auto content = read_file(data_directory / "PG_VERSION", 64);
    const auto major = content ? parse_pg_version(*content) : std::nullopt;
    if (major) versions_->remember(branch_id, *major);
}

asio::awaitable<ParentFacts> PqxxPostgres::inspect_parent(const Endpoint& endpoint) {
    const SessionTarget target = target_of(endpoint);
    auto work = [target, versions = versions_](Session& session, Cutoff& cutoff) {
        ParentFacts facts = facts_of(session);
        for (const std::string& dbname : dbnames(session)) {
            if (dbname == target.dbname) {
                facts.unlogged_relations += count_unlogged(session);
                continue;
            }
            SessionTarget other = target;
            other.dbname = dbname;
            facts.unlogged_relations += on_other_dbname(other, *versions, cutoff, count_unlogged);
        }
        return facts;
    };
    co_return co_await on_session(pool_, versions_, target, kLong, std::move(work));
}

asio::awaitable<std::unique_ptr<BackupSession>> PqxxPostgres::start_backup(const Endpoint& endpoint,
                                                                           std::string label,
                                                                           bool keep_wal) {
    const SessionTarget target = target_of(endpoint, kLong);
    const auto cutoff = std::make_shared<Cutoff>();
    const Alarm alarm(co_await asio::this_coro::executor, kLong + kGrace, cutoff);
    auto task = [&]() -> std::pair<std::shared_ptr<Session>, BackupStart> {
        auto session = std::make_shared<Session>(target, *versions_);
        auto work = [&](Session& there) { return begin_backup(there, label, keep_wal); };
        const BackupStart start = with_cutoff(*session, *cutoff, work);
        return {std::move(session), start};
    };
    auto [session, start] = co_await pool_.run(std::move(task));
    co_return std::make_unique<PqxxBackup>(pool_, std::move(session), start);
}

asio::awaitable<std::unique_ptr<ParentSession>> PqxxPostgres::fence(const Endpoint& endpoint) {
    const SessionTarget target = target_of(endpoint);
    const auto cutoff = std::make_shared<Cutoff>();
    const Alarm alarm(co_await asio::this_coro::executor, kShort + kGrace, cutoff);
    auto task = [&] {
        auto session = std::make_shared<Session>(target, *versions_);
        // Every connection has synchronous_commit=local: on, and it could wait for a dead standby
        // for ever; off, and the commit below would flush nothing (E1b).
        auto work = [](Session& there) {
            there.ask("SELECT pg_logical_emit_message(true, 'bpg', 'fence')");
        };
        with_cutoff(*session, *cutoff, work);
        return session;
    };
    co_return std::make_unique<PqxxParent>(pool_, co_await pool_.run(std::move(task)));
}

asio::awaitable<Position> PqxxPostgres::switch_wal(const Endpoint& endpoint) {
    auto work = [](Session& session) -> Position {
        session.ask("SELECT pg_logical_emit_message(true, 'bpg', 'fence')");
        // A statement of its own: in the same transaction the commit would come behind the switch.
        const Lsn end = lsn_value(session.ask("SELECT pg_switch_wal()")[0][0]);
        return {end, position_of(session).at};
    };
    co_return co_await on_session(pool_, versions_, target_of(endpoint, kLong), std::move(work));
}

asio::awaitable<void> PqxxPostgres::disable_subscriptions(const Endpoint& endpoint) {
    const SessionTarget target = target_of(endpoint);
    auto work = [target, versions = versions_](Session& session, Cutoff& cutoff) {
        disable_all_subscriptions(session, target, *versions, cutoff);
    };
    co_await on_session(pool_, versions_, target, kLong, std::move(work));
}

asio::awaitable<void> PqxxPostgres::checkpoint(const Endpoint& endpoint) {
    auto work = [](Session& session) { session.ask("CHECKPOINT"); };
    co_await on_session(pool_, versions_, target_of(endpoint, kLong), std::move(work));
}

asio::awaitable<void> PqxxPostgres::verify_login(std::string host, int port, Secret password,
                                                 std::string branch_id) {
    const SessionTarget target{.host = std::move(host),
                               .port = port,
                               .branch_id = std::move(branch_id),
                               .dbname = "postgres",
                               .password = std::move(password),
                               .statement_timeout = kShort};
    auto work = [](Session& session) {
        if (bool_value(session.ask("SELECT pg_is_in_recovery()").at(0)[0])) {
            throw Error(ErrorKind::kUnavailable, "postgres_unreachable",
                        "PostgreSQL does not answer", "it is still in recovery");
        }
    };
    co_await on_session(pool_, versions_, target, std::move(work));
}

}  // namespace bpg::postgres
