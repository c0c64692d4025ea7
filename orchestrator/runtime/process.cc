// The process runtime's verbs. What blocks runs on the pool; waiting for the end of a process is
// waiting for its pidfd on the loop.
#include "orchestrator/runtime/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <charconv>

#include "orchestrator/base/error.h"
#include "orchestrator/base/id.h"
#include "orchestrator/base/subprocess.h"
#include "orchestrator/runtime/cluster_files.h"
#include "orchestrator/runtime/installations.h"
#include "orchestrator/runtime/instance_process.h"

namespace bpg::runtime {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kInitDeadline{300'000};
/// From SIGQUIT to the SIGKILL of the children, from there to that of the postmaster, and from that
/// to giving up on a process the kernel does not let go.
constexpr milliseconds kImmediatePatience{1'000};
constexpr milliseconds kChildrenPatience{7'000};
constexpr milliseconds kKillPatience{10'000};
/// How long processes of an instance that was killed may take to notice.
constexpr milliseconds kLeftoverPatience{5'000};
constexpr milliseconds kLeftoverPause{20};

void check_branch_id(const std::string& branch_id) {
    if (!is_valid_id(branch_id)) {
        throw Error(ErrorKind::kInternal, "id_invalid", "this is no id of a branch", branch_id);
    }
}

/// Takes the exit status of a child of ours. ECHILD: not ours, somebody else takes it.
void reap(pid_t pid) {
    siginfo_t facts{};
    while (::waitid(P_PID, static_cast<id_t>(pid), &facts, WEXITED | WNOHANG) != 0) {
        if (errno == EINTR) continue;
        if (errno == ECHILD) return;
        throw errno_error("collect the exit status of a process", errno);
    }
}

/// Whether the process is still the one it was and no zombie; reaps a zombie of ours.
bool lives(pid_t pid, std::uint64_t start_time) {
    const auto facts = process_life(pid);
    if (!facts || facts->start_time != start_time) return false;
    if (facts->zombie) reap(pid);
    return !facts->zombie;
}

/// initdb at work on an empty directory; its pid. It may outlive us.
pid_t begin_init(const std::filesystem::path& bin_dir, const InitSpec& spec, FileOwner user) {
    begin_cluster(spec.data_directory, user);
    std::vector<std::string> argv = initdb_arguments(spec.data_directory, spec.locale);
    argv.insert(argv.begin(), (bin_dir / "initdb").native());
    DetachedCommand command;
    command.argv = as_user(user, std::move(argv));
    command.log_path = init_log(spec.data_directory);
    append_log(command.log_path, boot_id() + "\n");
    return spawn_detached(command);
}

/// What initdb said.
std::string finish_init(const std::filesystem::path& data) {
    InitOutcome outcome = init_outcome(data);
    if (!outcome.succeeded) throw initdb_failed("initdb did not get through", outcome.said);
    finish_cluster(data);
    return outcome.said;
}

/// postmaster.pid of an instance that was killed may name a pid that is another process by now,
/// which PostgreSQL would take for a running server (E13). Only called when nothing runs on the
/// directory.
void remove_misleading_pid_file(const std::filesystem::path& data) {
    const std::filesystem::path path = data / "postmaster.pid";
    const auto content = read_file(path, 4096);
    if (!content) return;
    pid_t pid = 0;
    const auto parsed = std::from_chars(content->data(), content->data() + content->size(), pid);
    // One whose process is gone stays: PostgreSQL reads the shared memory to look for from it.
    if (parsed.ec == std::errc() && pid > 0 && ::kill(pid, 0) != 0) return;
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
        throw errno_error("remove " + path.native(), errno);
    }
}

void prepare_surroundings(const InstanceSpec& spec, FileOwner user) {
    remove_misleading_pid_file(spec.data_directory);
    make_socket_directory(spec.socket_directory, user);
    std::filesystem::create_directories(spec.log_path.parent_path());
    begin_log(spec.log_path, spec.branch_id);
}

pid_t spawn(const InstanceSpec& spec, const std::filesystem::path& bin_dir, FileOwner user) {
    const std::string port = setting_of(spec, "port");
    int number = 0;
    std::from_chars(port.data(), port.data() + port.size(), number);
    if (number > 0) check_port_free(setting_of(spec, "listen_addresses"), number);
    prepare_surroundings(spec, user);

    DetachedCommand command;
    command.argv = as_user(user, postmaster_arguments(bin_dir, spec));
    if (systemd_runs()) command.argv = in_own_scope(spec.branch_id, std::move(command.argv));
    command.log_path = spec.log_path;
    return spawn_detached(command);
}

Error stop_timed_out(pid_t pid) {
    return {ErrorKind::kTimeout, "stop_timed_out", "PostgreSQL did not stop in time",
            fmt::format("process {} still runs", pid), "wait and stop it again, or use --force"};
}

}  // namespace

/// A pidfd on the loop. Whoever waits for it is told when the process has ended.
class ProcessRuntime::Watch {
  public:
    /// Empty when the process has ended already.
    static std::shared_ptr<Watch> open(const asio::any_io_executor& executor, Identity process) {
        // By number: sys/pidfd.h of glibc 2.36 has no C linkage.
        UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, process.pid, 0)));
        if (!fd) {
            if (errno == ESRCH) return nullptr;
            throw errno_error("watch an instance", errno);
        }
        // The pid may have passed on before the descriptor was there, but not after.
        if (!lives(process.pid, process.start_time)) return nullptr;
        return std::shared_ptr<Watch>(new Watch(executor, std::move(fd), process.pid));
    }

    /// Its own until has_ended(), and no longer.
    pid_t pid() const { return pid_; }

    void signal(int number) {
        const long sent =
            ::syscall(SYS_pidfd_send_signal, descriptor_.native_handle(), number, nullptr, 0);
        if (sent != 0 && errno != ESRCH) throw errno_error("signal an instance", errno);
    }

    /// Completes when the process has ended; cancellable.
    asio::awaitable<void> ended() {
        // The reactor may call a descriptor ready that has just taken the place of another.
        do {
            co_await descriptor_.async_wait(asio::posix::descriptor_base::wait_read,
                                            asio::use_awaitable);
        } while (!has_ended());
        // By descriptor: a pid could be another child's by now. ECHILD: it was none of ours.
        siginfo_t facts{};
        const auto fd = static_cast<id_t>(descriptor_.native_handle());
        if (::waitid(P_PIDFD, fd, &facts, WEXITED | WNOHANG) != 0 && errno != ECHILD) {
            throw errno_error("collect the exit status of a process", errno);
        }
    }

    bool has_ended() {
        pollfd look{descriptor_.native_handle(), POLLIN, 0};
        return ::poll(&look, 1, 0) != 0;
    }

    /// Ends a wait, whose completion then throws operation_aborted.
    void cancel() { descriptor_.cancel(); }

  private:
    Watch(const asio::any_io_executor& executor, UniqueFd fd, pid_t pid)
        : descriptor_(executor, fd.release()), pid_(pid) {}

    asio::posix::stream_descriptor descriptor_;
    const pid_t pid_;
};

ProcessRuntime::ProcessRuntime(Settings settings, BlockingPool& pool,
                               asio::any_io_executor executor)
    : user_(lookup_user(settings.user)),
      pool_(pool),
      executor_(std::move(executor)),
      installations_(std::make_shared<Installations>(std::move(settings.bin_dir))) {}

ProcessRuntime::~ProcessRuntime() = default;

asio::awaitable<std::string> ProcessRuntime::version() {
    auto work = [installations = installations_] {
        const auto found = installations->find();
        const Installation* newest = choose(found, "");
        return newest == nullptr ? std::string() : newest->version;
    };
    co_return co_await pool_.run(std::move(work));
}

asio::awaitable<Engine> ProcessRuntime::find_engine(EngineRequest request) {
    if (!request.image.empty()) {
        throw Error(ErrorKind::kInvalid, "image_unsupported", "an image cannot be chosen",
                    "this runtime runs native PostgreSQL", "choose with --pg-version instead");
    }
    auto work = [installations = installations_, version = request.version, user = user_] {
        const auto found = installations->find();
        if (const Installation* chosen = choose(found, version)) {
            Engine engine;
            engine.version = chosen->version;
            engine.user = user;
            return engine;
        }
        std::string list;
        for (const auto& one : found) {
            // The same one is found by its directory and in PATH.
            if (list.find(one.version) != std::string::npos) continue;
            list += (list.empty() ? "" : ", ") + one.version;
        }
        throw Error(
            ErrorKind::kNotFound, "postgres_not_found",
            version.empty() ? "there is no PostgreSQL on this machine"
                            : "there is no PostgreSQL " + version + " on this machine",
            list.empty() ? "none was found under /usr/lib/postgresql or in PATH" : "found: " + list,
            "install it, or set runtime.process.bin_dir");
    };
    co_return co_await pool_.run(std::move(work));
}

asio::awaitable<Engine> ProcessRuntime::prepare_engine(Engine engine, FetchReport) {
    co_await bin_dir_for(engine.version);
    co_return engine;
}

asio::awaitable<std::filesystem::path> ProcessRuntime::bin_dir_for(std::string version) {
    auto work = [installations = installations_, version] {
        const auto found = installations->find();
        if (const Installation* chosen = choose_for_data(found, version)) return chosen->bin_dir;
        throw Error(ErrorKind::kNotFound, "postgres_not_found",
                    "there is no PostgreSQL " + version + " on this machine",
                    "nor another release of the same major version",
                    "install it, or set runtime.process.bin_dir");
    };
    co_return co_await pool_.run(std::move(work));
}

asio::awaitable<std::string> ProcessRuntime::init_data_directory(const InitSpec& spec) {
    const auto bin_dir = co_await bin_dir_for(spec.engine.version);
    const std::filesystem::path data = spec.data_directory;
    auto look = [&data] {
        if (is_finished_cluster(data)) return true;
        const auto users = processes_in(data);
        if (!users.empty()) throw directory_in_use(data, users.front());
        return false;
    };
    if (co_await pool_.run(std::move(look))) co_return std::string();
    // One that a bpgd had begun which was killed since goes on, and counts.
    co_await end_inits(data, kInitDeadline);
    auto finish_earlier = [&data]() -> std::optional<std::string> {
        if (!init_outcome(data).succeeded) return std::nullopt;
        return finish_init(data);
    };
    if (const auto said = co_await pool_.run(std::move(finish_earlier))) co_return *said;

    auto begin = [&bin_dir, &spec, user = user_] {
        const pid_t pid = begin_init(bin_dir, spec, user);
        const auto facts = process_facts(pid);
        return Identity{pid, facts ? facts->start_time : 0};
    };
    const Identity own = co_await pool_.run(std::move(begin));
    co_await end_init(own, kInitDeadline);
    co_await wait_for_free_directory(unfinished_cluster(data));
    auto finish = [&data] { return finish_init(data); };
    co_return co_await pool_.run(std::move(finish));
}

/// Waits for the end of every initdb that makes this data directory, and of what they started.
asio::awaitable<void> ProcessRuntime::end_inits(std::filesystem::path data, milliseconds patience) {
    const std::filesystem::path unfinished = unfinished_cluster(data);
    auto look = [&unfinished] { return find_servers_of(unfinished); };
    const std::vector<ProcessFacts> found = co_await pool_.run(std::move(look));
    for (const ProcessFacts& one : found)
        co_await end_init(Identity{one.pid, one.start_time}, patience);
    // The server that it talked to ends when its input does.
    co_await wait_for_free_directory(unfinished);
}

/// After `patience` it is killed.
asio::awaitable<void> ProcessRuntime::end_init(Identity process, milliseconds patience) {
    const auto watch = Watch::open(executor_, process);
    if (!watch) co_return;
    if (patience.count() > 0 && co_await wait_for_end(watch, patience)) co_return;
    watch->signal(SIGKILL);
    co_await wait_for_end(watch, kKillPatience);
}

asio::awaitable<void> ProcessRuntime::start(const InstanceSpec& spec) {
    check_branch_id(spec.branch_id);
    const Key key{spec.branch_id, spec.data_directory};
    const Identity running = co_await find(key);
    if (running.pid != 0) co_return;
    const auto bin_dir = co_await bin_dir_for(spec.engine.version);
    co_await wait_for_free_directory(spec.data_directory);
    auto work = [spec, bin_dir, user = user_] {
        const pid_t pid = spawn(spec, bin_dir, user);
        // Ours until we reap it, so it is there even if it has ended meanwhile.
        const auto facts = process_facts(pid);
        return Identity{pid, facts ? facts->start_time : 0};
    };
    known_[key] = co_await pool_.run(std::move(work));
}

/// Processes of an instance that was killed end by themselves; any other is in the way.
asio::awaitable<void> ProcessRuntime::wait_for_free_directory(
    std::filesystem::path data_directory) {
    const auto end = steady_clock::now() + kLeftoverPatience;
    while (true) {
        auto work = [data_directory] { return processes_in(data_directory); };
        const auto found = co_await pool_.run(std::move(work));
        if (found.empty()) co_return;
        if (steady_clock::now() >= end) throw directory_in_use(data_directory, found.front());
        asio::steady_timer timer(executor_, kLeftoverPause);
        co_await timer.async_wait(asio::use_awaitable);
    }
}

asio::awaitable<ProcessRuntime::Identity> ProcessRuntime::find(Key key) {
    const auto known = known_.find(key);
    if (known != known_.end()) {
        const Identity process = known->second;
        // A look at one process instead of all of them. It does not block.
        if (lives(process.pid, process.start_time)) co_return process;
        known_.erase(known);
    }
    auto work = [key] { return find_postmaster(key.first, key.second); };
    const auto found = co_await pool_.run(std::move(work));
    if (!found) co_return Identity{};
    const Identity process{found->pid, found->start_time};
    known_[key] = process;
    co_return process;
}

void ProcessRuntime::forget(const Key& key, pid_t pid) {
    const auto known = known_.find(key);
    if (known != known_.end() && known->second.pid == pid) known_.erase(known);
}

/// Its children show the postmaster's command line until they have a title of their own, and may
/// outlive it for a moment: they are waited for too.
asio::awaitable<void> ProcessRuntime::stop(const InstanceRef& instance, StopMode mode,
                                           milliseconds timeout) {
    const Key key{instance.branch_id, instance.data_directory};
    Identity process = co_await find(key);
    while (process.pid != 0) {
        if (const auto watch = Watch::open(executor_, process)) {
            if (!co_await end_process(watch, mode, timeout)) throw stop_timed_out(process.pid);
        }
        forget(key, process.pid);
        process = co_await find(key);
    }
}

/// While restore_command runs, its startup process ignores SIGQUIT, as system() makes its caller do
/// (POSIX), and afterwards waits for ever for a checkpointer that is gone. The postmaster kills
/// such a child after 5 s (SIGKILL_CHILDREN_AFTER_SECS), unless it dies first. An orphan would keep
/// the shared memory of its data directory: a later clone whose directory gets the same device and
/// inode number could not start.
asio::awaitable<void> ProcessRuntime::kill_children(std::shared_ptr<Watch> postmaster) {
    auto work = [pid = postmaster->pid()] { return child_processes(pid); };
    const std::vector<ProcessFacts> children = co_await pool_.run(std::move(work));
    if (postmaster->has_ended()) co_return;  // they may be those of another process by now
    for (const ProcessFacts& child : children) {
        const auto own = Watch::open(executor_, Identity{child.pid, child.start_time});
        if (own) own->signal(SIGKILL);
    }
}

/// False when it is still there in the end.
asio::awaitable<bool> ProcessRuntime::end_process(std::shared_ptr<Watch> watch, StopMode mode,
                                                  milliseconds timeout) {
    if (mode == StopMode::kFast) {
        watch->signal(SIGINT);
        co_return co_await wait_for_end(watch, timeout);
    }
    watch->signal(SIGQUIT);
    if (co_await wait_for_end(watch, kImmediatePatience)) co_return true;
    co_await kill_children(watch);
    if (co_await wait_for_end(watch, kChildrenPatience)) co_return true;
    watch->signal(SIGKILL);
    co_return co_await wait_for_end(watch, kKillPatience);
}

/// False when `timeout` passed first.
asio::awaitable<bool> ProcessRuntime::wait_for_end(std::shared_ptr<Watch> watch,
                                                   milliseconds timeout) {
    // Shared: a timer that has fired calls back even when this coroutine is done.
    struct State {
        bool late = false;
        bool done = false;
    };
    const auto state = std::make_shared<State>();
    asio::steady_timer timer(executor_, timeout);
    timer.async_wait([watch, state](const boost::system::error_code& failure) {
        if (failure || state->done) return;
        state->late = true;
        watch->cancel();
    });
    try {
        co_await watch->ended();
    } catch (const boost::system::system_error& failure) {
        state->done = true;
        if (!state->late || failure.code() != asio::error::operation_aborted) throw;
        co_return false;
    }
    state->done = true;
    co_return true;
}

asio::awaitable<void> ProcessRuntime::remove(const InstanceRef& instance) {
    const Identity process = co_await find(Key(instance.branch_id, instance.data_directory));
    if (process.pid != 0) {
        throw Error(ErrorKind::kConflict, "still_running", "this instance cannot be removed",
                    fmt::format("it runs as process {}", process.pid), "stop it first");
    }
    auto look = [data = instance.data_directory] {
        return std::filesystem::exists(unfinished_cluster(data));
    };
    if (co_await pool_.run(std::move(look))) {
        co_await end_inits(instance.data_directory, milliseconds(0));
    }
    if (instance.socket_directory.empty()) co_return;
    auto work = [directory = instance.socket_directory] { remove_tree(directory); };
    co_await pool_.run(std::move(work));
}

asio::awaitable<void> ProcessRuntime::reload(const InstanceRef& instance) {
    const Identity process = co_await find(Key(instance.branch_id, instance.data_directory));
    // One that does not run reads its files when it starts.
    if (process.pid == 0) co_return;
    if (const auto watch = Watch::open(executor_, process)) watch->signal(SIGHUP);
}

asio::awaitable<InstanceStatus> ProcessRuntime::inspect(const InstanceRef& instance) {
    const Identity process = co_await find(Key(instance.branch_id, instance.data_directory));
    co_return InstanceStatus{.running = process.pid != 0, .pid = process.pid};
}

asio::awaitable<void> ProcessRuntime::wait_until_gone(const InstanceRef& instance) {
    const Key key{instance.branch_id, instance.data_directory};
    const Identity process = co_await find(key);
    if (process.pid == 0) co_return;
    const auto watch = Watch::open(executor_, process);
    if (!watch) co_return;
    co_await watch->ended();
    forget(key, process.pid);
}

asio::awaitable<std::string> ProcessRuntime::log_tail(const InstanceRef& instance,
                                                      std::size_t lines) {
    auto work = [log_path = instance.log_path, lines] { return read_log_tail(log_path, lines); };
    co_return co_await pool_.run(std::move(work));
}

asio::awaitable<LogPiece> ProcessRuntime::read_log(const InstanceRef& instance, std::string from,
                                                   std::size_t lines) {
    auto work = [log_path = instance.log_path, from = std::move(from), lines] {
        return read_log_piece(log_path, from, lines);
    };
    co_return co_await pool_.run(std::move(work));
}

}  // namespace bpg::runtime
