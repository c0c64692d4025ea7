// What a server committed and when, as it tells itself: the oracle of everything that is restored
// to a point in time. Its tables are called `ledger`; it must have track_commit_timestamp on.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "orchestrator/base/clock.h"

namespace bpg::test {

/// Rows of table `ledger`, with the time of each commit, by row.
using Ledger = std::vector<std::pair<std::int64_t, WallTime>>;

Ledger read_ledger(const std::string& url);
std::vector<std::int64_t> rows_in(const std::string& url);
std::vector<std::int64_t> rows_until(const Ledger& ledger, WallTime target);
/// `count` commits of a row each.
void write_ledger(const std::string& url, int count);

}  // namespace bpg::test
