// Names of WAL files, and the sequence that segments form. A segment's name counts in "log files"
// of 4 GiB whatever the size of a segment, so that name and position need that size: comparing
// names digit by digit misses gaps (GAP-1). Pure functions.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace bpg::wal {

/// A segment in the sequence of its timeline (GAP-1).
struct SegmentId {
    std::uint32_t timeline = 0;
    std::uint64_t number = 0;  ///< of the first byte, divided by the segment size
    auto operator<=>(const SegmentId&) const = default;
};

/// A power of two from 1 MiB to 1 GiB: what initdb --wal-segsize takes.
bool is_segment_size(std::uint64_t bytes);

/// The segment that holds the byte at `lsn`.
SegmentId segment_at(std::uint32_t timeline, std::uint64_t lsn, std::uint32_t segment_size);
/// The position of its first byte.
std::uint64_t begin_of(SegmentId segment, std::uint32_t segment_size);
SegmentId next(SegmentId segment);
/// Nothing before the first of a timeline.
std::optional<SegmentId> previous(SegmentId segment);

/// "000000010000000000000003"
std::string segment_name(SegmentId segment, std::uint32_t segment_size);
/// Nothing when the text is no name that a segment of this size can have.
std::optional<SegmentId> parse_segment_name(std::string_view text, std::uint32_t segment_size);

enum class WalKind {
    kSegment,  ///< 24 digits
    kPartial,  ///< ….partial: the last segment of a timeline that another one left
    kBackup,   ///< ….XXXXXXXX.backup: where a base backup began and ended
    kHistory,  ///< 8 digits.history: which timelines a timeline comes from
};

/// The name of a file that PostgreSQL archives.
struct WalName {
    WalKind kind = WalKind::kSegment;
    std::string text;
    std::uint32_t timeline = 0;

    /// The first 24 digits; empty for a history.
    std::string_view segment() const;
    bool holds_wal() const { return kind == WalKind::kSegment || kind == WalKind::kPartial; }
};

/// Nothing when PostgreSQL archives no file of that name (ARC-2).
std::optional<WalName> parse_wal_name(std::string_view text);

/// "00000003.history"
std::string history_name(std::uint32_t timeline);

}  // namespace bpg::wal
