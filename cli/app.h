// From the words of a command line to one command: parsing, help, and how a failure is told.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"

namespace bpg::cli {

/// What a command line asks for. With `text` set there is nothing to run: help or version.
struct Invocation {
    const Command* command = nullptr;
    Arguments arguments;
    Globals globals;
    std::string text;
};

/// Reads the words after the program's name. Throws Failure (exit 2) `usage` with a suggestion.
Invocation parse_command_line(const std::vector<std::string>& words);

/// All of `bpg`: parse, run, report a failure on stderr. Returns the exit code.
int run(const std::vector<std::string>& words);

}  // namespace bpg::cli
