#include "orchestrator/storage/zfs_mount_turn.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "orchestrator/base/error.h"

namespace bpg::storage {
namespace {

constexpr const char* kKernelDevice = "/dev/zfs";
// What every zfs-fuse needs, so that all who use one meet here without a file of their own.
constexpr const char* kFuseDevice = "/dev/fuse";
constexpr std::chrono::milliseconds kLookAgain{2};

}  // namespace

ZfsMountTurn::ZfsMountTurn(std::chrono::milliseconds patience) {
    if (::access(kKernelDevice, F_OK) == 0) return;
    fd_.reset(::open(kFuseDevice, O_RDONLY | O_CLOEXEC));
    if (!fd_) return;  // then there is no zfs-fuse either; the command says what is wrong
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) throw errno_error("lock /dev/fuse", errno);
        if (std::chrono::steady_clock::now() >= deadline) {
            throw Error(ErrorKind::kUnavailable, "zfs_mounts_busy",
                        "another command has been mounting a dataset for too long",
                        "zfs-fuse takes one at a time; /dev/fuse is locked by it",
                        "it is tried again; if it hangs, see why: fuser -v /dev/fuse");
        }
        std::this_thread::sleep_for(kLookAgain);  // pool thread: a lock has no event
    }
}

}  // namespace bpg::storage
