#include "orchestrator/base/log.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>

#include "orchestrator/base/clock.h"

namespace bpg::log {
namespace {

std::atomic<Level> minimum{Level::kInfo};

std::string_view name_of(Level level) {
    switch (level) {
        case Level::kDebug:
            return "debug";
        case Level::kInfo:
            return "info";
        case Level::kWarning:
            return "warning";
        case Level::kError:
            return "error";
    }
    return "error";
}

// sd-daemon(3): "<N>" at the start of a line is its syslog priority.
std::string_view priority_of(Level level) {
    switch (level) {
        case Level::kDebug:
            return "<7>";
        case Level::kInfo:
            return "<6>";
        case Level::kWarning:
            return "<4>";
        case Level::kError:
            return "<3>";
    }
    return "<3>";
}

}  // namespace

void set_level(Level level) {
    minimum.store(level);
}

std::string printable(std::string_view text) {
    std::string out;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte == 0x7f) {
            out += fmt::format("\\x{:02x}", byte);
        } else {
            out += c;
        }
    }
    return out;
}

std::string escape(std::string_view text) {
    const bool quoted = text.empty() || text.find_first_of(" \"") != std::string_view::npos;
    if (!quoted) return printable(text);
    std::string out = "\"";
    for (const char c : printable(text)) {
        if (c == '"') out += '\\';
        out += c;
    }
    return out + '"';
}

void write(Level level, std::string_view message, std::initializer_list<Field> fields) {
    if (level < minimum.load()) return;
    static const bool journal = std::getenv("JOURNAL_STREAM") != nullptr;
    std::string line;
    if (journal) {
        line = priority_of(level);
    } else {
        line = fmt::format("{} {:7} ", format_time(SystemClock().now()), name_of(level));
    }
    for (const char c : message) {
        const auto byte = static_cast<unsigned char>(c);
        line += byte < 0x20 || byte == 0x7f ? fmt::format("\\x{:02x}", byte) : std::string(1, c);
    }
    for (const auto& [key, value] : fields)
        line += fmt::format(" {}={}", key, escape(value));
    line += '\n';
    // One write a line, so that lines of several threads never mix; a full pipe loses the line.
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace bpg::log
