#include "orchestrator/storage/tree_copy.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>
#include <vector>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"
#include "orchestrator/storage/identity.h"
#include "orchestrator/storage/volume_root.h"

namespace bpg::storage {
namespace {

constexpr int kDepthMax = 64;  // PostgreSQL needs 6; deeper is somebody's trap for our stack
constexpr std::size_t kBufferSize = 1 << 20;
constexpr std::size_t kRangeMax = 64 << 20;
constexpr std::size_t kLastMax = 1 << 20;
constexpr int kLastAttempts = 50;
constexpr std::chrono::milliseconds kLastPause{5};

bool contains(const std::vector<std::string>& list, const std::string& text) {
    return std::find(list.begin(), list.end(), text) != list.end();
}

/// Copies bytes [from, end) between two files; a source that ends earlier ends the copy.
class RangeCopier {
  public:
    RangeCopier(int source, int target, const std::string& path,
                const std::function<void()>& may_go_on)
        : source_(source), target_(target), path_(path), may_go_on_(may_go_on) {}

    /// Data only: holes of the source stay holes.
    void copy_up_to(off_t size) {
        off_t position = 0;
        while (position < size) {
            const off_t data = ::lseek(source_, position, SEEK_DATA);
            // ENXIO: nothing but a hole from here, or the file was cut meanwhile.
            if (data < 0 && errno == ENXIO) return;
            if (data < 0 && errno != EINVAL) fail("read");
            const off_t start = data < 0 ? position : data;
            if (start >= size) return;
            off_t end = data < 0 ? size : ::lseek(source_, start, SEEK_HOLE);
            if (end < 0) end = size;
            position = std::min(end, size);
            if (!copy_range(start, position)) return;
        }
    }

  private:
    /// False at the end of the source.
    bool copy_range(off_t start, off_t end) {
        while (start < end) {
            if (may_go_on_) may_go_on_();
            const auto wanted = std::min(static_cast<std::size_t>(end - start), kRangeMax);
            const ssize_t copied =
                in_kernel_ ? copy_in_kernel(start, wanted) : copy_by_hand(start, wanted);
            if (copied == 0) return false;
            if (copied > 0) start += copied;
        }
        return true;
    }

    /// Shares blocks where the file system can. -1: not possible here, go on by hand.
    ssize_t copy_in_kernel(off_t start, std::size_t wanted) {
        off_t in = start;
        off_t out = start;
        const ssize_t copied = ::copy_file_range(source_, &in, target_, &out, wanted, 0);
        if (copied >= 0) return copied;
        if (errno == EINTR) return -1;
        if (errno != EXDEV && errno != EINVAL && errno != EOPNOTSUPP && errno != ENOSYS) {
            fail("copy");
        }
        in_kernel_ = false;
        return -1;
    }

    ssize_t copy_by_hand(off_t start, std::size_t wanted) {
        buffer_.resize(kBufferSize);
        const ssize_t got =
            ::pread(source_, buffer_.data(), std::min(wanted, buffer_.size()), start);
        if (got < 0 && errno == EINTR) return -1;
        if (got < 0) fail("read");
        for (ssize_t done = 0; done < got;) {
            const ssize_t written = ::pwrite(target_, buffer_.data() + done,
                                             static_cast<std::size_t>(got - done), start + done);
            if (written < 0 && errno == EINTR) continue;
            if (written < 0) fail("write the copy of");
            done += written;
        }
        return got;
    }

    [[noreturn]] void fail(const char* verb) const {
        throw storage_error(fmt::format("{} {}", verb, path_), errno);
    }

    int source_;
    int target_;
    const std::string& path_;
    const std::function<void()>& may_go_on_;
    bool in_kernel_ = true;
    std::vector<char> buffer_;
};

class TreeCopier {
  public:
    explicit TreeCopier(const CopyPlan& plan) : plan_(plan) {}

    void copy_directory(int source, int target, const std::string& path, int depth) {
        if (depth > kDepthMax) {
            throw Error(ErrorKind::kInvalid, "tree_too_deep",
                        fmt::format("cannot copy {}", path.substr(0, 200)),
                        fmt::format("directories are nested more than {} deep", kDepthMax),
                        "remove what is not PostgreSQL's from the data directory");
        }
        for (const std::string& name : directory_names(source, path)) {
            const std::string inner = path.empty() ? name : fmt::format("{}/{}", path, name);
            if (inner == plan_.last || is_left_out(name, path)) continue;
            copy_entry(source, target, name, inner, depth);
        }
    }

    /// Read into memory, judged, and only then written: what is on disk is never a torn copy.
    void copy_last(int source, int target) {
        for (int attempt = 0; attempt < kLastAttempts; ++attempt) {
            const UniqueFd from =
                open_beneath(source, plan_.last, O_RDONLY | O_NONBLOCK | O_NOATIME);
            if (!from) {
                throw Error(ErrorKind::kCorrupt, "file_missing",
                            fmt::format("{} is missing in the source", plan_.last));
            }
            const std::string content = read_whole(from.get());
            if (!plan_.last_is_whole || plan_.last_is_whole(content)) {
                write_last(from.get(), target, content);
                return;
            }
            std::this_thread::sleep_for(kLastPause);  // pool thread: a torn read is read again
        }
        throw Error(ErrorKind::kCorrupt, "file_torn",
                    fmt::format("{} could not be read whole", plan_.last),
                    fmt::format("{} attempts all failed its check", kLastAttempts),
                    "check the parent's data directory for damage");
    }

  private:
    bool is_left_out(const std::string& name, const std::string& parent) const {
        if (parent.empty() && name == kIdentityFile) return true;
        if (contains(plan_.skipped_names, name)) return true;
        return std::any_of(plan_.skipped_prefixes.begin(), plan_.skipped_prefixes.end(),
                           [&](const std::string& prefix) { return name.starts_with(prefix); });
    }

    void copy_entry(int source, int target, const std::string& name, const std::string& path,
                    int depth) {
        struct stat facts{};
        if (::fstatat(source, name.c_str(), &facts, AT_SYMLINK_NOFOLLOW) != 0) {
            if (errno == ENOENT) return;
            fail("look at", path);
        }
        if (plan_.may_go_on) plan_.may_go_on();
        if (S_ISREG(facts.st_mode)) {
            copy_file(source, target, name, path);
        } else if (S_ISDIR(facts.st_mode)) {
            copy_subdirectory(source, target, name, path, depth);
        } else if (S_ISLNK(facts.st_mode)) {
            copy_link(source, target, name, path, facts);
        }
    }

    void copy_subdirectory(int source, int target, const std::string& name, const std::string& path,
                           int depth) {
        const UniqueFd from(
            ::openat(source, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!from) {
            if (is_gone()) return;
            fail("open", path);
        }
        if (::mkdirat(target, name.c_str(), 0700) != 0) fail("make the copy of", path);
        const UniqueFd to(
            ::openat(target, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!to) fail("open the copy of", path);
        if (!contains(plan_.empty_directories, path)) {
            copy_directory(from.get(), to.get(), path, depth + 1);
        }
        keep_owner_and_mode(from.get(), to.get(), path);
    }

    void copy_file(int source, int target, const std::string& name, const std::string& path) {
        const UniqueFd from(::openat(source, name.c_str(),
                                     O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOATIME | O_CLOEXEC));
        if (!from) {
            if (is_gone()) return;
            fail("open", path);
        }
        struct stat facts{};
        if (::fstat(from.get(), &facts) != 0) fail("look at", path);
        if (!S_ISREG(facts.st_mode)) return;
        const UniqueFd to = create(target, name, path);
        // Up to the size it has now: what is added meanwhile is in the WAL, and a file that grows
        // without end would be copied without end.
        RangeCopier(from.get(), to.get(), path, plan_.may_go_on).copy_up_to(facts.st_size);
        struct stat after{};
        if (::fstat(from.get(), &after) != 0) fail("look at", path);
        if (::ftruncate(to.get(), std::min(facts.st_size, after.st_size)) != 0) {
            fail("set the size of the copy of", path);
        }
        keep_owner_and_mode(from.get(), to.get(), path);
    }

    void copy_link(int source, int target, const std::string& name, const std::string& path,
                   const struct stat& facts) {
        std::string text(PATH_MAX, '\0');
        const ssize_t length = ::readlinkat(source, name.c_str(), text.data(), text.size());
        if (length < 0) {
            if (is_gone() || errno == EINVAL) return;
            fail("read the link", path);
        }
        text.resize(static_cast<std::size_t>(length));
        if (::symlinkat(text.c_str(), target, name.c_str()) != 0 ||
            ::fchownat(target, name.c_str(), facts.st_uid, facts.st_gid, AT_SYMLINK_NOFOLLOW) !=
                0) {
            fail("copy the link", path);
        }
    }

    std::string read_whole(int fd) const {
        std::string content;
        std::vector<char> block(64UL * 1024);
        while (content.size() <= kLastMax) {
            const ssize_t got = ::read(fd, block.data(), block.size());
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) fail("read", plan_.last);
            if (got == 0) return content;
            content.append(block.data(), static_cast<std::size_t>(got));
        }
        throw Error(ErrorKind::kCorrupt, "file_too_large",
                    fmt::format("{} is larger than {} bytes", plan_.last, kLastMax));
    }

    void write_last(int source_file, int target, const std::string& content) const {
        const UniqueFd to = open_beneath(target, plan_.last, O_WRONLY | O_CREAT | O_EXCL, 0600);
        if (!to) fail("create the copy of", plan_.last);
        for (std::size_t done = 0; done < content.size();) {
            const ssize_t written = ::write(to.get(), content.data() + done, content.size() - done);
            if (written < 0 && errno == EINTR) continue;
            if (written < 0) fail("write the copy of", plan_.last);
            done += static_cast<std::size_t>(written);
        }
        keep_owner_and_mode(source_file, to.get(), plan_.last);
    }

    static UniqueFd create(int target, const std::string& name, const std::string& path) {
        UniqueFd fd(::openat(target, name.c_str(),
                             O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
        if (!fd) fail("create the copy of", path);
        return fd;
    }

    /// The owner first: chown clears set-id bits.
    static void keep_owner_and_mode(int source, int target, const std::string& path) {
        struct stat facts{};
        if (::fstat(source, &facts) != 0) fail("look at", path);
        if (::fchown(target, facts.st_uid, facts.st_gid) != 0) fail("give away the copy of", path);
        if (::fchmod(target, facts.st_mode & 07777U) != 0) fail("set the mode of", path);
    }

    /// The entry vanished, or became something else, between listing and opening it.
    static bool is_gone() { return errno == ENOENT || errno == ELOOP || errno == ENOTDIR; }

    [[noreturn]] static void fail(const char* verb, const std::string& path) {
        throw storage_error(fmt::format("{} {}", verb, path), errno);
    }

    const CopyPlan& plan_;
};

}  // namespace

void copy_tree(int source_fd, int target_fd, const CopyPlan& plan) {
    TreeCopier copier(plan);
    copier.copy_directory(source_fd, target_fd, "", 0);
    if (!plan.last.empty()) copier.copy_last(source_fd, target_fd);
}

}  // namespace bpg::storage
