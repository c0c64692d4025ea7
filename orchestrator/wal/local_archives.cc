#include "orchestrator/wal/local_archives.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "orchestrator/base/error.h"
#include "orchestrator/wal/archive.h"
#include "orchestrator/wal/look.h"
#include "orchestrator/wal/verify.h"
#include "orchestrator/wal/wal_reader.h"

namespace bpg::wal {
namespace {

/// The files of a server's pg_wal, and where they go.
struct Transfer {
    const WalServer& server;
    const UniqueFd pg_wal;
    const std::string shown;
    const std::filesystem::path to;

    Transfer(const WalServer& from, std::filesystem::path target)
        : server(from),
          pg_wal(open_pg_wal(from)),
          shown((from.data_directory / "pg_wal").native()),
          to(std::move(target)) {}

    void take(const std::string& name) const {
        ArchiveRequest request;
        request.source_directory_fd = pg_wal.get();
        request.source_shown = shown;
        request.source_name = name;
        request.name = name;
        request.archive = to;
        if (!server.system_identifier.empty()) {
            request.server =
                ServerIdentity{std::stoull(server.system_identifier), server.segment_size};
        }
        try {
            archive_file(request);
        } catch (const Error& error) {
            // Archived by PostgreSQL itself meanwhile, and removed here.
            if (error.code() != "wal_source_missing") throw;
        }
    }
};

/// What PostgreSQL has handed to its archiver: files that do not change any more.
std::set<std::string> handed_over(const Transfer& from) {
    std::set<std::string> names;
    const UniqueFd status =
        open_beneath(from.pg_wal.get(), "archive_status", O_RDONLY | O_DIRECTORY);
    if (!status) return names;
    for (const std::string& mark : directory_names(status.get(), from.shown)) {
        for (const std::string_view ending : {".ready", ".done"}) {
            if (mark.ends_with(ending)) names.insert(mark.substr(0, mark.size() - ending.size()));
        }
    }
    return names;
}

/// Segments that are full, and histories: whatever will not change any more.
std::set<std::string> whole_files(const Transfer& from, std::uint32_t timeline) {
    std::set<std::string> names = handed_over(from);
    // A clone's marks on its parent's segments say that these are none of its own.
    std::erase_if(names, [timeline](const std::string& name) {
        const auto wal = parse_wal_name(name);
        return !wal || wal->timeline != timeline;
    });
    for (const std::string& name : directory_names(from.pg_wal.get(), from.shown)) {
        const auto wal = parse_wal_name(name);
        if (wal && wal->kind == WalKind::kHistory && wal->timeline == timeline) names.insert(name);
    }
    if (from.server.runs) return names;
    const auto segments = segments_in(from.pg_wal.get(), from.shown, from.server);
    for (const SegmentId segment : segments) {
        const bool is_last = segment == segments.back();
        if (segment.timeline == timeline && !is_last) {
            names.insert(segment_name(segment, from.server.segment_size));
        }
    }
    return names;
}

/// The one its server writes on: of its newest segment.
std::uint32_t newest_timeline(const Transfer& from) {
    const auto segments = segments_in(from.pg_wal.get(), from.shown, from.server);
    return segments.empty() ? 0 : segments.back().timeline;
}

/// As far as its first frame and its size tell.
bool looks_whole(int archive, const std::string& shown, const WalName& name) {
    try {
        return ArchivedFile::open(archive, shown, name).has_value();
    } catch (const Error& error) {
        if (error.code() != "wal_damaged") throw;
        return false;
    }
}

void catch_up_blocking(const std::filesystem::path& archive, const WalServer& server,
                       const IsDamaged& is_damaged) {
    const Transfer transfer(server, archive);
    if (!transfer.pg_wal) return;  // its volume is gone
    const UniqueFd directory = open_directory(archive);
    for (const std::string& name : whole_files(transfer, newest_timeline(transfer))) {
        const WalName wal = *parse_wal_name(name);
        const bool is_there = looks_whole(directory.get(), archive.native(), wal);
        if (!is_there || is_damaged(archived_name(wal))) transfer.take(name);
    }
}

void copy_tail_blocking(const std::filesystem::path& archive, const WalServer& server,
                        const std::filesystem::path& spool, const IsDamaged& is_damaged) {
    remove_tree(spool);
    ensure_directory(spool, 0700, server.owner);
    if (server.runs) return;  // what it has not archived lies behind the target
    const Transfer transfer(server, spool);
    if (!transfer.pg_wal) return;
    const Holding archived = look_at(archive, std::nullopt, is_damaged);
    const std::uint32_t timeline = newest_timeline(transfer);
    for (const SegmentId segment : segments_in(transfer.pg_wal.get(), transfer.shown, server)) {
        const bool is_needed = segment.timeline == timeline && !archived.segments.contains(segment);
        if (is_needed) transfer.take(segment_name(segment, server.segment_size));
    }
}

void remove_blocking(const std::filesystem::path& archive, const std::string& keep_from) {
    UniqueFd directory;
    try {
        directory = open_directory(archive);
    } catch (const Error&) {
        return;  // there is nothing to remove
    }
    std::vector<std::string> files = directory_names(directory.get(), archive.native());
    std::erase_if(files, [&keep_from](const std::string& file) {
        const auto name = wal_name_of(file);
        if (!name || name->kind == WalKind::kHistory || name->kind == WalKind::kPartial) {
            return true;
        }
        // By place, not by timeline: a segment of an older one lies before.
        return name->segment().substr(8) >= std::string_view(keep_from).substr(8);
    });
    std::sort(files.begin(), files.end());
    for (const std::string& file : files) {
        if (::unlinkat(directory.get(), file.c_str(), 0) != 0 && errno != ENOENT) {
            throw errno_error("remove " + (archive / file).native(), errno);
        }
    }
    if (::fsync(directory.get()) != 0) throw errno_error("sync " + archive.native(), errno);
}

/// In the newest segment that has it.
std::optional<std::uint64_t> find_point_blocking(const std::filesystem::path& archive,
                                                 const std::string& name,
                                                 const IsDamaged& is_damaged) {
    const Holding holding = look_at(archive, std::nullopt, is_damaged);
    const UniqueFd directory = open_directory(archive);
    std::optional<std::uint64_t> found;
    WalVisitor visitor;
    visitor.on_restore_point = [&found, &name](const RestorePoint& point) {
        if (point.name == name) found = point.end;
    };
    WalScanner scanner(visitor);
    std::optional<SegmentId> before;
    for (const auto& [segment, facts] : holding.segments) {
        const auto wal = parse_wal_name(segment_name(segment, holding.segment_size));
        const auto file = ArchivedFile::open(directory.get(), archive.native(), *wal);
        if (!file) continue;
        // Behind a gap a record may begin that nobody has the beginning of.
        if (!before || next(*before) != segment || scanner.has_ended()) {
            scanner = WalScanner(visitor);
        }
        scanner.begin_segment(segment, holding.segment_size);
        file->read([&scanner](std::string_view pages) { scanner.feed(pages); });
        before = segment;
    }
    return found;
}

}  // namespace

std::filesystem::path LocalArchives::place(const ArchiveRef& archive) const {
    return root_ / archive.volume / archive.incarnation_id;
}

IsDamaged LocalArchives::damaged_in(const std::filesystem::path& directory) const {
    return [this, directory](const std::string& file) {
        const std::lock_guard lock(mutex_);
        const auto known = damaged_.find((directory / file).native());
        if (known == damaged_.end()) return false;
        struct stat facts{};
        const bool is_same = ::lstat(known->first.c_str(), &facts) == 0 &&
                             facts.st_ino == known->second.inode &&
                             facts.st_ctim.tv_sec == known->second.changed.tv_sec &&
                             facts.st_ctim.tv_nsec == known->second.changed.tv_nsec;
        return is_same;  // replaced since: it is looked at anew
    };
}

asio::awaitable<void> LocalArchives::prepare(const ArchiveRef& archive, FileOwner owner) {
    const std::filesystem::path directory = place(archive);
    co_await pool_.run([&directory, owner] {
        // Passable for the instance's user, readable for nobody else.
        ensure_directory(directory.parent_path(), 0711);
        ensure_directory(directory, 0700, owner);
    });
}

asio::awaitable<void> LocalArchives::remove(const std::string& volume) {
    const std::filesystem::path directory = root_ / volume;
    co_await pool_.run([&directory] { remove_tree(directory); });
}

asio::awaitable<Holding> LocalArchives::look(const ArchiveRef& archive,
                                             const std::optional<WalServer>& server) {
    auto work = [directory = place(archive), server, this] {
        return look_at(directory, server, damaged_in(directory));
    };
    co_return co_await pool_.run(std::move(work));
}

asio::awaitable<void> LocalArchives::catch_up(const ArchiveRef& archive, const WalServer& server) {
    auto work = [directory = place(archive), server, this] {
        catch_up_blocking(directory, server, damaged_in(directory));
    };
    co_await pool_.run(std::move(work));
}

asio::awaitable<void> LocalArchives::copy_tail(const ArchiveRef& archive, const WalServer& server,
                                               const std::filesystem::path& spool) {
    auto work = [directory = place(archive), server, spool, this] {
        copy_tail_blocking(directory, server, spool, damaged_in(directory));
    };
    co_await pool_.run(std::move(work));
}

asio::awaitable<void> LocalArchives::remove_before(const ArchiveRef& archive,
                                                   const std::string& keep_from) {
    auto work = [directory = place(archive), keep_from] { remove_blocking(directory, keep_from); };
    co_await pool_.run(std::move(work));
}

asio::awaitable<void> LocalArchives::note_damage(const ArchiveRef& archive) {
    auto work = [directory = place(archive), this] {
        for (const ArchiveFault& fault : verify_archive(directory)) {
            const std::string path = (directory / fault.file).native();
            struct stat facts{};
            if (::lstat(path.c_str(), &facts) != 0) continue;
            const std::lock_guard lock(mutex_);
            damaged_[path] = {facts.st_ino, facts.st_ctim};
        }
    };
    co_await pool_.run(std::move(work));
}

asio::awaitable<std::optional<std::uint64_t>> LocalArchives::find_restore_point(
    const ArchiveRef& archive, const std::string& name) {
    auto work = [directory = place(archive), name, this] {
        return find_point_blocking(directory, name, damaged_in(directory));
    };
    co_return co_await pool_.run(std::move(work));
}

}  // namespace bpg::wal
