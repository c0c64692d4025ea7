// The wal port on directories of this machine. All file work runs on the pool given.
#pragma once

#include <sys/types.h>

#include <ctime>
#include <map>
#include <mutex>
#include <string>

#include "orchestrator/base/offload.h"
#include "orchestrator/wal/archives.h"
#include "orchestrator/wal/look.h"

namespace bpg::wal {

class LocalArchives final : public Archives {
  public:
    /// The pool outlives this object.
    LocalArchives(std::filesystem::path root, BlockingPool& pool)
        : root_(std::move(root)), pool_(pool) {}

    std::filesystem::path place(const ArchiveRef& archive) const override;
    asio::awaitable<void> prepare(const ArchiveRef& archive, FileOwner owner) override;
    asio::awaitable<void> remove(const std::string& volume) override;
    asio::awaitable<Holding> look(const ArchiveRef& archive,
                                  const std::optional<WalServer>& server) override;
    asio::awaitable<void> catch_up(const ArchiveRef& archive, const WalServer& server) override;
    asio::awaitable<void> copy_tail(const ArchiveRef& archive, const WalServer& server,
                                    const std::filesystem::path& spool) override;
    asio::awaitable<void> remove_before(const ArchiveRef& archive,
                                        const std::string& keep_from) override;
    asio::awaitable<void> note_damage(const ArchiveRef& archive) override;
    asio::awaitable<std::optional<std::uint64_t>> find_restore_point(
        const ArchiveRef& archive, const std::string& name) override;

  private:
    /// A file that was found damaged, as it was then.
    struct Damaged {
        ino_t inode = 0;
        timespec changed{};
    };
    IsDamaged damaged_in(const std::filesystem::path& directory) const;

    const std::filesystem::path root_;
    BlockingPool& pool_;
    mutable std::mutex mutex_;
    std::map<std::string, Damaged> damaged_;  // by path; guarded by mutex_
};

}  // namespace bpg::wal
