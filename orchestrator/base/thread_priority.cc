#include "orchestrator/base/thread_priority.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace bpg {
namespace {

constexpr int kNice = -10;

}  // namespace

bool let_this_thread_go_first() {
    // With the flag a child begins with the usual policy and a nice value of zero (sched(7)).
    sched_param first{};
    first.sched_priority = ::sched_get_priority_min(SCHED_RR);
    if (::sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &first) == 0) return true;
    const sched_param usual{};
    if (::sched_setscheduler(0, SCHED_OTHER | SCHED_RESET_ON_FORK, &usual) != 0) return false;
    const auto thread = static_cast<id_t>(::syscall(SYS_gettid));
    return ::setpriority(PRIO_PROCESS, thread, kNice) == 0;
}

}  // namespace bpg
