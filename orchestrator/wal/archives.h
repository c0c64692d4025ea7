// The wal port: the archives of all incarnations, as bpgd sees them. PostgreSQL archives into them
// and restores from them by itself, through bpg-wal, while bpgd is down too.
//
// An archive is `<root>/<volume>/<incarnation>/`, 0700 and the instance's user's: what is in it is
// hostile input. Only archived files are in it. One incarnation, one archive, never shared (ARC-1).
//
// All verbs are called on the loop thread and offload; each can be repeated.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/base/files.h"
#include "orchestrator/wal/coverage.h"

namespace bpg::wal {

namespace asio = boost::asio;

/// Which archive: of the incarnation whose data is in `volume`.
struct ArchiveRef {
    std::string volume;
    std::string incarnation_id;
};

/// The server that writes an incarnation's WAL: its pg_wal has what is not archived yet.
struct WalServer {
    std::filesystem::path data_directory;
    FileOwner owner;
    std::uint32_t segment_size = 16U << 20U;
    std::string system_identifier;
    bool runs = false;
};

class Archives {
  public:
    virtual ~Archives() = default;

    /// No I/O.
    virtual std::filesystem::path place(const ArchiveRef& archive) const = 0;
    /// Makes the directory.
    virtual asio::awaitable<void> prepare(const ArchiveRef& archive, FileOwner owner) = 0;
    /// Removes every archive of a volume that is gone. Success when there is none.
    virtual asio::awaitable<void> remove(const std::string& volume) = 0;

    /// What is held, in the archive and with the server. Without one: the archive alone.
    virtual asio::awaitable<Holding> look(const ArchiveRef& archive,
                                          const std::optional<WalServer>& server) = 0;
    /// Archives what pg_wal has whole and the archive has not, or holds damaged. Nothing of it
    /// waits for PostgreSQL's own archiver, which may be at it too.
    virtual asio::awaitable<void> catch_up(const ArchiveRef& archive, const WalServer& server) = 0;
    /// Copies what only pg_wal has, the segment that a stopped server was writing included, to
    /// where a recovery looks first. From nothing each time.
    virtual asio::awaitable<void> copy_tail(const ArchiveRef& archive, const WalServer& server,
                                            const std::filesystem::path& spool) = 0;
    /// Removes the archived segments before this one with their backup labels, oldest first.
    /// Histories and what is not ours stay (CLN-2).
    virtual asio::awaitable<void> remove_before(const ArchiveRef& archive,
                                                const std::string& keep_from) = 0;
    /// Where pg_create_restore_point() made this one; the newest when there are several.
    /// Looks through every file of an archive; what is damaged counts as missing from then on.
    virtual asio::awaitable<void> note_damage(const ArchiveRef& archive) = 0;
    virtual asio::awaitable<std::optional<std::uint64_t>> find_restore_point(
        const ArchiveRef& archive, const std::string& name) = 0;
};

}  // namespace bpg::wal
