// Which thread goes first when cores are scarce. Twenty PostgreSQL starts can fill every core; the
// event loop and the store's writer need little time but need it at once, since everything waits
// for them.
#pragma once

namespace bpg {

/// The calling thread gets CPU whenever it wants some: real-time, of the lowest priority (SCHED_RR
/// 1), for threads that only ever run for a moment. Child processes and threads it starts do not
/// inherit that. A nice value would not do: each instance is a session of its own, and with
/// autogroups (sched(7)) the kernel shares CPU out by session first.
///
/// Where the process may not (no CAP_SYS_NICE, a cgroup without real-time time) it is nice -10, or
/// nothing changes (false).
bool let_this_thread_go_first();

}  // namespace bpg
