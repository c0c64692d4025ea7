// The daemon's log: one line a fact on stderr, "<time> <level> <message> key=value …", with the
// sd-daemon priority prefix instead of the time when journald reads it. Control characters are
// escaped, so nothing logged can forge a line or drive a terminal. Thread-safe.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace bpg::log {

enum class Level { kDebug, kInfo, kWarning, kError };

using Field = std::pair<std::string_view, std::string>;

/// Lines below it are dropped; kInfo at start.
void set_level(Level level);

void write(Level level, std::string_view message, std::initializer_list<Field> fields = {});

inline void debug(std::string_view message, std::initializer_list<Field> fields = {}) {
    write(Level::kDebug, message, fields);
}
inline void info(std::string_view message, std::initializer_list<Field> fields = {}) {
    write(Level::kInfo, message, fields);
}
inline void warning(std::string_view message, std::initializer_list<Field> fields = {}) {
    write(Level::kWarning, message, fields);
}
inline void error(std::string_view message, std::initializer_list<Field> fields = {}) {
    write(Level::kError, message, fields);
}

/// Control characters as \xNN, other text as it is: for what a user wrote, in what users read.
std::string printable(std::string_view text);
/// The same, and quoted when it holds a space or a quotation mark.
std::string escape(std::string_view text);

}  // namespace bpg::log
