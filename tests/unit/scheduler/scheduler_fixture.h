// What the tests of cron, retention and schedules share: times by text, errors by parts, seeds.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <string_view>

#include "orchestrator/base/clock.h"
#include "orchestrator/base/error.h"
#include "scheduler/cron_expression.h"

namespace bpg::scheduler::test {

/// Of the schedule in tests that do not care.
inline constexpr const char* kName = "nightly";

inline WallTime at(std::string_view text) {
    const auto time = parse_time(text);
    EXPECT_TRUE(time) << text;
    return time.value_or(WallTime{});
}

inline CronExpression cron(std::string_view text) {
    return CronExpression::parse(text, kName, at("2026-01-01T00:00:00Z"));
}

/// What a call threw; kind kInternal with code "none" when it did not.
inline ErrorInfo error_of(const std::function<void()>& call) {
    try {
        call();
    } catch (const Error& error) {
        return error.info();
    }
    return {ErrorKind::kInternal, "none", "no error", "", ""};
}

inline bool long_mode() {
    const char* given = std::getenv("BPG_LONG");
    return given != nullptr && *given != '\0';
}

/// BPG_SEED repeats a run; a failure shows it.
inline std::uint64_t seed() {
    static const std::uint64_t value = [] {
        const char* given = std::getenv("BPG_SEED");
        return given != nullptr ? std::strtoull(given, nullptr, 10)
                                : std::uint64_t{std::random_device()()};
    }();
    return value;
}

inline int pick(std::mt19937_64& random, int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
}

}  // namespace bpg::scheduler::test
