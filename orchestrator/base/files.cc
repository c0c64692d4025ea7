#include "orchestrator/base/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <vector>

#include "orchestrator/base/error.h"
#include "orchestrator/base/id.h"

namespace bpg {
namespace {

constexpr std::size_t kReadBlock = 64UL * 1024;
constexpr int kOpenAttempts = 100;
// One descriptor and one stack frame a level: deeper directories are moved up before they are
// removed, so a tree made deep on purpose can neither overflow the stack nor use up descriptors.
constexpr int kRemoveDepthMax = 64;
constexpr int kRemovePasses = 1000;

Error symlink_refused(std::string_view path) {
    return {ErrorKind::kCorrupt, "symlink_refused", fmt::format("{} is a symbolic link", path),
            "a link here could lead anywhere, so it is never followed",
            "replace the link by what it names"};
}

int openat2_call(int root_fd, const std::string& path, const open_how& how) {
    return static_cast<int>(::syscall(SYS_openat2, root_fd, path.c_str(), &how, sizeof how));
}

bool names_a_link(const std::filesystem::path& path) {
    struct stat facts{};
    return ::lstat(path.c_str(), &facts) == 0 && S_ISLNK(facts.st_mode);
}

void write_all(int fd, std::string_view content, const std::filesystem::path& path) {
    while (!content.empty()) {
        const ssize_t written = ::write(fd, content.data(), content.size());
        if (written < 0) {
            if (errno == EINTR) continue;
            throw errno_error(fmt::format("write {}", path.native()), errno);
        }
        content.remove_prefix(static_cast<std::size_t>(written));
    }
}

std::string read_at_most(int fd, std::size_t max, const std::filesystem::path& path) {
    std::string content;
    std::array<char, kReadBlock> block{};
    while (true) {
        const ssize_t got = ::read(fd, block.data(), block.size());
        if (got < 0) {
            if (errno == EINTR) continue;
            throw errno_error(fmt::format("read {}", path.native()), errno);
        }
        if (got == 0) return content;
        content.append(block.data(), static_cast<std::size_t>(got));
        if (content.size() > max) {
            throw Error(ErrorKind::kCorrupt, "file_too_large",
                        fmt::format("{} is larger than {} bytes", path.native(), max));
        }
    }
}

/// Removes a file it was given by name unless told that the file found its place.
class TemporaryFile {
  public:
    TemporaryFile(int directory_fd, std::string name)
        : directory_fd_(directory_fd), name_(std::move(name)) {}
    ~TemporaryFile() {
        if (!kept_) ::unlinkat(directory_fd_, name_.c_str(), 0);
    }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;
    const std::string& name() const { return name_; }
    void keep() { kept_ = true; }

  private:
    int directory_fd_;
    std::string name_;
    bool kept_ = false;
};

std::filesystem::path parent_of(const std::filesystem::path& path) {
    const auto parent = path.parent_path();
    return parent.empty() ? std::filesystem::path(".") : parent;
}

class TreeRemover {
  public:
    TreeRemover(int root_fd, std::string shown) : root_fd_(root_fd), shown_(std::move(shown)) {}

    /// Empties the root; more passes when directories were moved up or somebody still writes.
    void run() {
        for (int pass = 0; pass < kRemovePasses; ++pass) {
            if (directory_names(root_fd_, shown_).empty()) return;
            empty_directory(root_fd_, 0);
        }
        throw Error(ErrorKind::kUnavailable, "directory_busy",
                    fmt::format("cannot remove {}", shown_),
                    "files keep appearing in it while it is removed", "stop what writes there");
    }

  private:
    void empty_directory(int fd, int depth) {
        for (const std::string& name : directory_names(fd, shown_)) {
            if (::unlinkat(fd, name.c_str(), 0) == 0 || errno == ENOENT) continue;
            // EPERM is what POSIX says for a directory, EISDIR what Linux says.
            if (errno != EISDIR && errno != EPERM) fail(name, errno);
            remove_directory(fd, name, depth);
        }
    }

    void remove_directory(int fd, const std::string& name, int depth) {
        if (depth >= kRemoveDepthMax) {
            const std::string higher = fmt::format(".removing-{}", new_id());
            if (::renameat(fd, name.c_str(), root_fd_, higher.c_str()) != 0) fail(name, errno);
            return;
        }
        const UniqueFd inner(
            ::openat(fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!inner) {
            if (errno == ENOENT) return;
            fail(name, errno);
        }
        empty_directory(inner.get(), depth + 1);
        if (::unlinkat(fd, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) return;
        // Not empty: somebody made a file meanwhile, the next pass takes it.
        if (errno != ENOTEMPTY && errno != EEXIST) fail(name, errno);
    }

    [[noreturn]] void fail(const std::string& name, int failure) const {
        throw errno_error(fmt::format("remove {} in {}", name, shown_), failure);
    }

    int root_fd_;
    std::string shown_;
};

}  // namespace

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
}

int UniqueFd::release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
}

void UniqueFd::reset(int fd) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
}

UniqueFd open_beneath(int root_fd, const std::string& relative, int flags, mode_t mode) {
    open_how how{};
    how.flags = static_cast<unsigned>(flags | O_CLOEXEC);
    how.mode = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? mode : 0;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    for (int attempt = 0; attempt < kOpenAttempts; ++attempt) {
        UniqueFd fd(openat2_call(root_fd, relative, how));
        if (fd) return fd;
        if (errno == ENOENT) return {};
        if (errno == ELOOP) throw symlink_refused(relative);
        // EAGAIN: a rename ran beside the lookup and the kernel cannot vouch for it.
        if (errno != EAGAIN && errno != EINTR) break;
    }
    throw errno_error(fmt::format("open {}", relative), errno);
}

UniqueFd open_directory(const std::filesystem::path& path) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (fd) return fd;
    const int failure = errno;
    if ((failure == ELOOP || failure == ENOTDIR) && names_a_link(path)) {
        throw symlink_refused(path.native());
    }
    throw errno_error(fmt::format("open {}", path.native()), failure);
}

std::optional<std::string> read_file(const std::filesystem::path& path, std::size_t max) {
    // O_NONBLOCK: a FIFO put in the file's place must not hold us.
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!fd) {
        if (errno == ENOENT) return std::nullopt;
        if (errno == ELOOP) throw symlink_refused(path.native());
        if (errno != ENXIO) throw errno_error(fmt::format("open {}", path.native()), errno);
    }
    struct stat facts{};
    if (fd && ::fstat(fd.get(), &facts) != 0) {
        throw errno_error(fmt::format("look at {}", path.native()), errno);
    }
    if (!fd || !S_ISREG(facts.st_mode)) {
        throw Error(ErrorKind::kCorrupt, "not_a_regular_file",
                    fmt::format("{} is not a regular file", path.native()));
    }
    return read_at_most(fd.get(), max, path);
}

void write_file_durably(const std::filesystem::path& path, std::string_view content, mode_t mode,
                        std::optional<FileOwner> owner) {
    const std::filesystem::path parent = parent_of(path);
    const UniqueFd directory = open_directory(parent);
    const std::string name = path.filename().native();
    // A random name and O_EXCL: nobody can have put a file or link in its place beforehand.
    TemporaryFile temporary(directory.get(), fmt::format(".{}.{}.tmp", name, new_id()));
    const UniqueFd file(::openat(directory.get(), temporary.name().c_str(),
                                 O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file) {
        throw errno_error(fmt::format("create a file in {}", parent.native()), errno);
    }
    write_all(file.get(), content, path);
    // The owner first: chown clears set-id bits, and until the mode is set only root reads it.
    if (owner && ::fchown(file.get(), owner->uid, owner->gid) != 0) {
        throw errno_error(fmt::format("change the owner of {}", path.native()), errno);
    }
    if (::fchmod(file.get(), mode) != 0) {
        throw errno_error(fmt::format("change the mode of {}", path.native()), errno);
    }
    if (::fsync(file.get()) != 0) throw errno_error(fmt::format("sync {}", path.native()), errno);
    if (::renameat(directory.get(), temporary.name().c_str(), directory.get(), name.c_str()) != 0) {
        throw errno_error(fmt::format("replace {}", path.native()), errno);
    }
    temporary.keep();
    if (::fsync(directory.get()) != 0) {
        throw errno_error(fmt::format("sync {}", parent.native()), errno);
    }
}

void ensure_directory(const std::filesystem::path& path, mode_t mode, FileOwner owner) {
    const bool made = ::mkdir(path.c_str(), 0700) == 0;
    if (!made && errno != EEXIST) throw errno_error(fmt::format("make {}", path.native()), errno);
    const UniqueFd directory = open_directory(path);
    if (::fchown(directory.get(), owner.uid, owner.gid) != 0) {
        throw errno_error(fmt::format("change the owner of {}", path.native()), errno);
    }
    if (::fchmod(directory.get(), mode) != 0) {
        throw errno_error(fmt::format("change the mode of {}", path.native()), errno);
    }
    if (made) fsync_directory(parent_of(path));
}

std::vector<std::string> directory_names(int directory_fd, std::string_view shown) {
    // A descriptor of its own: the stream takes it over and the offset is its.
    const int fd = ::openat(directory_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) throw errno_error(fmt::format("open {}", shown), errno);
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(fd), ::closedir);
    if (!stream) {
        const int failure = errno;
        ::close(fd);
        throw errno_error(fmt::format("read {}", shown), failure);
    }
    std::vector<std::string> names;
    while (true) {
        errno = 0;
        const dirent* entry = ::readdir(stream.get());
        if (entry == nullptr) {
            if (errno != 0) throw errno_error(fmt::format("read {}", shown), errno);
            return names;
        }
        const std::string_view name = entry->d_name;
        if (name != "." && name != "..") names.emplace_back(name);
    }
}

void fsync_directory(const std::filesystem::path& path) {
    const UniqueFd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory || ::fsync(directory.get()) != 0) {
        throw errno_error(fmt::format("sync {}", path.native()), errno);
    }
}

void remove_tree(const std::filesystem::path& path) {
    if (::unlink(path.c_str()) == 0 || errno == ENOENT) return;
    if (errno != EISDIR && errno != EPERM) {
        throw errno_error(fmt::format("remove {}", path.native()), errno);
    }
    const UniqueFd root = open_directory(path);
    TreeRemover(root.get(), path.native()).run();
    if (::rmdir(path.c_str()) != 0 && errno != ENOENT) {
        throw errno_error(fmt::format("remove {}", path.native()), errno);
    }
}

std::uint64_t free_bytes(const std::filesystem::path& path) {
    struct statvfs facts{};
    if (::statvfs(path.c_str(), &facts) != 0) {
        throw errno_error(fmt::format("ask for the free space of {}", path.native()), errno);
    }
    return facts.f_bavail * facts.f_frsize;
}

FileOwner lookup_user(const std::string& name) {
    std::vector<char> buffer(16UL * 1024);
    passwd entry{};
    passwd* found = nullptr;
    int failure = 0;
    while ((failure = ::getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found)) ==
               ERANGE &&
           buffer.size() < (1U << 20U)) {
        buffer.resize(2 * buffer.size());
    }
    if (found != nullptr) return {entry.pw_uid, entry.pw_gid};
    if (failure != 0 && failure != ENOENT && failure != ESRCH) {
        throw errno_error(fmt::format("look up the user {}", name), failure);
    }
    throw Error(ErrorKind::kNotFound, "user_not_found",
                fmt::format("there is no system user {}", name), "",
                "create the user or choose another in the configuration");
}

}  // namespace bpg
