#include "orchestrator/base/subprocess.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <memory>
#include <string_view>
#include <utility>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"

namespace bpg {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr std::string_view kDefaultPath =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
// How long a killed process may take to die: one that waits for a device ignores even SIGKILL.
constexpr milliseconds kDeathPatience{10'000};
constexpr std::size_t kProcFileMax = 4U << 20U;

/// posix_spawn's attribute and action objects, with their errors thrown.
class SpawnSetup {
  public:
    SpawnSetup() {
        check(::posix_spawnattr_init(&attributes_));
        check(::posix_spawn_file_actions_init(&actions_));
        // A session of its own makes a process group of its own too, which a timeout kills, and
        // takes away the terminal, so that nothing can ask for a password there.
        check(::posix_spawnattr_setflags(
            &attributes_, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF));
        sigset_t set;
        sigemptyset(&set);
        check(::posix_spawnattr_setsigmask(&attributes_, &set));
        sigfillset(&set);
        check(::posix_spawnattr_setsigdefault(&attributes_, &set));
    }
    ~SpawnSetup() {
        ::posix_spawnattr_destroy(&attributes_);
        ::posix_spawn_file_actions_destroy(&actions_);
    }
    SpawnSetup(const SpawnSetup&) = delete;
    SpawnSetup& operator=(const SpawnSetup&) = delete;

    /// `inherited` becomes the descriptor after them; -1: none.
    void descriptors(int in, int out, int err, int inherited = -1) {
        check(::posix_spawn_file_actions_adddup2(&actions_, in, STDIN_FILENO));
        check(::posix_spawn_file_actions_adddup2(&actions_, out, STDOUT_FILENO));
        check(::posix_spawn_file_actions_adddup2(&actions_, err, STDERR_FILENO));
        int first_closed = STDERR_FILENO + 1;
        if (inherited >= 0) {
            // Onto itself too: that takes its close-on-exec flag away.
            check(::posix_spawn_file_actions_adddup2(&actions_, inherited, first_closed));
            ++first_closed;
        }
        check(::posix_spawn_file_actions_addclosefrom_np(&actions_, first_closed));
    }

    pid_t spawn(const std::string& program, const std::vector<std::string>& argv,
                const std::vector<std::string>& environment) {
        std::vector<std::string> arguments = argv;
        std::vector<std::string> variables = environment;
        std::vector<char*> argument_pointers = pointers(arguments);
        std::vector<char*> variable_pointers = pointers(variables);
        pid_t pid = -1;
        const int failure = ::posix_spawn(&pid, program.c_str(), &actions_, &attributes_,
                                          argument_pointers.data(), variable_pointers.data());
        if (failure != 0) throw errno_error(fmt::format("start {}", program), failure);
        return pid;
    }

  private:
    static void check(int failure) {
        if (failure != 0) throw errno_error("prepare a child process", failure);
    }
    static std::vector<char*> pointers(std::vector<std::string>& texts) {
        std::vector<char*> result;
        result.reserve(texts.size() + 1);
        for (std::string& text : texts)
            result.push_back(text.data());
        result.push_back(nullptr);
        return result;
    }

    posix_spawnattr_t attributes_{};
    posix_spawn_file_actions_t actions_{};
};

std::string_view variable_name(std::string_view assignment) {
    return assignment.substr(0, assignment.find('='));
}

std::vector<std::string> full_environment(const std::vector<std::string>& own) {
    std::vector<std::string> result = own;
    for (const auto& standard : {fmt::format("PATH={}", kDefaultPath), std::string("LC_ALL=C")}) {
        const auto same_name = [&](const std::string& variable) {
            return variable_name(variable) == variable_name(standard);
        };
        if (std::none_of(own.begin(), own.end(), same_name)) result.push_back(standard);
    }
    return result;
}

std::string find_program(const std::vector<std::string>& argv,
                         const std::vector<std::string>& environment) {
    if (argv.empty() || argv.front().empty()) {
        throw Error(ErrorKind::kInternal, "command_empty", "a command without a program was run");
    }
    const std::string& name = argv.front();
    if (name.front() == '/') {
        if (::access(name.c_str(), X_OK) == 0) return name;
    } else if (name.find('/') == std::string::npos) {
        std::string_view path = kDefaultPath;
        for (const std::string& variable : environment) {
            if (variable_name(variable) == "PATH") path = std::string_view(variable).substr(5);
        }
        while (!path.empty()) {
            const std::size_t end = std::min(path.find(':'), path.size());
            std::string candidate = fmt::format("{}/{}", path.substr(0, end), name);
            if (candidate.front() == '/' && ::access(candidate.c_str(), X_OK) == 0) {
                return candidate;
            }
            path.remove_prefix(std::min(end + 1, path.size()));
        }
    }
    throw Error(ErrorKind::kNotFound, "command_not_found",
                fmt::format("the program {} is not installed", name), "",
                "install the package that contains it");
}

/// Descriptors 0 to 2 of our own may be closed; a pipe that landed there would be overwritten in
/// the child before it is used.
UniqueFd above_standard(UniqueFd fd) {
    if (fd.get() > STDERR_FILENO) return fd;
    UniqueFd higher(::fcntl(fd.get(), F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
    if (!higher) throw errno_error("duplicate a descriptor", errno);
    return higher;
}

struct Pipe {
    UniqueFd read_end;
    UniqueFd write_end;
};

Pipe make_pipe() {
    std::array<int, 2> ends{-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw errno_error("make a pipe", errno);
    Pipe result{UniqueFd(ends[0]), UniqueFd(ends[1])};
    result.read_end = above_standard(std::move(result.read_end));
    result.write_end = above_standard(std::move(result.write_end));
    if (::fcntl(result.read_end.get(), F_SETFL, O_NONBLOCK) != 0) {
        throw errno_error("set up a pipe", errno);
    }
    return result;
}

/// The input as a file in memory: the child reads it at its own pace, and one that does not read it
/// at all can neither block us nor raise SIGPIPE here.
UniqueFd make_input(const std::string& input) {
    UniqueFd file(input.empty() ? ::open("/dev/null", O_RDONLY | O_CLOEXEC)
                                : ::memfd_create("bpg-input", MFD_CLOEXEC));
    if (!file) throw errno_error("prepare the input of a command", errno);
    std::string_view rest = input;
    while (!rest.empty()) {
        const ssize_t written = ::write(file.get(), rest.data(), rest.size());
        if (written < 0) throw errno_error("prepare the input of a command", errno);
        rest.remove_prefix(static_cast<std::size_t>(written));
    }
    if (!input.empty() && ::lseek(file.get(), 0, SEEK_SET) != 0) {
        throw errno_error("prepare the input of a command", errno);
    }
    return above_standard(std::move(file));
}

/// One output stream of a child. Of too much output stdout keeps the beginning and stderr the end,
/// where a failing program says what was wrong.
class OutputReader {
  public:
    OutputReader(UniqueFd fd, std::size_t max, bool keep_end)
        : fd_(std::move(fd)), max_(max), keep_end_(keep_end) {}

    /// -1 once the stream ended, which poll() passes over.
    int fd() const { return fd_.get(); }

    /// Reads what is there now.
    void drain() {
        std::array<char, 64UL * 1024> block{};
        while (fd_) {
            const ssize_t got = ::read(fd_.get(), block.data(), block.size());
            if (got > 0) {
                keep({block.data(), static_cast<std::size_t>(got)});
            } else if (got < 0 && errno == EAGAIN) {
                return;
            } else if (got == 0 || errno != EINTR) {
                fd_.reset();
            }
        }
    }

    std::string take() {
        if (text_.size() > max_) text_.erase(0, text_.size() - max_);
        return std::move(text_);
    }

  private:
    void keep(std::string_view more) {
        if (!keep_end_) {
            text_.append(more.substr(0, max_ - std::min(max_, text_.size())));
            return;
        }
        text_.append(more);
        // Twice the size before cutting, so that long output is not moved about for every block.
        if (text_.size() > 2 * max_) text_.erase(0, text_.size() - max_);
    }

    UniqueFd fd_;
    std::size_t max_;
    bool keep_end_;
    std::string text_;
};

int milliseconds_until(steady_clock::time_point deadline) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now()).count();
    return static_cast<int>(std::clamp<std::int64_t>(left, 0, 3'600'000));
}

/// Collects output until the process behind `pidfd` ends; false when the deadline came first.
bool wait_for_end(int pidfd, OutputReader& out, OutputReader& err,
                  steady_clock::time_point deadline) {
    while (true) {
        std::array<pollfd, 3> watched{
            {{pidfd, POLLIN, 0}, {out.fd(), POLLIN, 0}, {err.fd(), POLLIN, 0}}};
        const int ready = ::poll(watched.data(), watched.size(), milliseconds_until(deadline));
        if (ready < 0 && errno != EINTR) throw errno_error("wait for a command", errno);
        // A grandchild may hold the pipes open for good, so the end of the process decides, not the
        // end of its output; all it wrote itself is in the pipes by then.
        const bool ended = ready > 0 && watched[0].revents != 0;
        out.drain();
        err.drain();
        if (ended) return true;
        if (steady_clock::now() >= deadline) return false;
    }
}

void reap(int pidfd, CommandResult& result) {
    siginfo_t facts{};
    while (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd), &facts, WEXITED) !=
           0) {
        if (errno != EINTR) throw errno_error("collect the result of a command", errno);
    }
    if (facts.si_code == CLD_EXITED) {
        result.exit_code = facts.si_status;
    } else {
        result.signal = facts.si_status;
    }
}

std::string_view last_line(std::string_view text) {
    const std::size_t end = text.find_last_not_of(" \t\r\n");
    if (end == std::string_view::npos) return {};
    text = text.substr(0, end + 1);
    const std::size_t start = text.rfind('\n');
    return start == std::string_view::npos ? text : text.substr(start + 1);
}

std::string readable(milliseconds duration) {
    return duration.count() % 1000 == 0 ? fmt::format("{} s", duration.count() / 1000)
                                        : fmt::format("{} ms", duration.count());
}

/// A file of /proc; nothing when the process has gone, or went while it was read.
std::optional<std::string> read_proc(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) return std::nullopt;
    std::string content;
    std::array<char, 16UL * 1024> block{};
    while (content.size() < kProcFileMax) {
        const ssize_t got = ::read(fd.get(), block.data(), block.size());
        if (got < 0) return std::nullopt;
        if (got == 0) break;
        content.append(block.data(), static_cast<std::size_t>(got));
    }
    return content;
}

/// The fields of /proc/<pid>/stat that we use. The command name in parentheses may hold anything,
/// parentheses too, so counting begins after the last one.
bool parse_stat(std::string_view stat, ProcessFacts& facts) {
    constexpr int kStateField = 3;
    constexpr int kStartTimeField = 22;
    const std::size_t name_end = stat.rfind(')');
    if (name_end == std::string_view::npos) return false;
    std::string_view rest = stat.substr(name_end + 1);
    for (int field = kStateField; field <= kStartTimeField; ++field) {
        const std::size_t start = rest.find_first_not_of(" \n");
        if (start == std::string_view::npos) return false;
        rest.remove_prefix(start);
        const std::size_t length = std::min(rest.find_first_of(" \n"), rest.size());
        const std::string_view value = rest.substr(0, length);
        if (field == kStateField) facts.zombie = value == "Z" || value == "X";
        if (field == kStartTimeField) {
            const auto parsed =
                std::from_chars(value.data(), value.data() + value.size(), facts.start_time);
            return parsed.ec == std::errc{};
        }
        rest.remove_prefix(length);
    }
    return false;
}

std::vector<std::string> split_arguments(std::string_view cmdline) {
    std::vector<std::string> result;
    while (!cmdline.empty()) {
        const std::size_t end = std::min(cmdline.find('\0'), cmdline.size());
        result.emplace_back(cmdline.substr(0, end));
        cmdline.remove_prefix(std::min(end + 1, cmdline.size()));
    }
    return result;
}

}  // namespace

std::string CommandResult::explain(const Command& command) const {
    if (timed_out) return fmt::format("no answer within {}", readable(command.deadline));
    const std::string what = signal != 0 ? fmt::format("killed by signal {}", signal)
                                         : fmt::format("exit code {}", exit_code);
    const std::string_view line = last_line(err);
    return line.empty() ? what : fmt::format("{}: {}", what, line);
}

CommandResult run_command(const Command& command) {
    const auto deadline = steady_clock::now() + command.deadline;
    const std::vector<std::string> environment = full_environment(command.environment);
    const std::string program = find_program(command.argv, environment);
    UniqueFd input = make_input(command.input);
    Pipe out_pipe = make_pipe();
    Pipe err_pipe = make_pipe();

    SpawnSetup setup;
    setup.descriptors(input.get(), out_pipe.write_end.get(), err_pipe.write_end.get(),
                      command.inherited);
    const pid_t pid = setup.spawn(program, command.argv, environment);
    input.reset();
    out_pipe.write_end.reset();
    err_pipe.write_end.reset();

    // The pid cannot be used again before we reap it, so it may be turned into a pidfd now.
    // By number: sys/pidfd.h of glibc 2.36 has no C linkage.
    const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!pidfd) {
        const int failure = errno;
        ::kill(-pid, SIGKILL);
        ::waitpid(pid, nullptr, 0);
        throw errno_error(fmt::format("watch {}", program), failure);
    }
    OutputReader out(std::move(out_pipe.read_end), command.output_max, false);
    OutputReader err(std::move(err_pipe.read_end), command.output_max, true);
    CommandResult result;
    bool ended = wait_for_end(pidfd.get(), out, err, deadline);
    if (!ended) {
        result.timed_out = true;
        ::kill(-pid, SIGKILL);
        ended = wait_for_end(pidfd.get(), out, err, steady_clock::now() + kDeathPatience);
    }
    if (ended) reap(pidfd.get(), result);
    result.out = out.take();
    result.err = err.take();
    return result;
}

pid_t spawn_detached(const DetachedCommand& command) {
    const std::vector<std::string> environment = full_environment(command.environment);
    const std::string program = find_program(command.argv, environment);
    const UniqueFd input = make_input("");
    UniqueFd log(::open(command.log_path.c_str(),
                        O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC, 0640));
    if (!log) throw errno_error(fmt::format("open {}", command.log_path.native()), errno);
    log = above_standard(std::move(log));
    SpawnSetup setup;
    setup.descriptors(input.get(), log.get(), log.get());
    return setup.spawn(program, command.argv, environment);
}

std::optional<ProcessFacts> process_life(pid_t pid) {
    ProcessFacts facts;
    facts.pid = pid;
    const auto stat = read_proc(fmt::format("/proc/{}/stat", pid));
    if (!stat || !parse_stat(*stat, facts)) return std::nullopt;
    return facts;
}

std::optional<ProcessFacts> process_facts(pid_t pid) {
    const auto before = process_life(pid);
    if (!before) return std::nullopt;
    const auto cmdline = read_proc(fmt::format("/proc/{}/cmdline", pid));
    if (!cmdline) return std::nullopt;
    // The pid may have passed to another process between the two reads.
    auto facts = process_life(pid);
    if (!facts || facts->start_time != before->start_time) return std::nullopt;
    facts->argv = split_arguments(*cmdline);
    return facts;
}

std::vector<ProcessFacts> child_processes(pid_t pid) {
    std::vector<ProcessFacts> found;
    const auto listed = read_proc(fmt::format("/proc/{}/task/{}/children", pid, pid));
    const char* at = listed ? listed->data() : nullptr;
    const char* const end = listed ? at + listed->size() : nullptr;
    while (at != end) {
        pid_t child = 0;
        const auto parsed = std::from_chars(at, end, child);
        if (parsed.ec != std::errc{}) break;
        at = parsed.ptr == end ? end : parsed.ptr + 1;  // a blank follows each
        if (auto facts = process_life(child)) found.push_back(std::move(*facts));
    }
    return found;
}

std::vector<ProcessFacts> find_processes_with_argument(const std::string& argument) {
    const std::unique_ptr<DIR, int (*)(DIR*)> processes(::opendir("/proc"), ::closedir);
    if (!processes) throw errno_error("read /proc", errno);
    std::vector<ProcessFacts> found;
    while (const dirent* entry = ::readdir(processes.get())) {
        const std::string_view name = entry->d_name;
        pid_t pid = 0;
        const auto parsed = std::from_chars(name.data(), name.data() + name.size(), pid);
        if (parsed.ec != std::errc{} || parsed.ptr != name.data() + name.size()) continue;
        // Most processes are none of ours, and one read says so.
        const auto cmdline = read_proc(fmt::format("/proc/{}/cmdline", pid));
        if (!cmdline || cmdline->find(argument) == std::string::npos) continue;
        auto facts = process_facts(pid);
        if (!facts || facts->zombie) continue;
        const auto& argv = facts->argv;
        if (std::find(argv.begin(), argv.end(), argument) != argv.end()) {
            found.push_back(std::move(*facts));
        }
    }
    return found;
}

}  // namespace bpg
