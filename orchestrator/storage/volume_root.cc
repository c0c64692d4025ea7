#include "orchestrator/storage/volume_root.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "orchestrator/base/id.h"
#include "orchestrator/storage/identity.h"

namespace bpg::storage {
namespace {

constexpr int kMarkVersion = 1;
constexpr std::size_t kMarkMax = 16UL * 1024;
constexpr int kDirectoryFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

Error unavailable(const std::filesystem::path& root, std::string why) {
    return {ErrorKind::kUnavailable, "storage_unavailable",
            fmt::format("the volume root {} cannot be used", root.native()), std::move(why),
            "mount the file system it was made on, or run bpg init if this is a new machine"};
}

/// Things that every file system or we ourselves put into a root.
bool is_furniture(const std::string& name) {
    return name == kRootMark || name == kBuilding || name == kSnapshots || name == "lost+found";
}

std::optional<RootMark> parse_mark(const std::string& text) {
    const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return std::nullopt;
    const auto pool_id = json.find("pool_id");
    const auto driver = json.find("driver");
    if (pool_id == json.end() || !pool_id->is_string()) return std::nullopt;
    if (driver == json.end() || !driver->is_string()) return std::nullopt;
    return RootMark{pool_id->get<std::string>(), driver->get<std::string>()};
}

}  // namespace

std::optional<RootMark> read_root_mark(const std::filesystem::path& root) {
    std::error_code ignored;
    if (!std::filesystem::is_directory(root, ignored)) return std::nullopt;
    const auto text = read_file(root / kRootMark, kMarkMax);
    if (!text) return std::nullopt;
    auto mark = parse_mark(*text);
    if (!mark) {
        throw Error(ErrorKind::kCorrupt, "root_mark_invalid",
                    fmt::format("{} is damaged", (root / kRootMark).native()), "",
                    "restore it from a backup of the volume root");
    }
    return mark;
}

RootMark prepare_root(const std::filesystem::path& root, const std::string& driver,
                      const std::string& known_pool_id) {
    const auto found = read_root_mark(root);
    if (!known_pool_id.empty() && (!found || found->pool_id != known_pool_id)) {
        throw unavailable(root, found ? "another pool is mounted there"
                                      : "it does not carry the mark that init wrote");
    }
    if (found && found->driver != driver) {
        throw Error(
            ErrorKind::kConflict, "root_of_another_driver",
            fmt::format("{} was made for the storage driver {}", root.native(), found->driver),
            fmt::format("not for {}", driver), "choose another storage.root");
    }
    std::filesystem::create_directories(root.parent_path());
    // 0711: instances reach their own volume by its full path, and list nothing.
    ensure_directory(root, 0711);
    ensure_directory(root / kBuilding, 0700);
    ensure_directory(root / kSnapshots, 0700);
    if (found) return *found;
    const RootMark mark{new_id(), driver};
    const nlohmann::json json = {
        {"version", kMarkVersion}, {"pool_id", mark.pool_id}, {"driver", mark.driver}};
    write_file_durably(root / kRootMark, json.dump() + "\n", 0600);
    return mark;
}

Error storage_error(std::string_view action, int errno_value) {
    switch (errno_value) {
        case EBUSY:
        case EROFS:
        case ENODEV:
        case ENXIO:
        case ESTALE: {
            const ErrorInfo plain = errno_error(action, errno_value).info();
            return {ErrorKind::kUnavailable, "storage_unavailable", plain.message, plain.detail,
                    "see what the kernel log says of this file system"};
        }
        default:
            return errno_error(action, errno_value);
    }
}

VolumeRoot::VolumeRoot(std::filesystem::path root, std::string driver, std::string pool_id)
    : root_(std::move(root)), driver_(std::move(driver)), pool_id_(std::move(pool_id)) {}

std::filesystem::path VolumeRoot::volume_path(const std::string& volume) const {
    check_volume_name(volume);
    return root_ / volume;
}

std::filesystem::path VolumeRoot::building_path(const std::string& volume) const {
    check_volume_name(volume);
    return root_ / kBuilding / volume;
}

std::filesystem::path VolumeRoot::snapshot_path(const SnapshotRef& snapshot) const {
    check_volume_name(snapshot.volume);
    if (!is_valid_id(snapshot.id)) {
        throw Error(ErrorKind::kInvalid, "snapshot_id_invalid", "a snapshot id is not valid",
                    fmt::format("{} characters, not one made by BetterPG", snapshot.id.size()));
    }
    return root_ / kSnapshots / snapshot.volume / snapshot.id;
}

UniqueFd VolumeRoot::open() const {
    UniqueFd root(::open(root_.c_str(), kDirectoryFlags));
    if (!root) throw unavailable(root_, errno_error("open it", errno).info().detail);
    const auto mark = read_root_mark(root_);
    if (!mark) throw unavailable(root_, "it does not carry the mark that init wrote");
    if (mark->driver != driver_) {
        throw unavailable(root_, fmt::format("it was made for the storage driver {}, not for {}",
                                             mark->driver, driver_));
    }
    if (!pool_id_.empty() && mark->pool_id != pool_id_) {
        throw unavailable(root_, "another pool is mounted there");
    }
    return root;
}

UniqueFd VolumeRoot::open_building(int root_fd) const {
    UniqueFd building(::openat(root_fd, kBuilding, kDirectoryFlags));
    if (!building) throw unavailable(root_, errno_error("open .building", errno).info().detail);
    return building;
}

UniqueFd VolumeRoot::open_volume(int root_fd, const std::string& volume) const {
    check_volume_name(volume);
    UniqueFd fd(::openat(root_fd, volume.c_str(), kDirectoryFlags));
    if (!fd) {
        if (errno == ENOENT) return {};
        if (errno == ENOTDIR || errno == ELOOP) throw_foreign(volume, "it is not a directory");
        throw storage_error(fmt::format("open the volume {}", volume), errno);
    }
    if (!read_identity(fd.get())) throw_foreign(volume, "it has no valid betterpg.json");
    return fd;
}

std::optional<Identity> VolumeRoot::identity(int root_fd, const std::string& volume) const {
    const UniqueFd fd = open_volume(root_fd, volume);
    if (!fd) return std::nullopt;
    return read_identity(fd.get());
}

bool VolumeRoot::holds(int root_fd, const std::string& volume, const Identity& wanted) const {
    const auto found = identity(root_fd, volume);
    if (!found) return false;
    if (*found != wanted) {
        throw_foreign(volume, fmt::format("it belongs to {} ({}), made by job {}", found->ref,
                                          found->id, found->job));
    }
    return true;
}

void VolumeRoot::publish(int root_fd, const std::string& volume) const {
    const std::string from = fmt::format("{}/{}", kBuilding, volume);
    if (::renameat2(root_fd, from.c_str(), root_fd, volume.c_str(), RENAME_NOREPLACE) != 0) {
        if (errno == EEXIST) throw_foreign(volume, "it appeared while the volume was being built");
        throw storage_error(fmt::format("publish the volume {}", volume), errno);
    }
    if (::fsync(root_fd) != 0) throw storage_error("sync the volume root", errno);
}

Space VolumeRoot::space() const {
    const UniqueFd root = open();
    struct statvfs facts{};
    if (::fstatvfs(root.get(), &facts) != 0) {
        throw storage_error("ask for the space of the volume root", errno);
    }
    return {facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize};
}

std::vector<Found> VolumeRoot::volumes(int root_fd) const {
    std::vector<Found> result;
    for (const std::string& name : directory_names(root_fd, root_.native())) {
        if (is_furniture(name)) continue;
        Found found;
        found.volume = name;
        const UniqueFd fd(::openat(root_fd, name.c_str(), kDirectoryFlags));
        if (fd) found.identity = read_identity(fd.get());
        result.push_back(std::move(found));
    }
    std::sort(result.begin(), result.end(),
              [](const Found& a, const Found& b) { return a.volume < b.volume; });
    return result;
}

std::vector<Found> VolumeRoot::snapshots(int root_fd) const {
    std::vector<Found> result;
    const UniqueFd top(::openat(root_fd, kSnapshots, kDirectoryFlags));
    if (!top) return result;
    for (const std::string& volume : directory_names(top.get(), kSnapshots)) {
        const UniqueFd directory(::openat(top.get(), volume.c_str(), kDirectoryFlags));
        if (!directory) continue;
        for (const std::string& id : directory_names(directory.get(), volume)) {
            Found found;
            found.volume = volume;
            found.snapshot = id;
            const UniqueFd snapshot(::openat(directory.get(), id.c_str(), kDirectoryFlags));
            if (snapshot) found.identity = read_identity(snapshot.get());
            result.push_back(std::move(found));
        }
    }
    std::sort(result.begin(), result.end(), [](const Found& a, const Found& b) {
        return std::tie(a.volume, a.snapshot) < std::tie(b.volume, b.snapshot);
    });
    return result;
}

void VolumeRoot::throw_foreign(const std::string& volume, const std::string& why) {
    throw Error(ErrorKind::kConflict, "volume_foreign",
                fmt::format("the volume name {} is taken by something that is not ours", volume),
                why, "move it away; it is never touched");
}

void VolumeRoot::throw_not_found(const std::string& volume) {
    throw Error(ErrorKind::kNotFound, "volume_not_found",
                fmt::format("there is no volume {}", volume));
}

}  // namespace bpg::storage
