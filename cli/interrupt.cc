#include "cli/interrupt.h"

#include <poll.h>
#include <pthread.h>

#include <algorithm>
#include <cerrno>

#include "orchestrator/base/error.h"

namespace bpg::cli {
namespace {

using std::chrono::steady_clock;

volatile sig_atomic_t interrupted = 0;

void note_interrupt(int) {
    interrupted = 1;
}

/// ppoll with SIGINT let in; -1 and EINTR become another round or Interrupted.
int poll_once(pollfd* fds, nfds_t count, const Deadline& deadline) {
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    sigdelset(&mask, SIGINT);
    while (true) {
        timespec timeout{};
        const timespec* limit = nullptr;
        if (deadline) {
            const auto left =
                std::max(steady_clock::duration::zero(), *deadline - steady_clock::now());
            const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(left).count();
            timeout.tv_sec = ns / 1'000'000'000;
            timeout.tv_nsec = ns % 1'000'000'000;
            limit = &timeout;
        }
        const int ready = ppoll(fds, count, limit, &mask);
        const int failure = errno;
        if (interrupted != 0) throw Interrupted();
        if (ready >= 0) return ready;
        if (failure != EINTR) throw errno_error("wait for bpgd", failure);
    }
}

}  // namespace

InterruptGuard::InterruptGuard() {
    sigaction(SIGINT, nullptr, &old_action_);
    if (old_action_.sa_handler == SIG_IGN) return;
    installed_ = true;
    interrupted = 0;
    sigset_t block;
    sigemptyset(&block);
    sigaddset(&block, SIGINT);
    pthread_sigmask(SIG_BLOCK, &block, &old_mask_);
    struct sigaction action{};
    action.sa_handler = note_interrupt;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, nullptr);
}

InterruptGuard::~InterruptGuard() {
    if (!installed_) return;
    sigaction(SIGINT, &old_action_, nullptr);
    pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
}

void wait_for_fd(int fd, short events, const Deadline& deadline) {
    pollfd entry{fd, events, 0};
    if (poll_once(&entry, 1, deadline) == 0) throw DeadlinePassed();
}

void pause_for(std::chrono::milliseconds duration, const Deadline& deadline) {
    const auto end = steady_clock::now() + duration;
    const bool cut_short = deadline && *deadline < end;
    (void)poll_once(nullptr, 0, cut_short ? deadline : Deadline(end));
    if (cut_short) throw DeadlinePassed();
}

}  // namespace bpg::cli
