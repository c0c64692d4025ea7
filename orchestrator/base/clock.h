// Time. Wall-clock points are microseconds since the epoch in UTC; they are shown and stored as
// RFC 3339 text with microseconds. Durations that decide anything use the steady clock.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace bpg {

using WallTime = std::chrono::sys_time<std::chrono::microseconds>;

/// The source of wall-clock time, so that tests own it. Thread-safe.
class Clock {
  public:
    virtual ~Clock() = default;
    virtual WallTime now() const = 0;
};

class SystemClock final : public Clock {
  public:
    WallTime now() const override;
};

/// "2026-11-23T09:22:03.123456Z"
std::string format_time(WallTime time);
/// Since the epoch, as Prometheus writes times.
double seconds_of(WallTime time);
/// Reads RFC 3339 with any fraction and zone; nothing when the text is not that.
std::optional<WallTime> parse_time(std::string_view text);

/// `<int><ms|s|m|h|d|w>`, joined ("1h30m"); nothing when the text is not that or overflows.
std::optional<std::chrono::milliseconds> parse_duration(std::string_view text);
/// "1h30m", the shortest spelling that parse_duration reads back; "0s" for zero.
std::string format_duration(std::chrono::milliseconds duration);

/// `10G`, `512MiB`, `4096`: binary units; nothing when the text is not that or overflows.
std::optional<std::uint64_t> parse_size(std::string_view text);

}  // namespace bpg
