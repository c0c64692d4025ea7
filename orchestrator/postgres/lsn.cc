// Log sequence numbers and the names of the WAL segments that hold them.
#include "orchestrator/postgres/lsn.h"

#include <fmt/format.h>

#include <charconv>

namespace bpg::postgres {

namespace {

std::optional<std::uint32_t> parse_half(std::string_view text) {
    if (text.empty() || text.size() > 8) return std::nullopt;
    std::uint32_t value = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
    if (failure != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
}

}  // namespace

std::string to_string(Lsn lsn) {
    return fmt::format("{:X}/{:X}", lsn.value >> 32, lsn.value & 0xFFFF'FFFFU);
}

std::optional<Lsn> parse_lsn(std::string_view text) {
    const auto slash = text.find('/');
    if (slash == std::string_view::npos) return std::nullopt;
    const auto high = parse_half(text.substr(0, slash));
    const auto low = parse_half(text.substr(slash + 1));
    if (!high || !low) return std::nullopt;
    return Lsn{(std::uint64_t{*high} << 32) | *low};
}

std::string segment_name(std::uint32_t timeline, Lsn lsn, std::uint32_t segment_size) {
    const std::uint64_t segment = lsn.value / segment_size;
    // The name counts in "log files" of 4 GiB, whatever the size of a segment.
    const std::uint64_t per_log_file = 0x1'0000'0000ULL / segment_size;
    return fmt::format("{:08X}{:08X}{:08X}", timeline, segment / per_log_file,
                       segment % per_log_file);
}

}  // namespace bpg::postgres
