#include "tests/harness/ledger.h"

#include <chrono>
#include <pqxx/pqxx>

namespace bpg::test {

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

void write_ledger(const std::string& url, int count) {
    pqxx::connection connection(url);
    for (int i = 0; i < count; ++i) {
        pqxx::work transaction(connection);
        transaction.exec0("INSERT INTO ledger (note) VALUES (repeat('x', 200))");
        transaction.commit();
    }
}

}  // namespace bpg::test
