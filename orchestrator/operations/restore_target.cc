#include "orchestrator/operations/restore_target.h"

#include <absl/time/time.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "orchestrator/base/error.h"
#include "orchestrator/base/log.h"
#include "orchestrator/postgres/lsn.h"

namespace bpg::operations {
namespace {

constexpr std::size_t kNameMax = 63;  // MAXFNAMELEN - 1, as pg_create_restore_point allows

constexpr std::array<std::pair<std::string_view, std::string_view>, 18> kUnits{{
    {"second", "s"},
    {"seconds", "s"},
    {"sec", "s"},
    {"secs", "s"},
    {"minute", "m"},
    {"minutes", "m"},
    {"min", "m"},
    {"mins", "m"},
    {"hour", "h"},
    {"hours", "h"},
    {"day", "d"},
    {"days", "d"},
    {"week", "w"},
    {"weeks", "w"},
    {"s", "s"},
    {"m", "m"},
    {"h", "h"},
    {"d", "d"},
}};

constexpr std::string_view kSpellings =
    "for example 2025-10-07T14:30:00Z, 2025-10-07T16:30:00+02:00, \"2 hours ago\" or 90m";

std::string trimmed(std::string_view text) {
    const auto begin = text.find_first_not_of(" \t");
    if (begin == std::string_view::npos) return "";
    return std::string(text.substr(begin, text.find_last_not_of(" \t") - begin + 1));
}

/// "2 hours" → "2h"; anything else stays as it is.
std::string with_short_unit(const std::string& text) {
    const auto blank = text.find(' ');
    if (blank == std::string::npos) return text;
    const std::string unit = trimmed(std::string_view(text).substr(blank));
    for (const auto& [word, letter] : kUnits) {
        if (word == unit) return text.substr(0, blank) + std::string(letter);
    }
    return text;
}

std::optional<std::chrono::milliseconds> parse_age(const std::string& text) {
    constexpr std::string_view kAgo = " ago";
    std::string age = text;
    if (age.ends_with(kAgo)) age = trimmed(age.substr(0, age.size() - kAgo.size()));
    return parse_duration(with_short_unit(age));
}

/// ISO 8601 lets a blank stand for the T, and minutes be the last that is given.
std::string as_rfc3339(std::string text) {
    if (text.size() > 10 && (text[10] == ' ' || text[10] == 't')) text[10] = 'T';
    if (!text.empty() && text.back() == 'z') text.back() = 'Z';
    const auto zone = text.find_first_of("Z+-", std::min<std::size_t>(text.size(), 11));
    const std::string civil = text.substr(0, zone);
    std::string offset = zone == std::string::npos ? "" : text.substr(zone);
    if (offset.size() == 3 && offset != "Z") offset += ":00";  // +02
    if (offset.size() == 5) offset.insert(3, ":");             // +0200
    return civil + (civil.size() == 16 ? ":00" : "") + offset;
}

bool looks_like_a_date(const std::string& text) {
    const auto is_digit = [&text](std::size_t at) { return text[at] >= '0' && text[at] <= '9'; };
    return text.size() >= 10 && is_digit(0) && is_digit(3) && text[4] == '-' && text[7] == '-';
}

/// The text shall be a date with a time and no zone: read it in UTC and where this server is.
std::string spellings_meant(const std::string& text) {
    const std::string civil = as_rfc3339(text);
    absl::Time time;
    std::string local = civil + "+02:00";
    if (absl::ParseTime("%Y-%m-%dT%H:%M:%E*S", civil, absl::LocalTimeZone(), &time, nullptr)) {
        const auto offset = absl::LocalTimeZone().At(time).offset;
        if (offset != 0)
            local = absl::FormatTime("%Y-%m-%dT%H:%M:%E*S%Ez", time, absl::LocalTimeZone());
    }
    return fmt::format("{}Z (UTC) or {}", civil, local);
}

}  // namespace

std::string RestoreTarget::value() const {
    if (!time) return text;
    std::string written = format_time(*time);  // 2026-11-23T09:22:03.123456Z
    written[10] = ' ';
    written.pop_back();
    return written + "+00";
}

std::string RestoreTarget::shown() const {
    if (time) return format_time(*time);
    return kind == "name" ? "restore point \"" + text + "\"" : text;
}

RestoreTarget parse_target(const TargetTexts& texts, WallTime now) {
    if (texts.time.has_value() + texts.lsn.has_value() + texts.name.has_value() > 1) {
        throw Error(ErrorKind::kInvalid, "target_not_alone", "there is more than one target",
                    "a time, an LSN and a restore point are three ways to say one point",
                    "give one of --pitr, --at-lsn and --at-restore-point");
    }
    if (texts.time) return {"time", parse_past_time(*texts.time, now), ""};
    if (texts.lsn) return parse_lsn_target(*texts.lsn);
    if (texts.name) return parse_name_target(*texts.name);
    return {};
}

WallTime parse_past_time(const std::string& given, WallTime now) {
    const std::string text = trimmed(given);
    const std::string shown = log::printable(text.substr(0, 100));
    std::optional<WallTime> time;
    if (looks_like_a_date(text)) {
        const std::string civil = as_rfc3339(text);
        time = parse_time(civil);
        const bool has_zone = civil.find_first_of("Z+-", 11) != std::string::npos;
        if (!time && !has_zone && parse_time(civil + "Z")) {
            throw Error(ErrorKind::kInvalid, "time_without_zone",
                        "\"" + shown + "\" does not say in which zone",
                        "the same clock time is another instant in every zone",
                        "write " + spellings_meant(text));
        }
    } else if (const auto age = parse_age(text)) {
        time = now - *age;
    }
    if (!time) {
        throw Error(ErrorKind::kInvalid, "time_unparsable", "\"" + shown + "\" is no time",
                    "it is neither ISO 8601 nor how long ago", std::string(kSpellings));
    }
    if (*time > now) {
        throw Error(ErrorKind::kInvalid, "time_in_future", "\"" + shown + "\" is in the future",
                    "it is " + format_time(*time) + ", and now is " + format_time(now),
                    "give a time that has passed, " + std::string(kSpellings));
    }
    return *time;
}

RestoreTarget parse_lsn_target(const std::string& text) {
    const auto lsn = postgres::parse_lsn(text);
    if (!lsn || lsn->value == 0) {
        throw Error(ErrorKind::kInvalid, "lsn_invalid",
                    "\"" + log::printable(text.substr(0, 100)) + "\" is no LSN",
                    "an LSN is two hexadecimal numbers with a slash between them",
                    "for example 0/3000060, as pg_current_wal_lsn() prints it");
    }
    return {"lsn", std::nullopt, postgres::to_string(*lsn)};
}

RestoreTarget parse_name_target(const std::string& text) {
    const bool has_control = std::any_of(text.begin(), text.end(), [](char c) {
        return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    });
    if (text.empty() || text.size() > kNameMax || has_control) {
        throw Error(ErrorKind::kInvalid, "restore_point_invalid",
                    "\"" + log::printable(text.substr(0, 100)) + "\" is no name of a restore point",
                    fmt::format("it has 1 to {} bytes and no control characters", kNameMax),
                    "give the name that pg_create_restore_point() was given");
    }
    return {"name", std::nullopt, text};
}

}  // namespace bpg::operations
