// Crash points: places around every step where the process is allowed to vanish. Always compiled
// in, so that the binary tested is the binary shipped; armed only by bpgd's hidden flags --crash-at
// and
// --fail-at. A point is named "<operation>.<step>.<where>".
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace bpg::jobs {

/// Where around a step a crash can be asked for, in the order they are passed.
inline constexpr std::array<std::string_view, 7> kCrashPlaces{
    "before_run",    // the intent is durable, nothing has been done
    "after_run",     // the world has changed, the store has not
    "after_commit",  // both have
    "after_turn",    // a failure is recorded, the way back begins
    "before_undo",  "after_undo", "after_undo_commit"};

class CrashPoints {
  public:
    /// `point` or `point:n`: the n-th time it is passed. The process kills itself with SIGKILL.
    void arm_crash(const std::string& point);
    /// "<operation>.<step>": that step fails with a permanent error after it ran; with `:n` only
    /// the n-th time.
    void arm_failure(const std::string& step);
    /// Tests that live in one process put their own way to vanish here (it throws).
    void on_reach(std::function<void(const std::string& point)> hook) { hook_ = std::move(hook); }

    void reach(std::string_view operation, std::string_view step, std::string_view where);
    /// Throws kInternal `failure_injected` when this step is armed.
    void fail_if_armed(std::string_view operation, std::string_view step);

  private:
    std::string crash_at_;
    int passes_left_ = 0;
    std::string fail_at_;
    std::optional<int> failing_run_;  ///< nothing: every run of that step
    int runs_ = 0;
    std::function<void(const std::string&)> hook_;
};

}  // namespace bpg::jobs
