// Runs the real bpg-wal: in a directory or in a bare chroot, to its end or up to any system call.
#pragma once

#include <fcntl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <optional>
#include <string>
#include <vector>

#include "tests/unit/wal/wal_fixture.h"

namespace bpg::wal::test {

struct HelperRun {
    int exit_code = -1;
    bool was_killed = false;
    int stops = 0;  ///< before and behind every system call; only when they are counted
    std::string out;
    std::string err;
};

struct HelperOptions {
    fs::path directory{};          ///< where it runs
    fs::path chroot{};             ///< …below this one, which has a copy of it as /bpg-wal
    bool count_stops = false;      ///< lets it run to its end, stop by stop
    std::optional<int> kill_at{};  ///< SIGKILL at this stop, from 1 on
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
        const bool ready = (options_.chroot.empty() || ::chroot(options_.chroot.c_str()) == 0) &&
                           ::chdir(options_.directory.c_str()) == 0 &&
                           (options_.user == 0 || ::setuid(options_.user) == 0) &&
                           (!is_traced() || ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0);
        if (ready) ::execve(program.c_str(), argv.data(), static_cast<char**>(no_environment));
        ::_exit(99);
    }

    HelperRun finish(pid_t child) {
        HelperRun run;
        int status = -1;
        if (is_traced()) {
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
    bool is_traced() const { return options_.count_stops || options_.kill_at.has_value(); }

    UniqueFd output(const char* name) const {
        return UniqueFd(
            ::open((scratch_ / name).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    }

    void follow(pid_t child, HelperRun& run, int& status) const {
        if (::waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) return;
        ::ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD);
        while (WIFSTOPPED(status)) {
            if (run.stops == options_.kill_at) {
                ::kill(child, SIGKILL);
            } else {
                ::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
            }
            if (::waitpid(child, &status, 0) != child) return;
            ++run.stops;
        }
    }

    fs::path scratch_;
    HelperOptions options_;
};

}  // namespace bpg::wal::test
