// What the drivers whose volumes are directories (btrfs, copy) do alike: look for the identity,
// build in `.building` and rename last, copy file by file, measure, list. A driver adds how a
// directory is made and removed, and its snapshots.
#pragma once

#include <string>

#include "orchestrator/base/offload.h"
#include "orchestrator/storage/volume_root.h"

namespace bpg::storage {

class DirectoryStorage : public Storage {
  public:
    std::string_view driver() const override { return driver_; }
    std::filesystem::path volume_path(const std::string& volume) const override;

    asio::awaitable<std::optional<Identity>> find_volume(const std::string& volume) override;
    asio::awaitable<void> mount_volume(const std::string& volume) override;
    asio::awaitable<void> create_volume(const std::string& volume,
                                        const Identity& identity) override;
    /// plan.last_is_whole is called on a thread of the pool. kConflict `volume_exists` when the
    /// volume is complete already; kNotFound `volume_not_found` when the source is not there. A
    /// failed copy leaves nothing behind.
    asio::awaitable<std::filesystem::path> begin_copy(const std::string& source,
                                                      const std::string& volume,
                                                      const Identity& identity,
                                                      const CopyPlan& plan) override;
    /// kNotFound `copy_not_begun` when there is neither a build place nor the finished volume.
    asio::awaitable<void> finish_copy(const std::string& volume, const Identity& identity) override;
    asio::awaitable<void> destroy_volume(const std::string& volume,
                                         const std::string& owner_id) override;
    asio::awaitable<void> set_ref(const std::string& volume, const std::string& owner_id,
                                  const std::string& ref) override;
    asio::awaitable<Usage> usage(const std::string& volume) override;
    asio::awaitable<Space> space() override;
    asio::awaitable<std::uint64_t> free_bytes(std::uint64_t enough) override;
    asio::awaitable<std::vector<Found>> list() override;

  protected:
    DirectoryStorage(std::filesystem::path root, std::string driver, std::string pool_id,
                     BlockingPool& pool);

    /// The open root with its build directory, checked for being the right ones.
    struct Opened {
        UniqueFd root;
        UniqueFd building;
    };
    Opened open_root() const;

    const VolumeRoot& root() const { return root_; }
    BlockingPool& pool() const { return pool_; }

    // The hooks below block; they are called on threads of the pool, several at once.

    /// Throws kUnavailable `storage_unavailable` when the file system is not the driver's.
    virtual void check_file_system(int root_fd) const = 0;
    /// An empty directory of the driver's kind.
    virtual void make_place(int building_fd, const std::string& volume) const = 0;
    /// Removes a build place and all in it; absent is fine.
    virtual void remove_place(int building_fd, const std::string& volume) const = 0;
    /// Removes a complete volume so that at no instant a part of it stands under its name.
    virtual void remove_volume(const Opened& opened, const std::string& volume) const = 0;

    /// Removes a half-built place again when building fails, so that nothing is left.
    class PlaceGuard {
      public:
        PlaceGuard(const DirectoryStorage& storage, int building_fd, std::string volume);
        ~PlaceGuard();
        PlaceGuard(const PlaceGuard&) = delete;
        PlaceGuard& operator=(const PlaceGuard&) = delete;
        void keep() { kept_ = true; }

      private:
        const DirectoryStorage& storage_;
        int building_fd_;
        std::string volume_;
        bool kept_ = false;
    };

    static UniqueFd open_place(int building_fd, const std::string& volume);

  private:
    void create_now(const std::string& volume, const Identity& identity) const;
    std::filesystem::path begin_copy_now(const std::string& source, const std::string& volume,
                                         const Identity& identity, const CopyPlan& plan) const;
    void finish_copy_now(const std::string& volume, const Identity& identity) const;
    void destroy_now(const std::string& volume, const std::string& owner_id) const;
    void set_ref_now(const std::string& volume, const std::string& owner_id,
                     const std::string& ref) const;

    std::string driver_;
    VolumeRoot root_;
    BlockingPool& pool_;
};

}  // namespace bpg::storage
