#include "orchestrator/storage/zfs_volumes.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <set>
#include <tuple>
#include <utility>

#include "orchestrator/base/files.h"
#include "orchestrator/base/id.h"
#include "orchestrator/storage/volume_root.h"
#include "orchestrator/storage/zfs_mount.h"

namespace bpg::storage {
namespace {

constexpr mode_t kVolumeMode = 0711;  // instances reach data/ by its name and list nothing
constexpr std::size_t kPropertyMax = 1023;

/// The dataset part of a snapshot's name.
std::string dataset_of(const std::string& snapshot) {
    return snapshot.substr(0, snapshot.find('@'));
}

bool is_snapshot(const std::string& name) {
    return name.find('@') != std::string::npos;
}

bool is_ours(const ZfsRow& row, const SnapshotRef& snapshot) {
    return row.local(kZfsSnapshot) == snapshot.id && row.local(kZfsVolume) == snapshot.volume;
}

/// What `zfs create` and `zfs clone` set in the same call, so that a dataset without it is never
/// ours.
std::vector<std::string> identity_options(const Identity& identity) {
    std::vector<std::string> options;
    for (const auto& [property, value] :
         {std::pair{kZfsId, &identity.id}, std::pair{kZfsRef, &identity.ref},
          std::pair{kZfsIncarnation, &identity.incarnation}, std::pair{kZfsJob, &identity.job}}) {
        options.emplace_back("-o");
        options.push_back(fmt::format("{}={}", property, *value));
    }
    return options;
}

/// Values are read back as fields of lines.
void check_identity(const Identity& identity) {
    bool valid = !identity.id.empty();
    for (const std::string* text :
         {&identity.id, &identity.ref, &identity.incarnation, &identity.job}) {
        const auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20; };
        valid = valid && text->size() <= kPropertyMax &&
                std::none_of(text->begin(), text->end(), control);
    }
    if (valid) return;
    throw Error(ErrorKind::kInvalid, "identity_invalid", "the identity of a volume is not valid",
                "it is empty, too long, or has control characters");
}

std::string joined(const std::vector<std::string>& names) {
    return fmt::format("{}", fmt::join(names, ", "));
}

/// Somebody destroys them at the same time.
[[noreturn]] void throw_clones_changed(const std::string& volume) {
    throw Error(ErrorKind::kUnavailable, "volume_busy",
                fmt::format("cannot destroy the volume {}", volume),
                "clones of its snapshots went meanwhile", "it is tried again");
}

}  // namespace

std::optional<Identity> zfs_identity(const ZfsRow& row) {
    for (const char* property : {kZfsId, kZfsRef, kZfsIncarnation, kZfsJob}) {
        if (!row.is_local(property)) return std::nullopt;
    }
    Identity identity{row.value(kZfsId), row.value(kZfsRef), row.value(kZfsIncarnation),
                      row.value(kZfsJob)};
    if (identity.id.empty()) return std::nullopt;
    return identity;
}

ZfsVolumes::ZfsVolumes(ZfsSettings settings)
    : settings_(std::move(settings)),
      base_(fmt::format("{}/{}", settings_.pool, settings_.dataset_base)),
      command_(settings_.tools) {
    check_dataset_name(base_);
}

std::string ZfsVolumes::dataset(const std::string& volume) const {
    check_volume_name(volume);
    return fmt::format("{}/{}", base_, volume);
}

std::string ZfsVolumes::snapshot_name(const SnapshotRef& snapshot) const {
    if (!is_valid_id(snapshot.id)) {
        throw Error(ErrorKind::kInvalid, "snapshot_id_invalid", "a snapshot id is not valid",
                    fmt::format("{} characters, not one made by BetterPG", snapshot.id.size()));
    }
    return fmt::format("{}@{}", dataset(snapshot.volume), snapshot.id);
}

std::string ZfsVolumes::below_base(const std::string& name) const {
    return name.substr(base_.size() + 1);
}

std::filesystem::path ZfsVolumes::volume_path(const std::string& volume) const {
    check_volume_name(volume);
    return settings_.root / volume;
}

std::filesystem::path ZfsVolumes::snapshot_path(const SnapshotRef& snapshot) const {
    (void)snapshot_name(snapshot);  // checks both parts
    return volume_path(snapshot.volume) / ".zfs" / "snapshot" / snapshot.id;
}

// ---- looking ------------------------------------------------------------------------------------

ZfsTable ZfsVolumes::look(const std::vector<std::string>& names) const {
    std::vector<std::string> properties = {"type",     "mountpoint",    kZfsPoolId,    kZfsId,
                                           kZfsRef,    kZfsIncarnation, kZfsJob,       kZfsSnapshot,
                                           kZfsVolume, "recordsize",    "compression", "atime",
                                           "logbias",  "primarycache"};
    if (knowledge().sync) properties.emplace_back("sync");
    std::vector<std::string> wanted = {base_};
    for (const std::string& name : names) {
        if (std::find(wanted.begin(), wanted.end(), name) == wanted.end()) wanted.push_back(name);
    }
    ZfsTable table = command_.get(wanted, properties);
    check_base(table);
    return table;
}

void ZfsVolumes::check_base(const ZfsTable& table) const {
    const auto refuse = [&](std::string why, std::string fix) {
        throw Error(ErrorKind::kUnavailable, "storage_unavailable",
                    fmt::format("the dataset {} cannot be used", base_), std::move(why),
                    std::move(fix));
    };
    const auto found = table.find(base_);
    if (found == table.end()) {
        refuse("it is not there, or its pool is not imported",
               fmt::format("zpool import {}; bpg init if this is a new machine", settings_.pool));
    }
    const std::string& pool_id = found->second.local(kZfsPoolId);
    if (pool_id.empty() || (!settings_.pool_id.empty() && pool_id != settings_.pool_id)) {
        refuse(pool_id.empty() ? "it does not carry the mark that init wrote"
                               : "it carries the mark of another pool",
               "import the pool it was made on, or run bpg init if this is a new machine");
    }
    const std::string& mountpoint = found->second.value("mountpoint");
    if (mountpoint != settings_.root) {
        refuse(fmt::format("its mountpoint is {}, not {}", mountpoint, settings_.root.native()),
               "set the property mountpoint back");
    }
    // The word of zfs is not enough: it may be mounted for others and not for us.
    if (zfs_mounted_on(settings_.root) != base_) {
        refuse(fmt::format("it is not mounted on {}", settings_.root.native()),
               fmt::format("zfs mount {}", base_));
    }
}

std::optional<Identity> ZfsVolumes::owner(const ZfsTable& table, const std::string& volume) const {
    const auto found = table.find(dataset(volume));
    if (found != table.end()) {
        auto identity = zfs_identity(found->second);
        if (!identity || found->second.value("type") != "filesystem") {
            VolumeRoot::throw_foreign(volume, "its dataset does not carry our properties");
        }
        return identity;
    }
    // An empty directory is the mountpoint of a dataset that was destroyed.
    std::error_code failure;
    const std::filesystem::path path = volume_path(volume);
    const auto status = std::filesystem::symlink_status(path, failure);
    if (status.type() == std::filesystem::file_type::not_found) return std::nullopt;
    const bool leftover = status.type() == std::filesystem::file_type::directory &&
                          std::filesystem::is_empty(path, failure) && !failure;
    if (!leftover) {
        VolumeRoot::throw_foreign(volume, "files that belong to no dataset are in its place");
    }
    return std::nullopt;
}

bool ZfsVolumes::holds(const ZfsTable& table, const std::string& volume,
                       const Identity& wanted) const {
    const auto found = owner(table, volume);
    if (!found) return false;
    if (*found != wanted) {
        VolumeRoot::throw_foreign(volume, fmt::format("it belongs to {} ({}), made by job {}",
                                                      found->ref, found->id, found->job));
    }
    return true;
}

std::string ZfsVolumes::find_snapshot(const SnapshotRef& snapshot, const ZfsTable& looked) const {
    const auto expected = looked.find(snapshot_name(snapshot));
    if (expected != looked.end() && is_ours(expected->second, snapshot)) return expected->first;
    for (const auto& [name, row] :
         command_.get_below(base_, {kZfsSnapshot, kZfsVolume}, /*only_local=*/true)) {
        if (is_snapshot(name) && is_ours(row, snapshot)) return name;
    }
    return {};
}

ZfsVolumes::Knowledge ZfsVolumes::knowledge() const {
    {
        const std::lock_guard lock(mutex_);
        if (knowledge_) return *knowledge_;
    }
    // The pool exists wherever the base may.
    const std::set<std::string> known = command_.known_properties(settings_.pool);
    const Knowledge knowledge{known.contains("sync"), known.contains("logicalreferenced"),
                              known.contains("written")};
    const std::lock_guard lock(mutex_);
    knowledge_ = knowledge;
    return knowledge;
}

std::optional<Identity> ZfsVolumes::find(const std::string& volume) const {
    return owner(look({dataset(volume)}), volume);
}

void ZfsVolumes::mount(const std::string& volume) const {
    if (find(volume)) ensure_mounted(volume);
}

bool ZfsVolumes::snapshot_exists(const SnapshotRef& snapshot) const {
    const ZfsTable table = look({snapshot_name(snapshot)});
    return !find_snapshot(snapshot, table).empty();
}

// ---- making -------------------------------------------------------------------------------------

void ZfsVolumes::create(const std::string& volume, const Identity& identity) const {
    check_identity(identity);
    const std::string name = dataset(volume);
    if (!holds(look({name}), volume, identity)) {
        std::vector<std::string> arguments = {"create"};
        for (std::string& option : identity_options(identity))
            arguments.push_back(std::move(option));
        arguments.push_back(name);
        const ZfsAnswer answer = command_.zfs(std::move(arguments));
        if (!answer.ok() && !holds(look({name}), volume, identity)) {
            throw zfs_error(fmt::format("create the volume {}", volume), answer);
        }
    }
    finish(volume);
}

void ZfsVolumes::snapshot(const SnapshotRef& snapshot) const {
    const std::string name = snapshot_name(snapshot);
    const std::string source = dataset(snapshot.volume);
    const ZfsTable table = look({source, name});
    const auto identity = owner(table, snapshot.volume);
    if (!identity) VolumeRoot::throw_not_found(snapshot.volume);
    // Ids are drawn at random and promote moves snapshots away only from a volume that is being
    // destroyed, so this name is the only one to look at.
    if (table.contains(name)) {
        throw Error(
            ErrorKind::kConflict, "snapshot_exists",
            fmt::format("the snapshot {} of {} exists already", snapshot.id, snapshot.volume));
    }
    const ZfsAnswer answer =
        command_.zfs(snapshot_arguments({source}, snapshot.id,
                                        {{kZfsSnapshot, snapshot.id},
                                         {kZfsVolume, snapshot.volume},
                                         {kZfsId, identity->id},
                                         {kZfsRef, identity->ref},
                                         {kZfsIncarnation, identity->incarnation},
                                         {kZfsJob, identity->job}}));
    if (answer.ok()) return;
    // It was not there when we began: one that is there now was taken by this call.
    const ZfsTable again = look({name});
    const auto made = again.find(name);
    if (made != again.end() && is_ours(made->second, snapshot)) return;
    throw zfs_error(fmt::format("snapshot the volume {}", snapshot.volume), answer);
}

std::vector<std::string> ZfsVolumes::clone_options(const ZfsRow& parent) const {
    std::vector<std::string> options;
    const auto add = [&](const char* property) {
        options.emplace_back("-o");
        options.push_back(fmt::format("{}={}", property, parent.value(property)));
    };
    // A clone inherits from where it hangs, not from its origin; with another record size every
    // block that is written again would be of another size than the parent's.
    for (const char* property : {"recordsize", "compression", "atime"})
        add(property);
    for (const char* property : {"primarycache", "logbias", "sync"}) {
        if (parent.is_local(property)) add(property);
    }
    return options;
}

void ZfsVolumes::clone(const SnapshotRef& snapshot, const std::string& volume,
                       const Identity& identity) const {
    check_identity(identity);
    const std::string name = dataset(volume);
    ZfsTable table = look({name, dataset(snapshot.volume), snapshot_name(snapshot)});
    if (!holds(table, volume, identity)) {
        const std::string source = find_snapshot(snapshot, table);
        if (source.empty()) {
            throw Error(ErrorKind::kNotFound, "snapshot_not_found",
                        fmt::format("there is no snapshot {} of {}", snapshot.id, snapshot.volume));
        }
        const std::string parent = dataset_of(source);
        if (!table.contains(parent)) table = look({parent});
        std::vector<std::string> arguments = {"clone"};
        for (std::string& option : identity_options(identity))
            arguments.push_back(std::move(option));
        for (std::string& option : clone_options(table[parent]))
            arguments.push_back(std::move(option));
        arguments.push_back(source);
        arguments.push_back(name);
        const ZfsAnswer answer = command_.zfs(std::move(arguments));
        if (!answer.ok() && !holds(look({name}), volume, identity)) {
            throw zfs_error(fmt::format("clone the volume {}", volume), answer);
        }
    }
    finish(volume);
}

void ZfsVolumes::ensure_mounted(const std::string& volume) const {
    const std::string name = dataset(volume);
    const std::filesystem::path path = volume_path(volume);
    if (zfs_mounted_on(path) == name) return;
    const ZfsAnswer answer = command_.zfs({"mount", name});
    if (zfs_mounted_on(path) == name) return;
    if (answer.trouble == ZfsTrouble::kBusy) {
        throw zfs_error(fmt::format("mount the volume {}", volume), answer);
    }
    throw Error(ErrorKind::kUnavailable, "storage_unavailable",
                fmt::format("the volume {} is not mounted on {}", volume, path.native()),
                answer.ok() ? "it is mounted elsewhere" : answer.why,
                fmt::format("see `zfs get mountpoint,canmount,mounted {}`; move away what lies in "
                            "that directory; bpgd must share the mounts of the host",
                            name));
}

void ZfsVolumes::finish(const std::string& volume) const {
    ensure_mounted(volume);
    const UniqueFd root = open_directory(settings_.root);
    const UniqueFd directory = open_directory(volume_path(volume));
    struct stat above{};
    struct stat facts{};
    if (::fstat(root.get(), &above) != 0 || ::fstat(directory.get(), &facts) != 0) {
        throw storage_error(fmt::format("look at the volume {}", volume), errno);
    }
    if (above.st_dev == facts.st_dev) {  // unmounted again since we looked
        throw Error(ErrorKind::kUnavailable, "volume_busy",
                    fmt::format("the volume {} is not mounted", volume), "somebody unmounted it",
                    "it is tried again");
    }
    if ((facts.st_mode & 07777U) == kVolumeMode && facts.st_uid == 0 && facts.st_gid == 0) return;
    if (::fchown(directory.get(), 0, 0) != 0 || ::fchmod(directory.get(), kVolumeMode) != 0 ||
        ::fsync(directory.get()) != 0) {
        throw storage_error("set owner and mode of a volume", errno);
    }
}

// ---- destroying ---------------------------------------------------------------------------------

void ZfsVolumes::destroy(const std::string& volume, const std::string& owner_id) const {
    const std::string name = dataset(volume);
    const auto found = owner(look({name}), volume);
    if (found) {
        if (found->id != owner_id) {
            VolumeRoot::throw_foreign(volume,
                                      fmt::format("it belongs to {} ({})", found->ref, found->id));
        }
        // Without -r and -R: whatever hangs on it makes the command refuse.
        ZfsAnswer answer = command_.zfs({"destroy", name});
        if (answer.trouble == ZfsTrouble::kHasChildren) {
            give_snapshots_away(volume);
            answer = command_.zfs({"destroy", name});
        }
        if (!answer.ok() && look({name}).contains(name)) {
            throw zfs_error(fmt::format("destroy the volume {}", volume), answer);
        }
    }
    remove_mountpoint(volume);
}

void ZfsVolumes::set_ref(const std::string& volume, const std::string& owner_id,
                         const std::string& ref) const {
    const std::string name = dataset(volume);
    auto found = owner(look({name}), volume);
    if (!found || found->ref == ref) return;
    if (found->id != owner_id) {
        VolumeRoot::throw_foreign(volume,
                                  fmt::format("it belongs to {} ({})", found->ref, found->id));
    }
    found->ref = ref;
    check_identity(*found);
    const ZfsAnswer answer = command_.zfs({"set", fmt::format("{}={}", kZfsRef, ref), name});
    if (!answer.ok()) throw zfs_error(fmt::format("rename the volume {}", volume), answer);
}

void ZfsVolumes::remove_mountpoint(const std::string& volume) const {
    if (::rmdir(volume_path(volume).c_str()) == 0 || errno == ENOENT) return;
    if (errno == ENOTEMPTY || errno == EEXIST) {
        VolumeRoot::throw_foreign(volume, "files lie in the directory it was mounted on");
    }
    if (errno == EBUSY) {
        throw Error(ErrorKind::kUnavailable, "volume_busy",
                    fmt::format("cannot remove the mountpoint of {}", volume),
                    "something is mounted on it", "it is tried again");
    }
    throw storage_error(fmt::format("remove the mountpoint of {}", volume), errno);
}

void ZfsVolumes::give_snapshots_away(const std::string& volume) const {
    const std::string name = dataset(volume);
    const auto refuse = [&](const char* code, std::string why, std::string fix) {
        throw Error(ErrorKind::kConflict, code, fmt::format("cannot destroy the volume {}", volume),
                    std::move(why), std::move(fix));
    };
    std::vector<std::string> children;
    for (auto& row : command_.list({"name"}, {"-r", "-t", "filesystem,volume", name})) {
        if (row[0] != name) children.push_back(row[0]);
    }
    if (!children.empty()) {
        refuse("volume_has_children", "datasets were made below it: " + joined(children),
               "destroy or move them by hand");
    }
    // In the order they were made. promote takes a snapshot with all before it, so one promote of a
    // clone of the last snapshot that has clones is enough, and those after it stay.
    std::vector<std::string> left;
    std::vector<std::string> clones;
    for (auto& row :
         command_.list({"name"}, {"-r", "-d", "1", "-t", "snapshot", "-s", "createtxg", name})) {
        std::vector<std::string> hanging = clones_of(row[0]);
        if (hanging.empty()) {
            left.push_back(row[0].substr(name.size() + 1));
        } else {
            left.clear();
            clones = std::move(hanging);
        }
    }
    if (!left.empty()) {
        refuse("volume_has_snapshots", "it has snapshots: " + joined(left),
               "delete these snapshots first");
    }
    if (clones.empty()) return;  // destroyed by somebody since
    const std::string heir = heir_of(volume, clones);
    const ZfsAnswer answer = command_.zfs({"promote", heir});
    if (answer.ok() || answer.trouble == ZfsTrouble::kUnavailable) return;
    if (!look({heir}).contains(heir)) throw_clones_changed(volume);
    if (answer.trouble != ZfsTrouble::kOther && answer.trouble != ZfsTrouble::kExists) {
        throw zfs_error(fmt::format("promote {}", heir), answer);
    }
    refuse("promote_refused", answer.why, "rename the snapshots that were not made by BetterPG");
}

std::string ZfsVolumes::heir_of(const std::string& volume,
                                const std::vector<std::string>& clones) const {
    const ZfsTable table = look(clones);
    bool has_changed = false;
    for (const std::string& clone : clones) {
        const auto found = table.find(clone);
        has_changed = has_changed || found == table.end();
        const bool below = clone.starts_with(base_ + "/");
        if (below && found != table.end() && zfs_identity(found->second)) return clone;
    }
    if (has_changed) throw_clones_changed(volume);
    throw Error(ErrorKind::kConflict, "volume_has_clones",
                fmt::format("cannot destroy the volume {}", volume),
                "clones that are not ours hang on its snapshots: " + joined(clones),
                "promote or destroy them by hand");
}

std::vector<std::string> ZfsVolumes::clones_of(const std::string& snapshot) const {
    std::vector<std::string> clones;
    // Everywhere in the pool: a clone made by hand counts as well.
    for (auto& row :
         command_.list({"name", "origin"}, {"-r", "-t", "filesystem,volume", settings_.pool})) {
        if (row[1] == snapshot) clones.push_back(std::move(row[0]));
    }
    return clones;
}

void ZfsVolumes::destroy_snapshot(const SnapshotRef& snapshot) const {
    const std::string expected = snapshot_name(snapshot);
    const ZfsTable table = look({expected});
    const std::string name = find_snapshot(snapshot, table);
    if (name.empty()) {
        if (!table.contains(expected)) return;
        throw Error(ErrorKind::kConflict, "snapshot_foreign",
                    fmt::format("the snapshot {} is not ours", expected),
                    "it does not carry our properties", "rename it; it is never touched");
    }
    const ZfsAnswer answer = command_.zfs({"destroy", name});
    if (answer.ok()) return;
    if (answer.trouble == ZfsTrouble::kHasClones) {
        std::vector<std::string> clones = clones_of(name);
        for (std::string& clone : clones) {
            if (clone.starts_with(base_ + "/")) clone = below_base(clone);
        }
        throw Error(
            ErrorKind::kConflict, "snapshot_has_clones",
            fmt::format("cannot destroy the snapshot {} of {}", snapshot.id, snapshot.volume),
            "volumes were cloned from it: " + joined(clones), "delete these first");
    }
    if (find_snapshot(snapshot, look({name})).empty()) return;
    throw zfs_error(fmt::format("destroy the snapshot {} of {}", snapshot.id, snapshot.volume),
                    answer);
}

// ---- measuring ----------------------------------------------------------------------------------

Usage ZfsVolumes::usage(const std::string& volume) const {
    const std::string name = dataset(volume);
    if (!owner(look({name}), volume)) VolumeRoot::throw_not_found(volume);
    const Knowledge known = knowledge();
    // `written` is what no snapshot of it has and its origin has not. Without it (pool version 23)
    // blocks shared with own snapshots are counted; those shared with the origin are not.
    const char* own = known.written ? "written" : "usedbydataset";
    std::vector<std::string> properties = {own, "usedbyrefreservation", "referenced"};
    if (known.logicalreferenced) properties.emplace_back("logicalreferenced");
    const ZfsTable table = command_.get({name}, properties);
    const auto found = table.find(name);
    if (found == table.end()) VolumeRoot::throw_not_found(volume);
    const ZfsRow& row = found->second;
    Usage usage;
    usage.used = row.number(own) + row.number("usedbyrefreservation");
    usage.referenced = row.number("referenced");
    usage.logical = known.logicalreferenced ? row.number("logicalreferenced") : usage.referenced;
    return usage;
}

Space ZfsVolumes::space() const {
    look({});
    // Of the base, so that a quota on it counts; other datasets of the pool only make `free`
    // smaller.
    const ZfsTable table = command_.get({base_}, {"used", "available"});
    const auto found = table.find(base_);
    if (found == table.end()) check_base(table);
    const std::uint64_t free = found->second.number("available");
    return {found->second.number("used") + free, free};
}

std::uint64_t ZfsVolumes::free_bytes() const {
    return bpg::free_bytes(settings_.root);
}

std::vector<Found> ZfsVolumes::list() const {
    look({});
    std::vector<Found> volumes;
    std::vector<Found> snapshots;
    const ZfsTable table = command_.get_below(
        base_, {"type", kZfsId, kZfsRef, kZfsIncarnation, kZfsJob, kZfsSnapshot, kZfsVolume});
    for (const auto& [name, row] : table) {
        // Neither the base itself nor snapshots of it; bookmarks (a#b) hold no data.
        if (!name.starts_with(base_ + "/") || name.find('#') != std::string::npos) continue;
        const std::string below = below_base(name);
        Found found;
        found.identity = zfs_identity(row);
        if (is_snapshot(name)) {
            const std::size_t at = below.find('@');
            const bool ours =
                found.identity && row.is_local(kZfsSnapshot) && row.is_local(kZfsVolume);
            if (!ours) found.identity.reset();
            found.volume = ours ? row.value(kZfsVolume) : below.substr(0, at);
            found.snapshot = ours ? row.value(kZfsSnapshot) : below.substr(at + 1);
            snapshots.push_back(std::move(found));
        } else {
            // A volume of ours is a file system directly below the base.
            const bool possible =
                row.value("type") == "filesystem" && below.find('/') == std::string::npos;
            if (!possible) found.identity.reset();
            found.volume = below;
            volumes.push_back(std::move(found));
        }
    }
    for (const std::string& name :
         directory_names(open_directory(settings_.root).get(), settings_.root.native())) {
        if (name == ".zfs" || table.contains(fmt::format("{}/{}", base_, name))) continue;
        volumes.push_back({name, std::nullopt, std::nullopt});
    }
    const auto order = [](const Found& a, const Found& b) {
        return std::tie(a.volume, a.snapshot) < std::tie(b.volume, b.snapshot);
    };
    std::sort(volumes.begin(), volumes.end(), order);
    std::sort(snapshots.begin(), snapshots.end(), order);
    volumes.insert(volumes.end(), std::make_move_iterator(snapshots.begin()),
                   std::make_move_iterator(snapshots.end()));
    return volumes;
}

}  // namespace bpg::storage
