#include "orchestrator/wal/look.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "orchestrator/base/error.h"
#include "orchestrator/wal/archived_file.h"
#include "orchestrator/wal/new_file.h"
#include "orchestrator/wal/plain_file.h"
#include "orchestrator/wal/wal_reader.h"

namespace bpg::wal {
namespace {

constexpr std::string_view kReady = ".ready";

WallTime time_of(std::int64_t seconds) {
    return WallTime(std::chrono::seconds(seconds));
}

/// What one archived file adds; false when it is none that counts.
bool add_archived(int directory, const std::string& shown, const WalName& name, Holding& holding) {
    std::optional<ArchivedFile> file;
    try {
        file = ArchivedFile::open(directory, shown, name);
    } catch (const Error&) {
        return false;  // damaged: it counts as missing, and whoever needs it says so
    }
    if (!file) return true;  // removed meanwhile
    holding.stored_bytes += file->stored().size();
    const WallTime modified = time_of(file->stored().modified_seconds());
    holding.last_archived_at = std::max(holding.last_archived_at.value_or(modified), modified);
    if (name.kind == WalKind::kHistory) holding.histories.push_back(name.timeline);
    if (name.kind != WalKind::kSegment) return true;
    const auto segment = parse_segment_name(name.text, holding.segment_size);
    if (!segment) return false;
    HeldSegment& held = holding.segments[*segment];
    held.archived = true;
    held.stored_bytes = file->stored().size();
    held.first_commit = file->metadata().first_commit_at;
    held.last_commit = file->metadata().last_commit_at;
    return true;
}

void look_at_archive(const std::filesystem::path& archive, const IsDamaged& is_damaged,
                     Holding& holding) {
    UniqueFd directory;
    try {
        directory = open_directory(archive);
    } catch (const Error&) {
        return;  // nothing was ever archived
    }
    for (const std::string& file : directory_names(directory.get(), archive.native())) {
        if (is_temporary_name(file)) continue;
        const auto name = wal_name_of(file);
        const bool counts = name && !is_damaged(file) &&
                            add_archived(directory.get(), archive.native(), *name, holding);
        if (!counts) holding.foreign.push_back(file);
    }
    std::sort(holding.foreign.begin(), holding.foreign.end());
    std::sort(holding.histories.begin(), holding.histories.end());
}

/// Whether a segment in pg_wal holds what its name says.
bool is_its_own(int pg_wal, const std::string& shown, const std::string& name) {
    try {
        const auto file = PlainFile::open(pg_wal, shown, name);
        if (!file) return false;  // removed meanwhile
        const auto header = parse_segment_header(file->read_at(0, SegmentHeader::kSize));
        return fault_of_segment(header, *parse_wal_name(name), file->size(), std::nullopt).empty();
    } catch (const Error&) {
        return false;  // a link, or no file at all
    }
}

/// Segments that PostgreSQL has yet to hand to its archiver.
void count_pending(int pg_wal, const std::string& shown, Holding& holding) {
    const UniqueFd status = open_beneath(pg_wal, "archive_status", O_RDONLY | O_DIRECTORY);
    if (!status) return;
    for (const std::string& name : directory_names(status.get(), shown)) {
        if (!name.ends_with(kReady)) continue;
        if (!parse_segment_name(std::string_view(name).substr(0, name.size() - kReady.size()),
                                holding.segment_size)) {
            continue;
        }
        struct stat facts{};
        if (::fstatat(status.get(), name.c_str(), &facts, AT_SYMLINK_NOFOLLOW) != 0) continue;
        ++holding.pending;
        const WallTime since = time_of(facts.st_mtime);
        holding.oldest_pending = std::min(holding.oldest_pending.value_or(since), since);
    }
}

/// A server that is down commits nothing more: its last commits can be known.
void learn_commits(int pg_wal, const std::string& shown, SegmentId segment, Holding& holding) {
    const WalFacts facts = scan_segments(pg_wal, shown, segment, holding.segment_size);
    HeldSegment& held = holding.segments[segment];
    held.first_commit = facts.first_commit;
    held.last_commit = facts.last_commit;
}

std::string shown_pg_wal(const WalServer& server) {
    return (server.data_directory / "pg_wal").native();
}

/// `segments`: of pg_wal.
void add_server(const WalServer& server, int pg_wal, const std::vector<SegmentId>& segments,
                Holding& holding) {
    const std::string shown = shown_pg_wal(server);
    count_pending(pg_wal, shown, holding);
    std::optional<SegmentId> first_unarchived;
    for (const SegmentId segment : segments) {
        const bool is_new = holding.segments.try_emplace(segment).second;
        if (is_new && !first_unarchived) first_unarchived = segment;
    }
    if (!server.runs && first_unarchived) {
        learn_commits(pg_wal, shown, *first_unarchived, holding);
    }
}

}  // namespace

UniqueFd open_pg_wal(const WalServer& server) {
    UniqueFd data;
    try {
        data = open_directory(server.data_directory);
    } catch (const Error&) {
        return {};  // its volume is gone
    }
    return open_beneath(data.get(), "pg_wal", O_RDONLY | O_DIRECTORY);
}

std::vector<SegmentId> segments_in(int pg_wal_fd, const std::string& shown,
                                   const WalServer& server) {
    std::vector<SegmentId> found;
    for (const std::string& text : directory_names(pg_wal_fd, shown)) {
        const auto segment = parse_segment_name(text, server.segment_size);
        if (segment && is_its_own(pg_wal_fd, shown, text)) found.push_back(*segment);
    }
    std::sort(found.begin(), found.end());
    return found;
}

Holding look_at(const std::filesystem::path& archive, const std::optional<WalServer>& server,
                const IsDamaged& is_damaged) {
    Holding holding;
    UniqueFd pg_wal;
    std::vector<SegmentId> segments;
    if (server) {
        holding.segment_size = server->segment_size;
        pg_wal = open_pg_wal(*server);
        // Before the archive: PostgreSQL removes a segment once it is archived, and one that moves
        // while this looks must be found here or there.
        if (pg_wal) segments = segments_in(pg_wal.get(), shown_pg_wal(*server), *server);
    }
    look_at_archive(archive, is_damaged, holding);
    if (pg_wal) add_server(*server, pg_wal.get(), segments, holding);
    return holding;
}

}  // namespace bpg::wal
