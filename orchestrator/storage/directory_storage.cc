#include "orchestrator/storage/directory_storage.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <exception>
#include <iterator>
#include <utility>

#include "orchestrator/base/id.h"
#include "orchestrator/base/log.h"
#include "orchestrator/storage/identity.h"
#include "orchestrator/storage/tree_copy.h"
#include "orchestrator/storage/tree_usage.h"

namespace bpg::storage {
namespace {

constexpr mode_t kVolumeMode = 0711;  // instances reach data/ by its name and list nothing

void own_directory(int fd) {
    if (::fchown(fd, 0, 0) != 0 || ::fchmod(fd, kVolumeMode) != 0) {
        throw storage_error("set owner and mode of a volume", errno);
    }
}

}  // namespace

DirectoryStorage::DirectoryStorage(std::filesystem::path root, std::string driver,
                                   std::string pool_id, BlockingPool& pool)
    : driver_(driver), root_(std::move(root), std::move(driver), std::move(pool_id)), pool_(pool) {}

DirectoryStorage::PlaceGuard::PlaceGuard(const DirectoryStorage& storage, int building_fd,
                                         std::string volume)
    : storage_(storage), building_fd_(building_fd), volume_(std::move(volume)) {}

DirectoryStorage::PlaceGuard::~PlaceGuard() {
    if (kept_) return;
    try {
        storage_.remove_place(building_fd_, volume_);
    } catch (const std::exception& failure) {
        // The failure that brought us here is on its way; destroy_volume() finds the rest.
        log::warning("a half-built volume is left over",
                     {{"volume", volume_}, {"why", failure.what()}});
    }
}

UniqueFd DirectoryStorage::open_place(int building_fd, const std::string& volume) {
    UniqueFd place(
        ::openat(building_fd, volume.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!place && errno != ENOENT) {
        throw storage_error(fmt::format("open the build place of {}", volume), errno);
    }
    return place;
}

DirectoryStorage::Opened DirectoryStorage::open_root() const {
    Opened opened;
    opened.root = root_.open();
    check_file_system(opened.root.get());
    opened.building = root_.open_building(opened.root.get());
    return opened;
}

std::filesystem::path DirectoryStorage::volume_path(const std::string& volume) const {
    return root_.volume_path(volume);
}

asio::awaitable<std::optional<Identity>> DirectoryStorage::find_volume(const std::string& volume) {
    check_volume_name(volume);
    auto work = [&] { return root_.identity(open_root().root.get(), volume); };
    co_return co_await pool_.run(work);
}

/// A directory is always where it is.
asio::awaitable<void> DirectoryStorage::mount_volume(const std::string&) {
    co_return;
}

asio::awaitable<void> DirectoryStorage::create_volume(const std::string& volume,
                                                      const Identity& identity) {
    check_volume_name(volume);
    auto work = [&] { create_now(volume, identity); };
    co_await pool_.run(work);
}

void DirectoryStorage::create_now(const std::string& volume, const Identity& identity) const {
    const Opened opened = open_root();
    if (root_.holds(opened.root.get(), volume, identity)) return;
    remove_place(opened.building.get(), volume);
    PlaceGuard guard(*this, opened.building.get(), volume);
    make_place(opened.building.get(), volume);
    const UniqueFd place = open_place(opened.building.get(), volume);
    own_directory(place.get());
    write_identity(place.get(), identity);
    if (::fsync(place.get()) != 0) throw storage_error("sync a new volume", errno);
    root_.publish(opened.root.get(), volume);
    guard.keep();
}

asio::awaitable<std::filesystem::path> DirectoryStorage::begin_copy(const std::string& source,
                                                                    const std::string& volume,
                                                                    const Identity& identity,
                                                                    const CopyPlan& plan) {
    check_volume_name(source);
    check_volume_name(volume);
    auto work = [&] { return begin_copy_now(source, volume, identity, plan); };
    co_return co_await pool_.run(work);
}

std::filesystem::path DirectoryStorage::begin_copy_now(const std::string& source,
                                                       const std::string& volume,
                                                       const Identity& identity,
                                                       const CopyPlan& plan) const {
    const Opened opened = open_root();
    if (root_.holds(opened.root.get(), volume, identity)) {
        throw Error(ErrorKind::kConflict, "volume_exists",
                    fmt::format("the volume {} is complete already", volume));
    }
    const UniqueFd from = root_.open_volume(opened.root.get(), source);
    if (!from) VolumeRoot::throw_not_found(source);
    remove_place(opened.building.get(), volume);
    PlaceGuard guard(*this, opened.building.get(), volume);
    make_place(opened.building.get(), volume);
    const UniqueFd place = open_place(opened.building.get(), volume);
    own_directory(place.get());
    copy_tree(from.get(), place.get(), plan);
    guard.keep();
    return root_.building_path(volume);
}

asio::awaitable<void> DirectoryStorage::finish_copy(const std::string& volume,
                                                    const Identity& identity) {
    check_volume_name(volume);
    auto work = [&] { finish_copy_now(volume, identity); };
    co_await pool_.run(work);
}

void DirectoryStorage::finish_copy_now(const std::string& volume, const Identity& identity) const {
    const Opened opened = open_root();
    if (root_.holds(opened.root.get(), volume, identity)) return;
    const UniqueFd place = open_place(opened.building.get(), volume);
    if (!place) {
        throw Error(ErrorKind::kNotFound, "copy_not_begun",
                    fmt::format("there is no copy to finish for the volume {}", volume));
    }
    write_identity(place.get(), identity);
    // One call for the whole file system: thousands of files would cost one commit each.
    if (::syncfs(place.get()) != 0) throw storage_error("sync a copied volume", errno);
    root_.publish(opened.root.get(), volume);
}

asio::awaitable<void> DirectoryStorage::destroy_volume(const std::string& volume,
                                                       const std::string& owner_id) {
    check_volume_name(volume);
    auto work = [&] { destroy_now(volume, owner_id); };
    co_await pool_.run(work);
}

void DirectoryStorage::destroy_now(const std::string& volume, const std::string& owner_id) const {
    const Opened opened = open_root();
    const auto found = root_.identity(opened.root.get(), volume);
    if (found && found->id != owner_id) {
        VolumeRoot::throw_foreign(volume,
                                  fmt::format("it belongs to {} ({})", found->ref, found->id));
    }
    remove_place(opened.building.get(), volume);
    if (found) remove_volume(opened, volume);
    // Also when nothing was there: an earlier run may have died between removing and syncing.
    if (::fsync(opened.building.get()) != 0 || ::fsync(opened.root.get()) != 0) {
        throw storage_error("sync the volume root", errno);
    }
}

asio::awaitable<void> DirectoryStorage::set_ref(const std::string& volume,
                                                const std::string& owner_id,
                                                const std::string& ref) {
    check_volume_name(volume);
    auto work = [&] { set_ref_now(volume, owner_id, ref); };
    co_await pool_.run(work);
}

void DirectoryStorage::set_ref_now(const std::string& volume, const std::string& owner_id,
                                   const std::string& ref) const {
    const Opened opened = open_root();
    auto found = root_.identity(opened.root.get(), volume);
    if (!found || found->ref == ref) return;
    if (found->id != owner_id) {
        VolumeRoot::throw_foreign(volume,
                                  fmt::format("it belongs to {} ({})", found->ref, found->id));
    }
    found->ref = ref;
    const UniqueFd place = root_.open_volume(opened.root.get(), volume);
    if (place) write_identity(place.get(), *found);
}

asio::awaitable<Usage> DirectoryStorage::usage(const std::string& volume) {
    check_volume_name(volume);
    auto work = [&] {
        const Opened opened = open_root();
        const UniqueFd fd = root_.open_volume(opened.root.get(), volume);
        if (!fd) VolumeRoot::throw_not_found(volume);
        return measure_tree(fd.get());
    };
    co_return co_await pool_.run(work);
}

asio::awaitable<Space> DirectoryStorage::space() {
    auto work = [&] { return root_.space(); };
    co_return co_await pool_.run(work);
}

asio::awaitable<std::uint64_t> DirectoryStorage::free_bytes(std::uint64_t enough) {
    auto work = [&] {
        const std::uint64_t free = root_.space().free;
        if (free >= enough) return free;
        // btrfs counts what was removed only once that is committed, within half a minute.
        const UniqueFd root = root_.open();
        if (::syncfs(root.get()) != 0) throw storage_error("sync the volume root", errno);
        return root_.space().free;
    };
    co_return co_await pool_.run(work);
}

asio::awaitable<std::vector<Found>> DirectoryStorage::list() {
    auto work = [&] {
        const Opened opened = open_root();
        std::vector<Found> found = root_.volumes(opened.root.get());
        std::vector<Found> snapshots = root_.snapshots(opened.root.get());
        found.insert(found.end(), std::make_move_iterator(snapshots.begin()),
                     std::make_move_iterator(snapshots.end()));
        return found;
    };
    co_return co_await pool_.run(work);
}

}  // namespace bpg::storage
