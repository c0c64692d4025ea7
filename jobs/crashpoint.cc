#include "jobs/crashpoint.h"

#include <fmt/format.h>

#include <charconv>
#include <csignal>
#include <optional>

#include "orchestrator/base/error.h"

namespace bpg::jobs {
namespace {

/// Takes ":n" off the end of a point; nothing when there is none.
std::optional<int> take_count(std::string& point) {
    const auto colon = point.rfind(':');
    if (colon == std::string::npos) return std::nullopt;
    int count = 0;
    const char* end = point.data() + point.size();
    const auto [stop, error] = std::from_chars(point.data() + colon + 1, end, count);
    if (error != std::errc{} || stop != end || count < 1) {
        throw Error(
            ErrorKind::kInvalid, "crash_point_invalid", "\"" + point + "\" is not a crash point",
            "it has the form <operation>.<step>.<where>[:n], for --fail-at <operation>.<step>[:n]",
            "see bpgd --list-crash-points");
    }
    point.resize(colon);
    return count;
}

}  // namespace

void CrashPoints::arm_crash(const std::string& point) {
    crash_at_ = point;
    passes_left_ = take_count(crash_at_).value_or(1);
}

void CrashPoints::arm_failure(const std::string& step) {
    fail_at_ = step;
    failing_run_ = take_count(fail_at_);
    runs_ = 0;
}

void CrashPoints::reach(std::string_view operation, std::string_view step, std::string_view where) {
    if (crash_at_.empty() && !hook_) return;
    const std::string point = fmt::format("{}.{}.{}", operation, step, where);
    if (hook_) hook_(point);
    if (point == crash_at_ && --passes_left_ == 0) std::raise(SIGKILL);
}

void CrashPoints::fail_if_armed(std::string_view operation, std::string_view step) {
    if (fail_at_.empty() || fail_at_ != fmt::format("{}.{}", operation, step)) return;
    ++runs_;
    if (failing_run_ && runs_ != *failing_run_) return;
    throw Error(ErrorKind::kInternal, "failure_injected", "this step was made to fail",
                "bpgd was started with --fail-at " + fail_at_, "start bpgd without it");
}

}  // namespace bpg::jobs
