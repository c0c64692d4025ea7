#include "orchestrator/wal/new_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "orchestrator/base/error.h"
#include "orchestrator/base/id.h"

namespace bpg::wal {
namespace {

constexpr std::string_view kTemporaryBegin = ".bpg-";
constexpr std::string_view kTemporaryEnd = ".tmp";
constexpr int kNameAttempts = 100;

std::string own_link(int fd) {
    return fmt::format("/proc/self/fd/{}", fd);
}

bool same_file(const struct stat& one, const struct stat& other) {
    return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

/// Whether this name still stands for the file behind `fd`.
bool is_named(int directory_fd, const std::string& name, int fd) {
    struct stat by_name{};
    struct stat by_fd{};
    return ::fstatat(directory_fd, name.c_str(), &by_name, AT_SYMLINK_NOFOLLOW) == 0 &&
           ::fstat(fd, &by_fd) == 0 && same_file(by_name, by_fd);
}

/// A lock that is free belongs to nobody alive. What cannot be looked at stays.
void remove_if_abandoned(int directory_fd, const std::string& name) {
    const UniqueFd file(
        ::openat(directory_fd, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!file || ::flock(file.get(), LOCK_EX | LOCK_NB) != 0) return;
    if (is_named(directory_fd, name, file.get())) ::unlinkat(directory_fd, name.c_str(), 0);
}

void remove_abandoned(int directory_fd, const std::string& shown) {
    for (const std::string& name : directory_names(directory_fd, shown)) {
        if (is_temporary_name(name)) remove_if_abandoned(directory_fd, name);
    }
}

/// bpgd is root and works for instances, whose own helper must be able to read what it made.
void give_to_owner_of(int directory_fd, int file_fd, const std::string& shown) {
    struct stat directory{};
    if (::fstat(directory_fd, &directory) != 0) {
        throw errno_error(fmt::format("look at {}", shown), errno);
    }
    const uid_t user = ::geteuid();
    if (user != 0 || directory.st_uid == user) return;
    if (::fchown(file_fd, directory.st_uid, directory.st_gid) != 0) {
        throw errno_error(fmt::format("change the owner of a file in {}", shown), errno);
    }
}

}  // namespace

bool is_temporary_name(std::string_view name) {
    return name.starts_with(kTemporaryBegin) && name.ends_with(kTemporaryEnd);
}

NewFile::NewFile(int directory_fd, std::string shown, std::string name)
    : directory_fd_(directory_fd), shown_(std::move(shown)), name_(std::move(name)) {
    if (!make_nameless()) make_named();
    give_to_owner_of(directory_fd_, file_.get(), shown_);
}

NewFile::~NewFile() {
    if (!temporary_.empty()) ::unlinkat(directory_fd_, temporary_.c_str(), 0);
}

bool NewFile::make_nameless() {
    file_.reset(::openat(directory_fd_, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!file_) {
        // What the kernel says for a file system that cannot, in its various ages.
        if (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT || errno == EINVAL) {
            return false;
        }
        throw errno_error(fmt::format("create a file in {}", shown_), errno);
    }
    // A name is given through /proc, which a bare chroot has not.
    if (::access(own_link(file_.get()).c_str(), F_OK) == 0) return true;
    file_.reset();
    return false;
}

std::string NewFile::unused_name() const {
    return fmt::format("{}{}{}", kTemporaryBegin, new_id(), kTemporaryEnd);
}

void NewFile::make_named() {
    remove_abandoned(directory_fd_, shown_);
    for (int attempt = 0; attempt < kNameAttempts; ++attempt) {
        const std::string name = unused_name();
        file_.reset(::openat(directory_fd_, name.c_str(),
                             O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
        if (!file_) throw errno_error(fmt::format("create a file in {}", shown_), errno);
        // Between creating and locking it looks abandoned: somebody may have removed it.
        const bool locked = ::flock(file_.get(), LOCK_EX | LOCK_NB) == 0;
        if (locked && is_named(directory_fd_, name, file_.get())) {
            temporary_ = name;
            return;
        }
    }
    throw Error(ErrorKind::kUnavailable, "directory_busy",
                fmt::format("cannot create a file in {}", shown_),
                "files are removed from it as fast as they are made");
}

void NewFile::write_at(std::uint64_t offset, std::string_view bytes) const {
    while (!bytes.empty()) {
        const ssize_t written =
            ::pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (written < 0) {
            if (errno == EINTR) continue;
            throw errno_error(fmt::format("write {} in {}", name_, shown_), errno);
        }
        bytes.remove_prefix(static_cast<std::size_t>(written));
        offset += static_cast<std::uint64_t>(written);
    }
}

void NewFile::link_as(const std::string& name, bool& exists) const {
    const int done = temporary_.empty() ? ::linkat(AT_FDCWD, own_link(file_.get()).c_str(),
                                                   directory_fd_, name.c_str(), AT_SYMLINK_FOLLOW)
                                        : ::linkat(directory_fd_, temporary_.c_str(), directory_fd_,
                                                   name.c_str(), 0);
    exists = done != 0 && errno == EEXIST;
    if (done != 0 && !exists) throw errno_error(fmt::format("name {} in {}", name, shown_), errno);
}

bool NewFile::publish_new() {
    bool exists = false;
    link_as(name_, exists);
    return !exists;
}

void NewFile::publish_over() {
    // A link cannot take a name from another file, only a rename can, and that needs a name.
    if (temporary_.empty()) {
        remove_abandoned(directory_fd_, shown_);
        if (::flock(file_.get(), LOCK_EX | LOCK_NB) != 0) {
            throw errno_error(fmt::format("lock a file in {}", shown_), errno);
        }
        const std::string name = unused_name();
        bool exists = false;
        link_as(name, exists);
        if (exists) throw errno_error(fmt::format("name {} in {}", name, shown_), EEXIST);
        temporary_ = name;
    }
    if (::renameat(directory_fd_, temporary_.c_str(), directory_fd_, name_.c_str()) != 0) {
        throw errno_error(fmt::format("replace {} in {}", name_, shown_), errno);
    }
    temporary_.clear();
}

}  // namespace bpg::wal
