#include "jobs/crashpoint.h"

#include <fmt/format.h>

#include <charconv>
#include <csignal>

#include "orchestrator/base/error.h"

namespace bpg::jobs {

void CrashPoints::arm_crash(const std::string& point) {
    crash_at_ = point;
    passes_left_ = 1;
    const auto colon = point.rfind(':');
    if (colon == std::string::npos) return;
    const char* end = point.data() + point.size();
    const auto [stop, error] = std::from_chars(point.data() + colon + 1, end, passes_left_);
    if (error != std::errc{} || stop != end || passes_left_ < 1) {
        throw Error(
            ErrorKind::kInvalid, "crash_point_invalid", "\"" + point + "\" is not a crash point",
            "it has the form <operation>.<step>.<where>[:n]", "see bpgd --list-crash-points");
    }
    crash_at_ = point.substr(0, colon);
}

void CrashPoints::reach(std::string_view operation, std::string_view step, std::string_view where) {
    if (crash_at_.empty() && !hook_) return;
    const std::string point = fmt::format("{}.{}.{}", operation, step, where);
    if (hook_) hook_(point);
    if (point == crash_at_ && --passes_left_ == 0) std::raise(SIGKILL);
}

void CrashPoints::fail_if_armed(std::string_view operation, std::string_view step) const {
    if (fail_at_.empty() || fail_at_ != fmt::format("{}.{}", operation, step)) return;
    throw Error(ErrorKind::kInternal, "failure_injected", "this step was made to fail",
                "bpgd was started with --fail-at " + fail_at_, "start bpgd without it");
}

}  // namespace bpg::jobs
