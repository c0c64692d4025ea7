#include "orchestrator/wal/plain_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "orchestrator/base/error.h"

namespace bpg::wal {

std::optional<PlainFile> PlainFile::open(int directory_fd, const std::string& directory,
                                         const std::string& name) {
    const std::string shown = fmt::format("{} in {}", name, directory);
    // O_NONBLOCK: a FIFO put in the file's place must not hold us.
    UniqueFd fd(
        ::openat(directory_fd, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!fd) {
        if (errno == ENOENT) return std::nullopt;
        if (errno == ELOOP) {
            throw Error(ErrorKind::kCorrupt, "symlink_refused", shown + " is a symbolic link",
                        "a link here could lead anywhere, so it is never followed", "remove it");
        }
        if (errno != ENXIO) throw errno_error("open " + shown, errno);
    }
    struct stat facts{};
    if (fd && ::fstat(fd.get(), &facts) != 0) throw errno_error("look at " + shown, errno);
    if (!fd || !S_ISREG(facts.st_mode)) {
        throw Error(ErrorKind::kCorrupt, "not_a_regular_file", shown + " is not a regular file",
                    "nothing else can hold WAL", "remove it");
    }
    PlainFile file(std::move(fd), shown);
    file.size_ = static_cast<std::uint64_t>(facts.st_size);
    file.modified_seconds_ = facts.st_mtim.tv_sec;
    file.device_ = facts.st_dev;
    file.inode_ = facts.st_ino;
    return file;
}

std::size_t PlainFile::read_into(char* bytes, std::size_t size, std::uint64_t at) const {
    std::size_t have = 0;
    while (have < size) {
        const ssize_t got =
            ::pread(file_.get(), bytes + have, size - have, static_cast<off_t>(at + have));
        if (got < 0) {
            if (errno == EINTR) continue;
            throw errno_error("read " + shown_, errno);
        }
        if (got == 0) break;
        have += static_cast<std::size_t>(got);
    }
    return have;
}

std::string PlainFile::read_at(std::uint64_t at, std::size_t size) const {
    std::string bytes(size, '\0');
    bytes.resize(read_into(bytes.data(), size, at));
    return bytes;
}

void PlainFile::read_blocks(std::uint64_t at, std::uint64_t end,
                            const std::function<bool(std::string_view)>& take) const {
    std::vector<char> block(static_cast<std::size_t>(std::min<std::uint64_t>(kBlock, end - at)));
    while (at < end) {
        const auto want = static_cast<std::size_t>(std::min<std::uint64_t>(block.size(), end - at));
        const std::size_t got = read_into(block.data(), want, at);
        if (got == 0 || !take({block.data(), got})) return;
        at += got;
    }
}

bool PlainFile::is_still(int directory_fd, const std::string& name) const {
    struct stat facts{};
    return ::fstatat(directory_fd, name.c_str(), &facts, AT_SYMLINK_NOFOLLOW) == 0 &&
           facts.st_dev == device_ && facts.st_ino == inode_;
}

}  // namespace bpg::wal
