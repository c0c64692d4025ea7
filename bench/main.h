// What the mains of the benches share: exit codes, and the way from a command line to one of them.
#pragma once

#include <CLI/CLI.hpp>
#include <exception>
#include <functional>
#include <iostream>

#include "orchestrator/base/log.h"

namespace bpg::bench {

enum ExitCode : int { kGood = 0, kTooSlow = 1, kUsage = 2, kFailed = 3 };

/// Parses the command line, then runs; what is thrown is told on stderr.
inline int run_main(CLI::App& app, int argc, char** argv, const std::function<int()>& run) {
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? kGood : kUsage;
    }
    log::set_level(log::Level::kError);
    try {
        return run();
    } catch (const std::exception& failure) {
        std::cerr << failure.what() << "\n";
        return kFailed;
    }
}

}  // namespace bpg::bench
