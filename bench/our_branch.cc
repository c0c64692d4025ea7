#include "bench/our_branch.h"

#include <stdexcept>
#include <utility>

#include "orchestrator/base/clock.h"
#include "tests/harness/load.h"

namespace bpg::bench {
namespace {

using nlohmann::json;

WallTime time_of(const json& object, const char* name) {
    const auto time = parse_time(object.at(name).get<std::string>());
    if (!time) throw std::runtime_error(std::string("no time in ") + name);
    return *time;
}

double milliseconds_between(WallTime from, WallTime to) {
    return std::chrono::duration<double, std::milli>(to - from).count();
}

/// Of the time from `began` on; the last part is what is left of it.
std::vector<Part> parts_of(const json& job, WallTime began, double cli_ms) {
    std::vector<Part> parts;
    parts.push_back({"until_job", milliseconds_between(began, time_of(job, "created_at"))});
    parts.push_back(
        {"queued", milliseconds_between(time_of(job, "created_at"), time_of(job, "started_at"))});
    double in_steps = 0;
    std::vector<Part> steps;
    for (const json& step : job.at("steps")) {
        steps.push_back({step.at("name"), step.at("duration_ms")});
        in_steps += steps.back().ms;
    }
    const double whole =
        milliseconds_between(time_of(job, "started_at"), time_of(job, "finished_at"));
    parts.insert(parts.end(), steps.begin(), steps.end());
    parts.push_back({"between_steps", whole - in_steps});
    double told = 0;
    for (const Part& part : parts)
        told += part.ms;
    parts.push_back({"until_return", cli_ms - told});
    return parts;
}

}  // namespace

Sample create_branch(const test::TestHost& host, const std::string& ref, bool fast) {
    std::vector<std::string> arguments = {"branch", "create", ref};
    if (fast) arguments.emplace_back("--fast");
    const WallTime began = SystemClock().now();
    const auto start = Steady::now();
    const json branch = host.bpg_json(arguments);
    const double cli_ms = bench::milliseconds_between(start, Steady::now());

    const std::string url = host.url(ref);
    const auto connecting = Steady::now();
    test::query_value(url, "SELECT 1");
    const double connect_ms = bench::milliseconds_between(connecting, Steady::now());

    const json job = host.bpg_json({"job", "get", branch.at("last_job").get<std::string>()});
    Sample sample{cli_ms + connect_ms, parts_of(job, began, cli_ms)};
    sample.parts.push_back({"connect", connect_ms});
    return sample;
}

}  // namespace bpg::bench
