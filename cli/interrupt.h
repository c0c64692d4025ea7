// Ctrl-C while a command waits: the wait ends, the job goes on. SIGINT stays blocked but inside
// wait_for_fd(), so a signal that comes a moment before the wait is not lost.
#pragma once

#include <signal.h>

#include <chrono>
#include <exception>
#include <optional>

namespace bpg::cli {

using Deadline = std::optional<std::chrono::steady_clock::time_point>;

class Interrupted : public std::exception {};
class DeadlinePassed : public std::exception {};

/// While one lives, SIGINT makes wait_for_fd() and pause_for() throw Interrupted instead of ending
/// the process. A SIGINT that was ignored at start (nohup) stays ignored. One at a time.
class InterruptGuard {
  public:
    InterruptGuard();
    ~InterruptGuard();
    InterruptGuard(const InterruptGuard&) = delete;
    InterruptGuard& operator=(const InterruptGuard&) = delete;

  private:
    bool installed_ = false;
    sigset_t old_mask_{};
    struct sigaction old_action_{};
};

/// Waits until `fd` has one of `events` (POLLIN, POLLOUT). Throws Interrupted or DeadlinePassed.
void wait_for_fd(int fd, short events, const Deadline& deadline);

/// Sleeps; throws as wait_for_fd() does.
void pause_for(std::chrono::milliseconds duration, const Deadline& deadline);

}  // namespace bpg::cli
