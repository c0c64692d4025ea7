#include "cli/reference.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "cli/failure.h"
#include "orchestrator/base/id.h"
#include "orchestrator/base/log.h"
#include "orchestrator/base/words.h"

namespace bpg::cli {
BranchRef parse_branch_ref(std::string_view text) {
    const std::string shown = log::escape(text);
    const auto slash = text.find('/');
    if (slash == std::string_view::npos) {
        throw usage_failure(fmt::format("\"{}\" does not name a branch", shown),
                            "a branch is written DATABASE/BRANCH",
                            is_valid_name(text) ? fmt::format("did you mean {}/main?", text)
                                                : "write it like prod/dev");
    }
    const std::string_view database = text.substr(0, slash);
    const std::string_view branch = text.substr(slash + 1);
    check_name("database", database);
    check_name("branch", branch);
    return {std::string(database), std::string(branch)};
}

std::string parse_database_name(std::string_view text) {
    if (text.find('/') != std::string_view::npos) {
        throw usage_failure(fmt::format("\"{}\" does not name a database", log::escape(text)),
                            "it has a slash, like the name of a branch",
                            "this command takes a database, not a branch");
    }
    check_name("database", text);
    return std::string(text);
}

std::string did_you_mean(std::string_view typed, const std::vector<std::string>& candidates) {
    std::string best;
    std::size_t best_distance = std::max<std::size_t>(1, typed.size() / 3) + 1;
    for (const std::string& candidate : candidates) {
        std::size_t distance = edit_distance(typed, candidate);
        if (typed.size() >= 3 && candidate.starts_with(typed)) distance = 1;
        if (distance < best_distance) {
            best_distance = distance;
            best = candidate;
        }
    }
    return best;
}

std::string percent_encode(std::string_view text) {
    std::string out;
    for (const char c : text) {
        const bool unreserved = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                                (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' ||
                                c == '~';
        if (unreserved) {
            out += c;
        } else {
            out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
        }
    }
    return out;
}

std::string branch_target(const BranchRef& ref) {
    return "/v1/branches/" + percent_encode(ref.database) + "/" + percent_encode(ref.branch);
}

std::string database_target(std::string_view name) {
    return "/v1/databases/" + percent_encode(name);
}

std::string snapshot_target(std::string_view id) {
    return "/v1/snapshots/" + percent_encode(id);
}

std::string trash_target(std::string_view what) {
    return "/v1/trash/" + percent_encode(what);
}

std::string job_target(std::string_view id) {
    return "/v1/jobs/" + percent_encode(id);
}

std::string wal_target(const BranchRef& ref) {
    return "/v1/wal/" + ref.database + "/" + ref.branch;
}

std::string schedule_target(std::string_view name) {
    return "/v1/schedules/" + percent_encode(name);
}

std::optional<int> parse_whole_number(std::string_view text) {
    int value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return value;
}

}  // namespace bpg::cli
