#include "orchestrator/storage_drivers.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"
#include "orchestrator/runtime_drivers.h"
#include "orchestrator/storage/btrfs.h"
#include "orchestrator/storage/copy.h"
#include "orchestrator/storage/pool.h"
#include "orchestrator/storage/volume_root.h"
#include "orchestrator/storage/zfs.h"
#include "orchestrator/storage/zfs_pool.h"

namespace bpg {
namespace {

constexpr const char* kZfs = "zfs";

/// Made by init; another pool mounted or imported in its place is refused.
std::filesystem::path pool_id_path(const config::Config& config) {
    return config.paths.state / "pool_id";
}

/// What init decided on, where the configuration says `auto`: not guessed again at every start.
std::filesystem::path driver_path(const config::Config& config) {
    return config.paths.state / "storage_driver";
}

std::string known_pool_id(const config::Config& config) {
    return read_file(pool_id_path(config), 256).value_or("");
}

/// Who passes: native instances, which run as another user and know the full path of their own
/// volume; containers see their volume only, so nobody needs to.
void set_root_mode(const config::Config& config, const std::filesystem::path& root) {
    const mode_t mode = instances_need_passage(config) ? 0711 : 0700;
    if (::chmod(root.c_str(), mode) != 0)
        throw errno_error("set the mode of " + root.string(), errno);
}

std::vector<std::string> warnings_of(const std::string& driver) {
    if (driver != "copy") return {};
    return {"storage driver copy copies every file for every branch; it is for trying things out"};
}

/// A pool file that init made may lie on a disk that is not mounted now: another in its place would
/// be taken for it.
void require_known_pool_file(const config::Config& config) {
    const std::filesystem::path& file = config.storage.pool_file;
    if (file.empty() || known_pool_id(config).empty() || std::filesystem::exists(file)) return;
    throw Error(ErrorKind::kUnavailable, "storage_unavailable",
                "the pool file " + file.string() + " is not there", "init has made it before",
                "mount the disk it lies on; on a new machine remove " +
                    pool_id_path(config).string() + " first");
}

/// Nothing is mounted there and nothing lies in it.
bool is_unused(const std::filesystem::path& root) {
    struct stat own{};
    struct stat above{};
    if (::lstat(root.c_str(), &own) != 0) return true;
    if (!S_ISDIR(own.st_mode) || ::lstat(root.parent_path().c_str(), &above) != 0) return false;
    return own.st_dev == above.st_dev && std::filesystem::is_empty(root);
}

// --- ZFS -----------------------------------------------------------------------------------------

bool wants_zfs(const config::Config& config) {
    if (config.storage.driver == config::StorageDriver::kZfs) return true;
    if (config.storage.driver != config::StorageDriver::kAuto) return false;
    const auto prepared = read_file(driver_path(config), 64);
    if (prepared) return *prepared == kZfs;
    // A root that was prepared keeps its driver, and a pool file without a driver is btrfs's.
    if (storage::read_root_mark(config.storage.root)) return false;
    if (!config.storage.pool_file.empty()) return false;
    if (!is_unused(config.storage.root) || !storage::detect_zfs().works) return false;
    const std::string health = storage::zfs_pool_health(config.zfs.pool).value_or("");
    return health == "ONLINE" || health == "DEGRADED";
}

void require_zfs(const config::Config& config) {
    const storage::ZfsSupport support = storage::detect_zfs();
    if (!support.works) {
        throw Error(ErrorKind::kInvalid, "storage_driver_unusable",
                    "storage driver zfs does not work here", support.reason,
                    "install ZFS (package zfsutils-linux), or choose another storage.driver");
    }
    if (storage::zfs_pool_health(config.zfs.pool)) return;
    throw Error(ErrorKind::kInvalid, "storage_driver_unusable",
                fmt::format("there is no ZFS pool \"{}\"", config.zfs.pool),
                "zpool list does not show it",
                "make or import it, name another with --pool, or let bpg init make one: "
                "--pool-file PATH");
}

StoragePlace zfs_place(const config::Config& config, const storage::ZfsBase& base) {
    set_root_mode(config, base.mountpoint);
    StoragePlace place;
    place.driver = kZfs;
    place.pool = config.zfs.pool;
    place.root = base.mountpoint;
    place.pool_id = base.pool_id;
    place.warnings = storage::mount_zfs_volumes(base);
    place.commands = std::make_shared<CommandLock>(config.paths.state / "zfs_commands.lock");
    return place;
}

StoragePlace prepare_zfs(const config::Config& config) {
    require_known_pool_file(config);
    if (!config.storage.pool_file.empty()) {
        storage::make_zfs_pool_file(config.storage.pool_file, config.storage.pool_size,
                                    config.zfs.pool);
        storage::import_zfs_pool(config.storage.pool_file, config.zfs.pool);
    }
    require_zfs(config);
    StoragePlace place =
        zfs_place(config, storage::prepare_zfs_base(config.zfs.pool, config.zfs.dataset_base,
                                                    config.storage.root, known_pool_id(config)));
    place.reason = fmt::format("the ZFS pool {} is imported, its snapshots are atomic and instant",
                               config.zfs.pool);
    return place;
}

StoragePlace bring_up_zfs(const config::Config& config) {
    const std::string known = known_pool_id(config);
    if (known.empty()) {
        throw Error(ErrorKind::kUnavailable, "storage_unavailable", "storage was never prepared",
                    pool_id_path(config).string() + " is not there", "run: bpg init");
    }
    if (!config.storage.pool_file.empty()) {
        storage::import_zfs_pool(config.storage.pool_file, config.zfs.pool);
    }
    return zfs_place(config, storage::prepare_zfs_base(config.zfs.pool, config.zfs.dataset_base,
                                                       config.storage.root, known));
}

// --- drivers in a directory ----------------------------------------------------------------------

void mount_pool_file(const config::Config& config) {
    if (config.storage.pool_file.empty()) return;
    storage::mount_pool_file(config.storage.pool_file, config.storage.root);
}

/// The driver of the root, with the reason: what its mark says, the config, or what works there.
storage::DriverChoice choose_directory_driver(const config::Config& config) {
    const std::filesystem::path& root = config.storage.root;
    const storage::DriverChoice found = storage::detect_driver(root);
    const auto mark = storage::read_root_mark(root);
    const std::string wanted(config::to_string(config.storage.driver));
    if (mark) {
        if (wanted != "auto" && wanted != mark->driver) {
            throw Error(
                ErrorKind::kConflict, "storage_driver_conflict",
                "storage.driver is " + wanted + ", but " + root.string() + " was prepared for " +
                    mark->driver,
                "a volume root keeps its driver",
                "set storage.driver to " + mark->driver + ", or choose another storage.root");
        }
        return {mark->driver, "the volume root was prepared for it", found.reflink};
    }
    if (wanted == "auto" || wanted == found.driver) return found;
    if (wanted == "btrfs") {
        throw Error(ErrorKind::kInvalid, "storage_driver_unusable",
                    "storage driver btrfs does not work on " + root.string(), found.reason,
                    "put storage.root on btrfs, or let bpg init make a pool: --pool-file PATH");
    }
    return {wanted, "storage.driver says so", found.reflink};
}

StoragePlace directory_place(const config::Config& config, const std::string& driver) {
    set_root_mode(config, config.storage.root);
    StoragePlace place;
    place.driver = driver;
    place.root = config.storage.root;
    place.pool =
        config.storage.pool_file.empty() ? place.root.string() : config.storage.pool_file.string();
    place.pool_id = known_pool_id(config);
    place.warnings = warnings_of(driver);
    return place;
}

StoragePlace prepare_directory(const config::Config& config) {
    if (config.storage.driver == config::StorageDriver::kReflink) {
        throw Error(ErrorKind::kInvalid, "storage_driver_unsupported",
                    "storage driver reflink is not available in this version",
                    "it has zfs, btrfs and copy", "set storage.driver to one of them, or auto");
    }
    require_known_pool_file(config);
    std::filesystem::create_directories(config.storage.root);
    const std::filesystem::path& pool_file = config.storage.pool_file;
    if (!pool_file.empty()) {
        std::filesystem::create_directories(pool_file.parent_path());
        if (!std::filesystem::exists(pool_file)) {
            storage::make_pool_file(pool_file, config.storage.pool_size);
        }
        mount_pool_file(config);
    }
    const storage::DriverChoice choice = choose_directory_driver(config);
    const storage::RootMark mark =
        storage::prepare_root(config.storage.root, choice.driver, known_pool_id(config));
    StoragePlace place = directory_place(config, choice.driver);
    place.pool_id = mark.pool_id;
    place.reason = choice.reason;
    return place;
}

StoragePlace bring_up_directory(const config::Config& config) {
    mount_pool_file(config);
    const std::filesystem::path& root = config.storage.root;
    const auto mark = storage::read_root_mark(root);
    if (!mark) {
        throw Error(ErrorKind::kUnavailable, "storage_unavailable",
                    "there are no volumes in " + root.string(),
                    "its mark is missing: the volume root is not mounted, or was never prepared",
                    "mount it, or run: bpg init");
    }
    return directory_place(config, mark->driver);
}

}  // namespace

StoragePlace prepare_storage(const config::Config& config) {
    const std::string known = known_pool_id(config);
    StoragePlace place = wants_zfs(config) ? prepare_zfs(config) : prepare_directory(config);
    if (known != place.pool_id) {
        write_file_durably(pool_id_path(config), place.pool_id, 0600);
    }
    write_file_durably(driver_path(config), place.driver, 0600);
    return place;
}

StoragePlace bring_up_storage(const config::Config& config) {
    return wants_zfs(config) ? bring_up_zfs(config) : bring_up_directory(config);
}

std::unique_ptr<storage::Storage> open_storage(const config::Config& config,
                                               const StoragePlace& place, BlockingPool& pool) {
    if (place.driver == kZfs) {
        storage::ZfsSettings settings;
        settings.pool = config.zfs.pool;
        settings.dataset_base = config.zfs.dataset_base;
        settings.root = place.root;
        settings.pool_id = place.pool_id;
        settings.tools.lock = place.commands;
        return std::make_unique<storage::ZfsStorage>(std::move(settings), pool);
    }
    if (place.driver == "btrfs") {
        return std::make_unique<storage::BtrfsStorage>(place.root, pool, place.pool_id);
    }
    return std::make_unique<storage::CopyStorage>(place.root, pool, place.pool_id);
}

std::string storage_health(const config::Config& config, const StoragePlace& place) {
    if (place.driver != kZfs) return "ok";
    const std::string health = storage::zfs_pool_health(config.zfs.pool).value_or("UNAVAIL");
    return health == "ONLINE" ? "ok" : health;
}

}  // namespace bpg
