// The text of a cron expression into its fields; every refusal says where and what to write.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "orchestrator/base/error.h"
#include "scheduler/cron_fields.h"
#include "scheduler/stable_hash.h"

namespace bpg::scheduler {
namespace {

constexpr std::size_t kTextMax = 256;
constexpr std::size_t kShownMax = 40;
constexpr std::chrono::milliseconds kIntervalMin = std::chrono::seconds(1);
constexpr std::chrono::milliseconds kIntervalMax = std::chrono::days(3660);
/// Every month has these; H takes no other.
constexpr int kHashedDayMax = 28;

constexpr std::array<std::string_view, 12> kMonthNames{"JAN", "FEB", "MAR", "APR", "MAY", "JUN",
                                                       "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"};
constexpr std::array<std::string_view, 7> kWeekdayNames{"SUN", "MON", "TUE", "WED",
                                                        "THU", "FRI", "SAT"};
constexpr std::array<std::pair<std::string_view, std::string_view>, 7> kMacros{
    {{"@HOURLY", "0 * * * *"},
     {"@DAILY", "0 0 * * *"},
     {"@MIDNIGHT", "0 0 * * *"},
     {"@WEEKLY", "0 0 * * 0"},
     {"@MONTHLY", "0 0 1 * *"},
     {"@YEARLY", "0 0 1 1 *"},
     {"@ANNUALLY", "0 0 1 1 *"}}};

bool is_space(char c) {
    return c == ' ' || c == '\t';
}

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

std::string upper(std::string_view text) {
    std::string result(text);
    for (char& c : result) {
        if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
    }
    return result;
}

/// Fit for a message: short, and nothing in it that a terminal obeys.
std::string shown(std::string_view text) {
    std::string result(text.substr(0, kShownMax));
    for (char& c : result) {
        if (c < ' ' || c > '~') c = '?';
    }
    if (text.size() > kShownMax) result += "...";
    return "\"" + result + "\"";
}

std::optional<int> number(std::string_view text) {
    if (text.empty() || text.size() > 6 || !std::all_of(text.begin(), text.end(), is_digit))
        return std::nullopt;
    int value = 0;
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
}

/// "a minute is 0 to 59"
std::string range_sentence(CronField field) {
    const CronRange& range = kCronRanges[field];
    std::string text = fmt::format("{} {} is {} to {}", field == kHour ? "an" : "a", range.name,
                                   range.low, range.high);
    if (field == kMonth) text += ", or jan to dec";
    if (field == kWeekday) text += " (0 and 7 are Sunday), or sun to sat";
    return text;
}

/// A piece of the text and where it begins.
struct Piece {
    std::string_view text;
    std::size_t at = 0;

    Piece sub(std::size_t from, std::size_t count = std::string_view::npos) const {
        return {text.substr(from, count), at + from};
    }
};

std::vector<Piece> split(std::string_view text) {
    std::vector<Piece> pieces;
    std::size_t at = 0;
    while (at < text.size()) {
        if (is_space(text[at])) {
            ++at;
            continue;
        }
        std::size_t end = at;
        while (end < text.size() && !is_space(text[end]))
            ++end;
        pieces.push_back({text.substr(at, end - at), at});
        at = end;
    }
    return pieces;
}

/// Reads one field, item by item.
class FieldReader {
  public:
    FieldReader(CronText& out, CronField field, std::string_view original,
                std::string_view schedule_name)
        : out_(out),
          field_(field),
          range_(kCronRanges[field]),
          original_(original),
          name_(schedule_name) {}

    /// `field` in upper case; positions are the same as in the text of the user.
    void read(Piece field) {
        const bool is_open = field.text.starts_with('*');
        if (field_ == kHour) out_.fields.any_hour = field.text == "*";
        if (field_ == kDay) out_.fields.open_days = is_open;
        if (field_ == kWeekday) out_.fields.open_weekdays = is_open;
        std::size_t at = 0;
        while (true) {
            const std::size_t comma = std::min(field.text.find(',', at), field.text.size());
            const Piece item = field.sub(at, comma - at);
            if (item.text.empty())
                refuse_at(item.at, field, "a list has an empty item", "remove the comma");
            read_item(item);
            if (comma == field.text.size()) return;
            at = comma + 1;
        }
    }

  private:
    /// As the user wrote it.
    std::string_view original(Piece piece) const {
        return original_.substr(piece.at, piece.text.size());
    }

    [[noreturn]] void refuse_at(std::size_t at, Piece piece, const std::string& why,
                                const std::string& fix) const {
        throw Error(ErrorKind::kInvalid, "cron_invalid",
                    fmt::format("the {} field of the cron expression is wrong at character {}: {}",
                                range_.name, at + 1, shown(original(piece))),
                    why, fix);
    }
    [[noreturn]] void refuse(Piece piece, const std::string& why, const std::string& fix) const {
        refuse_at(piece.at, piece, why, fix);
    }

    void read_item(Piece item) {
        if (item.text.starts_with('H')) return read_hashed(item);
        if (field_ == kDay && read_special_day(item)) return;
        if (field_ == kWeekday && read_special_weekday(item)) return;
        const std::size_t slash = item.text.find('/');
        const bool has_step = slash != std::string_view::npos;
        const Piece base = item.sub(0, slash);
        int low = range_.low;
        int high = field_ == kWeekday ? 6 : range_.high;
        const std::size_t dash = base.text.find('-');
        if (dash != std::string_view::npos) {
            low = value(base.sub(0, dash), item);
            high = value(base.sub(dash + 1), item);
            if (field_ == kWeekday && high == 0 && low > 0) high = 7;  // fri-sun
            if (low > high) refuse_reversed(item, base, low, high);
        } else if (base.text != "*") {
            low = value(base, item);
            if (!has_step) high = low;
            if (field_ == kDay && !has_step) out_.longest_day = std::max(out_.longest_day, low);
            if (low > high) high = low;  // weekday 7 with a step
        }
        const int step = has_step ? step_of(item.sub(slash + 1), item, values_in_field()) : 1;
        if (has_step && base.text == "*") remember_uneven(item, step);
        add(low, high, step);
    }

    void read_hashed(Piece item) {
        int low = range_.low;
        int high = field_ == kDay ? kHashedDayMax : field_ == kWeekday ? 6 : range_.high;
        std::size_t at = 1;
        if (item.text.substr(at).starts_with('(')) {
            const std::size_t close = item.text.find(')');
            const std::size_t dash = item.text.find('-');
            if (close == std::string_view::npos || dash == std::string_view::npos || dash > close)
                refuse(item, "H takes a range in brackets", hashed_example());
            low = value(item.sub(at + 1, dash - at - 1), item);
            high = value(item.sub(dash + 1, close - dash - 1), item);
            if (low > high)
                refuse(item, fmt::format("{} is after {}", low, high), hashed_example());
            at = close + 1;
        }
        StableHash hash;
        hash.add(name_);
        hash.add(range_.name);
        if (at == item.text.size()) {
            const int span = high - low + 1;
            const int chosen = low + static_cast<int>(hash.value() % static_cast<unsigned>(span));
            return add(chosen, chosen, 1);
        }
        if (item.text[at] != '/')
            refuse(item, "H is followed by nothing, a range or a step", hashed_example());
        const int step = step_of(item.sub(at + 1), item, high - low + 1);
        add(low + static_cast<int>(hash.value() % static_cast<unsigned>(step)), high, step);
    }

    std::string hashed_example() const {
        return fmt::format("write H, H({}-{}) or H/2", range_.low, range_.low + 5);
    }

    /// L, LW, nW
    bool read_special_day(Piece item) {
        if (item.text == "L") {
            out_.fields.last_day = true;
        } else if (item.text == "LW" || item.text == "WL") {
            out_.fields.last_workday = true;
        } else if (item.text.ends_with('W')) {
            const Piece day = item.sub(0, item.text.size() - 1);
            const auto read = number(day.text);
            if (!read || *read < 1 || *read > 31)
                refuse(item, "W stands behind one day of the month, or behind L",
                       "write 15W for the weekday nearest to day 15, LW for the last weekday");
            out_.fields.nearest_workday |= 1U << static_cast<unsigned>(*read);
            out_.longest_day = std::max(out_.longest_day, *read);
        } else if (item.text.starts_with('L')) {
            refuse(item, "L is the last day of the month, and takes neither range nor step",
                   "write L, LW, or days by number");
        } else {
            return false;
        }
        return true;
    }

    /// d#n, dL
    bool read_special_weekday(Piece item) {
        const std::size_t hash = item.text.find('#');
        if (hash != std::string_view::npos) {
            const int day = value(item.sub(0, hash), item) % 7;
            const auto nth = number(item.text.substr(hash + 1));
            if (!nth || *nth < 1 || *nth > 5)
                refuse(item, "behind # stands which of them in the month, 1 to 5",
                       "write 2#1 for the first Tuesday, 5L for the last Friday");
            out_.fields.nth_weekday[static_cast<std::size_t>(day)] |=
                1U << static_cast<unsigned>(*nth);
            return true;
        }
        if (!item.text.ends_with('L')) return false;
        if (item.text == "L")
            refuse(item, "L alone is the last day of the month, in the day-of-month field",
                   "write 5L for the last Friday of the month");
        const int day = value(item.sub(0, item.text.size() - 1), item) % 7;
        out_.fields.last_weekdays |= 1U << static_cast<unsigned>(day);
        return true;
    }

    int value(Piece piece, Piece item) const {
        if (const auto read = number(piece.text)) {
            if (*read >= range_.low && *read <= range_.high) return *read;
            refuse(item, range_sentence(field_), out_of_range_fix(*read));
        }
        const auto named = [&piece](const auto& names) -> std::optional<int> {
            const auto found = std::find(names.begin(), names.end(), piece.text);
            if (found == names.end()) return std::nullopt;
            return static_cast<int>(found - names.begin());
        };
        if (field_ == kMonth) {
            if (const auto month = named(kMonthNames)) return *month + 1;
        }
        if (field_ == kWeekday) {
            if (const auto day = named(kWeekdayNames)) return *day;
        }
        if (piece.text == "?") refuse(item, "? belongs to another dialect", "write * instead");
        const bool is_day_sign =
            piece.text == "L" || piece.text == "LW" || item.text.ends_with('W');
        if (is_day_sign)
            refuse(item, "L and W belong to the day fields", "move it to the day-of-month field");
        refuse(item, range_sentence(field_), "write *, a value, a range a-b, or a step */n");
    }

    std::string out_of_range_fix(int given) const {
        if (field_ == kMinute && given == 60) return "write 0 for the full hour";
        if (field_ == kHour && given == 24) return "write 0 for midnight";
        return fmt::format("write {} to {}", range_.low, range_.high);
    }

    [[noreturn]] void refuse_reversed(Piece item, Piece base, int low, int high) const {
        const int last = field_ == kWeekday ? 6 : range_.high;
        const auto part = [](int from, int to) {
            return from == to ? fmt::format("{}", from) : fmt::format("{}-{}", from, to);
        };
        refuse(item, fmt::format("the range {} ends before it begins", shown(original(base))),
               fmt::format("write {},{}", part(low, last), part(range_.low, high)));
    }

    int values_in_field() const { return field_ == kWeekday ? 7 : range_.high - range_.low + 1; }

    int step_of(Piece piece, Piece item, int span) const {
        const auto step = number(piece.text);
        if (!step || *step < 1)
            refuse(item, "a step is a whole number, 1 or more", "write it as in */5 or 10-30/5");
        if (*step <= span) return *step;
        constexpr std::array<char, 3> kUnits{'s', 'm', 'h'};
        refuse(item,
               fmt::format("a step of {} goes beyond the {} values it steps through", *step, span),
               field_ <= kHour
                   ? fmt::format("write @every {}{} for an interval", *step, kUnits[field_])
                   : "write the value itself");
    }

    void remember_uneven(Piece item, int step) {
        if (field_ > kHour || step == 1) return;
        const int span = range_.high + 1;
        if (span % step == 0) return;
        constexpr std::array<std::string_view, 3> kWholes{"minute", "hour", "day"};
        constexpr std::array<char, 3> kUnits{'s', 'm', 'h'};
        out_.uneven_steps.push_back(fmt::format(
            "{} in the {} field begins again with every {}, so the last interval of each is {}{}; "
            "@every {}{} is even",
            item.text, range_.name, kWholes[field_], span % step, kUnits[field_], step,
            kUnits[field_]));
    }

    void add(int low, int high, int step) {
        std::uint64_t bits = 0;
        for (int v = low; v <= high; v += step)
            bits |= std::uint64_t{1} << static_cast<unsigned>(field_ == kWeekday ? v % 7 : v);
        CronFields& fields = out_.fields;
        const auto narrow = static_cast<std::uint32_t>(bits);
        switch (field_) {
            case kSecond:
                fields.seconds |= bits;
                break;
            case kMinute:
                fields.minutes |= bits;
                break;
            case kHour:
                fields.hours |= narrow;
                break;
            case kDay:
                fields.days |= narrow;
                break;
            case kMonth:
                fields.months |= narrow;
                break;
            case kWeekday:
                fields.weekdays |= narrow;
                break;
            case kFieldCount:
                break;
        }
    }

    CronText& out_;
    CronField field_;
    const CronRange& range_;
    std::string_view original_;
    std::string_view name_;
};

[[noreturn]] void refuse(const std::string& message, const std::string& why,
                         const std::string& fix) {
    throw Error(ErrorKind::kInvalid, "cron_invalid", message, why, fix);
}

std::chrono::microseconds read_interval(std::string_view original, const Piece& duration) {
    const auto read = parse_duration(duration.text);
    const std::string message =
        fmt::format("the interval of the cron expression is wrong at character {}: {}",
                    duration.at + 1, shown(original));
    if (!read) refuse(message, "an interval is a duration", "write it as in @every 15m or 1h30m");
    if (*read < kIntervalMin || *read > kIntervalMax)
        refuse(message, "an interval is 1s to 3660d", "write for example @every 15m");
    return *read;
}

CronText read_macro(std::string_view text, const std::vector<Piece>& pieces,
                    std::string_view schedule_name) {
    const std::string_view macro = pieces[0].text;
    if (macro == "@EVERY") {
        if (pieces.size() != 2)
            refuse(fmt::format("the interval of the cron expression is wrong at character {}: {}",
                               pieces.size() < 2 ? text.size() + 1 : pieces[2].at + 1, shown(text)),
                   "behind @every stands one duration", "write it as in @every 15m or 1h30m");
        // Durations are written in lower case; the text of the user has it as it was.
        const Piece duration{text.substr(pieces[1].at, pieces[1].text.size()), pieces[1].at};
        CronText out;
        out.interval = read_interval(duration.text, duration);
        return out;
    }
    for (const auto& [name, meaning] : kMacros) {
        if (name != macro) continue;
        if (pieces.size() == 1) return read_cron(meaning, schedule_name);
        refuse(fmt::format("the cron expression is wrong at character {}: {}", pieces[1].at + 1,
                           shown(text)),
               "nothing stands behind " + std::string(text.substr(pieces[0].at, name.size())),
               "remove what is behind it");
    }
    refuse(fmt::format("the cron expression is wrong at character {}: {}", pieces[0].at + 1,
                       shown(text.substr(pieces[0].at, macro.size()))),
           macro == "@REBOOT" ? "schedules follow the clock, not starts of the machine"
                              : "there is no such abbreviation",
           "write @hourly, @daily, @weekly, @monthly, @yearly or @every 15m");
}

[[noreturn]] void refuse_count(std::string_view text, const std::vector<Piece>& pieces) {
    const bool is_zone = !pieces.empty() && (pieces[0].text.starts_with("CRON_TZ=") ||
                                             pieces[0].text.starts_with("TZ="));
    if (is_zone)
        refuse("the cron expression is wrong at character 1: " + shown(text),
               "the zone is not part of the expression", "give it as --tz Europe/Berlin");
    const std::size_t at = pieces.size() > 6 ? pieces[6].at : text.size();
    refuse(fmt::format("the cron expression is wrong at character {}: {}", at + 1, shown(text)),
           fmt::format("it has {} fields, five or six are needed{}", pieces.size(),
                       pieces.size() == 7 ? " (there is none for years)" : ""),
           "write minute hour day-of-month month day-of-week, with seconds before them or without: "
           "30 2 * * *");
}

}  // namespace

CronText read_cron(std::string_view text, std::string_view schedule_name) {
    if (text.size() > kTextMax)
        refuse(fmt::format("the cron expression is wrong at character {}: {}", kTextMax + 1,
                           shown(text)),
               fmt::format("it has {} characters, {} are the most", text.size(), kTextMax),
               "write several schedules");
    const std::string folded = upper(text);
    const std::vector<Piece> pieces = split(folded);
    if (!pieces.empty() && pieces[0].text.starts_with('@'))
        return read_macro(text, pieces, schedule_name);
    if (!pieces.empty() &&
        (pieces[0].text.starts_with("CRON_TZ=") || pieces[0].text.starts_with("TZ=")))
        refuse("the cron expression is wrong at character 1: " + shown(text),
               "the zone is not part of the expression", "give it as --tz Europe/Berlin");
    if (pieces.size() != 5 && pieces.size() != 6) refuse_count(text, pieces);
    CronText out;
    const std::size_t skipped = pieces.size() == 5 ? 1 : 0;
    if (skipped == 1) out.fields.seconds = 1;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        FieldReader(out, static_cast<CronField>(i + skipped), text, schedule_name).read(pieces[i]);
    }
    return out;
}

}  // namespace bpg::scheduler
