#include "orchestrator/wal/wal_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "orchestrator/wal/plain_file.h"

namespace bpg::wal {
namespace {

// XLogPageHeaderData and XLogLongPageHeaderData; the long one begins every segment.
constexpr std::size_t kShortHeader = 24;
constexpr std::uint16_t kIsContinued = 0x0001;  // the page begins inside a record
constexpr std::uint16_t kHasLongHeader = 0x0002;
constexpr std::uint16_t kIsOverwritten = 0x0008;  // …of which the rest was lost in a crash
constexpr std::uint16_t kKnownFlags = 0x000F;
constexpr std::uint32_t kPageMin = 1U << 10U;
constexpr std::uint32_t kPageMax = 64U << 10U;

// XLogRecord
constexpr std::size_t kRecordHeader = 24;
constexpr std::size_t kRecordCrcAt = 20;
constexpr std::uint32_t kRecordMax = 0x3FFF'FFFF;  // MaxAllocSize
constexpr std::size_t kAlignment = 8;
constexpr std::uint8_t kKindMask = 0xF0;

constexpr std::uint8_t kRmXlog = 0;
constexpr std::uint8_t kXlogSwitch = 0x40;
constexpr std::uint8_t kXlogRestorePoint = 0x70;
constexpr std::uint8_t kRmXact = 1;
constexpr std::uint8_t kXactKindMask = 0x70;
constexpr std::uint8_t kXactCommit = 0x00;
constexpr std::uint8_t kXactCommitPrepared = 0x30;
constexpr std::size_t kRestorePointNameMax = 64;

// What may precede the main data of a record that refers to no blocks.
constexpr unsigned char kShortData = 255;
constexpr unsigned char kLongData = 254;
constexpr unsigned char kOrigin = 253;
constexpr unsigned char kTopLevelXid = 252;

static_assert(PlainFile::kBlock % kPageMax == 0, "whole pages are not copied");

struct Version {
    std::uint16_t magic;
    int major;
};
constexpr std::array<Version, 6> kVersions{
    {{0xD106, 13}, {0xD10D, 14}, {0xD110, 15}, {0xD113, 16}, {0xD116, 17}, {0xD118, 18}}};

template <class T>
T get(std::string_view bytes, std::size_t at) {
    T value{};
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
}

std::uint64_t aligned(std::uint64_t position) {
    return (position + kAlignment - 1) / kAlignment * kAlignment;
}

WallTime time_of(std::int64_t postgres_time) {
    // PostgreSQL counts from 2000-01-01 UTC.
    constexpr std::chrono::seconds kEpoch{946'684'800};
    return WallTime(std::chrono::microseconds(postgres_time) + kEpoch);
}

/// The main data of a record without blocks, as far as `head` has it.
std::string_view main_data(std::string_view head) {
    std::size_t at = kRecordHeader;
    while (at < head.size()) {
        switch (static_cast<unsigned char>(head[at])) {
            case kShortData:
                return head.substr(std::min(at + 2, head.size()));
            case kLongData:
                return head.substr(std::min(at + 5, head.size()));
            case kOrigin:
                at += 3;
                break;
            case kTopLevelXid:
                at += 5;
                break;
            default:
                return {};
        }
    }
    return {};
}

}  // namespace

std::optional<SegmentHeader> parse_segment_header(std::string_view bytes) {
    if (bytes.size() < SegmentHeader::kSize) return std::nullopt;
    SegmentHeader header;
    header.magic = get<std::uint16_t>(bytes, 0);
    const auto version =
        std::find_if(kVersions.begin(), kVersions.end(),
                     [&](const Version& known) { return known.magic == header.magic; });
    const auto flags = get<std::uint16_t>(bytes, 2);
    if (version == kVersions.end() || (flags & kHasLongHeader) == 0) return std::nullopt;
    header.version_major = version->major;
    header.timeline = get<std::uint32_t>(bytes, 4);
    header.begin = get<std::uint64_t>(bytes, 8);
    header.system_identifier = get<std::uint64_t>(bytes, 24);
    header.segment_size = get<std::uint32_t>(bytes, 32);
    header.page_size = get<std::uint32_t>(bytes, 36);
    const bool is_sound = is_segment_size(header.segment_size) &&
                          std::has_single_bit(header.page_size) && header.page_size >= kPageMin &&
                          header.page_size <= kPageMax;
    if (!is_sound) return std::nullopt;
    return header;
}

std::string fault_of_segment(const std::optional<SegmentHeader>& header, const WalName& name,
                             std::uint64_t file_size,
                             std::optional<std::uint64_t> system_identifier) {
    if (!header) return "it does not begin as WAL of PostgreSQL 13 to 18 does";
    if (file_size != header->segment_size) {
        return fmt::format("it has {} bytes instead of {}", file_size, header->segment_size);
    }
    const auto segment = parse_segment_name(name.segment(), header->segment_size);
    if (!segment || begin_of(*segment, header->segment_size) != header->begin) {
        return fmt::format(
            "it holds segment {}",
            segment_name(segment_at(header->timeline, header->begin, header->segment_size),
                         header->segment_size));
    }
    // A timeline's first segment begins with pages of the one that it left.
    if (header->timeline == 0 || header->timeline > name.timeline) {
        return fmt::format("it is of timeline {}", header->timeline);
    }
    if (system_identifier && *system_identifier != header->system_identifier) {
        return fmt::format("it is of the cluster {}, and this one is {}", header->system_identifier,
                           *system_identifier);
    }
    return {};
}

void WalScanner::begin_segment(SegmentId segment, std::uint32_t segment_size) {
    const std::uint64_t begin = wal::begin_of(segment, segment_size);
    if (segment_size_ == 0) {
        facts_.end = begin;
    } else if (segment_size != segment_size_ || begin != at_ || !rest_.empty()) {
        has_ended_ = true;
    }
    segment_ = segment;
    segment_size_ = segment_size;
    at_ = begin;
}

bool WalScanner::feed(std::string_view bytes) {
    while (!has_ended_ && !rest_.empty() && !bytes.empty()) {
        // Until the header has come, the size of a page is not known.
        const std::size_t wanted = page_size_ == 0 ? SegmentHeader::kSize : page_size_;
        const std::string_view piece =
            bytes.substr(0, wanted > rest_.size() ? wanted - rest_.size() : 0);
        rest_ += piece;
        bytes.remove_prefix(piece.size());
        const std::string joined = std::exchange(rest_, {});
        std::string_view pages = joined;
        has_ended_ = !take_whole_pages(pages);
        rest_ = pages;
    }
    if (!has_ended_ && rest_.empty()) {
        has_ended_ = !take_whole_pages(bytes);
        rest_ = bytes;
    }
    return !has_ended_;
}

/// Leaves what is less than a page; false when WAL ends.
bool WalScanner::take_whole_pages(std::string_view& bytes) {
    while (true) {
        const bool begins_segment = at_ == wal::begin_of(segment_, segment_size_);
        if (begins_segment && bytes.size() >= SegmentHeader::kSize &&
            !learn_from_first_page(bytes)) {
            return false;
        }
        if (bytes.empty() || page_size_ == 0 || bytes.size() < page_size_) return true;
        if (!take_page(bytes.substr(0, page_size_))) return false;
        at_ += page_size_;
        bytes.remove_prefix(page_size_);
    }
}

std::uint64_t WalScanner::end_in_segment() const {
    return has_ended_ ? std::max(facts_.end, wal::begin_of(segment_, segment_size_)) : at_;
}

/// What the first segment says of itself holds for all of a run.
bool WalScanner::learn_from_first_page(std::string_view page) {
    const auto header = parse_segment_header(page);
    if (!header || header->segment_size != segment_size_) return false;
    if (page_size_ == 0) {
        page_size_ = header->page_size;
        magic_ = header->magic;
        system_identifier_ = header->system_identifier;
    }
    return header->page_size == page_size_ && header->system_identifier == system_identifier_;
}

bool WalScanner::take_page(std::string_view page) {
    if (at_ < skip_until_) return true;
    if (!accept_header(page)) return false;
    is_first_page_ = false;
    const auto flags = get<std::uint16_t>(page, 2);
    std::size_t at = (flags & kHasLongHeader) != 0 ? SegmentHeader::kSize : kShortHeader;
    if (passing_ > 0) at = pass_over(page, at);
    while (at < page.size() && at_ + at >= skip_until_) {
        if (!take_record_piece(page, at)) return false;
    }
    return true;
}

bool WalScanner::accept_header(std::string_view page) {
    const auto flags = get<std::uint16_t>(page, 2);
    const auto timeline = get<std::uint32_t>(page, 4);
    const bool begins_segment = at_ == wal::begin_of(segment_, segment_size_);
    const bool is_right = get<std::uint16_t>(page, 0) == magic_ && (flags & ~kKnownFlags) == 0 &&
                          ((flags & kHasLongHeader) != 0) == begins_segment &&
                          get<std::uint64_t>(page, 8) == at_ && timeline >= page_timeline_ &&
                          timeline != 0 && timeline <= segment_.timeline;
    if (!is_right) return false;
    page_timeline_ = timeline;
    return accept_continuation(flags, get<std::uint32_t>(page, 16));
}

/// Whether the page begins with as much of an unfinished record as is missing of it.
bool WalScanner::accept_continuation(std::uint16_t flags, std::uint32_t rest) {
    if ((flags & kIsOverwritten) != 0) {
        // A crash took the rest of a record; the server wrote over it from here on.
        record_.reset();
        passing_ = 0;
        return true;
    }
    const std::uint32_t open = record_ ? record_->size - record_->taken : passing_;
    const bool is_continued = (flags & kIsContinued) != 0;
    if (is_first_page_ && is_continued) {
        passing_ = rest;
        return rest > 0;
    }
    return is_continued ? open > 0 && rest == open : open == 0;
}

std::size_t WalScanner::pass_over(std::string_view page, std::size_t at) {
    const auto piece = std::min<std::size_t>(passing_, page.size() - at);
    passing_ -= static_cast<std::uint32_t>(piece);
    if (passing_ > 0) return page.size();
    at = aligned(at + piece);
    facts_.end = at_ + at;
    return at;
}

bool WalScanner::take_record_piece(std::string_view page, std::size_t& at) {
    if (!record_) {
        // Records begin aligned, so that a page has the whole size or no byte of a record.
        const auto size = get<std::uint32_t>(page, at);
        if (size < kRecordHeader || size > kRecordMax) return false;
        record_.emplace();
        record_->begin = at_ + at;
        record_->size = size;
    }
    const auto length = std::min<std::size_t>(record_->size - record_->taken, page.size() - at);
    const std::string_view piece = page.substr(at, length);
    const bool had_header = record_->taken >= kRecordHeader;
    const std::size_t header_left = had_header ? 0 : kRecordHeader - record_->taken;
    record_->head += piece.substr(0, kHeadMax - std::min(kHeadMax, record_->head.size()));
    record_->crc.add(piece.substr(std::min(header_left, length)));
    record_->taken += static_cast<std::uint32_t>(length);
    at += length;
    // Looked at as soon as it is there: a false size must not run through the rest of the WAL.
    if (!had_header && record_->taken >= kRecordHeader && !is_linked()) return false;
    if (record_->taken < record_->size) return true;
    at = aligned(at);
    return finish_record(at_ + at);
}

bool WalScanner::is_linked() const {
    const auto before = get<std::uint64_t>(record_->head, 8);
    return previous_ ? before == *previous_ : before < record_->begin;
}

bool WalScanner::finish_record(std::uint64_t end) {
    record_->crc.add(std::string_view(record_->head).substr(0, kRecordCrcAt));
    if (record_->crc.value() != get<std::uint32_t>(record_->head, kRecordCrcAt)) return false;
    const auto info = static_cast<std::uint8_t>(record_->head[16]);
    const auto manager = static_cast<std::uint8_t>(record_->head[17]);
    if (manager == kRmXlog && (info & kKindMask) == kXlogSwitch) {
        end = aligned(end) % segment_size_ == 0 ? end : (end / segment_size_ + 1) * segment_size_;
        skip_until_ = end;
    }
    if (!facts_.first_record) facts_.first_record = record_->begin;
    facts_.end = end;
    ++facts_.records;
    previous_ = record_->begin;
    look_at_record();
    record_.reset();
    return true;
}

void WalScanner::look_at_record() {
    const std::string_view head = record_->head;
    const auto info = static_cast<std::uint8_t>(head[16]);
    const auto manager = static_cast<std::uint8_t>(head[17]);
    const auto kind = static_cast<std::uint8_t>(info & kXactKindMask);
    if (manager == kRmXact && (kind == kXactCommit || kind == kXactCommitPrepared)) {
        found_commit(main_data(head));
    } else if (manager == kRmXlog && (info & kKindMask) == kXlogRestorePoint) {
        found_restore_point(main_data(head));
    }
}

void WalScanner::found_commit(std::string_view data) {
    if (data.size() < sizeof(std::int64_t)) return;
    const WallTime at = time_of(get<std::int64_t>(data, 0));
    facts_.first_commit = std::min(facts_.first_commit.value_or(at), at);
    facts_.last_commit = std::max(facts_.last_commit.value_or(at), at);
    ++facts_.commits;
    if (visitor_.on_commit) {
        visitor_.on_commit({record_->begin, facts_.end, get<std::uint32_t>(record_->head, 4), at});
    }
}

void WalScanner::found_restore_point(std::string_view data) {
    if (data.size() < sizeof(std::int64_t) || !visitor_.on_restore_point) return;
    const std::string_view name = data.substr(sizeof(std::int64_t), kRestorePointNameMax);
    visitor_.on_restore_point({facts_.end, time_of(get<std::int64_t>(data, 0)),
                               std::string(name.substr(0, name.find('\0')))});
}

namespace {

/// Feeds one file; false when WAL ends in or before it.
bool scan_file(int directory_fd, const std::string& shown, const std::string& name,
               std::uint32_t segment_size, WalScanner& scanner) {
    const auto file = PlainFile::open(directory_fd, shown, name);
    if (!file || file->size() != segment_size) return false;
    std::uint64_t taken = 0;
    file->read_blocks(0, segment_size, [&](std::string_view block) {
        taken += block.size();
        return scanner.feed(block);
    });
    return taken == segment_size && !scanner.has_ended();
}

}  // namespace

WalFacts scan_segments(int directory_fd, const std::string& shown, SegmentId first,
                       std::uint32_t segment_size, const WalVisitor& visitor) {
    WalScanner scanner(visitor);
    SegmentId segment = first;
    do {
        scanner.begin_segment(segment, segment_size);
        segment = next(segment);
    } while (scan_file(directory_fd, shown, segment_name(*previous(segment), segment_size),
                       segment_size, scanner));
    return scanner.facts();
}

}  // namespace bpg::wal
