// The two ways a user names things: a database (`prod`) and a branch of it (`prod/dev`). Only the
// shape is checked here, so that a slip is answered without a daemon; the daemon checks again.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bpg::cli {

struct BranchRef {
    std::string database;
    std::string branch;

    std::string text() const { return database + "/" + branch; }
    bool operator==(const BranchRef&) const = default;
};

/// Throws (exit 2) Failure `usage` unless the text is DB/BR, Error `name_invalid` for its parts.
BranchRef parse_branch_ref(std::string_view text);
/// Throws (exit 2) Error `name_invalid` unless it is a valid name.
std::string parse_database_name(std::string_view text);

/// The --keep-<rule> flags, in the order in which they are shown.
inline constexpr std::string_view kKeepRules[] = {"last",    "hourly", "daily", "weekly",
                                                  "monthly", "yearly", "min"};

/// Nothing unless all of the text is a whole number.
std::optional<int> parse_whole_number(std::string_view text);

/// The nearest of `candidates` to what was typed, when it is near enough to be meant; else empty.
std::string did_you_mean(std::string_view typed, const std::vector<std::string>& candidates);

/// Percent-encodes everything but the unreserved characters of RFC 3986.
std::string percent_encode(std::string_view text);

/// "/v1/branches/db/br"
std::string branch_target(const BranchRef& ref);
/// "/v1/databases/db"
std::string database_target(std::string_view name);
/// "/v1/snapshots/id"
std::string snapshot_target(std::string_view id);
/// "/v1/trash/id": an id, or what it was called
std::string trash_target(std::string_view what);
/// "/v1/wal/db/br"
std::string wal_target(const BranchRef& ref);
/// "/v1/schedules/name"
std::string schedule_target(std::string_view name);
/// "/v1/jobs/id"
std::string job_target(std::string_view id);

}  // namespace bpg::cli
