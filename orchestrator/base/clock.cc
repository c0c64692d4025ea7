#include "orchestrator/base/clock.h"

#include <absl/time/time.h>
#include <fmt/format.h>

#include <array>
#include <charconv>
#include <limits>
#include <utility>

namespace bpg {
namespace {

constexpr std::array<std::pair<std::string_view, std::int64_t>, 6> kDurationUnits{{
    {"ms", 1},
    {"s", 1000},
    {"m", 60'000},
    {"h", 3'600'000},
    {"d", 86'400'000},
    {"w", 604'800'000},
}};

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/// Takes the leading run of digits off `text`.
std::optional<std::uint64_t> take_number(std::string_view& text) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{}) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return value;
}

}  // namespace

WallTime SystemClock::now() const {
    return std::chrono::time_point_cast<std::chrono::microseconds>(
        std::chrono::system_clock::now());
}

std::string format_time(WallTime time) {
    return absl::FormatTime("%E4Y-%m-%dT%H:%M:%E6SZ",
                            absl::FromUnixMicros(time.time_since_epoch().count()),
                            absl::UTCTimeZone());
}

double seconds_of(WallTime time) {
    return std::chrono::duration<double>(time.time_since_epoch()).count();
}

std::optional<WallTime> parse_time(std::string_view text) {
    absl::Time time;
    if (!absl::ParseTime(absl::RFC3339_full, std::string(text), &time, nullptr)) {
        return std::nullopt;
    }
    return WallTime(std::chrono::microseconds(absl::ToUnixMicros(time)));
}

std::optional<std::chrono::milliseconds> parse_duration(std::string_view text) {
    if (text.empty()) return std::nullopt;
    std::int64_t total = 0;
    while (!text.empty()) {
        const auto count = take_number(text);
        if (!count) return std::nullopt;
        std::size_t letters = 0;
        while (letters < text.size() && !is_digit(text[letters]))
            ++letters;
        const std::string_view unit = text.substr(0, letters);
        text.remove_prefix(letters);
        std::int64_t scale = 0;
        for (const auto& [name, milliseconds] : kDurationUnits) {
            if (name == unit) scale = milliseconds;
        }
        if (scale == 0) return std::nullopt;
        const auto room =
            static_cast<std::uint64_t>((std::numeric_limits<std::int64_t>::max() - total) / scale);
        if (*count > room) return std::nullopt;
        total += static_cast<std::int64_t>(*count) * scale;
    }
    return std::chrono::milliseconds(total);
}

std::string format_duration(std::chrono::milliseconds duration) {
    std::int64_t rest = duration.count();
    if (rest <= 0) return "0s";
    std::string text;
    for (auto unit = kDurationUnits.rbegin(); unit != kDurationUnits.rend(); ++unit) {
        const std::int64_t count = rest / unit->second;
        rest %= unit->second;
        if (count > 0) text += fmt::format("{}{}", count, unit->first);
    }
    return text;
}

std::optional<std::uint64_t> parse_size(std::string_view text) {
    const auto count = take_number(text);
    if (!count) return std::nullopt;
    if (text.ends_with("iB")) {
        text.remove_suffix(2);
        if (text.empty()) return std::nullopt;
    } else if (text.ends_with("B")) {
        text.remove_suffix(1);
    }
    constexpr std::string_view kUnits = "KMGTP";
    int shift = 0;
    if (text.size() == 1) {
        const char letter = text[0] == 'k' ? 'K' : text[0];
        const auto position = kUnits.find(letter);
        if (position == std::string_view::npos) return std::nullopt;
        shift = 10 * (static_cast<int>(position) + 1);
    } else if (!text.empty()) {
        return std::nullopt;
    }
    if (*count > (std::numeric_limits<std::uint64_t>::max() >> shift)) return std::nullopt;
    return *count << shift;
}

}  // namespace bpg
