#include "orchestrator/storage/zfs_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <utility>

#include "orchestrator/base/subprocess.h"
#include "orchestrator/storage/zfs_mount_turn.h"

namespace bpg::storage {
namespace {

// A listing has about 1 KB a snapshot.
constexpr std::size_t kOutputMax = 64UL << 20U;
constexpr std::size_t kShownMax = 2000;
// A job tries again later; a request is answered.
constexpr std::chrono::milliseconds kLockPatience{10'000};
constexpr std::size_t kDatasetNameMax = 200;  // of 255, the rest is for a volume and a snapshot id
const std::string kNothing;

Error invalid_answer(std::string detail) {
    return {ErrorKind::kInternal, "zfs_answer_invalid",
            "zfs answered in a form that is not understood", std::move(detail),
            "run the command zfs by hand and see; OpenZFS 2.x and zfs-fuse are known to work"};
}

std::string shown(std::string_view text) {
    return std::string(text.substr(0, std::min<std::size_t>(text.size(), 200)));
}

std::vector<std::string> split(std::string_view text, char separator) {
    std::vector<std::string> parts;
    while (true) {
        const std::size_t end = text.find(separator);
        parts.emplace_back(text.substr(0, end));
        if (end == std::string_view::npos) return parts;
        text.remove_prefix(end + 1);
    }
}

/// Lines of a machine-readable answer: each one ends, so that a torn answer is seen.
std::vector<std::string> lines_of(std::string_view out) {
    if (out.empty()) return {};
    if (out.size() >= kOutputMax) throw invalid_answer("it is too long");
    if (out.back() != '\n') throw invalid_answer("it breaks off: " + shown(out));
    out.remove_suffix(1);
    return split(out, '\n');
}

std::string joined(const std::vector<std::string>& words) {
    return fmt::format("{}", fmt::join(words, ","));
}

std::string trimmed(std::string_view text) {
    const std::size_t end = text.find_last_not_of(" \t\r\n");
    if (end == std::string_view::npos) return {};
    text = text.substr(0, end + 1);
    if (text.size() > kShownMax) text.remove_prefix(text.size() - kShownMax);
    return std::string(text);
}

/// Of the commands that we use.
bool may_mount(const std::vector<std::string>& argv) {
    static constexpr std::array<std::string_view, 4> kVerbs = {"create", "clone", "mount",
                                                               "import"};
    return argv.size() > 1 && std::find(kVerbs.begin(), kVerbs.end(), argv[1]) != kVerbs.end();
}

}  // namespace

ZfsTrouble classify_zfs_error(std::string_view err) {
    struct Phrase {
        std::string_view text;
        ZfsTrouble trouble;
    };
    // In this order. The first two go on with a list of names that others chose, blanks allowed;
    // the rest speaks only of names we passed.
    static constexpr std::array kPhrases = {
        Phrase{"has dependent clones", ZfsTrouble::kHasClones},
        Phrase{"has children", ZfsTrouble::kHasChildren},
        Phrase{"failed to initialize ZFS library", ZfsTrouble::kUnavailable},
        Phrase{"modules are not loaded", ZfsTrouble::kUnavailable},
        Phrase{"modules cannot be auto-loaded", ZfsTrouble::kUnavailable},
        Phrase{"/dev/zfs", ZfsTrouble::kUnavailable},
        Phrase{"internal error: Connection", ZfsTrouble::kUnavailable},
        Phrase{"internal error: Broken pipe", ZfsTrouble::kUnavailable},
        Phrase{"currently suspended", ZfsTrouble::kUnavailable},
        Phrase{"pool is read-only", ZfsTrouble::kUnavailable},
        Phrase{"currently unavailable", ZfsTrouble::kUnavailable},
        Phrase{"I/O error", ZfsTrouble::kUnavailable},
        Phrase{"no such pool", ZfsTrouble::kAbsent},
        Phrase{"out of space", ZfsTrouble::kNoSpace},
        Phrase{"No space left on device", ZfsTrouble::kNoSpace},
        Phrase{"quota exceeded", ZfsTrouble::kNoSpace},
        Phrase{"is busy", ZfsTrouble::kBusy},
        Phrase{"resource busy", ZfsTrouble::kBusy},
        Phrase{"already exists", ZfsTrouble::kExists},
        Phrase{"dataset does not exist", ZfsTrouble::kAbsent},
        Phrase{"snapshot does not exist", ZfsTrouble::kAbsent},
        Phrase{"could not find any snapshots to destroy", ZfsTrouble::kAbsent},
        Phrase{"ermission denied", ZfsTrouble::kNoPermission},
        Phrase{"must be superuser", ZfsTrouble::kNoPermission},
    };
    for (const Phrase& phrase : kPhrases) {
        if (err.find(phrase.text) != std::string_view::npos) return phrase.trouble;
    }
    return ZfsTrouble::kOther;
}

bool says_only_absent(std::string_view err, const std::vector<std::string>& names) {
    if (err.empty() || err.back() != '\n') return false;
    err.remove_suffix(1);
    for (const std::string& line : split(err, '\n')) {
        const bool known = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
            return line == fmt::format("cannot open '{}': dataset does not exist", name) ||
                   line == fmt::format("cannot open '{}': snapshot does not exist", name) ||
                   line == fmt::format("cannot open '{}': no such pool", name);
        });
        if (!known) return false;
    }
    return true;
}

ZfsTable parse_zfs_table(std::string_view out) {
    constexpr std::size_t kFields = 4;
    ZfsTable table;
    for (const auto& fields : parse_zfs_list(out, kFields)) {
        ZfsRow& row = table[fields[0]];
        if (row.has(fields[1])) throw invalid_answer("a property comes twice: " + fields[1]);
        row.set(fields[1], {fields[2], fields[3]});
    }
    return table;
}

std::vector<std::vector<std::string>> parse_zfs_list(std::string_view out, std::size_t columns) {
    std::vector<std::vector<std::string>> rows;
    for (const std::string& line : lines_of(out)) {
        std::vector<std::string> fields = split(line, '\t');
        if (fields.size() != columns || fields.front().empty()) throw invalid_answer(shown(line));
        rows.push_back(std::move(fields));
    }
    return rows;
}

std::vector<std::string> snapshot_arguments(const std::vector<std::string>& datasets,
                                            const std::string& id,
                                            const std::map<std::string, std::string>& properties) {
    std::vector<std::string> arguments = {"snapshot"};
    for (const auto& [property, value] : properties) {
        arguments.emplace_back("-o");
        arguments.push_back(fmt::format("{}={}", property, value));
    }
    for (const std::string& dataset : datasets)
        arguments.push_back(fmt::format("{}@{}", dataset, id));
    return arguments;
}

void check_dataset_name(const std::string& name) {
    const auto alnum = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    };
    const auto allowed = [&](char c) {
        return alnum(c) || c == '_' || c == '-' || c == '.' || c == ':';
    };
    bool valid = name.size() <= kDatasetNameMax;
    for (const std::string& part : split(name, '/')) {
        valid = valid && !part.empty() && alnum(part.front()) &&
                std::all_of(part.begin(), part.end(), allowed);
    }
    if (valid) return;
    throw Error(ErrorKind::kInvalid, "dataset_name_invalid", "a ZFS dataset name is not valid",
                "only letters, digits, _ - . : are used, in parts joined by /",
                "correct zfs.pool and zfs.datasetBase");
}

void ZfsRow::set(const std::string& property, ZfsValue value) {
    values_.insert_or_assign(property, std::move(value));
}

const std::string& ZfsRow::value(const std::string& property) const {
    const auto found = values_.find(property);
    return found == values_.end() ? kNothing : found->second.value;
}

bool ZfsRow::is_local(const std::string& property) const {
    const auto found = values_.find(property);
    return found != values_.end() && found->second.local();
}

const std::string& ZfsRow::local(const std::string& property) const {
    return is_local(property) ? value(property) : kNothing;
}

std::uint64_t ZfsRow::number(const std::string& property) const {
    const std::string& text = value(property);
    std::uint64_t result = 0;
    const char* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, result);
    if (parsed.ec != std::errc{} || parsed.ptr != end) {
        throw invalid_answer(fmt::format("{} is \"{}\", no number", property, shown(text)));
    }
    return result;
}

ZfsCommand::ZfsCommand(ZfsTools tools) : tools_(std::move(tools)) {}

ZfsAnswer ZfsCommand::zfs(std::vector<std::string> arguments) const {
    return run("zfs", std::move(arguments));
}

ZfsAnswer ZfsCommand::zpool(std::vector<std::string> arguments) const {
    return run("zpool", std::move(arguments));
}

ZfsAnswer ZfsCommand::run(const char* program, std::vector<std::string> arguments) const {
    Command command;
    command.argv.push_back(tools_.command_dir.empty() ? program
                                                      : (tools_.command_dir / program).native());
    command.argv.insert(command.argv.end(), std::make_move_iterator(arguments.begin()),
                        std::make_move_iterator(arguments.end()));
    command.deadline = tools_.deadline;
    command.output_max = kOutputMax;
    ZfsAnswer answer;
    CommandResult result;
    try {
        if (tools_.lock) command.inherited = tools_.lock->hold(kLockPatience);
        std::optional<ZfsMountTurn> turn;
        if (may_mount(command.argv)) turn.emplace(tools_.deadline);
        result = run_command(command);
    } catch (const Error& error) {
        if (error.code() == "command_not_found") {
            answer.why = fmt::format("the command {} is not installed", program);
        } else if (error.kind() == ErrorKind::kUnavailable) {
            answer.why = error.what();
        } else {
            throw;
        }
        answer.trouble = ZfsTrouble::kUnavailable;
        return answer;
    }
    answer.out = std::move(result.out);
    answer.err = std::move(result.err);
    if (result.ok()) return answer;
    answer.why = trimmed(answer.err);
    answer.trouble = classify_zfs_error(answer.err);
    if (result.timed_out) answer.trouble = ZfsTrouble::kUnavailable;
    if (result.timed_out || answer.why.empty()) {
        answer.why = fmt::format("{}: {}", program, result.explain(command));
    }
    return answer;
}

ZfsTable ZfsCommand::get(const std::vector<std::string>& names,
                         const std::vector<std::string>& properties) const {
    std::vector<std::string> arguments = {"get", "-Hp", "-o", "name,property,value,source",
                                          joined(properties)};
    arguments.insert(arguments.end(), names.begin(), names.end());
    const ZfsAnswer answer = zfs(std::move(arguments));
    // The word of the command that something is not there counts only when it says nothing else:
    // all that follows from it is making things, and being content that they are gone.
    const bool absences =
        answer.trouble == ZfsTrouble::kAbsent && says_only_absent(answer.err, names);
    if (!answer.ok() && !absences) throw zfs_error("ask zfs for properties", answer);
    ZfsTable table = parse_zfs_table(answer.out);
    for (const auto& [name, row] : table) {
        const bool asked = std::find(names.begin(), names.end(), name) != names.end();
        if (!asked || row.size() != properties.size()) throw invalid_answer(shown(name));
    }
    for (const std::string& name : names) {
        const bool there = table.contains(name);
        const bool absent = answer.err.find(fmt::format("'{}'", name)) != std::string::npos;
        if (there == (absences && absent)) {
            throw invalid_answer(fmt::format("it says nothing clear of {}", name));
        }
    }
    return table;
}

ZfsTable ZfsCommand::get_below(const std::string& dataset,
                               const std::vector<std::string>& properties, bool only_local) const {
    std::vector<std::string> arguments = {"get", "-Hp", "-r"};
    if (only_local) {
        arguments.emplace_back("-s");
        arguments.emplace_back("local");
    }
    for (const char* word : {"-o", "name,property,value,source"})
        arguments.emplace_back(word);
    arguments.push_back(joined(properties));
    arguments.push_back(dataset);
    const ZfsAnswer answer = zfs(std::move(arguments));
    if (!answer.ok()) throw zfs_error(fmt::format("list {}", dataset), answer);
    ZfsTable table = parse_zfs_table(answer.out);
    for (const auto& [name, row] : table) {
        const bool complete = only_local || row.size() == properties.size();
        if (!name.starts_with(dataset) || !complete) throw invalid_answer(shown(name));
    }
    return table;
}

std::vector<std::vector<std::string>> ZfsCommand::list(const std::vector<std::string>& columns,
                                                       std::vector<std::string> arguments) const {
    std::vector<std::string> full = {"list", "-H", "-o", joined(columns)};
    full.insert(full.end(), std::make_move_iterator(arguments.begin()),
                std::make_move_iterator(arguments.end()));
    const ZfsAnswer answer = zfs(std::move(full));
    if (!answer.ok()) throw zfs_error("list datasets", answer);
    return parse_zfs_list(answer.out, columns.size());
}

std::set<std::string> ZfsCommand::known_properties(const std::string& dataset) const {
    const ZfsAnswer answer =
        zfs({"get", "-Hp", "-o", "name,property,value,source", "all", dataset});
    if (!answer.ok()) throw zfs_error("ask zfs which properties it knows", answer);
    std::set<std::string> known;
    // Somebody's own property may hold a line break, so this one answer is read leniently.
    for (const std::string& line : lines_of(answer.out)) {
        const std::vector<std::string> fields = split(line, '\t');
        if (fields.size() == 4 && fields[0] == dataset) known.insert(fields[1]);
    }
    if (!known.contains("type")) throw invalid_answer("no properties of " + dataset);
    return known;
}

Error zfs_error(const std::string& action, const ZfsAnswer& answer) {
    std::string message = fmt::format("cannot {}", action);
    switch (answer.trouble) {
        case ZfsTrouble::kNoSpace:
            return {ErrorKind::kExhausted, "no_space", std::move(message), answer.why,
                    "delete branches or snapshots, or add disks to the pool"};
        case ZfsTrouble::kBusy:
        case ZfsTrouble::kHasChildren:  // made since the caller looked: it looks again
        case ZfsTrouble::kHasClones:
            return {ErrorKind::kUnavailable, "volume_busy", std::move(message), answer.why,
                    "a process, container or new clone still uses it; it is tried again"};
        case ZfsTrouble::kAbsent:
        case ZfsTrouble::kUnavailable:
            return {ErrorKind::kUnavailable, "storage_unavailable", std::move(message), answer.why,
                    "see whether `zpool status` answers and the pool is there; `zpool import` "
                    "brings a pool back"};
        case ZfsTrouble::kNoPermission:
            return {ErrorKind::kPermission, "zfs_permission", std::move(message), answer.why,
                    "run bpgd as root"};
        default:
            return {ErrorKind::kInternal, "zfs_failed", std::move(message), answer.why,
                    "see what the command zfs says when run by hand"};
    }
}

}  // namespace bpg::storage
