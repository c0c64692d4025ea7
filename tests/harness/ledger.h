// What a server committed, by its own word: rows of a table `ledger` with the time of each commit,
// which is what a restore to a point in time is held against.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "orchestrator/base/clock.h"
#include "tests/harness/host.h"

namespace bpg::test {

/// Rows of table `ledger` in the order they were made, with the time of each commit.
using Ledger = std::vector<std::pair<std::int64_t, WallTime>>;

/// Gives a branch an empty ledger. PostgreSQL keeps the times of commits for it from now on, which
/// takes a restart.
void begin_ledger(const TestHost& host, const std::string& ref);
/// `count` commits of a row each.
void write_ledger(const TestHost& host, const std::string& ref, int count);

Ledger read_ledger(const std::string& url);
std::vector<std::int64_t> rows_in(const std::string& url);
/// The rows that were committed by then, the target included.
std::vector<std::int64_t> rows_until(const Ledger& ledger, WallTime target);

}  // namespace bpg::test
