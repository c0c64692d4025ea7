// Child processes, without a shell: posix_spawn with an argv, a clean environment (PATH, LC_ALL=C
// and what the caller adds), all descriptors closed but those named here. Boost.Process v2 of 1.81
// is not used: it waits on the loop thread and leaks descriptors.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace bpg {

struct Command {
    std::vector<std::string> argv;         ///< argv[0] is an absolute path or looked up in PATH
    std::vector<std::string> environment;  ///< "NAME=value", on top of PATH and LC_ALL=C
    std::string input;                     ///< written to its stdin, then closed
    std::chrono::milliseconds deadline{60'000};  ///< then SIGKILL to its process group
    std::size_t output_max = 1 << 20;            ///< bytes kept of stdout and of stderr, each
    int inherited = -1;  ///< a descriptor of ours that it gets as number 3; see CommandLock
};

struct CommandResult {
    int exit_code = -1;  ///< -1 when ended by a signal
    int signal = 0;
    bool timed_out = false;
    std::string out;
    std::string err;

    bool ok() const { return exit_code == 0 && !timed_out; }
    /// "exit code 1: <last line of stderr>", "killed by signal 9", "no answer within 60 s".
    std::string explain(const Command& command) const;
};

/// Runs a command to its end. Blocks: call it on a BlockingPool. Throws kNotFound
/// `command_not_found` when there is no such program, kInternal when it cannot be started; a
/// non-zero exit is no throw.
CommandResult run_command(const Command& command);

/// A process that must outlive us: in a session of its own, stdin from /dev/null, stdout and stderr
/// appended to `log_path` (created 0640). Returns its pid at once; the caller reaps it
/// while we live. Blocks for the spawn only (about 1 ms).
struct DetachedCommand {
    std::vector<std::string> argv;
    std::vector<std::string> environment;
    std::filesystem::path log_path;
};
pid_t spawn_detached(const DetachedCommand& command);

/// What /proc says of a process: enough to recognise it again after our restart.
struct ProcessFacts {
    pid_t pid = 0;
    std::uint64_t start_time = 0;  ///< field 22 of /proc/<pid>/stat, clock ticks since boot
    bool zombie = false;           ///< a zombie is dead
    std::vector<std::string> argv;
};

/// Nothing when there is no such process. Waits for a process that is changing its memory map, as
/// when it begins or ends: not for the loop.
std::optional<ProcessFacts> process_facts(pid_t pid);
/// The same without its arguments. Does not block.
std::optional<ProcessFacts> process_life(pid_t pid);

/// The children of a process of one thread. Nothing where the kernel does not tell
/// (CONFIG_PROC_CHILDREN). Not for the loop.
std::vector<ProcessFacts> child_processes(pid_t pid);

/// Every live process one of whose arguments is exactly `argument`. Reads all of /proc: a few ms.
std::vector<ProcessFacts> find_processes_with_argument(const std::string& argument);

}  // namespace bpg
