#include "orchestrator/wal/lineage.h"

#include <algorithm>
#include <charconv>
#include <string>

namespace bpg::wal {
namespace {

constexpr std::string_view kBlank = " \t\r";

/// Takes the next word off the front.
std::string_view take_word(std::string_view& line) {
    line.remove_prefix(std::min(line.find_first_not_of(kBlank), line.size()));
    const std::string_view word = line.substr(0, line.find_first_of(kBlank));
    line.remove_prefix(word.size());
    return word;
}

template <class T>
std::optional<T> parse_number(std::string_view text, int base) {
    T value{};
    const auto [end, failure] =
        std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (text.empty() || failure != std::errc() || end != text.data() + text.size()) {
        return std::nullopt;
    }
    return value;
}

std::optional<TimelineSwitch> parse_line(std::string_view line) {
    const auto timeline = parse_number<std::uint32_t>(take_word(line), 10);
    const std::string_view position = take_word(line);
    const auto slash = position.find('/');
    if (!timeline || slash == std::string_view::npos) return std::nullopt;
    const auto high = parse_number<std::uint32_t>(position.substr(0, slash), 16);
    const auto low = parse_number<std::uint32_t>(position.substr(slash + 1), 16);
    if (!high || !low) return std::nullopt;
    return TimelineSwitch{*timeline, (std::uint64_t{*high} << 32U) | *low};
}

}  // namespace

std::optional<std::vector<TimelineSwitch>> parse_history(std::string_view content) {
    std::vector<TimelineSwitch> switches;
    while (!content.empty()) {
        const std::string_view line = content.substr(0, content.find('\n'));
        content.remove_prefix(std::min(line.size() + 1, content.size()));
        const auto begin = line.find_first_not_of(kBlank);
        if (begin == std::string_view::npos || line[begin] == '#') continue;
        const auto parsed = parse_line(line);
        const bool is_in_order =
            parsed && (switches.empty() || (parsed->timeline > switches.back().timeline &&
                                            parsed->lsn >= switches.back().lsn));
        if (!is_in_order) return std::nullopt;
        switches.push_back(*parsed);
    }
    return switches;
}

std::uint32_t timeline_of_segment(const std::vector<TimelineSwitch>& switches, std::uint32_t last,
                                  std::uint64_t number, std::uint32_t segment_size) {
    // The segment in which a switch lies begins with the older timeline's WAL and is the newer's.
    for (const TimelineSwitch& left : switches) {
        if (number < left.lsn / segment_size) return left.timeline;
    }
    return last;
}

}  // namespace bpg::wal
