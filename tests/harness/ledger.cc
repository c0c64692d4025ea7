// See ledger.h.
#include "tests/harness/ledger.h"

#include <pqxx/pqxx>

#include "tests/harness/load.h"

namespace bpg::test {

void begin_ledger(const TestHost& host, const std::string& ref) {
    execute_alone(host.url(ref), "ALTER SYSTEM SET track_commit_timestamp = on");
    host.bpg_json({"restart", ref});
    execute(host.url(ref), "CREATE TABLE ledger (seq bigserial PRIMARY KEY, note text)");
}

void write_ledger(const TestHost& host, const std::string& ref, int count) {
    pqxx::connection connection(host.url(ref));
    for (int i = 0; i < count; ++i) {
        pqxx::work transaction(connection);
        transaction.exec0("INSERT INTO ledger (note) VALUES (repeat('x', 200))");
        transaction.commit();
    }
}

Ledger read_ledger(const std::string& url) {
    pqxx::connection connection(url);
    pqxx::nontransaction session(connection);
    Ledger ledger;
    for (const auto& row : session.exec(
             "SELECT seq, (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint"
             " FROM ledger ORDER BY seq")) {
        ledger.emplace_back(row[0].as<std::int64_t>(),
                            WallTime(std::chrono::microseconds(row[1].as<std::int64_t>())));
    }
    return ledger;
}

std::vector<std::int64_t> rows_in(const std::string& url) {
    pqxx::connection connection(url);
    pqxx::nontransaction session(connection);
    std::vector<std::int64_t> rows;
    for (const auto& row : session.exec("SELECT seq FROM ledger ORDER BY seq"))
        rows.push_back(row[0].as<std::int64_t>());
    return rows;
}

std::vector<std::int64_t> rows_until(const Ledger& ledger, WallTime target) {
    std::vector<std::int64_t> rows;
    for (const auto& [row, committed] : ledger) {
        if (committed <= target) rows.push_back(row);
    }
    return rows;
}

}  // namespace bpg::test
