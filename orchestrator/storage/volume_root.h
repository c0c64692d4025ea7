// The directory all volumes of a file system driver lie in, and what the drivers do alike in it:
//
//   <root>/betterpg-root.json         the mark: written at init, looked for before every operation,
//   so
//                                     that a root that is not mounted stops us instead of being
//                                     empty
//   <root>/<volume>/                  complete volumes, 0711 root
//   <root>/.building/<volume>/        what is being built or removed; 0700 root
//   <root>/.snapshots/<volume>/<id>/  read-only snapshots, where the driver has them; 0700 root
//
// Everything here blocks: call it on a BlockingPool. Stateless but for its names, so thread-safe.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"
#include "orchestrator/storage/storage.h"

namespace bpg::storage {

inline constexpr const char* kRootMark = "betterpg-root.json";
inline constexpr const char* kBuilding = ".building";
inline constexpr const char* kSnapshots = ".snapshots";

/// What the mark in a volume root says.
struct RootMark {
    std::string pool_id;  ///< made once, tells this root from every other
    std::string driver;

    bool operator==(const RootMark&) const = default;
};

/// Nothing when there is no mark there (not initialised, or not mounted).
std::optional<RootMark> read_root_mark(const std::filesystem::path& root);

/// For `bpgd init` only: makes the root with its directories and mark; keeps a mark that is there.
/// Throws kConflict `root_of_another_driver` when that names another driver, and kUnavailable
/// `storage_unavailable` when `known_pool_id` (from an earlier init) is not the one found there:
/// the root it was made on is not mounted.
RootMark prepare_root(const std::filesystem::path& root, const std::string& driver,
                      const std::string& known_pool_id = {});

/// errno_error, but what a mount, unmount or reboot can mend is kUnavailable `storage_unavailable`.
Error storage_error(std::string_view action, int errno_value);

class VolumeRoot {
  public:
    /// `pool_id` empty: any root marked for this driver will do.
    VolumeRoot(std::filesystem::path root, std::string driver, std::string pool_id);

    const std::filesystem::path& path() const { return root_; }
    /// Paths of checked names; throw kInvalid for a name that could lead elsewhere.
    std::filesystem::path volume_path(const std::string& volume) const;
    std::filesystem::path building_path(const std::string& volume) const;
    std::filesystem::path snapshot_path(const SnapshotRef& snapshot) const;

    /// Opens the root after checking its mark; throws kUnavailable `storage_unavailable`.
    UniqueFd open() const;
    UniqueFd open_building(int root_fd) const;
    /// The directory of a complete volume of ours; empty when absent; throws `volume_foreign`.
    UniqueFd open_volume(int root_fd, const std::string& volume) const;
    /// Its identity; nothing when absent; throws `volume_foreign`.
    std::optional<Identity> identity(int root_fd, const std::string& volume) const;
    /// True when the volume is there with exactly this identity, false when it is absent; throws
    /// `volume_foreign` for anything else.
    bool holds(int root_fd, const std::string& volume, const Identity& identity) const;

    /// Renames a finished build place to its volume and syncs the root.
    void publish(int root_fd, const std::string& volume) const;

    Space space() const;
    /// Volumes and foreign things. Build places are left out: they belong to a job.
    std::vector<Found> volumes(int root_fd) const;
    /// Whatever lies in the snapshots directory, two levels deep.
    std::vector<Found> snapshots(int root_fd) const;

    [[noreturn]] static void throw_foreign(const std::string& volume, const std::string& why);
    [[noreturn]] static void throw_not_found(const std::string& volume);

  private:
    std::filesystem::path root_;
    std::string driver_;
    std::string pool_id_;
};

}  // namespace bpg::storage
