#include "orchestrator/wal/archive.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "orchestrator/base/error.h"
#include "orchestrator/wal/new_file.h"
#include "orchestrator/wal/wal_reader.h"

namespace bpg::wal {
namespace {

constexpr std::uint64_t kSmallFileMax = 16U << 20U;
/// Somebody else may archive, and remove, the same file meanwhile; not this often.
constexpr int kAttempts = 10;

Error source_wrong(const ArchiveRequest& request, std::string why) {
    return {ErrorKind::kCorrupt, "wal_source_wrong",
            fmt::format("{} in {} is not what {} must be", request.source_name,
                        request.source_shown, request.name),
            std::move(why), "look at the server's log; what is no WAL of it is not archived"};
}

WalName checked_name(const ArchiveRequest& request) {
    const auto name = parse_wal_name(request.name);
    if (name) return *name;
    throw Error(ErrorKind::kInvalid, "wal_name_invalid",
                fmt::format("{} is not the name of a WAL file", request.name),
                "PostgreSQL archives segments, their .partial and .backup, and .history files",
                "archive_command gives %p and %f, in this order");
}

/// What is archived, with what is known of it before it is read whole.
class Source {
  public:
    Source(const ArchiveRequest& request, WalName name)
        : request_(request), name_(std::move(name)), file_(open()) {
        facts_.name = name_.text;
        facts_.timeline = name_.timeline;
        if (request_.server) facts_.system_identifier = request_.server->system_identifier;
        if (name_.holds_wal()) {
            look_at_segment();
        } else if (file_.size() == 0 || file_.size() > kSmallFileMax) {
            throw source_wrong(request_, fmt::format("it has {} bytes", file_.size()));
        }
    }

    const WalName& name() const { return name_; }
    std::uint64_t size() const { return file_.size(); }

    /// Reads it once: for the writer, and for the times of its commits.
    ArchivedMetadata copy_to(ArchivedFileWriter& writer) {
        WalScanner scanner = name_.holds_wal() ? scanner_of_segment() : WalScanner();
        file_.read_blocks(0, size(), [&](std::string_view block) {
            writer.add(block);
            if (name_.holds_wal()) scanner.feed(block);
            return true;
        });
        if (!file_.is_still(request_.source_directory_fd, request_.source_name)) {
            throw missing("PostgreSQL renamed or removed it while it was read");
        }
        if (name_.holds_wal()) facts_.wal_end = scanner.end_in_segment();
        return writer.finish(facts_);
    }

    /// Whether an archived file holds the same. Throws its `wal_damaged`.
    bool equals(const ArchivedFile& archived) const {
        if (archived.metadata().plain_size != size()) {
            archived.read([](std::string_view) {});
            return false;
        }
        std::uint64_t at = 0;
        bool same = true;
        archived.read([&](std::string_view piece) {
            same = same && file_.read_at(at, piece.size()) == piece;
            at += piece.size();
        });
        return same;
    }

  private:
    Error missing(std::string why) const {
        return {ErrorKind::kNotFound, "wal_source_missing",
                fmt::format("{} is not in {}", request_.source_name, request_.source_shown),
                std::move(why)};
    }

    PlainFile open() const {
        auto file = PlainFile::open(request_.source_directory_fd, request_.source_shown,
                                    request_.source_name);
        if (!file) throw missing("there is no such file");
        return std::move(*file);
    }

    void look_at_segment() {
        const auto header = parse_segment_header(file_.read_at(0, SegmentHeader::kSize));
        const auto system =
            request_.server ? std::optional(request_.server->system_identifier) : std::nullopt;
        std::string fault = fault_of_segment(header, name_, size(), system);
        if (fault.empty() && request_.server && request_.server->segment_size != size()) {
            fault =
                fmt::format("segments of this server have {} bytes", request_.server->segment_size);
        }
        if (!fault.empty()) throw source_wrong(request_, fault);
        facts_.system_identifier = header->system_identifier;
        facts_.segment_size = header->segment_size;
    }

    /// Begins in the segment before, where that is at hand: else a commit whose record begins there
    /// and ends here would be in neither.
    WalScanner scanner_of_segment() {
        const SegmentId segment = *parse_segment_name(name_.segment(), facts_.segment_size);
        const std::uint64_t begin = begin_of(segment, facts_.segment_size);
        const WalVisitor visitor{[this, begin](const Commit& commit) {
                                     if (commit.end <= begin) return;
                                     auto& first = facts_.first_commit_at;
                                     auto& last = facts_.last_commit_at;
                                     first = std::min(first.value_or(commit.at), commit.at);
                                     last = std::max(last.value_or(commit.at), commit.at);
                                 },
                                 nullptr};
        WalScanner scanner(visitor);
        if (!feed_segment_before(segment, scanner)) scanner = WalScanner(visitor);
        scanner.begin_segment(segment, facts_.segment_size);
        return scanner;
    }

    bool feed_segment_before(SegmentId segment, WalScanner& scanner) const {
        const auto before = previous(segment);
        if (!before) return false;
        const auto file = PlainFile::open(request_.source_directory_fd, request_.source_shown,
                                          segment_name(*before, facts_.segment_size));
        if (!file || file->size() != facts_.segment_size) return false;
        scanner.begin_segment(*before, facts_.segment_size);
        file->read_blocks(0, file->size(),
                          [&](std::string_view block) { return scanner.feed(block); });
        return !scanner.has_ended();
    }

    const ArchiveRequest& request_;
    WalName name_;
    PlainFile file_;
    ArchivedMetadata facts_;
};

class Archiving {
  public:
    explicit Archiving(const ArchiveRequest& request)
        : request_(request),
          source_(request, checked_name(request)),
          directory_(open_directory(request.archive)) {}

    ArchiveResult run() {
        for (int attempt = 0; attempt < kAttempts; ++attempt) {
            if (const auto there = look_at_present()) return *there;
            if (const auto made = write()) return *made;
        }
        throw Error(ErrorKind::kUnavailable, "archive_busy",
                    fmt::format("cannot archive {} in {}", request_.name, shown_),
                    "a file of that name keeps appearing and disappearing");
    }

  private:
    /// Nothing when there is none, or a damaged one.
    std::optional<ArchiveResult> look_at_present() {
        is_damaged_ = false;
        try {
            const auto present = ArchivedFile::open(directory_.get(), shown_, source_.name());
            if (!present) return std::nullopt;
            if (!source_.equals(*present)) throw differs();
            // Whoever wrote it may have died before he made it durable.
            make_durable(present->stored().fd());
            return ArchiveResult{ArchiveOutcome::kWasThere, present->metadata()};
        } catch (const Error& error) {
            if (error.code() != "wal_damaged") throw;
            is_damaged_ = true;
            return std::nullopt;
        }
    }

    /// Nothing when another file of that name appeared meanwhile.
    std::optional<ArchiveResult> write() {
        NewFile file(directory_.get(), shown_, archived_name(source_.name()));
        ArchivedFileWriter writer(source_.size(), [&](std::uint64_t at, std::string_view bytes) {
            file.write_at(at, bytes);
        });
        const ArchivedMetadata metadata = source_.copy_to(writer);
        if (::fsync(file.fd()) != 0) {
            throw errno_error(fmt::format("sync {} in {}", request_.name, shown_), errno);
        }
        if (!is_damaged_) {
            if (!file.publish_new()) return std::nullopt;
            make_durable(file.fd());
            return ArchiveResult{ArchiveOutcome::kArchived, metadata};
        }
        // Looked at again, as late as can be: a good one is never replaced.
        if (const auto there = look_at_present()) return there;
        file.publish_over();
        make_durable(file.fd());
        return ArchiveResult{ArchiveOutcome::kReplacedDamaged, metadata};
    }

    void make_durable(int file_fd) const {
        if (::fsync(file_fd) != 0 || ::fsync(directory_.get()) != 0) {
            throw errno_error(fmt::format("sync {} in {}", request_.name, shown_), errno);
        }
    }

    Error differs() const {
        return {ErrorKind::kConflict, "wal_differs",
                fmt::format("{} is archived already, and it is another file", request_.name),
                fmt::format("{} in {} and {} in {} are both whole and differ", request_.source_name,
                            request_.source_shown, archived_name(source_.name()), shown_),
                "two servers write to one archive, or one was restored over itself; neither file "
                "was changed"};
    }

    const ArchiveRequest& request_;
    Source source_;
    const std::string shown_ = request_.archive.native();
    UniqueFd directory_;
    bool is_damaged_ = false;
};

}  // namespace

std::optional<ServerIdentity> read_server_identity(int data_directory_fd) {
    constexpr std::size_t kSegmentSizeAt = 228;  // the same in 13 to 18
    const UniqueFd global(
        ::openat(data_directory_fd, "global", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!global) return std::nullopt;
    const auto file = PlainFile::open(global.get(), "global", "pg_control");
    if (!file) return std::nullopt;
    const std::string bytes = file->read_at(0, kSegmentSizeAt + sizeof(std::uint32_t));
    ServerIdentity server;
    if (bytes.size() == kSegmentSizeAt + sizeof server.segment_size) {
        std::memcpy(&server.system_identifier, bytes.data(), sizeof server.system_identifier);
        std::memcpy(&server.segment_size, bytes.data() + kSegmentSizeAt,
                    sizeof server.segment_size);
    }
    if (server.system_identifier == 0 || !is_segment_size(server.segment_size)) {
        throw Error(ErrorKind::kCorrupt, "not_a_data_directory",
                    "global/pg_control is that of no PostgreSQL",
                    "it says neither which cluster this is nor how large its WAL segments are");
    }
    return server;
}

ArchiveResult archive_file(const ArchiveRequest& request) {
    return Archiving(request).run();
}

}  // namespace bpg::wal
