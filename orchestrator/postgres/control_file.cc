// The parser of global/pg_control. Offsets are those of struct ControlFileData on a 64-bit machine;
// the fields up to the checksum have not moved between 13 and 18, only the checksum itself has.
#include "orchestrator/postgres/control_file.h"

#include <fmt/format.h>

#include <cstring>
#include <optional>

#include "orchestrator/base/crc32c.h"
#include "orchestrator/base/error.h"

namespace bpg::postgres {

namespace {

constexpr std::size_t kFileSize = 8192;  // PG_CONTROL_FILE_SIZE; all but the first 300 bytes are 0

namespace offset {
constexpr std::size_t kSystemIdentifier = 0;
constexpr std::size_t kVersion = 8;
constexpr std::size_t kState = 16;
constexpr std::size_t kCheckpoint = 32;
constexpr std::size_t kRedo = 40;
constexpr std::size_t kTimeline = 48;
constexpr std::size_t kWalLevel = 172;
constexpr std::size_t kMaxPreparedTransactions = 192;
constexpr std::size_t kSegmentSize = 228;
}  // namespace offset

constexpr std::uint32_t kStateShutDown = 1;  // DB_SHUTDOWNED; "shut down in recovery" is another
constexpr std::uint32_t kWalLevelMinimal = 0;
/// Looks like a place in WAL (PostgreSQL checks its offset in the page), but is none.
constexpr std::uint64_t kNoCheckpoint = 0xDEAD;

template <class T>
T field(std::string_view content, std::size_t at) {
    T value{};
    std::memcpy(&value, content.data() + at, sizeof value);
    return value;
}

std::optional<std::size_t> crc_offset(std::uint32_t version) {
    switch (version) {
        case 1300:  // 13, 14, 15, 16
        case 1700:
            return 288;
        case 1800:  // default_char_signedness moved it
            return 292;
        default:
            return std::nullopt;
    }
}

std::size_t checked_crc_offset(std::string_view content) {
    if (content.size() != kFileSize) {
        throw Error(ErrorKind::kCorrupt, "control_file_torn", "pg_control is not whole",
                    fmt::format("{} bytes instead of {}", content.size(), kFileSize));
    }
    const auto version = field<std::uint32_t>(content, offset::kVersion);
    const auto at = crc_offset(version);
    if (!at) {
        throw Error(ErrorKind::kInvalid, "control_file_unknown",
                    "this data directory is of no PostgreSQL known here",
                    fmt::format("pg_control has version {}", version),
                    "PostgreSQL 13 to 18 are supported");
    }
    if (field<std::uint32_t>(content, *at) != crc32c(content.substr(0, *at))) {
        throw Error(ErrorKind::kCorrupt, "control_file_torn", "pg_control is not whole",
                    "its checksum does not match its content");
    }
    return *at;
}

}  // namespace

ControlFile parse_control_file(std::string_view content) {
    checked_crc_offset(content);
    ControlFile control;
    control.system_identifier =
        std::to_string(field<std::uint64_t>(content, offset::kSystemIdentifier));
    control.version = field<std::uint32_t>(content, offset::kVersion);
    control.cleanly_shut_down = field<std::uint32_t>(content, offset::kState) == kStateShutDown;
    control.checkpoint = Lsn{field<std::uint64_t>(content, offset::kCheckpoint)};
    control.redo = Lsn{field<std::uint64_t>(content, offset::kRedo)};
    control.timeline = field<std::uint32_t>(content, offset::kTimeline);
    control.segment_size = field<std::uint32_t>(content, offset::kSegmentSize);
    control.wal_level_minimal =
        field<std::uint32_t>(content, offset::kWalLevel) == kWalLevelMinimal;
    control.max_prepared_transactions =
        field<std::uint32_t>(content, offset::kMaxPreparedTransactions);
    return control;
}

std::string without_checkpoint(std::string_view content) {
    const std::size_t crc_at = checked_crc_offset(content);
    std::string changed(content);
    std::memcpy(changed.data() + offset::kCheckpoint, &kNoCheckpoint, sizeof kNoCheckpoint);
    const std::uint32_t crc = crc32c(std::string_view(changed).substr(0, crc_at));
    std::memcpy(changed.data() + crc_at, &crc, sizeof crc);
    return changed;
}

bool control_file_is_whole(const std::string& content) {
    if (content.size() != kFileSize) return false;
    const auto at = crc_offset(field<std::uint32_t>(content, offset::kVersion));
    return at &&
           field<std::uint32_t>(content, *at) == crc32c(std::string_view(content).substr(0, *at));
}

}  // namespace bpg::postgres
