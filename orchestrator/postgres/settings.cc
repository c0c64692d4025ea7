// The settings that bpgd owns, and the files that carry the others.
#include "orchestrator/postgres/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "orchestrator/base/error.h"

namespace bpg::postgres {

namespace {

constexpr std::size_t kValueMax = 4096;
constexpr std::size_t kSocketPathMax = 107;  // sun_path without its final NUL
constexpr std::size_t kClusterNameMax =
    63;  // NAMEDATALEN - 1; PostgreSQL would cut it with a notice

/// Whole names. What stands here is given on the command line at every start, or decides with those
/// where an instance listens, archives, recovers and logs.
constexpr std::array<std::string_view, 22> kOwned = {"cluster_name",
                                                     "config_file",
                                                     "data_directory",
                                                     "external_pid_file",
                                                     "hba_file",
                                                     "hot_standby",
                                                     "ident_file",
                                                     "listen_addresses",
                                                     "log_destination",
                                                     "log_directory",
                                                     "logging_collector",
                                                     "port",
                                                     "primary_conninfo",
                                                     "primary_slot_name",
                                                     "promote_trigger_file",
                                                     "recovery_end_command",
                                                     "restore_command",
                                                     "ssl",
                                                     "stats_temp_directory",
                                                     "synchronous_standby_names",
                                                     "sync_replication_slots",
                                                     "synchronized_standby_slots"};

constexpr std::array<std::string_view, 6> kOwnedPrefixes = {
    "archive_", "bpg.", "recovery_target", "ssl_", "unix_socket_", "bonjour"};

bool in_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '$' || c == '.' || static_cast<unsigned char>(c) >= 0x80;
}

std::string lower(std::string_view text) {
    std::string out(text);
    std::transform(out.begin(), out.end(), out.begin(), [](char c) {
        return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    });
    return out;
}

bool is_control(char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
}

/// [a-z_][a-z0-9_$]*, two of them joined by a dot for a setting of an extension.
bool is_setting_name(std::string_view name) {
    bool at_start = true;
    int dots = 0;
    for (const char c : name) {
        const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        const bool digit = (c >= '0' && c <= '9') || c == '$';
        if (c == '.' && !at_start) {
            at_start = true;
            ++dots;
            continue;
        }
        if (!letter && (at_start || !digit)) return false;
        at_start = false;
    }
    return !name.empty() && !at_start && dots <= 1 && name.size() <= 127;
}

/// unix_socket_directories is a comma-separated list; double quotes make any path one element.
std::string list_element(const std::string& path) {
    if (path.find_first_of(", \t\"") == std::string::npos) return path;
    std::string quoted = "\"";
    for (const char c : path) {
        if (c == '"') quoted += '"';
        quoted += c;
    }
    return quoted + '"';
}

/// cluster_name takes printable ASCII only and shows in process titles.
std::string cluster_name_value(const std::string& name) {
    std::string value;
    for (const char c : name)
        value += (c >= 0x20 && c < 0x7F) ? c : '?';
    return value.substr(0, kClusterNameMax);
}

}  // namespace

std::string quote_setting(std::string_view value) {
    std::string quoted = "'";
    for (const char c : value) {
        // PostgreSQL reads backslash escapes inside the quotes, too.
        if (c == '\'' || c == '\\') quoted += c;
        quoted += c;
    }
    return quoted + '\'';
}

bool is_owned_setting(const std::string& name) {
    const std::string folded = lower(name);
    if (std::find(kOwned.begin(), kOwned.end(), folded) != kOwned.end()) return true;
    return std::any_of(kOwnedPrefixes.begin(), kOwnedPrefixes.end(),
                       [&](std::string_view prefix) { return folded.starts_with(prefix); });
}

void check_setting(const std::string& name, const std::string& value) {
    const auto refuse = [&](std::string detail) {
        throw Error(ErrorKind::kInvalid, "setting_invalid",
                    fmt::format("'{}' cannot be set", name.substr(0, 128)), std::move(detail),
                    "correct postgres.config in the configuration file");
    };
    const std::string folded = lower(name);
    if (!is_setting_name(name)) refuse("this is not the name of a setting");
    if (folded == "include" || folded == "include_dir" || folded == "include_if_exists") {
        refuse("this is a directive of a configuration file, not a setting");
    }
    if (is_owned_setting(name)) {
        throw Error(ErrorKind::kInvalid, "setting_owned", fmt::format("'{}' cannot be set", name),
                    "bpgd decides it for every instance",
                    fmt::format("remove {} from postgres.config", name));
    }
    if (value.size() > kValueMax)
        refuse(fmt::format("its value is longer than {} bytes", kValueMax));
    if (std::any_of(value.begin(), value.end(), is_control)) {
        refuse("its value holds a control character");
    }
}

std::optional<std::string> setting_on_line(std::string_view line) {
    const auto begin = line.find_first_not_of(" \t\r\v\f");
    if (begin == std::string_view::npos) return std::nullopt;
    std::size_t end = begin;
    while (end < line.size() && in_word(line[end]))
        ++end;
    if (end == begin) return std::nullopt;
    return lower(line.substr(begin, end - begin));
}

std::optional<std::string> setting_in(std::string_view file, std::string_view name) {
    std::optional<std::string> found;
    while (!file.empty()) {
        const std::string_view line = file.substr(0, file.find('\n'));
        file.remove_prefix(std::min(line.size() + 1, file.size()));
        if (setting_on_line(line) != name) continue;
        std::string_view value = line.substr(line.find_first_not_of(" \t") + name.size());
        value.remove_prefix(std::min(value.find_first_not_of(" \t="), value.size()));
        const bool is_quoted = value.starts_with('\'');
        if (is_quoted) value.remove_prefix(1);
        found = lower(value.substr(0, value.find_first_of(is_quoted ? "'" : " \t#\r")));
    }
    return found;
}

std::string without_inherited_settings(std::string_view auto_conf) {
    std::string kept;
    kept.reserve(auto_conf.size());
    while (!auto_conf.empty()) {
        const auto newline = auto_conf.find('\n');
        const std::size_t length =
            newline == std::string_view::npos ? auto_conf.size() : newline + 1;
        const std::string_view line = auto_conf.substr(0, length);
        const auto name = setting_on_line(line);
        if (!name || !is_owned_setting(*name)) kept += line;
        auto_conf.remove_prefix(length);
    }
    return kept;
}

std::string postgresql_conf(const std::filesystem::path& data,
                            const std::map<std::string, std::string>& settings, int version_major) {
    std::string text =
        "# Written by bpgd before every start; changes here are lost. Later lines win, and\n"
        "# ALTER SYSTEM wins over all of them, but not over the command line.\n"
        "\n"
        "# Fitting for many small instances on copy-on-write storage, where writing over an old "
        "WAL\n"
        "# segment is no cheaper than making a new one.\n"
        "wal_init_zero = off\n"
        "wal_recycle = off\n"
        "huge_pages = off\n"
        "log_line_prefix = '%m [%p] '\n"
        "log_checkpoints = on\n";
    // One syncfs instead of one fsync a file: 20 times faster for a large data directory.
    if (version_major >= 14) text += "recovery_init_sync_method = syncfs\n";
    text += "\ninclude_if_exists " + quote_setting((data / "postgresql.conf").native()) + "\n";
    if (!settings.empty()) text += "\n# postgres.config of bpgd\n";
    for (const auto& [name, value] : settings) {
        check_setting(name, value);
        text += name + " = " + quote_setting(value) + "\n";
    }
    return text;
}

std::string pg_hba_conf(bool open, Clients clients) {
    // The role is named, so that the map cannot be used for another; whoever else comes over the
    // socket is an OS user who must not get in by being that user.
    std::string text =
        "# Written by bpgd before every start; changes here are lost.\n"
        "local all postgres peer map=bpg\n"
        "local all all reject\n"
        "local replication all reject\n";
    if (open) {
        text +=
            "host all all 127.0.0.1/32 scram-sha-256\n"
            "host all all ::1/128 scram-sha-256\n";
        // Without TLS nobody gets in from outside, as the specification demands.
        if (clients == Clients::kTls) text += "hostssl all all all scram-sha-256\n";
        if (clients == Clients::kPublished) text += "host all all all scram-sha-256\n";
    }
    text +=
        "host all all all reject\n"
        "host replication all all reject\n";
    return text;
}

std::string pg_ident_conf() {
    // Only root, that is bpgd. With the process runtime all instances run as one OS user: mapping
    // that user too would let the superuser of any branch into every other.
    return "# Written by bpgd before every start; changes here are lost.\n"
           "bpg root postgres\n";
}

std::optional<int> parse_pg_version(std::string_view content) {
    int major = 0;
    const auto [end, failure] =
        std::from_chars(content.data(), content.data() + content.size(), major);
    const std::string_view rest = content.substr(static_cast<std::size_t>(end - content.data()));
    if (failure != std::errc() || (rest != "\n" && !rest.empty())) return std::nullopt;
    if (major < 13 || major > 18) return std::nullopt;
    return major;
}

bool is_loopback(std::string_view listen) {
    if (listen == "localhost" || listen == "::1") return true;
    return listen.starts_with("127.") &&
           listen.find_first_not_of("0123456789.") == std::string_view::npos;
}

std::vector<std::pair<std::string, std::string>> owned_settings(
    const std::filesystem::path& volume, const Endpoint& endpoint, const std::string& listen,
    const std::string& cluster_name, int version_major, const WalSettings& wal) {
    const std::string socket =
        fmt::format("{}/.s.PGSQL.{}", endpoint.socket_directory.native(), endpoint.port);
    if (socket.size() > kSocketPathMax) {
        throw Error(ErrorKind::kInvalid, "socket_path_too_long",
                    "the path of an instance's socket is too long",
                    fmt::format("{} has {} bytes, the system allows {}", socket, socket.size(),
                                kSocketPathMax),
                    "choose a shorter paths.run");
    }
    const std::filesystem::path conf = volume / "conf";
    std::vector<std::pair<std::string, std::string>> settings = {
        // In a file of the data directory it could point to the data of another branch.
        {"data_directory", (volume / "data").native()},
        {"config_file", (conf / "postgresql.conf").native()},
        {"hba_file", (conf / "pg_hba.conf").native()},
        {"ident_file", (conf / "pg_ident.conf").native()},
        {"port", std::to_string(endpoint.port)},
        {"listen_addresses", listen},
        {"unix_socket_directories", list_element(endpoint.socket_directory.native())},
        {"unix_socket_permissions", "0700"},
        {"unix_socket_group", ""},
        {"ssl", "off"},
        {"cluster_name", cluster_name_value(cluster_name)},
        {"archive_mode", wal.archive_command.empty() ? "off" : "on"},
        {"archive_command", wal.archive_command},
        {"archive_timeout", std::to_string(wal.archive_timeout.count())},
        {"archive_cleanup_command", ""},
        {"restore_command", wal.restore_command},
        {"recovery_end_command", ""},
        {"recovery_target_timeline", wal.target_timeline},
        {"recovery_target_inclusive", "on"},
        {"recovery_target_action", "promote"},
        {"hot_standby", "off"},
        {"primary_conninfo", ""},
        {"primary_slot_name", ""},
        {"synchronous_standby_names", ""},
        {"logging_collector", "off"},
        {"log_destination", "stderr"},
    };
    for (const char* kind : {"", "_name", "_time", "_xid", "_lsn"}) {
        const std::string name = std::string("recovery_target") + kind;
        const bool is_it = wal.target && wal.target->first == name;
        if (!is_it) settings.emplace_back(name, "");
    }
    // The one that is wanted comes last: an empty one behind it counts as a second.
    if (wal.target) settings.push_back(*wal.target);
    if (version_major >= 15) settings.emplace_back("archive_library", "");
    if (version_major < 16) settings.emplace_back("promote_trigger_file", "");
    if (version_major >= 17) settings.emplace_back("sync_replication_slots", "off");
    if (version_major >= 17) settings.emplace_back("synchronized_standby_slots", "");
    return settings;
}

}  // namespace bpg::postgres
