// Link-safe access below an open directory.
#include "orchestrator/postgres/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>

#include "orchestrator/base/error.h"
#include "orchestrator/base/id.h"

namespace bpg::postgres {

namespace {

constexpr std::size_t kEntriesMax = 1'000'000;
constexpr int kDepthMax = 64;

EntryType type_of_mode(mode_t mode) {
    if (S_ISREG(mode)) return EntryType::kFile;
    if (S_ISDIR(mode)) return EntryType::kDirectory;
    if (S_ISLNK(mode)) return EntryType::kLink;
    return EntryType::kOther;
}

EntryType type_of_entry(int directory_fd, const dirent& entry) {
    switch (entry.d_type) {
        case DT_REG:
            return EntryType::kFile;
        case DT_DIR:
            return EntryType::kDirectory;
        case DT_LNK:
            return EntryType::kLink;
        case DT_UNKNOWN:
            break;
        default:
            return EntryType::kOther;
    }
    // Not every file system tells the type with the name.
    struct stat facts{};
    if (::fstatat(directory_fd, &entry.d_name[0], &facts, AT_SYMLINK_NOFOLLOW) != 0) {
        return EntryType::kOther;
    }
    return type_of_mode(facts.st_mode);
}

std::vector<Entry> read_directory(UniqueFd directory, const std::string& shown) {
    const int fd = directory.get();
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(fd), ::closedir);
    if (!stream) throw errno_error("read " + shown, errno);
    // The stream closes it from here on.
    static_cast<void>(directory.release());
    std::vector<Entry> entries;
    while (true) {
        errno = 0;
        const dirent* entry = ::readdir(stream.get());
        if (entry == nullptr) {
            if (errno != 0) throw errno_error("read " + shown, errno);
            return entries;
        }
        const std::string_view name(&entry->d_name[0]);
        if (name == "." || name == "..") continue;
        if (entries.size() >= kEntriesMax) {
            throw Error(ErrorKind::kCorrupt, "directory_too_large",
                        shown + " holds too many files");
        }
        entries.push_back({std::string(name), type_of_entry(fd, *entry)});
    }
}

void remove_at(int directory_fd, const std::string& name, const std::string& shown, int depth) {
    if (::unlinkat(directory_fd, name.c_str(), 0) == 0 || errno == ENOENT) return;
    if (errno != EISDIR && errno != EPERM) throw errno_error("remove " + shown, errno);
    if (depth >= kDepthMax) {
        throw Error(ErrorKind::kCorrupt, "directory_too_deep",
                    "directories are nested too deeply in " + shown);
    }
    UniqueFd inner = open_beneath(directory_fd, name, O_RDONLY | O_DIRECTORY);
    if (!inner) return;
    const UniqueFd held(::fcntl(inner.get(), F_DUPFD_CLOEXEC, 0));
    if (!held) throw errno_error("open " + shown, errno);
    for (const Entry& entry : read_directory(std::move(inner), shown)) {
        remove_at(held.get(), entry.name, shown + "/" + entry.name, depth + 1);
    }
    if (::unlinkat(directory_fd, name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT) {
        throw errno_error("remove " + shown, errno);
    }
}

}  // namespace

void write_fully(int fd, std::string_view content, const std::string& shown) {
    while (!content.empty()) {
        const ssize_t written = ::write(fd, content.data(), content.size());
        if (written < 0) {
            if (errno == EINTR) continue;
            throw errno_error("write " + shown, errno);
        }
        content.remove_prefix(static_cast<std::size_t>(written));
    }
}

Tree::Tree(const std::filesystem::path& path) : fd_(open_directory(path)), shown_(path.native()) {}

std::optional<Tree> Tree::sub(const std::string& relative) const {
    UniqueFd fd = open_beneath(fd_.get(), relative, O_RDONLY | O_DIRECTORY);
    if (!fd) return std::nullopt;
    return Tree(std::move(fd), shown_path(relative));
}

std::optional<EntryType> Tree::type_of(const std::string& relative) const {
    const auto [parent, name] = split(relative);
    if (!parent) return std::nullopt;
    struct stat facts{};
    if (::fstatat(parent.get(), name.c_str(), &facts, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT) return std::nullopt;
        throw errno_error("look at " + shown_path(relative), errno);
    }
    return type_of_mode(facts.st_mode);
}

std::vector<Entry> Tree::list(const std::string& relative) const {
    UniqueFd fd = open_beneath(fd_.get(), relative, O_RDONLY | O_DIRECTORY);
    if (!fd) return {};
    return read_directory(std::move(fd), shown_path(relative));
}

UniqueFd Tree::open_file(const std::string& relative) const {
    // O_NONBLOCK: a FIFO planted in the file's place must not hold us.
    UniqueFd fd = open_beneath(fd_.get(), relative, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (!fd) return fd;
    struct stat facts{};
    if (::fstat(fd.get(), &facts) != 0) throw errno_error("look at " + shown_path(relative), errno);
    if (!S_ISREG(facts.st_mode)) {
        throw Error(ErrorKind::kCorrupt, "not_a_regular_file",
                    shown_path(relative) + " is not a regular file");
    }
    return fd;
}

std::optional<std::string> Tree::read(const std::string& relative, std::size_t max) const {
    const UniqueFd fd = open_file(relative);
    if (!fd) return std::nullopt;
    std::string content;
    std::array<char, 64 * 1024> block{};
    while (true) {
        const ssize_t got = ::read(fd.get(), block.data(), block.size());
        if (got < 0) {
            if (errno == EINTR) continue;
            throw errno_error("read " + shown_path(relative), errno);
        }
        if (got == 0) return content;
        content.append(block.data(), static_cast<std::size_t>(got));
        if (content.size() > max) {
            throw Error(ErrorKind::kCorrupt, "file_too_large",
                        fmt::format("{} is larger than {} bytes", shown_path(relative), max));
        }
    }
}

bool Tree::holds(const std::string& relative, std::string_view content, mode_t mode,
                 FileOwner owner) const {
    if (type_of(relative) != EntryType::kFile) return false;
    const UniqueFd fd = open_file(relative);
    struct stat facts{};
    if (!fd || ::fstat(fd.get(), &facts) != 0) return false;
    if ((facts.st_mode & 07777U) != mode || facts.st_uid != owner.uid ||
        facts.st_gid != owner.gid || static_cast<std::size_t>(facts.st_size) != content.size()) {
        return false;
    }
    return read(relative, content.size()) == content;
}

void Tree::replace(const std::string& relative, std::string_view content, mode_t mode,
                   FileOwner owner) const {
    const UniqueFd parent = put_in_place(relative, content, mode, owner, /*synced=*/true);
    if (::fsync(parent.get()) != 0) {
        throw errno_error("sync the directory of " + shown_path(relative), errno);
    }
}

void Tree::replace_unsynced(const std::string& relative, std::string_view content, mode_t mode,
                            FileOwner owner) const {
    put_in_place(relative, content, mode, owner, /*synced=*/false);
}

UniqueFd Tree::put_in_place(const std::string& relative, std::string_view content, mode_t mode,
                            FileOwner owner, bool synced) const {
    auto [parent, name] = split(relative);
    if (!parent) throw errno_error("open the directory of " + shown_path(relative), ENOENT);
    // A random name and O_EXCL: nothing can have been put in its place beforehand.
    const std::string aside = fmt::format(".bpg-{}.tmp", new_id());
    const std::string shown = shown_path(relative);
    try {
        const UniqueFd file = open_beneath(parent.get(), aside, O_WRONLY | O_CREAT | O_EXCL, 0600);
        if (!file) throw errno_error("create a file beside " + shown, ENOENT);
        write_fully(file.get(), content, shown);
        if (::fchown(file.get(), owner.uid, owner.gid) != 0) {
            throw errno_error("change the owner of " + shown, errno);
        }
        if (::fchmod(file.get(), mode) != 0)
            throw errno_error("change the mode of " + shown, errno);
        if (synced && ::fsync(file.get()) != 0) throw errno_error("sync " + shown, errno);
        if (::renameat(parent.get(), aside.c_str(), parent.get(), name.c_str()) != 0) {
            throw errno_error("replace " + shown, errno);
        }
    } catch (const Error&) {
        ::unlinkat(parent.get(), aside.c_str(), 0);
        throw;
    }
    return std::move(parent);
}

void Tree::remove(const std::string& relative) const {
    const auto [parent, name] = split(relative);
    if (parent) remove_at(parent.get(), name, shown_path(relative), 0);
}

void Tree::empty(const std::string& relative) const {
    const UniqueFd directory = open_beneath(fd_.get(), relative, O_RDONLY | O_DIRECTORY);
    if (!directory) return;
    for (const Entry& entry : list(relative)) {
        remove_at(directory.get(), entry.name, shown_path(relative) + "/" + entry.name, 0);
    }
    if (::fsync(directory.get()) != 0) throw errno_error("sync " + shown_path(relative), errno);
}

void Tree::sync(const std::string& relative) const {
    const UniqueFd directory = open_beneath(fd_.get(), relative, O_RDONLY | O_DIRECTORY);
    if (directory && ::fsync(directory.get()) != 0) {
        throw errno_error("sync " + shown_path(relative), errno);
    }
}

void Tree::own(FileOwner owner, mode_t mode) const {
    if (::fchown(fd_.get(), owner.uid, owner.gid) != 0) {
        throw errno_error("change the owner of " + shown_, errno);
    }
    if (::fchmod(fd_.get(), mode) != 0) throw errno_error("change the mode of " + shown_, errno);
}

std::string Tree::shown_path(const std::string& relative) const {
    return relative == "." ? shown_ : shown_ + "/" + relative;
}

std::pair<UniqueFd, std::string> Tree::split(const std::string& relative) const {
    const auto slash = relative.rfind('/');
    const std::string directory = slash == std::string::npos ? "." : relative.substr(0, slash);
    const std::string name = slash == std::string::npos ? relative : relative.substr(slash + 1);
    return {open_beneath(fd_.get(), directory, O_RDONLY | O_DIRECTORY), name};
}

}  // namespace bpg::postgres
