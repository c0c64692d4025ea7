// Which timeline a segment belongs to, of those that a recovery follows. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "orchestrator/wal/segment_name.h"

namespace bpg::wal {

/// A line of a history file: the timeline that was left, and where.
struct TimelineSwitch {
    std::uint32_t timeline = 0;
    std::uint64_t lsn = 0;
    bool operator==(const TimelineSwitch&) const = default;
};

/// The lines of a history file, oldest first; nothing when it is none.
std::optional<std::vector<TimelineSwitch>> parse_history(std::string_view content);

/// The timeline of a lineage whose WAL has this segment: the newest that had begun by its end.
/// `switches` are the lines of the history of `last`, the newest timeline.
std::uint32_t timeline_of_segment(const std::vector<TimelineSwitch>& switches, std::uint32_t last,
                                  std::uint64_t number, std::uint32_t segment_size);

}  // namespace bpg::wal
