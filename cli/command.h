// One table says everything about every command: how it is called, what it takes, what it does. The
// parser and the help are made from it; each file below commands/ holds the rows of one noun.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/session.h"

namespace bpg::cli {

struct Positional {
    std::string_view name;  ///< as shown: "DB/BR"
    std::string_view help;
    bool required = true;
};

struct Option {
    std::string_view flags;  ///< "--from", "-f,--follow"
    std::string_view value;  ///< what follows it, as shown; empty for a switch
    std::string_view help;
    bool repeats = false;  ///< may be given more than once
};

/// What was given on the command line, by the name of the positional or the long flag.
class Arguments {
  public:
    std::map<std::string, std::string, std::less<>> values;
    std::map<std::string, std::vector<std::string>, std::less<>> lists;  ///< of those that repeat
    std::set<std::string, std::less<>> switches;
    std::vector<std::string> rest;  ///< after the first "--", for commands that pass it on

    bool has(std::string_view flag) const { return switches.contains(flag); }
    std::optional<std::string> find(std::string_view name) const {
        const auto found = values.find(name);
        if (found == values.end()) return std::nullopt;
        return found->second;
    }
    /// A required positional.
    const std::string& at(std::string_view name) const { return values.find(name)->second; }
};

struct Command {
    std::string_view path;  ///< "branch create"
    std::string_view summary;
    std::vector<Positional> positionals;
    std::vector<Option> options;
    int (*run)(Session& session, const Arguments& arguments);  ///< the exit code, or it throws
    bool passes_rest = false;                                  ///< takes what follows "--"
    std::string_view example = {};
};

std::span<const Command> init_commands();
std::span<const Command> database_commands();
std::span<const Command> branch_commands();
std::span<const Command> instance_commands();
std::span<const Command> connection_commands();
std::span<const Command> status_commands();
std::span<const Command> job_commands();
std::span<const Command> snapshot_commands();
std::span<const Command> wal_commands();
std::span<const Command> schedule_commands();
std::span<const Command> trash_commands();

/// Every command, in the order of the help.
std::vector<const Command*> all_commands();

}  // namespace bpg::cli
