// See load.h.
#include "tests/harness/load.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>
#include <stdexcept>

#include "orchestrator/base/subprocess.h"

namespace bpg::test {

std::string query_value(const std::string& url, const std::string& sql) {
    pqxx::connection connection(url);
    pqxx::work work(connection);
    const auto value = work.exec1(sql)[0].as<std::string>(std::string());
    work.commit();
    return value;
}

std::int64_t query_number(const std::string& url, const std::string& sql) {
    return std::stoll(query_value(url, sql));
}

void execute(const std::string& url, const std::string& sql) {
    pqxx::connection connection(url);
    pqxx::work work(connection);
    work.exec(sql);
    work.commit();
}

void execute_alone(const std::string& url, const std::string& sql) {
    pqxx::connection connection(url);
    pqxx::nontransaction work(connection);
    work.exec(sql);
}

std::optional<std::string> login_refusal(const std::string& url) {
    try {
        const pqxx::connection connection(url);
        return std::nullopt;
    } catch (const pqxx::broken_connection& refused) {
        return refused.what();
    }
}

namespace {

/// Where the password stands in "scheme://user:password@host…".
std::pair<std::size_t, std::size_t> password_span(const std::string& url) {
    const auto user = url.find("://");
    const auto at = url.rfind('@');
    const auto colon = user == std::string::npos ? user : url.find(':', user + 3);
    if (colon == std::string::npos || at == std::string::npos || colon > at) {
        throw std::runtime_error("no password in the connection string");
    }
    return {colon, at};
}

}  // namespace

std::string with_password(const std::string& url, const std::string& password) {
    const auto [colon, at] = password_span(url);
    return url.substr(0, colon) + (password.empty() ? "" : ":" + password) + url.substr(at);
}

std::string password_of(const std::string& url) {
    const auto [colon, at] = password_span(url);
    return url.substr(colon + 1, at - colon - 1);
}

// ---- writers
// -------------------------------------------------------------------------------------

Writers::Writers(std::string url, int sessions) : url_(std::move(url)) {
    execute(url_, "CREATE TABLE IF NOT EXISTS acknowledged (id bigint PRIMARY KEY, payload text)");
    next_id_ = 1 + query_number(url_, "SELECT coalesce(max(id), 0) FROM acknowledged");
    for (int session = 0; session < sessions; ++session) {
        threads_.emplace_back([this, session] { run(session % 2 == 0); });
    }
}

Writers::~Writers() {
    stop();
}

void Writers::run(bool synchronous) {
    try {
        pqxx::connection connection(url_);
        {
            pqxx::nontransaction setup(connection);
            setup.exec(fmt::format("SET synchronous_commit = {}", synchronous ? "on" : "off"));
        }
        while (!stop_) {
            const std::int64_t id = next_id_++;
            pqxx::work work(connection);
            work.exec_params("INSERT INTO acknowledged VALUES ($1, repeat('x', 100))", id);
            work.commit();
            const std::lock_guard lock(mutex_);
            acknowledged_.push_back(id);
        }
    } catch (const std::exception& failure) {
        const std::lock_guard lock(mutex_);
        errors_.emplace_back(failure.what());
    }
}

std::vector<std::int64_t> Writers::acknowledged() const {
    const std::lock_guard lock(mutex_);
    return acknowledged_;
}

bool Writers::wait_for_progress(std::size_t rows) {
    const std::size_t goal = acknowledged().size() + rows;
    return eventually([&] { return acknowledged().size() >= goal || !errors().empty(); }, 20s) &&
           errors().empty();
}

void Writers::stop() {
    stop_ = true;
    for (auto& thread : threads_)
        thread.join();
    threads_.clear();
}

std::vector<std::string> Writers::errors() const {
    const std::lock_guard lock(mutex_);
    return errors_;
}

std::vector<std::int64_t> missing_rows(const std::string& url,
                                       const std::vector<std::int64_t>& expected) {
    pqxx::connection connection(url);
    pqxx::work work(connection);
    std::vector<std::int64_t> there;
    for (const auto& row : work.exec("SELECT id FROM acknowledged ORDER BY id")) {
        there.push_back(row[0].as<std::int64_t>());
    }
    std::vector<std::int64_t> missing;
    for (const auto id : expected) {
        if (missing.size() == 20) break;
        if (!std::binary_search(there.begin(), there.end(), id)) missing.push_back(id);
    }
    return missing;
}

// ---- programs and checks
// -------------------------------------------------------------------------

std::string pgbench_program() {
    return "/usr/lib/postgresql/15/bin/pgbench";
}

std::string pgbench(const TestHost& host, const std::string& ref,
                    const std::vector<std::string>& arguments) {
    Command command;
    command.argv = {pgbench_program()};
    command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
    command.environment = host.client_environment(ref);
    command.deadline = 300s;
    const auto result = run_command(command);
    if (!result.ok()) throw std::runtime_error(result.explain(command) + "\n" + result.err);
    return result.out;
}

std::vector<std::string> amcheck(const std::string& url) {
    execute(url, "CREATE EXTENSION IF NOT EXISTS amcheck");
    pqxx::connection connection(url);
    pqxx::nontransaction work(connection);
    std::vector<std::string> findings;
    const auto indexes = work.exec(
        "SELECT c.oid, c.oid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = "
        "i.indexrelid"
        " JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND i.indisvalid"
        " AND c.relpersistence <> 't'");
    for (const auto& index : indexes) {
        try {
            work.exec(fmt::format("SELECT bt_index_check({}::oid::regclass, true)",
                                  index[0].as<std::string>()));
        } catch (const pqxx::sql_error& failure) {
            findings.push_back(index[1].as<std::string>() + ": " + failure.what());
        }
    }
    const auto tables = work.exec(
        "SELECT c.oid, c.oid::regclass::text FROM pg_class c WHERE c.relkind IN ('r', 't', 'm')"
        " AND c.relpersistence <> 't'");
    for (const auto& table : tables) {
        const auto bad = work.exec(fmt::format(
            "SELECT blkno, msg FROM verify_heapam({}::oid::regclass)", table[0].as<std::string>()));
        for (const auto& row : bad) {
            findings.push_back(fmt::format("{} block {}: {}", table[1].as<std::string>(),
                                           row[0].as<std::string>(), row[1].as<std::string>()));
        }
    }
    if (indexes.size() < 50 || tables.size() < 50) {
        findings.push_back(fmt::format("amcheck saw only {} indexes and {} tables: not a check",
                                       indexes.size(), tables.size()));
    }
    return findings;
}

std::string postmaster_start_time(const std::string& url) {
    return query_value(url, "SELECT pg_postmaster_start_time()::text");
}

std::vector<std::string> bad_log_lines(const std::string& log) {
    std::vector<std::string> bad;
    std::istringstream lines(log);
    for (std::string line; std::getline(lines, line);) {
        // Of a session alone: that of a bpgd which was killed within a statement.
        if (line.ends_with("FATAL:  connection to client lost")) continue;
        for (const char* level : {"ERROR:  ", "FATAL:  ", "PANIC:  "}) {
            if (line.find(level) != std::string::npos) bad.push_back(line);
        }
    }
    return bad;
}

}  // namespace bpg::test
