// The crash points of an operation, as the program itself lists them, and what they say.
#pragma once

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "orchestrator/base/subprocess.h"
#include "tests/harness/host.h"

namespace bpg::test {

/// One line a point: operation.step.point. Empty when there is no bpgd to ask.
inline std::vector<std::string> crash_points(const std::string& operation) {
    Command command;
    command.argv = {(bin_dir() / "bpgd").string(), "--list-crash-points", operation};
    std::vector<std::string> points;
    try {
        std::istringstream lines(run_command(command).out);
        for (std::string line; std::getline(lines, line);)
            points.push_back(line);
    } catch (const std::exception&) {
        points.clear();  // a test that counts them fails and says why
    }
    return points;
}

inline std::string step_of(const std::string& point) {
    return point.substr(0, point.rfind('.'));
}

/// Points that are only reached while undoing.
inline bool is_backward(const std::string& point) {
    const std::string kind = point.substr(point.rfind('.') + 1);
    return kind.find("undo") != std::string::npos || kind.find("turn") != std::string::npos;
}

}  // namespace bpg::test
