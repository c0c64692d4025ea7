// Runs the real bpg-wal: in a directory or in a bare chroot, to its end or up to any system call.
#pragma once

#include <fcntl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tests/unit/wal/wal_fixture.h"

namespace bpg::wal::test {

/// Before or behind one system call of one of its threads. Each thread counts for itself, and none
/// its waiting for another (futex): so the same number is the same call in every run.
struct KillPoint {
    std::size_t thread = 0;  ///< 0 is the one it began with
    int stop = 1;            ///< from 1 on: before the first call, behind it, before the second…
};

struct HelperRun {
    int exit_code = -1;
    bool was_killed = false;
    std::uint64_t killed_in = 0;     ///< this system call
    bool was_killed_behind = false;  ///< behind it, else before it
    std::size_t threads = 0;         ///< that it had; only where it was to be killed
    std::string out;
    std::string err;
};

struct HelperOptions {
    fs::path directory{};  ///< where it runs
    fs::path chroot{};     ///< …below this one, which has a copy of it as /bpg-wal
    std::optional<KillPoint> kill_at{};
    uid_t user = 0;
};

class Helper {
  public:
    /// `scratch` is for its output.
    Helper(fs::path scratch, HelperOptions options)
        : scratch_(std::move(scratch)), options_(std::move(options)) {}

    pid_t start(const std::vector<std::string>& arguments) {
        const std::string program = options_.chroot.empty() ? BPG_WAL_BINARY : "/bpg-wal";
        std::vector<std::string> words{program};
        words.insert(words.end(), arguments.begin(), arguments.end());
        std::vector<char*> argv;
        argv.reserve(words.size() + 1);
        for (std::string& word : words)
            argv.push_back(word.data());
        argv.push_back(nullptr);
        const UniqueFd out = output("out");
        const UniqueFd err = output("err");
        // Between fork and exec only what a signal handler may call: other threads run.
        const pid_t child = ::fork();
        if (child != 0) return child;
        ::dup2(out.get(), STDOUT_FILENO);
        ::dup2(err.get(), STDERR_FILENO);
        char* no_environment[] = {nullptr};
        const bool ready =
            (options_.chroot.empty() || ::chroot(options_.chroot.c_str()) == 0) &&
            ::chdir(options_.directory.c_str()) == 0 &&
            (options_.user == 0 || ::setuid(options_.user) == 0) &&
            (!options_.kill_at || ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0);
        if (ready) ::execve(program.c_str(), argv.data(), static_cast<char**>(no_environment));
        ::_exit(99);
    }

    HelperRun finish(pid_t child) {
        HelperRun run;
        int status = -1;
        if (options_.kill_at) {
            follow(child, run, status);
        } else {
            ::waitpid(child, &status, 0);
        }
        if (WIFEXITED(status)) run.exit_code = WEXITSTATUS(status);
        run.was_killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
        run.out = bytes_of(scratch_ / "out");
        run.err = bytes_of(scratch_ / "err");
        return run;
    }

    HelperRun run(const std::vector<std::string>& arguments) { return finish(start(arguments)); }

  private:
    UniqueFd output(const char* name) const {
        return UniqueFd(
            ::open((scratch_ / name).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    }

    /// A thread of it, as far as it has come.
    struct Thread {
        std::size_t index = 0;
        int stops = 0;
        std::uint64_t call = 0;  ///< that it is in
    };

    void follow(pid_t child, HelperRun& run, int& status) const {
        if (::waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) return;
        ::ptrace(PTRACE_SETOPTIONS, child, nullptr,
                 PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE);
        std::map<pid_t, Thread> threads{{child, {}}};
        ::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
        while (true) {
            int seen = -1;
            const pid_t who = ::waitpid(-1, &seen, __WALL | __WNOTHREAD);
            if (who < 0) return;
            if (!WIFSTOPPED(seen)) {
                if (who != child) continue;
                status = seen;  // of the whole: it comes last
                break;
            }
            Thread& thread = threads.try_emplace(who, Thread{threads.size()}).first->second;
            const bool is_in_call = WSTOPSIG(seen) == (SIGTRAP | 0x80);
            if (is_in_call && is_point(who, thread, run)) {
                ::kill(child, SIGKILL);
            } else {
                ::ptrace(PTRACE_SYSCALL, who, nullptr, nullptr);
            }
        }
        run.threads = threads.size();
    }

    /// Counts a stop in a system call. Whether this is where to kill.
    bool is_point(pid_t who, Thread& thread, HelperRun& run) const {
        __ptrace_syscall_info info{};
        if (::ptrace(PTRACE_GET_SYSCALL_INFO, who, sizeof info, &info) <= 0) return false;
        const bool is_entry = info.op == PTRACE_SYSCALL_INFO_ENTRY;
        if (is_entry) thread.call = info.entry.nr;
        if (thread.call == SYS_futex) return false;
        ++thread.stops;
        const KillPoint& point = *options_.kill_at;
        if (thread.index != point.thread || thread.stops != point.stop) return false;
        run.killed_in = thread.call;
        run.was_killed_behind = !is_entry;
        return true;
    }

    fs::path scratch_;
    HelperOptions options_;
};

}  // namespace bpg::wal::test
