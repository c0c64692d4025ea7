// What the command line prints: tables that fit the terminal, sizes and ages for people, errors in
// four parts. Everything here returns text; only print_* write. stdout is data, stderr is the rest.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "orchestrator/base/clock.h"
#include "orchestrator/base/error.h"

namespace bpg::cli {

enum class OutputFormat { kTable, kJson, kName };

/// What the two output streams are and may carry.
struct Terminal {
    bool out_is_tty = false;
    bool err_is_tty = false;
    bool in_is_tty = false;
    bool out_colour = false;
    bool err_colour = false;
    std::optional<std::size_t> width;  ///< columns of stdout; nothing when it is no terminal

    /// Looks at the three descriptors, NO_COLOR, TERM and COLUMNS.
    static Terminal detect(bool no_colour);
};

enum class Style { kPlain, kGood, kWarning, kBad, kFaint };

/// Wraps in ANSI escapes when `colour` is set.
std::string styled(std::string_view text, Style style, bool colour);
Style style_of_state(std::string_view state);

/// Control characters become spaces: nothing from a server may drive a terminal.
std::string one_line(std::string_view text);

class Table {
  public:
    enum class Align { kLeft, kRight };
    struct Column {
        std::string title;
        Align align = Align::kLeft;
        bool shrinks = false;  ///< may be cut with … where the terminal is too narrow
    };
    struct Cell {
        Cell(std::string cell_text, Style cell_style = Style::kPlain)  // NOLINT: reads like text
            : text(std::move(cell_text)), style(cell_style) {}
        std::string text;
        Style style;
    };

    explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
    void add(std::vector<Cell> row) { rows_.push_back(std::move(row)); }

    /// One line a row below the titles; no trailing spaces. Cut to `width` columns where given.
    std::string render(std::optional<std::size_t> width, bool colour) const;

  private:
    std::vector<std::size_t> widths(std::optional<std::size_t> width) const;

    std::vector<Column> columns_;
    std::vector<std::vector<Cell>> rows_;
};

/// "name:  value" lines with the values under each other; pairs with an empty value are left out.
std::string render_fields(const std::vector<std::pair<std::string, std::string>>& fields);

/// "812 B", "1.5 MiB", "10 GiB"
std::string human_size(std::uint64_t bytes);
/// The size in a JSON value; "-" where it was not measured (null).
std::string size_of(const nlohmann::json& value);
/// "12s", "5m", "7h", "12d"; never negative.
std::string human_age(std::chrono::microseconds age);
/// How long ago an RFC 3339 JSON value is; "in 6d" for one to come; "-" for null.
std::string age_of(const nlohmann::json& value, WallTime now);
/// "31 ms", "1.24 s", "2m05s"
std::string human_duration(std::chrono::milliseconds duration);

/// error: / why: / fix: / code: lines, each line of a longer text indented below its first.
std::string render_error(const ErrorInfo& info, bool colour);
/// One line: the RFC 9457 object, with `job` where one goes on or failed.
std::string render_error_json(const ErrorInfo& info, std::string_view job_id);

/// JSON as the CLI prints it: indented, with a final line feed; invalid UTF-8 replaced.
std::string render_json(const nlohmann::json& value);

/// Text member of an object; empty when absent, null or of another type.
std::string text_of(const nlohmann::json& object, std::string_view name);
/// Any scalar member as text: numbers and booleans too; empty when absent or null.
std::string scalar_of(const nlohmann::json& object, std::string_view name);
/// A member of an object; null when there is no such member.
const nlohmann::json& member(const nlohmann::json& object, std::string_view name);

/// Writes all of it and flushes; throws when stdout cannot take it (a full disk below a redirect).
void print_out(std::string_view text);
void print_err(std::string_view text);

}  // namespace bpg::cli
