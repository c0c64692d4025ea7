// Work on a running PostgreSQL as its users do it: connections, writers that remember what was
// acknowledged, pgbench, and amcheck. All of it blocks the calling thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <pqxx/pqxx>
#include <string>
#include <thread>
#include <vector>

#include "tests/harness/host.h"

namespace bpg::test {

/// One value of one row. Throws pqxx::sql_error, pqxx::broken_connection.
std::string query_value(const std::string& url, const std::string& sql);
std::int64_t query_number(const std::string& url, const std::string& sql);
/// Runs statements and commits.
void execute(const std::string& url, const std::string& sql);
/// The same outside a transaction block, for what refuses to be in one.
void execute_alone(const std::string& url, const std::string& sql);

/// The server's refusal of a login, nothing when it lets us in.
std::optional<std::string> login_refusal(const std::string& url);
/// The same connection string with another password; an empty one is left out.
std::string with_password(const std::string& url, const std::string& password);
/// The password in a connection string.
std::string password_of(const std::string& url);

/// Sessions that insert rows one transaction at a time, every second of them with
/// synchronous_commit=off, and note each id once COMMIT was acknowledged.
class Writers {
  public:
    /// Makes table `acknowledged` if need be and starts `sessions` threads.
    Writers(std::string url, int sessions);
    ~Writers();
    Writers(const Writers&) = delete;
    Writers& operator=(const Writers&) = delete;

    /// Every id acknowledged up to this call.
    std::vector<std::int64_t> acknowledged() const;
    /// Until that many more rows than now were acknowledged; false when 20 s were not enough.
    bool wait_for_progress(std::size_t rows);
    void stop();
    /// What went wrong in any session. Empty is the only good answer.
    std::vector<std::string> errors() const;

  private:
    void run(bool synchronous);

    std::string url_;
    std::atomic<std::int64_t> next_id_;
    std::atomic<bool> stop_{false};
    mutable std::mutex mutex_;
    std::vector<std::int64_t> acknowledged_;  // guarded by mutex_
    std::vector<std::string> errors_;         // guarded by mutex_
    std::vector<std::thread> threads_;
};

/// Ids of `expected` that table `acknowledged` does not have, at most 20 of them.
std::vector<std::int64_t> missing_rows(const std::string& url,
                                       const std::vector<std::int64_t>& expected);

/// The path of pgbench.
std::string pgbench_program();

/// Runs pgbench with a branch's environment (the password never is in argv). Throws when it fails.
std::string pgbench(const TestHost& host, const std::string& ref,
                    const std::vector<std::string>& arguments);

/// bt_index_check with heapallindexed over every btree index, verify_heapam over every table: one
/// line a finding, empty when the data is sound.
std::vector<std::string> amcheck(const std::string& url);

/// pg_postmaster_start_time() as text.
std::string postmaster_start_time(const std::string& url);

/// Lines of a server log that say ERROR, FATAL or PANIC, but for what the end of a client makes.
std::vector<std::string> bad_log_lines(const std::string& log);

}  // namespace bpg::test
