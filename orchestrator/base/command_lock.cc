#include "orchestrator/base/command_lock.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <thread>

#include "orchestrator/base/error.h"

namespace bpg {
namespace {

constexpr std::chrono::milliseconds kLookAgain{5};

Error still_runs(const std::filesystem::path& path) {
    return {ErrorKind::kUnavailable, "earlier_command_runs",
            "a command that an earlier bpgd began has not ended",
            path.string() + " is locked by it",
            "it is waited for; if it hangs, see why: fuser -v " + path.string()};
}

}  // namespace

int CommandLock::hold(std::chrono::milliseconds patience) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    const std::unique_lock lock(mutex_, deadline);
    if (!lock.owns_lock()) throw still_runs(path_);
    if (fd_) return fd_.get();
    UniqueFd fd(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) throw errno_error("open " + path_.string(), errno);
    while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
            throw errno_error("lock " + path_.string(), errno);
        }
        if (std::chrono::steady_clock::now() >= deadline) throw still_runs(path_);
        std::this_thread::sleep_for(kLookAgain);  // pool thread: no event tells of the end
    }
    fd_ = std::move(fd);
    return fd_.get();
}

}  // namespace bpg
