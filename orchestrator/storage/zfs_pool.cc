#include "orchestrator/storage/zfs_pool.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <thread>
#include <utility>

#include "orchestrator/base/files.h"
#include "orchestrator/base/id.h"
#include "orchestrator/storage/sparse_file.h"
#include "orchestrator/storage/zfs_mount.h"
#include "orchestrator/storage/zfs_volumes.h"

namespace bpg::storage {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::milliseconds kBusyPatience{10'000};
constexpr std::chrono::milliseconds kBusyPause{50};

Error unavailable(std::string message, std::string detail, std::string hint) {
    return {ErrorKind::kUnavailable, "storage_unavailable", std::move(message), std::move(detail),
            std::move(hint)};
}

/// Unmounting is asynchronous in zfs-fuse: what was left a moment ago may still be busy.
template <class Act>
ZfsAnswer while_busy(Act act) {
    const auto deadline = std::chrono::steady_clock::now() + kBusyPatience;
    while (true) {
        ZfsAnswer answer = act();
        if (answer.trouble != ZfsTrouble::kBusy) return answer;
        if (std::chrono::steady_clock::now() > deadline) return answer;
        std::this_thread::sleep_for(kBusyPause);  // pool thread: it is asked again
    }
}

std::optional<std::string> pool_health(const ZfsCommand& command, const std::string& pool) {
    const ZfsAnswer answer = command.zpool({"list", "-H", "-o", "name,health", pool});
    if (answer.trouble == ZfsTrouble::kAbsent && says_only_absent(answer.err, {pool})) {
        return std::nullopt;
    }
    if (!answer.ok()) throw zfs_error(fmt::format("look at the pool {}", pool), answer);
    const auto rows = parse_zfs_list(answer.out, 2);
    if (rows.size() != 1 || rows[0][0] != pool || rows[0][1].empty()) {
        throw zfs_error(fmt::format("look at the pool {}", pool),
                        {ZfsTrouble::kOther, "", "", "zpool list answered about something else"});
    }
    return rows[0][1];
}

/// Whether an imported pool lies on this file; only people-readable answers say so.
bool is_imported_from(const ZfsCommand& command, const std::string& pool, const fs::path& file) {
    const ZfsAnswer answer = command.zpool({"status", pool});
    if (!answer.ok()) return false;
    const std::string needle = fmt::format(" {} ", file.native());
    std::string text = answer.out;
    std::replace_if(text.begin(), text.end(), [](char c) { return c == '\t' || c == '\n'; }, ' ');
    return text.find(needle) != std::string::npos;
}

void export_pool(const ZfsCommand& command, const std::string& pool) {
    const ZfsAnswer answer = while_busy([&] { return command.zpool({"export", pool}); });
    if (answer.ok() || answer.trouble == ZfsTrouble::kAbsent) return;
    throw zfs_error(fmt::format("export the pool {}", pool), answer);
}

/// Removes what a maker that died left: its pool holds nothing yet.
void remove_building(const ZfsCommand& command, const std::string& pool, const fs::path& building) {
    if (pool_health(command, pool)) {
        if (!is_imported_from(command, pool, building)) {
            throw Error(ErrorKind::kConflict, "pool_exists",
                        fmt::format("a pool named {} exists already", pool), "it is not touched",
                        "choose another zfs.pool");
        }
        export_pool(command, pool);
    }
    remove_tree(building);
}

void make_pool(const ZfsCommand& command, const std::string& pool, const fs::path& building) {
    // ashift=12: disks below have 4 KiB sectors, whatever a file says of itself.
    const ZfsAnswer answer = command.zpool({"create", "-o", "ashift=12", "-o", "cachefile=none",
                                            "-m", "none", pool, building.native()});
    if (!answer.ok()) throw zfs_error(fmt::format("make the pool {}", pool), answer);
    export_pool(command, pool);
    const UniqueFd fd(::open(building.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd || ::fsync(fd.get()) != 0) {
        throw errno_error(fmt::format("sync {}", building.native()), errno);
    }
}

ZfsRow base_row(const ZfsCommand& command, const std::string& dataset) {
    ZfsTable table = command.get({dataset}, {"type", "mountpoint", "canmount", kZfsPoolId});
    const auto found = table.find(dataset);
    return found == table.end() ? ZfsRow() : std::move(found->second);
}

void check_base_can_be_used(const std::string& dataset, const ZfsRow& row) {
    const std::string& mountpoint = row.value("mountpoint");
    const bool mountable = row.value("type") == "filesystem" && row.value("canmount") != "off" &&
                           mountpoint.starts_with('/');
    if (mountable) return;
    throw Error(ErrorKind::kConflict, "base_not_mountable",
                fmt::format("the dataset {} cannot hold volumes", dataset),
                fmt::format("it is a {} with mountpoint {} and canmount {}", row.value("type"),
                            mountpoint, row.value("canmount")),
                fmt::format("zfs set mountpoint=/a/directory {}, or choose another "
                            "zfs.datasetBase",
                            dataset));
}

void create_base(const ZfsCommand& command, const std::string& dataset, const fs::path& root,
                 const std::string& pool_id) {
    if (facts_of(root) && (!fs::is_directory(root) || !fs::is_empty(root))) {
        throw Error(ErrorKind::kConflict, "mountpoint_busy",
                    fmt::format("cannot mount {} on {}", dataset, root.native()),
                    "it is not an empty directory, and its files would be hidden",
                    "move them away, or choose another storage.root");
    }
    // recordsize 8K is PostgreSQL's page: a page that is written costs one record, is never read
    // first, and unshares no more than itself from the parent. compression=on is lz4 wherever the
    // pool has it and lzjb on version 23. atime would unshare metadata by reading. Nothing in a
    // data directory is a program, a device or setuid.
    std::vector<std::string> arguments = {"create", "-p"};
    for (const std::string& property :
         {fmt::format("mountpoint={}", root.native()), std::string("canmount=on"),
          std::string("atime=off"), std::string("compression=on"), std::string("recordsize=8K"),
          std::string("exec=off"), std::string("setuid=off"), std::string("devices=off"),
          // Whatever the pool says: no data directory is exported, no tool takes snapshots that
          // would keep branches from going, nothing of ours is mounted by the boot.
          std::string("sharenfs=off"), std::string("sharesmb=off"),
          std::string("com.sun:auto-snapshot=false"), std::string("org.openzfs.systemd:ignore=on"),
          fmt::format("{}={}", kZfsPoolId, pool_id)}) {
        arguments.emplace_back("-o");
        arguments.push_back(property);
    }
    arguments.push_back(dataset);
    const ZfsAnswer answer = command.zfs(std::move(arguments));
    // Made and not mounted is dealt with by the caller, who looks.
    if (!answer.ok() && base_row(command, dataset).local(kZfsPoolId) != pool_id) {
        throw zfs_error(fmt::format("make the dataset {}", dataset), answer);
    }
}

void mark_base(const ZfsCommand& command, const std::string& dataset, const std::string& pool_id) {
    const ZfsAnswer answer =
        command.zfs({"set", fmt::format("{}={}", kZfsPoolId, pool_id), dataset});
    if (!answer.ok()) throw zfs_error(fmt::format("mark the dataset {}", dataset), answer);
}

/// Empty when it is mounted where it must be, else why not.
std::string mount_dataset(const ZfsCommand& command, const std::string& dataset,
                          const fs::path& directory) {
    if (zfs_mounted_on(directory) == dataset) return {};
    const ZfsAnswer answer = while_busy([&] { return command.zfs({"mount", dataset}); });
    if (zfs_mounted_on(directory) == dataset) return {};
    return answer.ok() ? fmt::format("it is not mounted on {}", directory.native()) : answer.why;
}

}  // namespace

ZfsSupport detect_zfs(const ZfsTools& tools) {
    const ZfsCommand command(tools);
    const ZfsAnswer pools = command.zpool({"list", "-H", "-o", "name"});
    const ZfsAnswer datasets = pools.ok() ? command.zfs({"list", "-H", "-o", "name"}) : pools;
    // With no pool at all some versions call the empty list of datasets a failure.
    if (pools.ok() && (datasets.ok() || pools.out.empty())) return {true, "ZFS works here"};
    std::string why = datasets.why;
    std::replace(why.begin(), why.end(), '\n', ' ');
    return {false, fmt::format("ZFS does not work here: {}", why)};
}

std::optional<std::string> zfs_pool_health(const std::string& pool, const ZfsTools& tools) {
    check_dataset_name(pool);
    return pool_health(ZfsCommand(tools), pool);
}

std::optional<std::string> zfs_pool_in_file(const fs::path& path) {
    const auto facts = facts_of(path);
    if (!facts || !S_ISREG(facts->st_mode)) return std::nullopt;
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) throw errno_error(fmt::format("open {}", path.native()), errno);
    // The first of four labels: name-value pairs in XDR form from 16 KiB on, for 112 KiB.
    constexpr off_t kPairs = 16L * 1024;
    std::string label(112UL * 1024, '\0');
    const ssize_t got = ::pread(fd.get(), label.data(), label.size(), kPairs);
    if (got != static_cast<ssize_t>(label.size())) return std::nullopt;
    return zfs_pool_in_label(label);
}

std::optional<std::string> zfs_pool_in_label(std::string_view label) {
    using namespace std::string_view_literals;
    // A pair is its name, its type and number of elements; then the value: a string (9) as length
    // and text, a number (8) in 8 bytes.
    constexpr std::string_view kName = "\0\0\0\4name\0\0\0\11\0\0\0\1\0\0\0"sv;
    constexpr std::string_view kDestroyed =
        "\0\0\0\5state\0\0\0\0\0\0\10\0\0\0\1\0\0\0\0\0\0\0\2"sv;
    const std::size_t at = label.find(kName);
    if (at == std::string_view::npos || at + kName.size() >= label.size()) return std::nullopt;
    if (label.find(kDestroyed) != std::string_view::npos) return std::nullopt;
    const std::size_t length = static_cast<unsigned char>(label[at + kName.size()]);
    const std::size_t text = at + kName.size() + 1;
    if (length == 0 || text + length > label.size()) return std::nullopt;
    return std::string(label.substr(text, length));
}

void make_zfs_pool_file(const fs::path& path, std::uint64_t size, const std::string& pool,
                        const ZfsTools& tools) {
    check_dataset_name(pool);
    if (zfs_pool_in_file(path) == pool) return;
    if (facts_of(path)) {
        throw Error(ErrorKind::kConflict, "pool_file_foreign",
                    fmt::format("{} exists and holds no pool named {}", path.native(), pool),
                    "it is not touched", "choose another --pool-file");
    }
    if (size < kZfsPoolFileMin) {
        throw Error(ErrorKind::kInvalid, "pool_too_small",
                    fmt::format("a pool file of {} bytes is too small", size),
                    fmt::format("at least {} bytes are needed", kZfsPoolFileMin),
                    "choose a larger --pool-size");
    }
    const ZfsCommand command(tools);
    fs::create_directories(path.parent_path());
    check_room(path, size);
    // Under a name of its own until it is complete: a crash leaves no half-made pool behind.
    fs::path building = path;
    building += ".building";
    remove_building(command, pool, building);
    try {
        make_sparse_file(building, size);
        make_pool(command, pool, building);
        fs::rename(building, path);
    } catch (const std::exception&) {
        remove_tree(building);
        throw;
    }
    fsync_directory(path.parent_path());
}

void import_zfs_pool(const fs::path& file_or_directory, const std::string& pool,
                     const ZfsTools& tools) {
    check_dataset_name(pool);
    const ZfsCommand command(tools);
    if (pool_health(command, pool)) return;
    if (!facts_of(file_or_directory)) {
        throw Error(ErrorKind::kNotFound, "pool_file_missing",
                    fmt::format("there is no {}", file_or_directory.native()), "",
                    "mount the disk it lies on, or correct storage.pool_file");
    }
    const bool is_directory = fs::is_directory(file_or_directory);
    if (!is_directory && zfs_pool_in_file(file_or_directory) != pool) {
        throw unavailable(fmt::format("cannot import the pool {}", pool),
                          fmt::format("{} does not hold it", file_or_directory.native()),
                          "correct storage.pool_file or zfs.pool");
    }
    // The directory, also of a file: pool version 23 takes nothing else.
    const fs::path directory = is_directory ? file_or_directory : file_or_directory.parent_path();
    const ZfsAnswer answer =
        command.zpool({"import", "-o", "cachefile=none", "-d", directory.native(), pool});
    if (pool_health(command, pool)) return;
    throw unavailable(fmt::format("cannot import the pool {}", pool), answer.why,
                      fmt::format("see what `zpool import -d {}` says", directory.native()));
}

void export_zfs_pool(const std::string& pool, const ZfsTools& tools) {
    check_dataset_name(pool);
    export_pool(ZfsCommand(tools), pool);
}

ZfsBase prepare_zfs_base(const std::string& pool, const std::string& dataset_base,
                         const fs::path& root, const std::string& known_pool_id,
                         const ZfsTools& tools) {
    const std::string dataset = fmt::format("{}/{}", pool, dataset_base);
    check_dataset_name(dataset);
    const ZfsCommand command(tools);
    const auto refuse = [&](std::string why) {
        throw unavailable(fmt::format("the dataset {} cannot be used", dataset), std::move(why),
                          "import the pool it was made on, or run bpg init if this is a new "
                          "machine");
    };
    const auto health = pool_health(command, pool);
    if (!health) refuse(fmt::format("no pool {} is imported", pool));
    if (*health != "ONLINE" && *health != "DEGRADED") {
        refuse(fmt::format("the pool {} is {}", pool, *health));
    }
    ZfsBase base{dataset, {}, known_pool_id, false};
    ZfsRow row = base_row(command, dataset);
    if (row.size() == 0) {
        if (!known_pool_id.empty()) refuse("it is not there");
        base.pool_id = new_id();
        create_base(command, dataset, root, base.pool_id);
        base.made = true;
        row = base_row(command, dataset);
    }
    check_base_can_be_used(dataset, row);
    const std::string& found = row.local(kZfsPoolId);
    if (!known_pool_id.empty() && found != known_pool_id) refuse("it is not the one init marked");
    base.pool_id = found.empty() ? new_id() : found;
    if (found.empty()) mark_base(command, dataset, base.pool_id);
    base.mountpoint = row.value("mountpoint");
    const std::string why = mount_dataset(command, dataset, base.mountpoint);
    if (!why.empty()) refuse(why);
    return base;
}

std::vector<std::string> mount_zfs_volumes(const ZfsBase& base, const ZfsTools& tools) {
    const ZfsCommand command(tools);
    std::vector<std::string> problems;
    const ZfsTable table =
        command.get_below(base.dataset, {"type", kZfsId, kZfsRef, kZfsIncarnation, kZfsJob});
    for (const auto& [name, row] : table) {
        const bool below = name.starts_with(base.dataset + "/");
        if (!below || row.value("type") != "filesystem" || !zfs_identity(row)) continue;
        const fs::path directory = base.mountpoint / name.substr(base.dataset.size() + 1);
        const std::string why = mount_dataset(command, name, directory);
        if (!why.empty()) problems.push_back(fmt::format("{} is not mounted: {}", name, why));
    }
    return problems;
}

}  // namespace bpg::storage
