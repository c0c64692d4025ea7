#include "orchestrator/wal/segment_name.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>

namespace bpg::wal {
namespace {

constexpr std::uint64_t kLogFile = 1ULL << 32U;
constexpr std::size_t kPart = 8;
constexpr std::size_t kSegmentDigits = 3 * kPart;

/// Lower-case digits are not what PostgreSQL writes, so they are refused.
bool is_hex(std::string_view text) {
    return std::all_of(text.begin(), text.end(),
                       [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'); });
}

std::optional<std::uint32_t> parse_part(std::string_view text) {
    if (text.size() != kPart || !is_hex(text)) return std::nullopt;
    std::uint32_t value = 0;
    std::from_chars(text.data(), text.data() + text.size(), value, 16);
    return value;
}

std::optional<WalKind> kind_of_segment_suffix(std::string_view suffix) {
    if (suffix.empty()) return WalKind::kSegment;
    if (suffix == ".partial") return WalKind::kPartial;
    const bool is_backup = suffix.starts_with('.') && suffix.ends_with(".backup") &&
                           parse_part(suffix.substr(1, std::min(kPart, suffix.size() - 1))) &&
                           suffix.size() == std::string_view(".00000028.backup").size();
    if (is_backup) return WalKind::kBackup;
    return std::nullopt;
}

}  // namespace

bool is_segment_size(std::uint64_t bytes) {
    return std::has_single_bit(bytes) && bytes >= (1U << 20U) && bytes <= (1U << 30U);
}

SegmentId segment_at(std::uint32_t timeline, std::uint64_t lsn, std::uint32_t segment_size) {
    return {timeline, lsn / segment_size};
}

std::uint64_t begin_of(SegmentId segment, std::uint32_t segment_size) {
    return segment.number * segment_size;
}

SegmentId next(SegmentId segment) {
    return {segment.timeline, segment.number + 1};
}

std::optional<SegmentId> previous(SegmentId segment) {
    if (segment.number == 0) return std::nullopt;
    return SegmentId{segment.timeline, segment.number - 1};
}

std::string segment_name(SegmentId segment, std::uint32_t segment_size) {
    const std::uint64_t per_log_file = kLogFile / segment_size;
    return fmt::format("{:08X}{:08X}{:08X}", segment.timeline, segment.number / per_log_file,
                       segment.number % per_log_file);
}

std::optional<SegmentId> parse_segment_name(std::string_view text, std::uint32_t segment_size) {
    if (text.size() != kSegmentDigits) return std::nullopt;
    const auto timeline = parse_part(text.substr(0, kPart));
    const auto log = parse_part(text.substr(kPart, kPart));
    const auto within = parse_part(text.substr(2 * kPart, kPart));
    if (!timeline || !log || !within || *timeline == 0) return std::nullopt;
    const std::uint64_t per_log_file = kLogFile / segment_size;
    if (*within >= per_log_file) return std::nullopt;
    return SegmentId{*timeline, *log * per_log_file + *within};
}

std::string_view WalName::segment() const {
    return kind == WalKind::kHistory ? std::string_view()
                                     : std::string_view(text).substr(0, kSegmentDigits);
}

std::optional<WalName> parse_wal_name(std::string_view text) {
    const auto timeline = parse_part(text.substr(0, std::min(kPart, text.size())));
    if (!timeline || *timeline == 0) return std::nullopt;
    const std::string_view behind = text.substr(kPart);
    if (behind == ".history") return WalName{WalKind::kHistory, std::string(text), *timeline};
    if (text.size() < kSegmentDigits || !is_hex(text.substr(0, kSegmentDigits))) {
        return std::nullopt;
    }
    const auto kind = kind_of_segment_suffix(text.substr(kSegmentDigits));
    if (!kind) return std::nullopt;
    return WalName{*kind, std::string(text), *timeline};
}

std::string history_name(std::uint32_t timeline) {
    return fmt::format("{:08X}.history", timeline);
}

}  // namespace bpg::wal
