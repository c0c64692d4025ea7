#include "orchestrator/operations/rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace bpg::operations {
namespace {

using jobs::Again;

constexpr Rule kRules[] = {
    {"db-create", "the database", Again::kAttach},
    {"db-delete", "the database", Again::kAttach},
    {"branch-create",
     "the branch; shared, its parent, until the snapshot is recorded (copied), and the WAL archive "
     "it recovers from",
     Again::kAttach},
    {"branch-delete", "the branch, with --recursive all that was cut from it", Again::kAttach},
    {"branch-sync", "the branch; shared, its parent, until the snapshot is recorded (copied)",
     Again::kCoalesce},
    {"branch-promote", "the branch and main", Again::kAttach},
    {"undo-delete", "the branches, or the database", Again::kAttach},
    {"trash-purge", "the branches, or the databases", Again::kAttach},
    {"snapshot", "shared, the branch", Again::kNever},
    {"snapshot-delete", "the snapshot", Again::kAttach},
    {"wal-cleanup", "its WAL archives", Again::kCoalesce},
    {"prune", "shared, the branch; the snapshots that go, and its WAL archives", Again::kCoalesce},
    {"password-rotate", "the branch", Again::kAttach},
    {"start", "the branch", Again::kAttach},
    {"stop", "the branch", Again::kAttach},
    {"restart", "the branch", Again::kAttach},
    {"history-prune", "nothing", Again::kAttach},
};

std::string_view in_words(Again again) {
    switch (again) {
        case Again::kAttach:
            return "is the open job";
        case Again::kCoalesce:
            return "is the one that waits, or one more";
        case Again::kNever:
            return "is one more";
    }
    return "";
}

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

const Rule& rule_of(std::string_view operation) {
    const auto found =
        std::find_if(std::begin(kRules), std::end(kRules),
                     [operation](const Rule& rule) { return rule.operation == operation; });
    if (found == std::end(kRules)) throw std::logic_error("an operation has no rule");
    return *found;
}

std::string rules_as_markdown() {
    std::string table =
        "| operation | holds | the same again |\n"
        "|---|---|---|\n";
    for (const Rule& rule : kRules)
        table +=
            fmt::format("| `{}` | {} | {} |\n", rule.operation, rule.holds, in_words(rule.again));
    return table;
}

}  // namespace bpg::operations
