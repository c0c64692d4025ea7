// bpg init: from nothing to a running bpgd. It writes the configuration, lets `bpgd init` prepare
// storage and store, records what that found, and starts the daemon. Every part first looks whether
// it is done already, so running it twice is running it once.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/command.h"
#include "cli/failure.h"
#include "cli/reference.h"
#include "cli/settings.h"
#include "cli/show.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/subprocess.h"

namespace bpg::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using std::chrono::steady_clock;

constexpr std::chrono::minutes kPrepareWithin{15};  // making a large pool file on a slow disk
constexpr std::chrono::seconds kReadyWithin{30};
constexpr std::chrono::milliseconds kLookEvery{50};
constexpr std::size_t kLogShown = 4096;
constexpr const char* kUnit = "betterpg.service";
constexpr std::string_view kConfigHead =
    "# The configuration of bpgd, written by `bpg init`. Keys left out have their defaults.\n";

/// Configuration keys and the flags of `init` that set them.
struct Flag {
    const char* key;
    const char* name;
};
constexpr std::array<Flag, 6> kFlags{{{"storage.driver", "--storage"},
                                      {"zfs.pool", "--pool"},
                                      {"storage.pool_file", "--pool-file"},
                                      {"storage.pool_size", "--pool-size"},
                                      {"runtime.driver", "--runtime"},
                                      {"postgres.image", "--image"}}};

void check_choice(const std::optional<std::string>& value, const char* flag,
                  const std::vector<std::string>& choices) {
    if (!value || std::find(choices.begin(), choices.end(), *value) != choices.end()) return;
    const std::string meant = did_you_mean(*value, choices);
    throw usage_failure(fmt::format("\"{}\" is no value for {}", one_line(*value), flag),
                        fmt::format("it is one of {}", fmt::join(choices, ", ")),
                        meant.empty() ? fmt::format("for example {} auto", flag)
                                      : fmt::format("did you mean {}?", meant));
}

/// What the flags say, by configuration key.
std::map<std::string, std::string> asked_settings(const Arguments& arguments) {
    check_choice(arguments.find("--storage"), "--storage",
                 {"auto", "zfs", "btrfs", "reflink", "copy"});
    check_choice(arguments.find("--runtime"), "--runtime", {"auto", "docker", "process"});
    std::map<std::string, std::string> asked;
    for (const Flag& flag : kFlags) {
        if (const auto value = arguments.find(flag.name)) asked[flag.key] = *value;
    }
    if (const auto size = arguments.find("--pool-size")) {
        if (!asked.contains("storage.pool_file")) {
            throw usage_failure("--pool-size without --pool-file", "there is no pool file to size",
                                "add --pool-file PATH");
        }
        if (!parse_size(*size)) {
            throw usage_failure(fmt::format("\"{}\" is no size for --pool-size", one_line(*size)),
                                "a size is a number with K, M, G or T",
                                "for example --pool-size 10G");
        }
    }
    // A pool by name is a ZFS pool.
    if (asked.contains("zfs.pool") &&
        asked.try_emplace("storage.driver", "zfs").first->second != "zfs") {
        throw usage_failure("--pool names a ZFS pool",
                            "--storage " + asked["storage.driver"] + " has none",
                            "leave out one of the two");
    }
    if (asked.contains("storage.pool_file")) {
        asked["storage.pool_file"] = fs::absolute(asked["storage.pool_file"]).lexically_normal();
    }
    return asked;
}

bool same_value(const std::string& key, const std::string& a, const std::string& b) {
    if (key == "storage.pool_size") return parse_size(a) == parse_size(b);
    return a == b;
}

void refuse_contradictions(const Settings& settings, const fs::path& file,
                           const std::map<std::string, std::string>& asked) {
    for (const Flag& flag : kFlags) {
        const auto wanted = asked.find(flag.key);
        const auto there = settings.find(flag.key);
        if (wanted == asked.end() || !there) continue;
        if (same_value(flag.key, wanted->second, there->value)) continue;
        throw Failure(
            ExitCode::kConflict,
            {ErrorKind::kConflict, "config_contradicts",
             fmt::format("{} {} contradicts the configuration", flag.name, wanted->second),
             fmt::format("{}:{} says {}: {}", file.string(), there->line, flag.key,
                         there->value.empty() ? "\"\"" : there->value),
             fmt::format("leave {} out, or change that line first", flag.name)});
    }
}

/// The state file of the BetterPG before this one, wherever it kept it.
void name_old_state(const Session& session, const Settings& settings) {
    std::vector<fs::path> places{settings.state_directory() / "state.json",
                                 fs::path(kDefaultStateDirectory) / "state.json"};
    if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/') {
        places.push_back(fs::path(home) / ".local/share/betterpg/state.json");
        places.push_back(fs::path(home) / ".bpg/state.json");
    }
    places.erase(std::unique(places.begin(), places.end()), places.end());
    for (const fs::path& place : places) {
        std::error_code unreadable;  // then it is not ours to find
        if (fs::is_regular_file(place, unreadable)) {
            session.note(fmt::format(
                "note: {} is the state of an earlier BetterPG; it is left alone", place.string()));
        }
    }
}

/// The bpgd that was built or installed with this bpg; else whatever PATH has.
std::string find_daemon() {
    std::error_code unknown;  // without /proc, PATH decides
    const fs::path self = fs::read_symlink("/proc/self/exe", unknown);
    const fs::path beside = self.parent_path() / "bpgd";
    if (!unknown && access(beside.c_str(), X_OK) == 0) return beside;
    return "bpgd";
}

std::string last_lines(const std::string& text, std::size_t max) {
    std::string end = text.size() > max ? text.substr(text.size() - max) : text;
    while (!end.empty() && (end.back() == '\n' || end.back() == ' '))
        end.pop_back();
    return end;
}

/// bpgd tells its failure as one JSON object on the last line of stderr; anything else is a crash.
Failure daemon_failure(const CommandResult& result, const bpg::Command& command) {
    const std::string end = last_lines(result.err, kLogShown);
    const auto line = end.rfind('\n');
    const json object =
        json::parse(line == std::string::npos ? end : end.substr(line + 1), nullptr, false);
    if (object.is_object() && object.contains("code")) {
        const auto info = object.get<ErrorInfo>();
        return {http::exit_code_of_failed_job(info.kind), info};
    }
    return {ExitCode::kFailed,
            {ErrorKind::kInternal, "init_failed", "bpgd init failed",
             result.explain(command) + (end.empty() ? "" : "\n" + end),
             "correct what it says, then run bpg init again"}};
}

json prepare(const std::string& daemon, const fs::path& config) {
    bpg::Command command;
    command.argv = {daemon, "--config", config.string(), "--json-errors", "init"};
    command.deadline = kPrepareWithin;
    const CommandResult result = run_command(command);
    if (!result.ok()) throw daemon_failure(result, command);
    json answer = json::parse(result.out, nullptr, /*allow_exceptions=*/false);
    if (!answer.is_object()) {
        throw Error(ErrorKind::kInternal, "answer_not_json", "bpgd init answered something else",
                    last_lines(result.out, kLogShown), "are bpg and bpgd of the same version?");
    }
    return answer;
}

std::map<std::string, std::string> updates_of(const json& answer) {
    std::map<std::string, std::string> updates;
    for (const auto& [key, value] : member(answer, "config_updates").items()) {
        if (value.is_string()) updates[key] = value.get<std::string>();
    }
    return updates;
}

void write_config(const fs::path& file, const std::string& text) {
    fs::create_directories(file.parent_path());
    write_file_durably(file, text, 0644);
}

/// Records the flags, lets bpgd prepare, records what it found. A configuration made here goes
/// again when the preparation fails: the next try with other flags would contradict it.
json configure_and_prepare(const fs::path& file, const std::optional<Settings>& existing,
                           const std::map<std::string, std::string>& asked) {
    std::string text = with_settings(existing ? existing->text() : std::string(kConfigHead), asked);
    const std::string before = existing ? existing->text() : std::string();
    if (text != before) write_config(file, text);
    json answer;
    try {
        answer = prepare(find_daemon(), file);
    } catch (const Error&) {
        if (existing && text != before) write_config(file, before);
        if (!existing) fs::remove(file);
        throw;
    }
    const std::string recorded = with_settings(text, updates_of(answer));
    if (recorded != text) write_config(file, recorded);
    return answer;
}

enum class Health { kAbsent, kStarting, kReady };

Health look(const Client& client) {
    try {
        client.get("/readyz");
        return Health::kReady;
    } catch (const Unreachable&) {
        return Health::kAbsent;
    } catch (const Failure& failure) {
        if (failure.exit() == ExitCode::kUnreachable) return Health::kStarting;
        throw;
    }
}

/// systemd runs here and knows the unit. The unit reads the default configuration only.
bool has_unit(const fs::path& config) {
    if (config != kDefaultConfigFile || !fs::is_directory("/run/systemd/system")) return false;
    constexpr std::array<const char*, 4> kUnitPaths{"/etc/systemd/system", "/run/systemd/system",
                                                    "/usr/lib/systemd/system",
                                                    "/lib/systemd/system"};
    return std::any_of(kUnitPaths.begin(), kUnitPaths.end(), [](const char* directory) {
        return fs::exists(fs::path(directory) / kUnit);
    });
}

/// What was written to the log since it was `from` bytes long.
std::string log_since(const fs::path& log, std::uintmax_t from) {
    const UniqueFd file(open(log.c_str(), O_RDONLY | O_CLOEXEC));
    std::error_code absent;
    const auto size = fs::file_size(log, absent);
    if (!file || absent || size <= from) return {};
    const std::uintmax_t begin =
        std::max<std::uintmax_t>(from, size - std::min<std::uintmax_t>(size, kLogShown));
    std::string text(size - begin, '\0');
    const ssize_t count = pread(file.get(), text.data(), text.size(), static_cast<off_t>(begin));
    text.resize(count < 0 ? 0 : static_cast<std::size_t>(count));
    return last_lines(text, kLogShown);
}

/// A bpgd on its way up: how to tell that it died, and where it says why.
struct Starting {
    pid_t pid = 0;  ///< 0 where systemd has it
    fs::path log;   ///< empty where the journal has it
    std::uintmax_t log_begin = 0;

    std::string said() const {
        return log.empty() ? "see: journalctl -u betterpg" : log_since(log, log_begin);
    }
};

Starting start_with_systemd() {
    bpg::Command command;
    command.argv = {"systemctl", "enable", "--now", kUnit};
    const CommandResult result = run_command(command);
    if (result.ok()) return {};
    throw Failure(ExitCode::kFailed,
                  {ErrorKind::kInternal, "start_failed", "systemd could not start bpgd",
                   result.explain(command), "see: journalctl -u betterpg"});
}

Starting start_detached(const fs::path& config, const Settings& settings) {
    Starting starting;
    starting.log = settings.state_directory() / "bpgd.log";
    std::error_code absent;
    const auto size = fs::file_size(starting.log, absent);
    starting.log_begin = absent ? 0 : size;
    starting.pid = spawn_detached({{find_daemon(), "--config", config.string()}, {}, starting.log});
    return starting;
}

void refuse_dead(const Starting& starting) {
    int status = 0;
    if (starting.pid == 0 || waitpid(starting.pid, &status, WNOHANG) != starting.pid) return;
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    const bool conflict = code == static_cast<int>(ExitCode::kConflict);
    throw Failure(conflict ? ExitCode::kConflict : ExitCode::kFailed,
                  {conflict ? ErrorKind::kConflict : ErrorKind::kInternal, "start_failed",
                   "bpgd ended at once", starting.said(),
                   fmt::format("correct what it says, then run bpg init again (log: {})",
                               starting.log.string())});
}

void await_ready(const Client& client, const Starting& starting) {
    const auto end = steady_clock::now() + kReadyWithin;
    while (look(client) != Health::kReady) {
        refuse_dead(starting);
        if (steady_clock::now() > end) {
            throw Failure(ExitCode::kUnreachable,
                          {ErrorKind::kUnavailable, "not_ready",
                           fmt::format("bpgd was not ready within {} s", kReadyWithin.count()),
                           starting.said(), "it goes on starting; look with: bpg status"});
        }
        pause_for(kLookEvery, std::nullopt);
    }
}

std::string with_reason(const json& part) {
    const std::string why = text_of(part, "why");
    return text_of(part, "driver") + (why.empty() ? "" : " (" + why + ")");
}

/// Of this machine; UTC where it does not say.
std::string zone_of_machine() {
    constexpr std::string_view kZones = "/zoneinfo/";
    std::error_code unknown;
    const std::string place = fs::read_symlink("/etc/localtime", unknown).native();
    const auto found = place.find(kZones);
    return found == std::string::npos ? "UTC" : place.substr(found + kZones.size());
}

/// Most people's retention, ready to be taken.
void offer_schedule(const Session& session) {
    session.note("nightly snapshots, and every time of the last week restorable, for a database:");
    session.note(
        fmt::format("  bpg schedule create prod-nightly --cron '30 2 * * *' --tz {} --op "
                    "snapshot --target prod/main --keep-daily 7 --keep-weekly 4 "
                    "--keep-monthly 6 --days 7",
                    one_line(zone_of_machine())));
}

int report(const Session& session, json answer, const fs::path& config, const Client& client,
           std::string_view daemon) {
    answer.erase("config_updates");
    answer["config"] = config.string();
    answer["socket"] = client.socket().string();
    answer["daemon"] = daemon;
    session.warn_all(member(answer, "warnings"));
    if (session.json()) {
        print_out(render_json(answer));
    } else if (!session.names()) {
        const json& storage = member(answer, "storage");
        const json& runtime = member(answer, "runtime");
        print_out(render_fields({{"config", config.string()},
                                 {"storage", with_reason(storage)},
                                 {"volumes", text_of(storage, "root")},
                                 {"runtime", with_reason(runtime)},
                                 {"PostgreSQL", scalar_of(runtime, "version")},
                                 {"socket", client.socket().string()},
                                 {"bpgd", std::string(daemon)}}));
        offer_schedule(session);
    }
    return 0;
}

/// Storage and runtime as the running daemon tells them.
json running_facts(Session& session) {
    const json status = session.get("/v1/status");
    return {{"storage", member(status, "storage")},
            {"runtime", member(status, "runtime")},
            {"warnings", member(status, "warnings")}};
}

int init(Session& session, const Arguments& arguments) {
    const std::map<std::string, std::string> asked = asked_settings(arguments);
    if (geteuid() != 0) {
        throw Error(ErrorKind::kPermission, "not_root", "bpg init needs root",
                    "it prepares storage and starts a daemon that runs as root",
                    "run it as root, for example with sudo");
    }
    const fs::path file = config_file(session.globals().config);
    const std::optional<Settings> existing = Settings::read(file);
    if (existing) refuse_contradictions(*existing, file, asked);
    name_old_state(session, existing.value_or(Settings()));

    const Client& client = session.client();
    const Health health = look(client);
    if (health != Health::kAbsent) {
        await_ready(client, {});
        session.note("bpgd is running already");
        return report(session, running_facts(session), file, client, "running already");
    }
    const json answer = configure_and_prepare(file, existing, asked);
    if (arguments.has("--no-start")) {
        return report(session, answer, file, client, "not started (--no-start)");
    }
    const auto settings = Settings::read(file).value_or(Settings());
    const bool unit = has_unit(file);
    const Starting starting = unit ? start_with_systemd() : start_detached(file, settings);
    await_ready(client, starting);
    return report(session, answer, file, client,
                  unit ? "started by systemd" : fmt::format("started, pid {}", starting.pid));
}

}  // namespace

std::span<const Command> init_commands() {
    static const std::vector<Command> kCommands{
        {"init",
         "prepare this machine and start bpgd; safe to repeat",
         {},
         {{"--storage", "DRIVER", "auto, zfs, btrfs, reflink or copy"},
          {"--pool", "NAME", "the ZFS pool for branches"},
          {"--pool-file", "PATH", "make a file system, or a ZFS pool, for branches in this file"},
          {"--pool-size", "SIZE", "how large the pool file is made (10G)"},
          {"--runtime", "DRIVER", "auto, docker or process"},
          {"--image", "IMAGE", "what new databases run, with docker"},
          {"--no-start", "", "prepare only"}},
         init,
         false,
         "bpg init --pool-file /var/lib/betterpg/pool.img --pool-size 20G"},
    };
    return kCommands;
}

}  // namespace bpg::cli
