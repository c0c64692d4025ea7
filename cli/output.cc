#include "cli/output.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "orchestrator/http/wire.h"

namespace bpg::cli {
namespace {

constexpr std::string_view kEllipsis = "…";
constexpr std::size_t kGap = 2;
constexpr std::size_t kNarrowest = 6;

bool begins_character(char c) {
    return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U;
}

/// Columns on a terminal: characters, not bytes. Names here are narrow; labels may be off by a few.
std::size_t display_width(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), begins_character));
}

std::string cut(const std::string& text, std::size_t width) {
    if (display_width(text) <= width) return text;
    std::string out;
    std::size_t taken = 0;
    for (const char c : text) {
        if (begins_character(c) && ++taken == width) break;
        out += c;
    }
    return out + std::string(kEllipsis);
}

std::optional<std::size_t> terminal_width() {
    if (const char* columns = std::getenv("COLUMNS")) {
        std::size_t value = 0;
        const std::string_view text = columns;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error == std::errc{} && end == text.data() + text.size() && value > 0) return value;
    }
    winsize size{};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
    return std::nullopt;
}

std::string rtrim(std::string text) {
    text.erase(text.find_last_not_of(' ') + 1);
    return text;
}

/// "  why:  first line" and the other lines of it below the first.
std::string part(std::string_view label, std::string_view text) {
    std::string out = fmt::format("  {:<6}", label);
    const std::string indent(out.size(), ' ');
    std::size_t begin = 0;
    while (true) {
        const auto end = text.find('\n', begin);
        out += one_line(text.substr(begin, end - begin)) + "\n";
        if (end == std::string_view::npos || end + 1 >= text.size()) return out;
        out += indent;
        begin = end + 1;
    }
}

}  // namespace

Terminal Terminal::detect(bool no_colour) {
    Terminal terminal;
    terminal.in_is_tty = isatty(STDIN_FILENO) == 1;
    terminal.out_is_tty = isatty(STDOUT_FILENO) == 1;
    terminal.err_is_tty = isatty(STDERR_FILENO) == 1;
    const char* asked_off = std::getenv("NO_COLOR");
    const char* kind = std::getenv("TERM");
    const bool colour = !no_colour && (asked_off == nullptr || *asked_off == '\0') &&
                        kind != nullptr && std::string_view(kind) != "dumb";
    terminal.out_colour = colour && terminal.out_is_tty;
    terminal.err_colour = colour && terminal.err_is_tty;
    if (terminal.out_is_tty) terminal.width = terminal_width();
    return terminal;
}

std::string styled(std::string_view text, Style style, bool colour) {
    if (!colour || style == Style::kPlain || text.empty()) return std::string(text);
    constexpr std::array<std::string_view, 5> kCodes{"0", "32", "33", "31", "2"};
    return fmt::format("\x1b[{}m{}\x1b[0m", kCodes[static_cast<std::size_t>(style)], text);
}

Style style_of_state(std::string_view state) {
    if (state == "running" || state == "succeeded") return Style::kGood;
    if (state == "failed" || state == "stuck") return Style::kBad;
    if (state == "degraded" || state == "retrying" || state == "undoing") return Style::kWarning;
    if (state == "stopped" || state == "cancelled") return Style::kFaint;
    return Style::kPlain;
}

std::string one_line(std::string_view text) {
    std::string out(text);
    for (std::size_t i = 0; i < out.size(); ++i) {
        const auto byte = static_cast<unsigned char>(out[i]);
        if (byte < 0x20 || byte == 0x7f) out[i] = ' ';
        // U+0080 to U+009F are control characters too, two bytes long in UTF-8.
        if (byte == 0xc2 && i + 1 < out.size() && static_cast<unsigned char>(out[i + 1]) < 0xa0) {
            out.replace(i, 2, " ");
        }
    }
    return out;
}

std::vector<std::size_t> Table::widths(std::optional<std::size_t> width) const {
    std::vector<std::size_t> result;
    for (const Column& column : columns_)
        result.push_back(display_width(column.title));
    for (const auto& row : rows_) {
        for (std::size_t i = 0; i < row.size() && i < result.size(); ++i) {
            result[i] = std::max(result[i], display_width(one_line(row[i].text)));
        }
    }
    if (!width) return result;
    std::size_t total = kGap * (columns_.size() - 1);
    for (const std::size_t one : result)
        total += one;
    while (total > *width) {
        std::optional<std::size_t> widest;
        for (std::size_t i = 0; i < columns_.size(); ++i) {
            if (!columns_[i].shrinks || result[i] <= kNarrowest) continue;
            if (!widest || result[i] > result[*widest]) widest = i;
        }
        if (!widest) break;
        --result[*widest];
        --total;
    }
    return result;
}

std::string Table::render(std::optional<std::size_t> width, bool colour) const {
    const std::vector<std::size_t> column_widths = widths(width);
    const auto cell = [&](std::size_t i, const std::string& raw, Style style) {
        const std::string text = cut(raw, column_widths[i]);
        const std::string padding(
            column_widths[i] - std::min(column_widths[i], display_width(text)), ' ');
        const std::string shown = styled(text, style, colour);
        return columns_[i].align == Align::kRight ? padding + shown : shown + padding;
    };
    std::string line;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
        if (i > 0) line += std::string(kGap, ' ');
        line += cell(i, columns_[i].title, Style::kPlain);
    }
    std::string out = rtrim(line) + "\n";
    for (const auto& row : rows_) {
        line.clear();
        for (std::size_t i = 0; i < row.size() && i < columns_.size(); ++i) {
            if (i > 0) line += std::string(kGap, ' ');
            line += cell(i, one_line(row[i].text), row[i].style);
        }
        out += rtrim(line) + "\n";
    }
    return out;
}

std::string render_fields(const std::vector<std::pair<std::string, std::string>>& fields) {
    std::size_t widest = 0;
    for (const auto& [name, value] : fields) {
        if (!value.empty()) widest = std::max(widest, name.size());
    }
    std::string out;
    for (const auto& [name, value] : fields) {
        if (!value.empty())
            out += fmt::format("{:<{}}  {}\n", name + ":", widest + 1, one_line(value));
    }
    return out;
}

std::string human_size(std::uint64_t bytes) {
    if (bytes < 1024) return fmt::format("{} B", bytes);
    constexpr std::array<std::string_view, 6> kUnits{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = static_cast<double>(bytes) / 1024;
    std::size_t unit = 0;
    // 1023.96 would print as 1024.0: go on to the next unit as soon as rounding reaches it.
    while (value >= 1023.95 && unit + 1 < kUnits.size()) {
        value /= 1024;
        ++unit;
    }
    const std::string number = fmt::format("{:.1f}", value);
    const bool whole = number.ends_with(".0");
    return fmt::format("{} {}", whole ? number.substr(0, number.size() - 2) : number, kUnits[unit]);
}

std::string size_of(const nlohmann::json& value) {
    if (!value.is_number_integer() || value.get<std::int64_t>() < 0) return "-";
    return human_size(value.get<std::uint64_t>());
}

std::string human_age(std::chrono::microseconds age) {
    using namespace std::chrono;
    const auto total = std::max<std::int64_t>(0, duration_cast<seconds>(age).count());
    if (total < 60) return fmt::format("{}s", total);
    if (total < 3600) return fmt::format("{}m", total / 60);
    if (total < 48 * 3600) return fmt::format("{}h", total / 3600);
    return fmt::format("{}d", total / 86400);
}

std::string age_of(const nlohmann::json& value, WallTime now) {
    if (!value.is_string()) return "-";
    const auto time = parse_time(value.get<std::string>());
    if (!time) return "-";
    // A clock of the server a little ahead is not a time to come.
    if (*time > now + std::chrono::seconds(2)) return "in " + human_age(*time - now);
    return human_age(now - *time);
}

std::string human_duration(std::chrono::milliseconds duration) {
    const auto ms = std::max<std::int64_t>(0, duration.count());
    if (ms < 1000) return fmt::format("{} ms", ms);
    if (ms < 59'995) return fmt::format("{:.2f} s", static_cast<double>(ms) / 1000);
    const auto seconds = (ms + 500) / 1000;
    return fmt::format("{}m{:02}s", seconds / 60, seconds % 60);
}

std::string render_error(const ErrorInfo& info, bool colour) {
    std::string out = styled("error:", Style::kBad, colour) + " " + one_line(info.message) + "\n";
    if (!info.detail.empty()) out += part("why:", info.detail);
    if (!info.hint.empty()) out += part("fix:", info.hint);
    return out + part("code:", info.code);
}

std::string render_error_json(const ErrorInfo& info, std::string_view job_id) {
    nlohmann::json object = http::problem(info);
    if (!job_id.empty()) object["job"] = job_id;
    return object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string render_json(const nlohmann::json& value) {
    return value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

const nlohmann::json& member(const nlohmann::json& object, std::string_view name) {
    static const nlohmann::json kNull;
    if (!object.is_object()) return kNull;
    const auto found = object.find(std::string(name));
    return found == object.end() ? kNull : *found;
}

std::string text_of(const nlohmann::json& object, std::string_view name) {
    const nlohmann::json& value = member(object, name);
    return value.is_string() ? value.get<std::string>() : std::string();
}

std::string scalar_of(const nlohmann::json& object, std::string_view name) {
    const nlohmann::json& value = member(object, name);
    if (value.is_string()) return value.get<std::string>();
    if (value.is_number() || value.is_boolean()) return value.dump();
    return {};
}

void print_out(std::string_view text) {
    const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
    if (!written || std::fflush(stdout) != 0) throw errno_error("write to standard output", errno);
}

void print_err(std::string_view text) {
    // Nothing can be said about a stderr that takes nothing, and the exit code still speaks.
    (void)std::fwrite(text.data(), 1, text.size(), stderr);
    (void)std::fflush(stderr);
}

}  // namespace bpg::cli
