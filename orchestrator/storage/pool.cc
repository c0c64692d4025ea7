#include "orchestrator/storage/pool.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>
#include <vector>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/id.h"
#include "orchestrator/base/subprocess.h"
#include "orchestrator/storage/btrfs_ioctl.h"
#include "orchestrator/storage/sparse_file.h"
#include "orchestrator/storage/volume_root.h"

namespace bpg::storage {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLabel = "betterpg-pool";
constexpr off_t kSuperblock = 64L * 1024;
constexpr std::size_t kMagicOffset = 0x40;
constexpr std::string_view kMagic = "_BHRfS_M";
constexpr std::size_t kLabelOffset = 0x12b;
constexpr int kLoopAttempts = 64;
constexpr unsigned kLoopMajor = 7;

Error unavailable(std::string message, std::string detail, std::string hint) {
    return {ErrorKind::kUnavailable, "storage_unavailable", std::move(message), std::move(detail),
            std::move(hint)};
}

fs::path existing_parent(fs::path path) {
    path = fs::absolute(path);
    while (!fs::exists(path) && path.has_relative_path())
        path = path.parent_path();
    return path;
}

void make_file_system(const fs::path& path) {
    Command mkfs;
    mkfs.argv = {"mkfs.btrfs", "--quiet", "--label", kLabel, path.native()};
    const CommandResult result = run_command(mkfs);
    if (result.ok()) return;
    throw Error(ErrorKind::kInternal, "mkfs_failed",
                fmt::format("cannot make a btrfs file system in {}", path.native()),
                result.explain(mkfs));
}

/// mountinfo writes blank, tab, newline and backslash as \ooo.
std::string unescape_octal(std::string_view text) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && i + 3 < text.size()) {
            const int value =
                (text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0');
            result += static_cast<char>(value);
            i += 3;
        } else {
            result += text[i];
        }
    }
    return result;
}

/// What is mounted topmost on exactly this directory, by its device or name.
std::optional<std::string> mounted_on(const fs::path& mountpoint) {
    std::error_code failure;
    const fs::path wanted = fs::canonical(mountpoint, failure);
    if (failure) return std::nullopt;
    std::ifstream table("/proc/self/mountinfo");
    if (!table) throw errno_error("read /proc/self/mountinfo", errno);
    std::optional<std::string> found;
    for (std::string line; std::getline(table, line);) {
        std::istringstream fields(line);
        std::string id, parent, device, root, where, word;
        fields >> id >> parent >> device >> root >> where;
        if (unescape_octal(where) != wanted.native()) continue;
        while (fields >> word && word != "-")
            continue;
        std::string type, source;
        fields >> type >> source;
        found = unescape_octal(source);
    }
    return found;
}

bool is_backed_by(const std::string& loop_device, const struct stat& file) {
    const UniqueFd loop(::open(loop_device.c_str(), O_RDONLY | O_CLOEXEC));
    if (!loop) return false;
    loop_info64 info{};
    if (::ioctl(loop.get(), LOOP_GET_STATUS64, &info) != 0) return false;
    return info.lo_inode == file.st_ino && info.lo_device == file.st_dev;
}

/// A loop device that has this file already: two on one file would destroy the file system.
std::optional<std::string> find_loop(const struct stat& file) {
    for (const auto& entry : fs::directory_iterator("/sys/block")) {
        const std::string name = entry.path().filename().native();
        if (!name.starts_with("loop") || !fs::exists(entry.path() / "loop")) continue;
        std::string device = "/dev/" + name;
        if (is_backed_by(device, file)) return device;
    }
    return std::nullopt;
}

struct Loop {
    UniqueFd fd;  ///< holds the device until the mount does
    std::string device;
};

UniqueFd open_loop(const std::string& device, int number) {
    UniqueFd fd(::open(device.c_str(), O_RDWR | O_CLOEXEC));
    if (fd || errno != ENOENT) return fd;
    // Containers often have no udev to make the node.
    const dev_t id = ::makedev(kLoopMajor, static_cast<unsigned>(number));
    if (::mknod(device.c_str(), S_IFBLK | 0660, id) != 0 && errno != EEXIST) return {};
    fd.reset(::open(device.c_str(), O_RDWR | O_CLOEXEC));
    return fd;
}

Loop attach_loop(const fs::path& path) {
    const UniqueFd file(::open(path.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
    if (!file) throw errno_error(fmt::format("open {}", path.native()), errno);
    const UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    if (!control) {
        throw unavailable("cannot use loop devices", errno_error("open", errno).info().detail,
                          "load the kernel module loop, or allow loop devices in this container");
    }
    int failure = EBUSY;
    for (int attempt = 0; attempt < kLoopAttempts && failure == EBUSY; ++attempt) {
        const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
        if (number < 0) throw storage_error("get a free loop device", errno);
        Loop loop;
        loop.device = fmt::format("/dev/loop{}", number);
        loop.fd = open_loop(loop.device, number);
        if (!loop.fd) throw storage_error(fmt::format("open {}", loop.device), errno);
        loop_config config{};
        config.fd = static_cast<std::uint32_t>(file.get());
        // Autoclear: it goes away with the mount, so a crash leaves no device behind. Direct I/O:
        // no second page cache below the file system, and its flushes reach the disk without a
        // detour.
        config.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
        std::strncpy(reinterpret_cast<char*>(config.info.lo_file_name), path.c_str(),
                     LO_NAME_SIZE - 1);
        if (::ioctl(loop.fd.get(), LOOP_CONFIGURE, &config) == 0) return loop;
        failure = errno;
        if (failure == EINVAL && (config.info.lo_flags & LO_FLAGS_DIRECT_IO) != 0) {
            config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
            if (::ioctl(loop.fd.get(), LOOP_CONFIGURE, &config) == 0) return loop;
            failure = errno;
        }
        // EBUSY: somebody else took the device between the two calls.
    }
    throw storage_error(fmt::format("attach a loop device to {}", path.native()), failure);
}

void mount_device(const std::string& device, const fs::path& mountpoint) {
    // noatime: reading would write, and unshare blocks of clones. Barriers stay on: a COMMIT means
    // it.
    constexpr unsigned long kFlags = MS_NOATIME | MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (::mount(device.c_str(), mountpoint.c_str(), "btrfs", kFlags, nullptr) == 0) return;
    throw unavailable(fmt::format("cannot mount {} on {}", device, mountpoint.native()),
                      errno_error("mount", errno).info().detail,
                      "see what the kernel log says; the kernel needs btrfs");
}

/// A subvolume can be made and removed in it.
bool subvolumes_work(int directory_fd) {
    if (!is_btrfs(directory_fd)) return false;
    const std::string name = fmt::format(".betterpg-probe-{}", new_id());
    try {
        create_subvolume(directory_fd, name);
        destroy_subvolume(directory_fd, name);
        return true;
    } catch (const Error&) {
        return false;  // the choice falls on a driver that works
    }
}

bool reflink_works(const fs::path& directory) {
    const UniqueFd from(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    const UniqueFd to(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!from || !to) return false;
    const std::vector<char> block(4096, 'x');
    if (::write(from.get(), block.data(), block.size()) != static_cast<ssize_t>(block.size())) {
        return false;
    }
    return ::ioctl(to.get(), FICLONE, from.get()) == 0;
}

}  // namespace

bool is_pool_file(const fs::path& path) {
    const auto facts = facts_of(path);
    if (!facts || !S_ISREG(facts->st_mode)) return false;
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) throw errno_error(fmt::format("open {}", path.native()), errno);
    std::array<char, 4096> block{};
    if (::pread(fd.get(), block.data(), block.size(), kSuperblock) !=
        static_cast<ssize_t>(block.size())) {
        return false;
    }
    return std::string_view(block.data() + kMagicOffset, kMagic.size()) == kMagic &&
           std::string_view(block.data() + kLabelOffset) == kLabel;
}

void make_pool_file(const fs::path& path, std::uint64_t size) {
    if (is_pool_file(path)) return;
    if (facts_of(path)) {
        throw Error(ErrorKind::kConflict, "pool_file_foreign",
                    fmt::format("{} exists and is no pool file of BetterPG", path.native()),
                    "it is not touched", "choose another --pool-file");
    }
    if (size < kPoolFileMin) {
        throw Error(ErrorKind::kInvalid, "pool_too_small",
                    fmt::format("a pool file of {} bytes is too small", size),
                    fmt::format("btrfs needs {} bytes at least", kPoolFileMin),
                    "choose a larger --pool-size");
    }
    fs::create_directories(path.parent_path());
    check_room(path, size);
    // Under a name of its own until it is complete: a crash leaves no half file system behind.
    fs::path building = path;
    building += ".building";
    remove_tree(building);
    try {
        make_sparse_file(building, size);
        make_file_system(building);
        const UniqueFd fd(::open(building.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
        if (!fd || ::fsync(fd.get()) != 0) {
            throw errno_error(fmt::format("sync {}", building.native()), errno);
        }
        fs::rename(building, path);
    } catch (const std::exception&) {
        remove_tree(building);
        throw;
    }
    fsync_directory(path.parent_path());
}

bool is_mounted_from(const fs::path& path, const fs::path& mountpoint) {
    const auto file = facts_of(path);
    const auto mounted = mounted_on(mountpoint);
    return file && mounted && is_backed_by(*mounted, *file);
}

void mount_pool_file(const fs::path& path, const fs::path& mountpoint) {
    const auto file = facts_of(path);
    if (!file) {
        throw Error(ErrorKind::kNotFound, "pool_file_missing",
                    fmt::format("there is no pool file {}", path.native()), "",
                    "mount the disk it lies on, or correct storage.pool_file");
    }
    if (is_mounted_from(path, mountpoint)) return;
    if (const auto other = mounted_on(mountpoint)) {
        throw Error(ErrorKind::kConflict, "mountpoint_busy",
                    fmt::format("cannot mount {} on {}", path.native(), mountpoint.native()),
                    fmt::format("{} is mounted there", *other),
                    "unmount it, or choose another storage.root");
    }
    fs::create_directories(mountpoint);
    if (!fs::is_empty(mountpoint)) {
        throw Error(ErrorKind::kConflict, "mountpoint_busy",
                    fmt::format("cannot mount {} on {}", path.native(), mountpoint.native()),
                    "the directory is not empty, and its files would be hidden",
                    "move them away, or choose another storage.root");
    }
    if (const auto device = find_loop(*file)) {
        mount_device(*device, mountpoint);
        return;
    }
    const Loop loop = attach_loop(path);
    mount_device(loop.device, mountpoint);
}

void unmount_pool_file(const fs::path& mountpoint) {
    if (!mounted_on(mountpoint)) return;
    if (::umount2(mountpoint.c_str(), UMOUNT_NOFOLLOW) != 0) {
        throw storage_error(fmt::format("unmount {}", mountpoint.native()), errno);
    }
}

DriverChoice detect_driver(const fs::path& root) {
    const fs::path place = existing_parent(root);
    const UniqueFd directory = open_directory(place);
    DriverChoice choice;
    choice.reflink = reflink_works(place);
    if (subvolumes_work(directory.get())) {
        choice.driver = "btrfs";
        choice.reason =
            fmt::format("{} is on btrfs, where snapshots are atomic and instant", root.native());
        return choice;
    }
    choice.driver = "copy";
    choice.reason =
        choice.reflink
            ? fmt::format(
                  "{} can share blocks between files (FICLONE), but the driver reflink is "
                  "not built yet: branches are made file by file",
                  root.native())
            : fmt::format(
                  "{} is on a file system without snapshots: every branch is a full copy, "
                  "good for trying things out; bpg init --pool-file makes a btrfs pool",
                  root.native());
    return choice;
}

}  // namespace bpg::storage
