// One row a key. A row names a Codec, which turns the text of a value into its unit type and back,
// so that a duration, a size or a path is understood and explained in one place.
#include "orchestrator/config/fields.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <concepts>
#include <limits>
#include <utility>

#include "orchestrator/base/clock.h"

namespace bpg::config {
namespace {

constexpr std::uint64_t kMiB = 1ULL << 20;
constexpr std::uint64_t kGiB = 1ULL << 30;
constexpr std::uint64_t kReserveMin = 2 * kGiB;
constexpr std::size_t kTextMax = 1024;
// sun_path holds 107 characters; the server binds "<socket>~" first, and an instance's own socket
// is
// "<run>/i/<16 characters>/.s.PGSQL.<port>".
constexpr std::size_t kSocketPathMax = 106;
constexpr std::size_t kRunPathMax = 107 - 34;

/// Why a value was refused beyond "it is not such a thing"; all parts may be empty.
struct Refusal {
    std::string detail;
    std::string hint;
};

/// How one type of value is read (nothing: refused, perhaps saying why) and shown.
template <class T>
struct Codec {
    std::string noun;  ///< "a duration like 60s or 1h30m"
    std::function<std::optional<T>(const std::string&, Refusal&)> read;
    std::function<std::string(const T&)> show;
};

bool is_digits(std::string_view text) {
    return !text.empty() &&
           std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool is_letter_or_digit(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// Starts with a letter or digit and goes on with those and `extra`.
bool is_word(std::string_view text, std::string_view extra) {
    if (text.empty() || !is_letter_or_digit(text.front())) return false;
    return std::all_of(text.begin(), text.end(), [extra](char c) {
        return is_letter_or_digit(c) || extra.find(c) != std::string_view::npos;
    });
}

bool has_control_character(std::string_view text) {
    return std::any_of(text.begin(), text.end(), [](char c) {
        return static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) == 0x7f;
    });
}

/// Double-quoted where a plain scalar could be read as something else. JSON strings are YAML.
std::string yaml_text(const std::string& text) {
    static constexpr std::array<std::string_view, 9> kOtherMeaning{
        "true", "false", "null", "yes", "no", "on", "off", "y", "n"};
    std::string lower = text;
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    const bool plain_start =
        !text.empty() && (text.front() == '/' || is_word(text.substr(0, 1), ""));
    const bool plain =
        plain_start && is_word("x" + text, "_./:%@-") && text.back() != ':' &&
        std::find(kOtherMeaning.begin(), kOtherMeaning.end(), lower) == kOtherMeaning.end();
    const bool number =
        is_digits(text) || (!text.empty() && is_word(text, ".") &&
                            text.find_first_not_of("0123456789.eE") == std::string::npos);
    if (plain && !number) return text;
    return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

template <class Check>
Codec<std::string> text_codec(std::string noun, Check check) {
    return {std::move(noun),
            [check](const std::string& text, Refusal&) -> std::optional<std::string> {
                if (text.size() > kTextMax || has_control_character(text) || !check(text))
                    return {};
                return text;
            },
            [](const std::string& text) { return yaml_text(text); }};
}

enum class PathRule { kRequired, kMayBeEmpty };

Codec<std::filesystem::path> path_codec(PathRule rule, std::size_t length_max = kTextMax) {
    auto read = [rule, length_max](const std::string& text,
                                   Refusal& refusal) -> std::optional<std::filesystem::path> {
        if (text.empty() && rule == PathRule::kMayBeEmpty) return std::filesystem::path();
        if (text.empty() || has_control_character(text)) return {};
        if (text.front() != '/') {
            refusal.detail =
                "a daemon has no working directory that a relative path could start from";
            return {};
        }
        std::filesystem::path path = std::filesystem::path(text).lexically_normal();
        if (path.has_relative_path() && !path.has_filename()) path = path.parent_path();
        const std::filesystem::path given(text);
        if (std::find(given.begin(), given.end(), "..") != given.end()) return {};
        if (path.native().size() <= length_max) return path;
        refusal.detail = fmt::format(
            "it has {} characters; {} is the most, or the unix sockets made from it would be too "
            "long for the kernel (107)",
            path.native().size(), length_max);
        refusal.hint = "choose a shorter path";
        return {};
    };
    return {rule == PathRule::kRequired ? "an absolute path without '..'"
                                        : "an absolute path without '..', or empty",
            read, [](const std::filesystem::path& path) { return yaml_text(path.native()); }};
}

template <class T, std::size_t N>
Codec<T> choice_codec(const std::array<T, N>& choices) {
    std::string noun = "one of";
    for (const T choice : choices)
        noun += fmt::format(" {}", to_string(choice));
    return {noun,
            [choices](const std::string& text, Refusal&) -> std::optional<T> {
                for (const T choice : choices) {
                    if (text == to_string(choice)) return choice;
                }
                return {};
            },
            [](const T& value) { return std::string(to_string(value)); }};
}

template <std::unsigned_integral T>
Codec<T> number_codec(T min, T max) {
    return {fmt::format("a whole number from {} to {}", min, max),
            [min, max](const std::string& text, Refusal&) -> std::optional<T> {
                T value{};
                const auto [end, error] =
                    std::from_chars(text.data(), text.data() + text.size(), value);
                if (error != std::errc() || end != text.data() + text.size()) return {};
                if (value < min || value > max) return {};
                return value;
            },
            [](const T& value) { return fmt::format("{}", value); }};
}

std::optional<double> read_decimal(std::string_view text) {
    double value = 0;
    const auto [end, error] =
        std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
    if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value))
        return {};
    return value;
}

Codec<double> fraction_codec() {
    return {"a number from 0 to 1",
            [](const std::string& text, Refusal&) -> std::optional<double> {
                const auto value = read_decimal(text);
                return value && *value >= 0 && *value <= 1 ? value : std::nullopt;
            },
            [](const double& value) { return fmt::format("{}", value); }};
}

std::string show_size(std::uint64_t bytes) {
    static constexpr std::array<std::string_view, 5> kUnits{"", "KiB", "MiB", "GiB", "TiB"};
    std::size_t unit = 0;
    for (; bytes != 0 && bytes % 1024 == 0 && unit + 1 < kUnits.size(); ++unit)
        bytes /= 1024;
    return fmt::format("{}{}", bytes, kUnits[unit]);
}

Codec<std::uint64_t> size_codec(std::uint64_t min) {
    return {fmt::format("a size of at least {}, like 512MiB or 10G", show_size(min)),
            [min](const std::string& text, Refusal&) -> std::optional<std::uint64_t> {
                const auto bytes = parse_size(text);
                return bytes && *bytes >= min ? bytes : std::nullopt;
            },
            [](const std::uint64_t& bytes) { return show_size(bytes); }};
}

Codec<std::optional<std::uint64_t>> optional_size_codec(std::uint64_t min) {
    using Value = std::optional<std::uint64_t>;
    return {fmt::format("empty, or a size of at least {}, like 512MiB or 10G", show_size(min)),
            [min](const std::string& text, Refusal&) -> std::optional<Value> {
                if (text.empty()) return Value();
                const auto bytes = parse_size(text);
                return bytes && *bytes >= min ? std::optional<Value>(bytes) : std::nullopt;
            },
            [](const Value& bytes) { return bytes ? show_size(*bytes) : std::string("\"\""); }};
}

/// In the largest single unit that fits, which people read more easily than 12w6d.
std::string show_duration(milliseconds value) {
    static constexpr std::array<std::pair<std::int64_t, std::string_view>, 4> kUnits{
        {{86'400'000, "d"}, {3'600'000, "h"}, {60'000, "m"}, {1'000, "s"}}};
    if (value.count() == 0) return "0s";
    for (const auto& [length, unit] : kUnits) {
        if (value.count() % length == 0) return fmt::format("{}{}", value.count() / length, unit);
    }
    return fmt::format("{}ms", value.count());
}

Codec<milliseconds> duration_codec(milliseconds min, milliseconds max) {
    return {fmt::format("a duration from {} to {}, like 60s or 1h30m", show_duration(min),
                        show_duration(max)),
            [min, max](const std::string& text, Refusal&) -> std::optional<milliseconds> {
                const auto value = parse_duration(text);
                return value && *value >= min && *value <= max ? value : std::nullopt;
            },
            [](const milliseconds& value) { return show_duration(value); }};
}

Codec<Reserve> reserve_codec() {
    return {"a share from 0% to 90%, or a size like 10G",
            [](const std::string& text, Refusal&) -> std::optional<Reserve> {
                if (!text.ends_with('%')) {
                    const auto bytes = parse_size(text);
                    return bytes ? std::optional<Reserve>({.fraction = 0, .bytes = *bytes})
                                 : std::nullopt;
                }
                const auto percent =
                    read_decimal(std::string_view(text).substr(0, text.size() - 1));
                if (!percent || *percent < 0 || *percent > 90) return {};
                return Reserve{.fraction = *percent / 100, .bytes = 0};
            },
            [](const Reserve& reserve) {
                return reserve.fraction > 0 ? fmt::format("{:.6g}%", reserve.fraction * 100)
                                            : show_size(reserve.bytes);
            }};
}

std::optional<std::uint16_t> read_port(std::string_view text) {
    unsigned value = 0;
    if (!is_digits(text) || text.size() > 5) return {};
    std::from_chars(text.data(), text.data() + text.size(), value);
    if (value == 0 || value > 65535) return {};
    return static_cast<std::uint16_t>(value);
}

Codec<PortRange> port_range_codec() {
    return {"a range of ports from 1024 to 65535, like 5432-6431",
            [](const std::string& text, Refusal&) -> std::optional<PortRange> {
                const std::size_t dash = text.find('-');
                const auto first = read_port(text.substr(0, dash));
                const auto last =
                    dash == std::string::npos ? first : read_port(text.substr(dash + 1));
                if (!first || !last || *first < 1024 || *last < *first) return {};
                return PortRange{.first = *first, .last = *last};
            },
            [](const PortRange& ports) { return fmt::format("{}-{}", ports.first, ports.last); }};
}

bool is_ip_address(const std::string& text) {
    std::array<unsigned char, sizeof(in6_addr)> address{};
    return ::inet_pton(AF_INET, text.c_str(), address.data()) == 1 ||
           ::inet_pton(AF_INET6, text.c_str(), address.data()) == 1;
}

bool is_loopback_address(const std::string& text) {
    return is_ip_address(text) && (text.starts_with("127.") || text == "::1");
}

Codec<std::string> loopback_codec() {
    auto read = [](const std::string& text, Refusal& refusal) -> std::optional<std::string> {
        if (is_loopback_address(text)) return text;
        if (is_ip_address(text)) {
            refusal.detail =
                "beyond loopback, passwords and data would cross the network in the clear";
            refusal.hint = "keep 127.0.0.1 and reach it from elsewhere through an SSH tunnel";
        }
        return {};
    };
    return {"a loopback address: 127.0.0.1 or ::1", read,
            [](const std::string& text) { return yaml_text(text); }};
}

Codec<std::optional<Endpoint>> endpoint_codec() {
    using Value = std::optional<Endpoint>;
    auto read = [](const std::string& text, Refusal&) -> std::optional<Value> {
        if (text.empty()) return Value();
        const std::size_t colon = text.rfind(':');
        if (colon == std::string::npos) return {};
        std::string host = text.substr(0, colon);
        const auto port = read_port(std::string_view(text).substr(colon + 1));
        const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
        if (bracketed) host = host.substr(1, host.size() - 2);
        if (host == "localhost") host = "127.0.0.1";
        const bool is_v6 = host.find(':') != std::string::npos;
        if (!port || !is_ip_address(host) || is_v6 != bracketed) return {};
        return Value(Endpoint{.host = host, .port = *port});
    };
    auto show = [](const Value& value) -> std::string {
        if (!value) return "\"\"";
        if (value->host.find(':') == std::string::npos) {
            return fmt::format("{}:{}", value->host, value->port);
        }
        return fmt::format("\"[{}]:{}\"", value->host, value->port);
    };
    return {"an address with a port like 127.0.0.1:9732, or empty", read, show};
}

std::string shown(const YAML::Node& node) {
    if (node.IsMap()) return "a mapping";
    if (node.IsSequence()) return "a list";
    if (!node.IsScalar()) return "nothing";
    constexpr std::size_t kShownMax = 60;
    const std::string& text = node.Scalar();
    return nlohmann::json(text.size() > kShownMax ? text.substr(0, kShownMax) + "…" : text)
        .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// A row whose value is one scalar, kept in the member that `get` returns a reference to.
template <class T, class Get>
Field row(std::string_view path, Get get, const Codec<T>& codec, std::string_view help) {
    auto read = [get, codec](Config& config, const YAML::Node& node, const Field& field,
                             const OwnedSetting&) {
        Refusal refusal;
        std::optional<T> value;
        if (node.IsScalar()) value = codec.read(node.Scalar(), refusal);
        if (!value) {
            throw Wrong{node.Mark(),
                        fmt::format("{} must be {}, not {}", field.path, codec.noun, shown(node)),
                        refusal.detail.empty() ? std::string(field.help) : refusal.detail,
                        refusal.hint.empty()
                            ? fmt::format("leave it out for the default, {}", field.show(Config()))
                            : refusal.hint};
        }
        get(config) = std::move(*value);
    };
    auto show = [get, codec](const Config& config) { return codec.show(get(config)); };
    return {path, help, read, show};
}

/// `name` or `extension.name`, as PostgreSQL takes it in a configuration file.
bool is_setting_name(std::string_view name) {
    const std::size_t dot = name.find('.');
    if (dot != std::string_view::npos) {
        return is_setting_name(name.substr(0, dot)) && is_setting_name(name.substr(dot + 1)) &&
               name.find('.', dot + 1) == std::string_view::npos;
    }
    return is_word(name, "_") && !(name.front() >= '0' && name.front() <= '9');
}

std::string lower_case(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    return text;
}

void check_setting(const YAML::Node& key, const YAML::Node& value, const OwnedSetting& is_owned) {
    check_closed(key);
    check_closed(value);
    if (!key.IsScalar() || !is_setting_name(key.Scalar())) {
        throw Wrong{key.Mark(), fmt::format("{} is no name of a PostgreSQL setting", shown(key)),
                    "such names are letters, digits and '_', with one '.' in those of extensions",
                    "see https://www.postgresql.org/docs/current/runtime-config.html"};
    }
    const std::string name = lower_case(key.Scalar());
    if (is_owned && is_owned(name)) {
        throw Wrong{key.Mark(), fmt::format("postgres.config may not set {}", name),
                    "bpgd sets it for every instance itself", "remove this line"};
    }
    if (!value.IsScalar() || value.Scalar().size() > kTextMax ||
        has_control_character(value.Scalar())) {
        throw Wrong{
            value.IsNull() ? key.Mark() : value.Mark(),
            fmt::format("postgres.config.{} must be one line of text, not {}", name, shown(value)),
            "it becomes one line of a PostgreSQL configuration file",
            "write the value as in postgresql.conf, without its quotes"};
    }
}

void read_settings(Config& config, const YAML::Node& node, const Field& field,
                   const OwnedSetting& is_owned) {
    if (!node.IsMap() && !node.IsNull()) {
        throw Wrong{node.Mark(),
                    fmt::format("{} must be a mapping of PostgreSQL settings, not {}", field.path,
                                shown(node)),
                    std::string(field.help), "write one `name: value` a line below it"};
    }
    std::map<std::string, std::string> settings;
    for (const auto& entry : node) {
        check_setting(entry.first, entry.second, is_owned);
        const auto [known, is_new] =
            settings.emplace(lower_case(entry.first.Scalar()), entry.second.Scalar());
        if (is_new) continue;
        throw Wrong{entry.first.Mark(),
                    fmt::format("{} is set twice in {}", known->first, field.path),
                    "only one of the two values could count", "remove one of them"};
    }
    config.postgres.config = std::move(settings);
}

std::string show_settings(const Config& config) {
    std::string lines;
    for (const auto& [name, value] : config.postgres.config) {
        lines += fmt::format("{}: {}\n", name, yaml_text(value));
    }
    return lines;
}

constexpr milliseconds kYear = std::chrono::days(366);

bool is_pool_name(const std::string& text) {
    return is_word(text, "_.:-") && !(text.front() >= '0' && text.front() <= '9');
}

bool is_dataset_path(const std::string& text) {
    if (text.empty() || text.ends_with('/')) return false;
    for (std::size_t start = 0; start < text.size();) {
        const std::size_t end = std::min(text.find('/', start), text.size());
        if (!is_word(std::string_view(text).substr(start, end - start), "_.:-")) return false;
        start = end + 1;
    }
    return true;
}

const std::vector<Field> kFields{
    row(
        "zfs.pool", [](auto& c) -> auto& { return c.zfs.pool; },
        text_codec("the name of a ZFS pool", is_pool_name),
        "The ZFS pool that holds the branches."),
    row(
        "zfs.datasetBase", [](auto& c) -> auto& { return c.zfs.dataset_base; },
        text_codec("a dataset path below the pool, like betterpg/databases", is_dataset_path),
        "The dataset below the pool under which every branch has one of its own."),

    row(
        "postgres.image", [](auto& c) -> auto& { return c.postgres.image; },
        text_codec("the name of a container image",
                   [](const std::string& text) { return is_word(text, "_./:@-"); }),
        "The container image of new databases (runtime docker); it decides their PostgreSQL "
        "version."),
    row(
        "postgres.version", [](auto& c) -> auto& { return c.postgres.version; },
        text_codec("a major version like \"16\", or empty",
                   [](const std::string& text) {
                       return text.empty() || (is_digits(text) && text.size() == 2);
                   }),
        "The major PostgreSQL version of new databases (runtime process); empty: the newest "
        "installed."),
    row(
        "postgres.locale", [](auto& c) -> auto& { return c.postgres.locale; },
        text_codec("the name of a locale like C.UTF-8",
                   [](const std::string& text) { return is_word(text, "_.@-"); }),
        "The locale of new databases."),
    Field{"postgres.config",
          "PostgreSQL settings of every instance, in an included file that ALTER SYSTEM wins over; "
          "what bpgd sets itself (port, archiving, recovery, authentication) is refused here.",
          read_settings, show_settings, true},

    row(
        "storage.driver", [](auto& c) -> auto& { return c.storage.driver; },
        choice_codec(std::array{StorageDriver::kAuto, StorageDriver::kZfs, StorageDriver::kBtrfs,
                                StorageDriver::kReflink, StorageDriver::kCopy}),
        "What makes branches cheap: auto takes the first that works of zfs, btrfs, reflink, copy."),
    row(
        "storage.root", [](auto& c) -> auto& { return c.storage.root; },
        path_codec(PathRule::kRequired),
        "Where volumes are; a ZFS base that bpg init makes is mounted there. Left out, it is "
        "volumes "
        "in paths.state."),
    row(
        "storage.reserve", [](auto& c) -> auto& { return c.storage.reserve; }, reserve_codec(),
        "Free space below which the trash is emptied early: a share (then at least 2 GiB) or a "
        "size."),
    row(
        "storage.pool_file", [](auto& c) -> auto& { return c.storage.pool_file; },
        path_codec(PathRule::kMayBeEmpty),
        "A file that holds the pool, mounted or imported by bpgd at every start; empty: none."),
    row(
        "storage.pool_size", [](auto& c) -> auto& { return c.storage.pool_size; },
        size_codec(256 * kMiB), "How large the pool file is made."),

    row(
        "runtime.driver", [](auto& c) -> auto& { return c.runtime.driver; },
        choice_codec(
            std::array{RuntimeDriver::kAuto, RuntimeDriver::kDocker, RuntimeDriver::kProcess}),
        "What runs the instances: auto takes docker where it answers, else process."),
    row(
        "runtime.docker.socket", [](auto& c) -> auto& { return c.runtime.docker.socket; },
        path_codec(PathRule::kRequired, 107), "The unix socket of the Docker Engine."),
    row(
        "runtime.docker.container_prefix",
        [](auto& c) -> auto& { return c.runtime.docker.container_prefix; },
        text_codec(
            "letters, digits, '_', '.' and '-', starting with a letter or digit",
            [](const std::string& text) { return text.size() <= 64 && is_word(text, "_.-"); }),
        "What the names of containers begin with."),
    row(
        "runtime.docker.egress", [](auto& c) -> auto& { return c.runtime.docker.egress; },
        choice_codec(std::array{Egress::kDeny, Egress::kAllow}),
        "Whether branches other than main may open connections to the outside."),
    row(
        "runtime.process.bin_dir", [](auto& c) -> auto& { return c.runtime.process.bin_dir; },
        path_codec(PathRule::kMayBeEmpty),
        "Where postgres and initdb are; empty: /usr/lib/postgresql/<version>/bin, then PATH."),
    row(
        "runtime.process.user", [](auto& c) -> auto& { return c.runtime.process.user; },
        text_codec(
            "the name of a system user",
            [](const std::string& text) { return text.size() <= 32 && is_word(text, "_.-"); }),
        "The system user that native instances run as."),
    row(
        "runtime.limits.memory", [](auto& c) -> auto& { return c.runtime.limits.memory; },
        optional_size_codec(32 * kMiB), "Memory of one instance; empty: no limit."),
    row(
        "runtime.limits.pids", [](auto& c) -> auto& { return c.runtime.limits.pids; },
        number_codec<std::uint32_t>(32, 4'194'304), "Processes of one instance."),
    row(
        "runtime.limits.shm", [](auto& c) -> auto& { return c.runtime.limits.shm; },
        size_codec(kMiB), "Shared memory (/dev/shm) of one instance."),
    row(
        "runtime.stop_timeout", [](auto& c) -> auto& { return c.runtime.stop_timeout; },
        duration_codec(std::chrono::seconds(1), std::chrono::hours(1)),
        "How long a fast shutdown may take before the stop fails."),

    row(
        "network.listen", [](auto& c) -> auto& { return c.network.listen; }, loopback_codec(),
        "The loopback address on which instances listen."),
    row(
        "network.ports", [](auto& c) -> auto& { return c.network.ports; }, port_range_codec(),
        "The ports branches get, the lowest free one first."),

    row(
        "paths.state", [](auto& c) -> auto& { return c.paths.state; },
        path_codec(PathRule::kRequired), "The store, the logs of jobs and the secrets."),
    row(
        "paths.run", [](auto& c) -> auto& { return c.paths.run; },
        path_codec(PathRule::kRequired, kRunPathMax),
        "Sockets and what need not survive a reboot."),
    row(
        "paths.wal_archive", [](auto& c) -> auto& { return c.paths.wal_archive; },
        path_codec(PathRule::kRequired),
        "The WAL archive; left out, it is wal-archive in paths.state."),

    row(
        "api.socket", [](auto& c) -> auto& { return c.api.socket; },
        path_codec(PathRule::kRequired, kSocketPathMax),
        "The unix socket of the API; left out, it is bpgd.sock in paths.run."),

    row(
        "metrics.listen", [](auto& c) -> auto& { return c.metrics.listen; }, endpoint_codec(),
        "Where GET /metrics is answered; empty: nowhere."),
    row(
        "metrics.branch_series_max", [](auto& c) -> auto& { return c.metrics.branch_series_max; },
        number_codec<std::uint32_t>(0, 100'000), "How many branches get series of their own."),

    row(
        "jobs.running_max", [](auto& c) -> auto& { return c.jobs.running_max; },
        number_codec<std::uint32_t>(1, 64),
        "Jobs that run at once; one place is kept for interactive ones."),
    row(
        "jobs.queued_max", [](auto& c) -> auto& { return c.jobs.queued_max; },
        number_codec<std::uint32_t>(1, 1'000'000), "Jobs that may wait; more are refused."),
    row(
        "jobs.deadline", [](auto& c) -> auto& { return c.jobs.deadline; },
        duration_codec(milliseconds(0), kYear),
        "How long a job may work before it is undone; 0s: as long as it takes."),
    row(
        "jobs.step_deadline", [](auto& c) -> auto& { return c.jobs.step_deadline; },
        duration_codec(milliseconds(0), kYear), "The same of one step."),
    row(
        "jobs.no_progress", [](auto& c) -> auto& { return c.jobs.no_progress; },
        duration_codec(milliseconds(0), kYear),
        "How long a step that tells how far it is may get no further."),
    row(
        "jobs.log_max", [](auto& c) -> auto& { return c.jobs.log_max; }, size_codec(4096),
        "How large the log of one job may become."),
    row(
        "jobs.keep.succeeded", [](auto& c) -> auto& { return c.jobs.keep.succeeded; },
        duration_codec(milliseconds(0), 10 * kYear), "How long a job that succeeded stays listed."),
    row(
        "jobs.keep.failed", [](auto& c) -> auto& { return c.jobs.keep.failed; },
        duration_codec(milliseconds(0), 10 * kYear), "How long a job that failed stays listed."),
    row(
        "jobs.keep.cancelled", [](auto& c) -> auto& { return c.jobs.keep.cancelled; },
        duration_codec(milliseconds(0), 10 * kYear),
        "How long a job that was cancelled stays listed."),

    row(
        "trash.keep", [](auto& c) -> auto& { return c.trash.keep; },
        duration_codec(milliseconds(0), 10 * kYear),
        "How long deleted and replaced things wait in the trash; 0s: gone at once."),

    row(
        "retention.max_fraction", [](auto& c) -> auto& { return c.retention.max_fraction; },
        fraction_codec(),
        "The share of its snapshots that one scheduled prune may remove, beyond which it stops."),
};

}  // namespace

const std::vector<Field>& fields() {
    return kFields;
}

void check_closed(const YAML::Node& node) {
    if (!node.IsScalar() || node.Scalar().find(kEndOfText) == std::string::npos) return;
    throw Wrong{node.Mark(), "the quote that opens here is never closed",
                "everything down to the end of the file was read as one text", "close the quote"};
}

std::string_view to_string(StorageDriver driver) {
    switch (driver) {
        case StorageDriver::kAuto:
            return "auto";
        case StorageDriver::kZfs:
            return "zfs";
        case StorageDriver::kBtrfs:
            return "btrfs";
        case StorageDriver::kReflink:
            return "reflink";
        case StorageDriver::kCopy:
            return "copy";
    }
    return "auto";
}

std::string_view to_string(RuntimeDriver driver) {
    switch (driver) {
        case RuntimeDriver::kAuto:
            return "auto";
        case RuntimeDriver::kDocker:
            return "docker";
        case RuntimeDriver::kProcess:
            return "process";
    }
    return "auto";
}

std::string_view to_string(Egress egress) {
    return egress == Egress::kAllow ? "allow" : "deny";
}

std::uint64_t Reserve::of(std::uint64_t size) const {
    if (fraction <= 0) return bytes;
    return std::max(static_cast<std::uint64_t>(fraction * static_cast<double>(size)), kReserveMin);
}

}  // namespace bpg::config
