// bpg-wal: what PostgreSQL calls to archive and to restore WAL. One static program for glibc and
// musl images and for native servers; it needs no bpgd, no configuration, no shared library and no
// /proc. PostgreSQL runs it in its data directory.
//
// What goes wrong is one line on stderr, "bpg-wal: CODE: what: why", which PostgreSQL puts into its
// log: bpgd looks for it there.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "orchestrator/base/error.h"
#include "orchestrator/wal/archive.h"
#include "orchestrator/wal/restore.h"
#include "orchestrator/wal/verify.h"

namespace bpg::wal {
namespace {

constexpr std::string_view kHelp =
    R"(usage: bpg-wal COMMAND …

  archive --archive DIR PATH NAME
      puts the WAL file at PATH into the archive DIR as NAME (archive_command: %p %f)
  restore --archive DIR [--spool DIR] [--timelines 1,2] [--from SEGMENT] [--until SEGMENT]
          [--need-history NAME] NAME PATH
      writes NAME to PATH (restore_command: %f %p), from the spool or else from the archive
      --timelines      those that the recovery follows, oldest first: no segment of another
      --from, --until  first and last segment that must be there; none behind the last
      --need-history   the history file that must be there
  verify --archive DIR [NAME…]
      reads everything, or the WAL files named; a line for each that is damaged, missing or foreign
  cat --archive DIR NAME
      writes the bytes of the WAL file NAME to stdout

Exit codes: archive 0, 1 failed, 2 usage. restore 0 delivered, 1 not there and not needed (the end
of the archive), 255 anything else: PostgreSQL must not go on. verify 0 all is well, 1 not, 2 usage.
)";

enum ExitCode : int { kGood = 0, kFailed = 1, kUsage = 2, kStopRecovery = 255 };

struct UsageError : std::exception {
    explicit UsageError(std::string text) : text(std::move(text)) {}
    const char* what() const noexcept override { return text.c_str(); }
    std::string text;
};

/// --name value or --name=value, in any place; everything behind "--" and all else is an operand.
struct Arguments {
    std::map<std::string, std::string, std::less<>> options;
    std::vector<std::string> operands;

    std::string option(std::string_view name) const {
        const auto found = options.find(name);
        return found == options.end() ? std::string() : found->second;
    }
    std::string required(std::string_view name) const {
        std::string value = option(name);
        if (value.empty()) throw UsageError(fmt::format("{} is missing", name));
        return value;
    }
};

Arguments parse(const std::vector<std::string>& words, const std::vector<std::string_view>& known) {
    Arguments arguments;
    for (std::size_t at = 0; at < words.size(); ++at) {
        const std::string& word = words[at];
        if (word == "--") {
            arguments.operands.insert(arguments.operands.end(),
                                      words.begin() + 1 + static_cast<std::ptrdiff_t>(at),
                                      words.end());
            break;
        }
        if (!word.starts_with('-') || word.size() == 1) {
            arguments.operands.push_back(word);
            continue;
        }
        const auto equals = word.find('=');
        const std::string name = word.substr(0, equals);
        if (std::find(known.begin(), known.end(), name) == known.end()) {
            throw UsageError(fmt::format("there is no option {}", name));
        }
        if (equals == std::string::npos && at + 1 == words.size()) {
            throw UsageError(fmt::format("{} needs a value", name));
        }
        arguments.options[name] =
            equals == std::string::npos ? words[++at] : word.substr(equals + 1);
    }
    return arguments;
}

void want_operands(const Arguments& arguments, std::size_t number, std::string_view which) {
    if (arguments.operands.size() != number) {
        throw UsageError(fmt::format("{} operands were given, and it takes {}",
                                     arguments.operands.size(), which));
    }
}

std::vector<std::uint32_t> parse_timelines(std::string_view text) {
    std::vector<std::uint32_t> timelines;
    while (!text.empty()) {
        const std::string_view word = text.substr(0, text.find(','));
        text.remove_prefix(std::min(word.size() + 1, text.size()));
        std::uint32_t timeline = 0;
        const auto [end, failure] =
            std::from_chars(word.data(), word.data() + word.size(), timeline);
        const bool is_next = timeline > (timelines.empty() ? 0 : timelines.back());
        if (failure != std::errc() || end != word.data() + word.size() || !is_next) {
            throw UsageError("--timelines takes numbers in ascending order, like 1,3");
        }
        timelines.push_back(timeline);
    }
    return timelines;
}

/// Of the data directory we run in; nothing where it is none.
std::optional<ServerIdentity> this_server() {
    return read_server_identity(AT_FDCWD);
}

int archive(const std::vector<std::string>& words) {
    const Arguments arguments = parse(words, {"--archive"});
    want_operands(arguments, 2, "PATH NAME");
    const std::filesystem::path source = arguments.operands[0];
    const std::filesystem::path parent = source.has_parent_path() ? source.parent_path() : ".";
    // PostgreSQL's own pg_wal may be a link: it is this server's to say where it is.
    const UniqueFd directory(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory) throw errno_error(fmt::format("open {}", parent.native()), errno);
    archive_file({.source_directory_fd = directory.get(),
                  .source_shown = parent.native(),
                  .source_name = source.filename().native(),
                  .name = arguments.operands[1],
                  .archive = arguments.required("--archive"),
                  .server = this_server()});
    return kGood;
}

int restore(const std::vector<std::string>& words) {
    const Arguments arguments = parse(
        words, {"--archive", "--spool", "--timelines", "--from", "--until", "--need-history"});
    want_operands(arguments, 2, "NAME PATH");
    const auto outcome = restore_file(
        {.archive = arguments.required("--archive"),
         .spool = arguments.option("--spool"),
         .bounds = {parse_timelines(arguments.option("--timelines")), arguments.option("--from"),
                    arguments.option("--until"), arguments.option("--need-history")},
         .name = arguments.operands[0],
         .destination = arguments.operands[1],
         .server = this_server()});
    return outcome == RestoreOutcome::kDelivered ? kGood : kFailed;
}

/// One line, whatever a file name or a file's content brought in.
std::string one_line(std::string text) {
    for (char& c : text) {
        if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = '?';
    }
    return text;
}

void say(const ErrorInfo& error) {
    std::string line = fmt::format("bpg-wal: {}: {}", error.code, error.message);
    if (!error.detail.empty()) line += ": " + error.detail;
    fmt::print(stderr, "{}\n", one_line(line));
}

int verify(const std::vector<std::string>& words) {
    const Arguments arguments = parse(words, {"--archive"});
    const auto faults = verify_archive(arguments.required("--archive"), arguments.operands);
    for (const ArchiveFault& fault : faults) {
        fmt::print("{}\n", one_line(fmt::format("{}: {}: {}", fault.file, fault.error.code,
                                                fault.error.detail)));
    }
    return faults.empty() ? kGood : kFailed;
}

int cat(const std::vector<std::string>& words) {
    const Arguments arguments = parse(words, {"--archive"});
    want_operands(arguments, 1, "NAME");
    const std::string place = arguments.required("--archive");
    const auto name = parse_wal_name(arguments.operands[0]);
    if (!name) throw UsageError("NAME is not the name of a WAL file");
    const UniqueFd directory = open_directory(place);
    const auto file = ArchivedFile::open(directory.get(), place, *name);
    if (!file) {
        throw Error(ErrorKind::kNotFound, "wal_missing",
                    fmt::format("WAL file {} is missing", name->text), "it is not in " + place);
    }
    file->read([](std::string_view piece) {
        if (std::fwrite(piece.data(), 1, piece.size(), stdout) != piece.size()) {
            throw errno_error("write to stdout", errno);
        }
    });
    if (std::fflush(stdout) != 0) throw errno_error("write to stdout", errno);
    return kGood;
}

struct CommandRow {
    std::string_view name;
    int (*run)(const std::vector<std::string>& words);
    int usage_code;
    int failure_code;
};
constexpr std::array<CommandRow, 4> kCommands{{
    {"archive", archive, kUsage, kFailed},
    {"restore", restore, kStopRecovery, kStopRecovery},
    {"verify", verify, kUsage, kFailed},
    {"cat", cat, kUsage, kFailed},
}};

int run(const CommandRow& command, const std::vector<std::string>& words) {
    try {
        return command.run(words);
    } catch (const UsageError& error) {
        say({ErrorKind::kInvalid, "usage", error.text, "bpg-wal --help shows how", ""});
        return command.usage_code;
    } catch (const std::exception&) {
        say(describe(std::current_exception()));
        return command.failure_code;
    }
}

int main_of(const std::vector<std::string>& words) {
    const std::string_view first = words.empty() ? std::string_view() : words.front();
    if (first == "--version") {
        fmt::print("bpg-wal {} (archive format {})\n", BPG_VERSION, kFormatVersion);
        return kGood;
    }
    if (first == "--help" || first == "-h") {
        fmt::print("{}", kHelp);
        return kGood;
    }
    for (const CommandRow& command : kCommands) {
        if (command.name == first) return run(command, {words.begin() + 1, words.end()});
    }
    // A misspelt restore_command must not look like the end of the archive.
    say({ErrorKind::kInvalid, "usage", fmt::format("there is no command \"{}\"", first),
         "bpg-wal --help shows them", ""});
    return kStopRecovery;
}

}  // namespace
}  // namespace bpg::wal

int main(int argc, char** argv) {
    return bpg::wal::main_of({argv + 1, argv + argc});
}
