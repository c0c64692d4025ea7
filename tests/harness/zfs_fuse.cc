#include "tests/harness/zfs_fuse.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/subprocess.h"
#include "orchestrator/storage/zfs_mount_turn.h"

namespace bpg::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using std::chrono::steady_clock;

constexpr const char* kPoolPrefix = "bpgtest";
constexpr const char* kDirectoryPrefix = "bpg-zfs-";
// Held shared by every test program that uses ZFS, and exclusively by who starts or stops it.
constexpr const char* kUsersLock = "/run/lock/bpg-test-zfs.users";
// Guards the moment of starting and stopping. Says pid and start time of a daemon of ours.
constexpr const char* kDaemonFile = "/run/lock/bpg-test-zfs.daemon";

CommandResult try_run(const std::vector<std::string>& argv) {
    Command command;
    command.argv = argv;
    return run_command(command);
}

bool zfs_works() {
    try {
        return try_run({"zpool", "list", "-H", "-o", "name"}).ok();
    } catch (const Error& error) {
        if (error.code() != "command_not_found") throw;
        throw std::runtime_error("zpool is not installed; tests/run --install brings zfs-fuse");
    }
}

UniqueFd open_lock(const char* path) {
    UniqueFd fd(::open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) throw errno_error(fmt::format("open {}", path), errno);
    return fd;
}

bool lock(const UniqueFd& fd, int how) {
    while (::flock(fd.get(), how) != 0) {
        if (errno == EWOULDBLOCK) return false;
        if (errno != EINTR) throw errno_error("lock", errno);
    }
    return true;
}

/// A daemon that a test program started, and that still runs.
std::optional<ProcessFacts> our_daemon() {
    std::ifstream file(kDaemonFile);
    pid_t pid = 0;
    std::uint64_t start_time = 0;
    if (!(file >> pid >> start_time) || pid <= 1) return std::nullopt;
    auto facts = process_facts(pid);
    if (!facts || facts->zombie || facts->start_time != start_time) return std::nullopt;
    return facts;
}

bool eventually_true(const std::function<bool()>& condition, std::chrono::milliseconds patience) {
    const auto deadline = steady_clock::now() + patience;
    while (!condition()) {
        if (steady_clock::now() > deadline) return false;
        std::this_thread::sleep_for(20ms);
    }
    return true;
}

std::string content_of(const fs::path& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

/// Starts one and waits for it to answer; false when it ends by itself.
bool start_daemon_once(const fs::path& log) {
    const pid_t pid = spawn_detached({{"zfs-fuse", "--no-daemon", "--no-kstat-mount"}, {}, log});
    const auto facts = process_facts(pid);
    if (!facts) return false;
    std::ofstream(kDaemonFile, std::ios::trunc) << pid << " " << facts->start_time << "\n";
    bool ended = false;
    const auto decided = [&] {
        ended = ::waitpid(pid, nullptr, WNOHANG) == pid;
        return ended || zfs_works();
    };
    if (eventually_true(decided, 20s)) return !ended;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    throw std::runtime_error("zfs-fuse does not answer; it said: " + content_of(log));
}

void start_daemon() {
    // A hung one of ours would keep the socket and the lock of the next.
    if (our_daemon()) throw std::runtime_error("the zfs-fuse of another test program hangs");
    const fs::path log = fs::temp_directory_path() / "bpg-test-zfs-fuse.log";
    // Threads of one that was killed may hold its lock for another second.
    if (eventually_true([&] { return start_daemon_once(log); }, 20s)) return;
    throw std::runtime_error("zfs-fuse ends at once; it needs root and /dev/fuse. It said: " +
                             content_of(log));
}

/// Ends our daemon; an explanation when it stays.
std::string stop_daemon() {
    const auto daemon = our_daemon();
    if (!daemon) return {};
    // It takes five seconds to see a SIGTERM. Without pools it has nothing to lose.
    const bool empty = try_run({"zpool", "list", "-H", "-o", "name"}).out.empty();
    ::kill(daemon->pid, empty ? SIGKILL : SIGTERM);
    const auto gone = [&daemon] {
        ::waitpid(daemon->pid, nullptr, WNOHANG);  // it may be our child
        return !our_daemon();
    };
    if (eventually_true(gone, 20s)) return {};
    ::kill(daemon->pid, SIGKILL);
    return eventually_true(gone, 10s) ? "zfs-fuse had to be killed" : "zfs-fuse does not end";
}

/// Mount points of a pool, the innermost first; of every pool of tests for an empty name.
std::vector<std::string> mounts_of(const std::string& pool) {
    std::vector<std::string> found;
    std::ifstream table("/proc/self/mounts");
    for (std::string line; std::getline(table, line);) {
        std::istringstream fields(line);
        std::string source;
        std::string directory;
        fields >> source >> directory;
        const std::string owner = source.substr(0, source.find('/'));
        const bool wanted = pool.empty() ? owner.starts_with(kPoolPrefix) : owner == pool;
        if (wanted) found.push_back(directory);
    }
    std::reverse(found.begin(), found.end());
    return found;
}

/// What test programs that died left: pools, mounts of a daemon that died with them, directories.
/// Nobody else is using ZFS for tests now.
void clear_away_the_dead() {
    std::istringstream names(try_run({"zpool", "list", "-H", "-o", "name"}).out);
    for (std::string name; std::getline(names, name);) {
        if (name.starts_with(kPoolPrefix)) try_run({"zpool", "destroy", "-f", name});
    }
    for (const std::string& mount : mounts_of(""))
        ::umount2(mount.c_str(), MNT_DETACH);
    if (!mounts_of("").empty()) return;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(fs::temp_directory_path())) {
        const bool ours = entry.path().filename().native().starts_with(kDirectoryPrefix);
        if (ours) fs::remove_all(entry.path(), ignored);
    }
}

/// Our use of ZFS, ended after the last test.
class ZfsUse final : public testing::Environment {
  public:
    void begin() {
        if (users_) return;
        const UniqueFd guard = open_lock(kDaemonFile);
        lock(guard, LOCK_EX);
        UniqueFd users = open_lock(kUsersLock);
        const bool alone = lock(users, LOCK_EX | LOCK_NB);
        if (!zfs_works()) start_daemon();
        if (alone) clear_away_the_dead();
        lock(users, LOCK_SH);
        users_ = std::move(users);
    }

    void TearDown() override {
        if (!users_) return;
        const UniqueFd guard = open_lock(kDaemonFile);
        lock(guard, LOCK_EX);
        if (lock(users_, LOCK_EX | LOCK_NB)) {
            const std::string problem = stop_daemon();
            EXPECT_EQ(problem, "");
        }
        users_.reset();
    }

  private:
    UniqueFd users_;
};

// Owned by googletest, which calls TearDown() after the last test.
auto* const use = static_cast<ZfsUse*>(testing::AddGlobalTestEnvironment(new ZfsUse));

}  // namespace

void require_zfs() {
    use->begin();
}

void release_zfs() {
    use->TearDown();
}

std::string run_zfs(const std::vector<std::string>& argv) {
    const auto deadline = steady_clock::now() + 10s;
    while (true) {
        // A mount of ours and one of bpgd, or of another test program, must not meet.
        std::optional<storage::ZfsMountTurn> turn(60s);
        const CommandResult result = try_run(argv);
        turn.reset();
        if (result.ok()) return result.out;
        const bool busy = result.err.find("is busy") != std::string::npos;
        if (!busy || steady_clock::now() > deadline) {
            throw std::runtime_error(fmt::format("{}: {}", fmt::join(argv, " "), result.err));
        }
        std::this_thread::sleep_for(30ms);
    }
}

TestPool::TestPool(std::uint64_t size) {
    require_zfs();
    static std::atomic<int> count{0};
    const int number = count++;
    name_ = fmt::format("{}{}", kPoolPrefix, ::getpid());
    if (number > 0) name_ += fmt::format("-{}", number);
    std::string pattern =
        (fs::temp_directory_path() / (std::string(kDirectoryPrefix) + "XXXXXX")).native();
    if (::mkdtemp(pattern.data()) == nullptr) throw errno_error("make a directory", errno);
    directory_ = fs::canonical(pattern);
    if (::chmod(directory_.c_str(), 0711) != 0) throw errno_error("open a directory", errno);
    {
        const UniqueFd fd(::open(file().c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
        if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
            throw errno_error("make a pool file", errno);
        }
    }
    run_zfs({"zpool", "create", "-o", "cachefile=none", "-m", "none", name_, file().native()});
}

TestPool::~TestPool() {
    try {
        finish();
    } catch (const std::exception& failure) {
        ADD_FAILURE() << "a test pool stays: " << failure.what();
    }
}

void TestPool::export_pool() const {
    run_zfs({"zpool", "export", name_});
}

void TestPool::import_pool() const {
    run_zfs({"zpool", "import", "-o", "cachefile=none", "-d", directory_.native(), name_});
}

std::vector<std::string> TestPool::finish() {
    if (directory_.empty()) return {};
    std::vector<std::string> left;
    const auto exists = [&] { return try_run({"zpool", "list", "-H", name_}).ok(); };
    const auto destroyed = [&] {
        try_run({"zpool", "destroy", "-f", name_});
        return !exists();
    };
    if (exists() && !eventually_true(destroyed, 15s)) left.push_back("pool " + name_);
    eventually_true([&] { return mounts_of(name_).empty(); }, 5s);
    for (const std::string& mount : mounts_of(name_)) {
        left.push_back("mount " + mount);
        ::umount2(mount.c_str(), MNT_DETACH);
    }
    if (mounts_of(name_).empty()) fs::remove_all(directory_);  // never into what is mounted
    directory_.clear();
    return left;
}

}  // namespace bpg::test
