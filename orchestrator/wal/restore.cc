#include "orchestrator/wal/restore.h"

#include <fmt/format.h>

#include <algorithm>

#include "orchestrator/base/error.h"
#include "orchestrator/wal/lineage.h"
#include "orchestrator/wal/new_file.h"
#include "orchestrator/wal/wal_reader.h"

namespace bpg::wal {
namespace {

constexpr std::size_t kHistoryMax = 16U << 20U;
/// The last digits of a segment's name, which order the segments of all timelines alike.
constexpr std::size_t kTimelineDigits = 8;

Error bounds_invalid(const RestoreRequest& request, std::string why) {
    return {ErrorKind::kInvalid, "wal_bounds_invalid",
            fmt::format("cannot tell whether {} is needed", request.name), std::move(why)};
}

std::string_view number_digits(std::string_view segment) {
    return segment.substr(std::min(kTimelineDigits, segment.size()));
}

/// The archive, and the one that is looked at before it.
class Places {
  public:
    explicit Places(const RestoreRequest& request) {
        if (!request.spool.empty()) add(request.spool, /*may_be_missing=*/true);
        add(request.archive, /*may_be_missing=*/false);
    }

    std::optional<ArchivedFile> open(const WalName& name) const {
        for (const Place& place : places_) {
            auto file = ArchivedFile::open(place.directory.get(), place.shown, name);
            if (file) return file;
        }
        return std::nullopt;
    }
    std::string in_words() const {
        std::string text;
        for (const Place& place : places_)
            text += (text.empty() ? "" : " nor in ") + place.shown;
        return text;
    }

  private:
    struct Place {
        UniqueFd directory;
        std::string shown;
    };
    void add(const std::filesystem::path& path, bool may_be_missing) {
        if (may_be_missing && !std::filesystem::exists(path)) return;
        places_.push_back({open_directory(path), path.native()});
    }
    std::vector<Place> places_;
};

class Restoring {
  public:
    explicit Restoring(const RestoreRequest& request)
        : request_(request), bounds_(request.bounds), name_(checked_name()), places_(request) {}

    RestoreOutcome run() const {
        if (name_.kind == WalKind::kSegment && (is_behind_end() || !is_on_lineage())) {
            return RestoreOutcome::kEndOfArchive;
        }
        const auto file = places_.open(name_);
        if (file) {
            deliver(*file);
            return RestoreOutcome::kDelivered;
        }
        if (name_.kind == WalKind::kSegment && is_needed()) throw missing("wal_missing");
        if (name_.text == bounds_.history) throw missing("wal_history_missing");
        return RestoreOutcome::kEndOfArchive;
    }

  private:
    WalName checked_name() const {
        const auto name = parse_wal_name(request_.name);
        if (name) return *name;
        throw Error(ErrorKind::kInvalid, "wal_name_invalid",
                    fmt::format("{} is not the name of a WAL file", request_.name),
                    "restore_command gives %f and %p, in this order");
    }

    /// Whether this segment is the one of its number in the lineage.
    bool is_on_lineage() const {
        const auto& timelines = bounds_.timelines;
        if (timelines.empty()) return true;
        if (std::find(timelines.begin(), timelines.end(), name_.timeline) == timelines.end()) {
            return false;
        }
        if (timelines.size() == 1) return true;
        const std::uint32_t size = segment_size();
        const auto segment = parse_segment_name(name_.text, size);
        if (!segment) throw bounds_invalid(request_, "segments of this server have other names");
        return timeline_of_segment(switches_to(timelines.back()), timelines.back(), segment->number,
                                   size) == name_.timeline;
    }

    std::uint32_t segment_size() const {
        if (request_.server) return request_.server->segment_size;
        throw bounds_invalid(request_,
                             "how large segments are is in global/pg_control, and there is none "
                             "in the current directory");
    }

    std::vector<TimelineSwitch> switches_to(std::uint32_t timeline) const {
        const auto file = places_.open(*parse_wal_name(history_name(timeline)));
        if (!file) {
            throw bounds_invalid(request_, fmt::format("{} says where timelines switched, and it "
                                                       "is not in {}",
                                                       history_name(timeline), places_.in_words()));
        }
        const auto switches = parse_history(file->content(kHistoryMax));
        if (switches) return *switches;
        throw wal_damaged(history_name(timeline), places_.in_words(), "it is no history");
    }

    // By digits: the bounds are of the same server, so their numbers are of the same kind.

    /// A source that was down may have been started since, and go on archiving: a recovery to the
    /// end of the WAL must end where the WAL ended.
    bool is_behind_end() const {
        return !bounds_.until.empty() && number_digits(name_.text) > number_digits(bounds_.until);
    }
    bool is_needed() const {
        if (bounds_.from.empty() && bounds_.until.empty()) return false;
        return number_digits(name_.text) >= number_digits(bounds_.from);
    }

    Error missing(std::string code) const {
        const std::string range = fmt::format("recovery needs the WAL from {} to {}",
                                              bounds_.from.empty() ? "its beginning" : bounds_.from,
                                              bounds_.until.empty() ? "its end" : bounds_.until);
        return {
            ErrorKind::kNotFound, std::move(code),
            fmt::format("WAL file {} is missing", name_.text),
            fmt::format("it is not in {}, and {}", places_.in_words(),
                        name_.kind == WalKind::kSegment ? range : "recovery follows its timeline")};
    }

    void deliver(const ArchivedFile& file) const {
        const auto parent = request_.destination.parent_path();
        const std::filesystem::path place = parent.empty() ? "." : parent;
        const UniqueFd directory = open_directory(place);
        NewFile made(directory.get(), place.native(), request_.destination.filename().native());
        std::uint64_t at = 0;
        file.read([&](std::string_view piece) {
            if (at == 0) check_beginning(piece);
            made.write_at(at, piece);
            at += piece.size();
        });
        // Not synced: PostgreSQL itself does that before it relies on it.
        if (!made.publish_new()) made.publish_over();
    }

    /// What PostgreSQL would take for the end of WAL when it finds it, and go on as if all were
    /// well.
    void check_beginning(std::string_view piece) const {
        if (!name_.holds_wal()) return;
        const auto header = parse_segment_header(piece);
        const std::uint64_t size = request_.server ? request_.server->segment_size
                                   : header        ? header->segment_size
                                                   : 0;
        const std::string fault = fault_of_segment(header, name_, size, std::nullopt);
        if (!fault.empty()) throw wal_damaged(name_.text, places_.in_words(), fault);
        if (!request_.server) return;
        if (header->system_identifier == request_.server->system_identifier) return;
        throw Error(
            ErrorKind::kCorrupt, "wal_foreign",
            fmt::format("WAL file {} in {} is of another cluster", name_.text, places_.in_words()),
            fmt::format("its system identifier is {}, and this server's is {}",
                        header->system_identifier, request_.server->system_identifier));
    }

    const RestoreRequest& request_;
    const RestoreBounds& bounds_;
    const WalName name_;
    const Places places_;
};

}  // namespace

RestoreOutcome restore_file(const RestoreRequest& request) {
    for (const std::string* bound : {&request.bounds.from, &request.bounds.until}) {
        const auto name = parse_wal_name(*bound);
        if (bound->empty() || (name && name->kind == WalKind::kSegment)) continue;
        throw bounds_invalid(request, fmt::format("{} is not the name of a segment", *bound));
    }
    return Restoring(request).run();
}

}  // namespace bpg::wal
