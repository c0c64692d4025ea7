// A log sequence number, written as PostgreSQL prints it ("0/16B3748").
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace bpg::postgres {

struct Lsn {
    std::uint64_t value = 0;
    auto operator<=>(const Lsn&) const = default;
};

std::string to_string(Lsn lsn);
/// Nothing when the text is not an LSN.
std::optional<Lsn> parse_lsn(std::string_view text);

/// "000000010000000000000002": the segment that holds the byte at `lsn`. `segment_size` in bytes.
/// Computed here and never asked of the server: pg_walfile_name changed at boundaries in 17
/// (PITR-3).
std::string segment_name(std::uint32_t timeline, Lsn lsn, std::uint32_t segment_size);

}  // namespace bpg::postgres
