#include "cli/app.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <utility>

#include "cli/failure.h"
#include "cli/reference.h"

namespace bpg::cli {
namespace {

constexpr std::array<Option, 9> kGlobalOptions{{
    {"--config", "FILE", "configuration file (BPG_CONFIG, else /etc/betterpg/config.yaml)"},
    {"--socket", "PATH", "socket of bpgd (else what the configuration says)"},
    {"-o,--output", "FORMAT", "table, json or name"},
    {"--no-color", "", "no colour (NO_COLOR does the same)"},
    {"-q,--quiet", "", "no steps and no remarks"},
    {"-y,--yes", "", "answer yes to every question"},
    {"--no-wait", "", "hand the job in and print it"},
    {"--timeout", "D", "wait no longer than this, for example 90s; the job goes on"},
    {"--idempotency-key", "KEY", "a request with this key is done once, however often it is sent"},
}};

constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kNouns{{
    {"db", "databases as a whole"},
    {"branch", "branches of a database"},
    {"snapshot", "read-only points of a branch"},
    {"password", "the superuser's password of a branch"},
    {"trash", "what was deleted or replaced, and can come back"},
    {"job", "what the daemon does and did"},
}};

/// "--follow" of "-f,--follow"
std::string long_flag(const Option& option) {
    return std::string(option.flags.substr(option.flags.rfind(',') + 1));
}

/// Where one CLI11 app puts what it reads. A deque of them keeps the addresses CLI11 holds.
struct Slot {
    std::string name;
    CLI::Option* option = nullptr;
    std::string value;
    std::vector<std::string> list;  ///< of an option that repeats
    bool on = false;
};
using Slots = std::deque<Slot>;

void add_option(CLI::App& app, Slots& slots, const Option& option) {
    Slot& slot = slots.emplace_back();
    slot.name = long_flag(option);
    if (option.value.empty()) {
        slot.option = app.add_flag(std::string(option.flags), slot.on, std::string(option.help));
    } else if (option.repeats) {
        slot.option = app.add_option(std::string(option.flags), slot.list, std::string(option.help))
                          ->type_name(std::string(option.value))
                          ->allow_extra_args(false);
    } else {
        slot.option =
            app.add_option(std::string(option.flags), slot.value, std::string(option.help))
                ->type_name(std::string(option.value));
    }
}

Arguments collect(const Slots& slots) {
    Arguments arguments;
    for (const Slot& slot : slots) {
        if (slot.option->count() == 0) continue;
        if (slot.on) {
            arguments.switches.insert(slot.name);
        } else if (!slot.list.empty()) {
            arguments.lists[slot.name] = slot.list;
        } else if (slot.option->get_items_expected_max() > 0) {
            arguments.values[slot.name] = slot.value;
        }
    }
    return arguments;
}

/// The CLI11 side of the command table. Every app takes extra words: we name them better than
/// CLI11.
class Parser {
  public:
    Parser() : root_("Instant PostgreSQL branches on your own server.", "bpg") {
        root_.fallthrough();
        root_.allow_extras();
        root_.set_version_flag("--version", "bpg " BPG_VERSION);
        root_.get_formatter()->column_width(34);
        for (const Option& option : kGlobalOptions) {
            add_option(root_, global_slots_, option);
        }
        for (const Command* command : all_commands())
            add_command(*command);
    }

    Invocation parse(const std::vector<std::string>& words);

  private:
    struct Leaf {
        const Command* command;
        CLI::App* app;
        Slots slots;
    };

    void add_command(const Command& command);
    CLI::App& noun(std::string_view name);
    const Leaf* chosen() const;
    /// The innermost app whose name was given.
    const CLI::App& deepest() const;
    void check_words() const;
    Failure unknown_word(const std::string& word) const;
    Failure unknown_option(const std::string& word) const;
    Failure missing_command() const;
    std::vector<std::string> verbs_of(const CLI::App& app) const;

    CLI::App root_;
    Slots global_slots_;
    std::deque<Leaf> leaves_;
};

CLI::App& Parser::noun(std::string_view name) {
    for (CLI::App* known : root_.get_subcommands({})) {
        if (known->get_name() == name) return *known;
    }
    std::string summary;
    for (const auto& [noun_name, text] : kNouns) {
        if (noun_name == name) summary = text;
    }
    return *root_.add_subcommand(std::string(name), summary);
}

void Parser::add_command(const Command& command) {
    const auto space = command.path.find(' ');
    CLI::App& parent =
        space == std::string_view::npos ? root_ : noun(command.path.substr(0, space));
    const std::string verb(command.path.substr(space == std::string_view::npos ? 0 : space + 1));
    Leaf& leaf = leaves_.emplace_back(
        Leaf{&command, parent.add_subcommand(verb, std::string(command.summary)), {}});
    for (const Positional& positional : command.positionals) {
        Slot& slot = leaf.slots.emplace_back();
        slot.name = positional.name;
        slot.option = leaf.app->add_option(slot.name, slot.value, std::string(positional.help))
                          ->type_name("")
                          ->required(positional.required);
    }
    for (const Option& option : command.options)
        add_option(*leaf.app, leaf.slots, option);
    if (!command.example.empty()) leaf.app->footer(fmt::format("Example: {}", command.example));
}

const CLI::App& Parser::deepest() const {
    const CLI::App* app = &root_;
    while (!app->get_subcommands().empty())
        app = app->get_subcommands().front();
    return *app;
}

const Parser::Leaf* Parser::chosen() const {
    const CLI::App* app = &deepest();
    for (const Leaf& leaf : leaves_) {
        if (leaf.app == app) return &leaf;
    }
    return nullptr;
}

std::vector<std::string> Parser::verbs_of(const CLI::App& app) const {
    std::vector<std::string> names;
    for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
        names.push_back(sub->get_name());
    }
    return names;
}

/// "bpg", "bpg branch", "bpg branch create"
std::string full_name(const CLI::App& app) {
    const CLI::App* parent = app.get_parent();
    return parent == nullptr ? app.get_name() : full_name(*parent) + " " + app.get_name();
}

Failure Parser::unknown_word(const std::string& word) const {
    const CLI::App& app = deepest();
    const std::string name = full_name(app);
    if (chosen() != nullptr) {
        return usage_failure(fmt::format("\"{}\" is one word too many", one_line(word)),
                             fmt::format("{} takes fewer words", name),
                             fmt::format("see {} --help", name));
    }
    const std::vector<std::string> verbs = verbs_of(app);
    const std::string meant = did_you_mean(word, verbs);
    return usage_failure(fmt::format("there is no command \"{} {}\"", name, one_line(word)),
                         fmt::format("{} has: {}", name, fmt::join(verbs, ", ")),
                         meant.empty() ? fmt::format("see {} --help", name)
                                       : fmt::format("did you mean \"{} {}\"?", name, meant));
}

Failure Parser::unknown_option(const std::string& word) const {
    const CLI::App& app = deepest();
    const std::string flag = word.substr(0, word.find('='));
    std::vector<std::string> flags;
    for (const CLI::App* one : {&app, &root_}) {
        for (const CLI::Option* option : one->get_options()) {
            for (const std::string& name : option->get_lnames())
                flags.push_back("--" + name);
        }
    }
    const std::string meant = flag.starts_with("--") ? did_you_mean(flag, flags) : "";
    return usage_failure(fmt::format("{} has no option {}", full_name(app), one_line(flag)),
                         "no option of that name is known here",
                         meant.empty() ? fmt::format("see {} --help", full_name(app))
                                       : fmt::format("did you mean {}?", meant));
}

Failure Parser::missing_command() const {
    const std::string name = full_name(deepest());
    return usage_failure(fmt::format("{} needs a command", name),
                         fmt::format("it has: {}", fmt::join(verbs_of(deepest()), ", ")),
                         fmt::format("see {} --help", name));
}

void Parser::check_words() const {
    for (const std::string& word : root_.remaining(true)) {
        if (word == "--") continue;
        throw word.size() > 1 && word.starts_with('-') ? unknown_option(word) : unknown_word(word);
    }
    if (chosen() == nullptr) throw missing_command();
}

OutputFormat parse_format(const std::string& text) {
    if (text == "table") return OutputFormat::kTable;
    if (text == "json") return OutputFormat::kJson;
    if (text == "name") return OutputFormat::kName;
    const std::string meant = did_you_mean(text, {"table", "json", "name"});
    throw usage_failure(
        fmt::format("there is no output format \"{}\"", one_line(text)),
        "the formats are table, json and name",
        meant.empty() ? "for example -o json" : fmt::format("did you mean {}?", meant));
}

Globals globals_from(const Arguments& given) {
    Globals globals;
    globals.config = given.find("--config");
    globals.socket = given.find("--socket");
    if (const auto format = given.find("--output")) globals.format = parse_format(*format);
    globals.no_colour = given.has("--no-color");
    globals.quiet = given.has("--quiet");
    globals.yes = given.has("--yes");
    globals.no_wait = given.has("--no-wait");
    globals.idempotency_key = given.find("--idempotency-key");
    if (const auto text = given.find("--timeout")) {
        globals.timeout = parse_duration(*text);
        if (!globals.timeout || globals.timeout->count() <= 0 ||
            *globals.timeout > std::chrono::years(10)) {
            throw usage_failure(fmt::format("\"{}\" is no duration for --timeout", one_line(*text)),
                                "a duration is a number with ms, s, m, h, d or w",
                                "for example --timeout 90s");
        }
    }
    return globals;
}

/// What CLI11 found wrong, in our words; a word that nobody knows is the likelier cause.
Failure explained(const CLI::ParseError& error, const std::string& name) {
    std::string what = error.what();
    if (const auto line_end = what.find('\n'); line_end != std::string::npos) what.resize(line_end);
    return usage_failure(one_line(what), "the command line is not complete or not understood",
                         fmt::format("see {} --help", name));
}

Invocation Parser::parse(const std::vector<std::string>& words) {
    Invocation invocation;
    std::vector<std::string> reversed(words.rbegin(), words.rend());
    try {
        root_.parse(reversed);
    } catch (const CLI::CallForHelp&) {
        invocation.text = root_.help();
        return invocation;
    } catch (const CLI::CallForVersion& version) {
        invocation.text = std::string(version.what()) + "\n";
        return invocation;
    } catch (const CLI::ParseError& error) {
        check_words();
        throw explained(error, full_name(deepest()));
    }
    check_words();
    const Leaf& leaf = *chosen();
    invocation.command = leaf.command;
    invocation.arguments = collect(leaf.slots);
    invocation.globals = globals_from(collect(global_slots_));
    return invocation;
}

/// A usage error comes before the options are known; it should still answer in the format asked
/// for.
bool asks_for_json(const std::vector<std::string>& words) {
    for (std::size_t i = 0; i < words.size() && words[i] != "--"; ++i) {
        if (words[i] == "-ojson" || words[i] == "-o=json" || words[i] == "--output=json")
            return true;
        const bool flag = words[i] == "-o" || words[i] == "--output";
        if (flag && i + 1 < words.size() && words[i + 1] == "json") return true;
    }
    return false;
}

void report(const ErrorInfo& info, const std::string& job_id, bool json, bool colour) {
    print_err(json ? render_error_json(info, job_id) : render_error(info, colour));
}

int run_command_line(const std::vector<std::string>& words) {
    const Invocation invocation = parse_command_line(words);
    if (invocation.command == nullptr) {
        print_out(invocation.text);
        return 0;
    }
    Session session(invocation.globals, Terminal::detect(invocation.globals.no_colour));
    return invocation.command->run(session, invocation.arguments);
}

}  // namespace

std::vector<const Command*> all_commands() {
    std::vector<const Command*> commands;
    for (const auto rows :
         {init_commands(), database_commands(), branch_commands(), snapshot_commands(),
          wal_commands(), schedule_commands(), instance_commands(), status_commands(),
          connection_commands(), job_commands(), trash_commands()}) {
        for (const Command& command : rows)
            commands.push_back(&command);
    }
    return commands;
}

Invocation parse_command_line(const std::vector<std::string>& words) {
    const auto dashes = std::find(words.begin(), words.end(), "--");
    if (dashes == words.end()) return Parser().parse(words);
    // CLI11 would mix what follows "--" with the positionals; for psql it is not ours to read.
    const auto names_psql = [](const std::string& word) { return word == "psql"; };
    if (std::any_of(words.begin(), dashes, names_psql)) {
        Invocation invocation = Parser().parse({words.begin(), dashes});
        if (invocation.command == nullptr || invocation.command->passes_rest) {
            invocation.arguments.rest.assign(dashes + 1, words.end());
            return invocation;
        }
    }
    return Parser().parse(words);
}

int run(const std::vector<std::string>& words) {
    const bool json = asks_for_json(words);
    const bool no_colour = std::find(words.begin(), words.end(), "--no-color") != words.end();
    const bool colour = Terminal::detect(no_colour).err_colour;
    try {
        return run_command_line(words);
    } catch (const Failure& failure) {
        report(failure.info(), failure.job_id(), json, colour);
        return static_cast<int>(failure.exit());
    } catch (const Error& error) {
        report(error.info(), "", json, colour);
        return static_cast<int>(http::exit_code(error.kind()));
    } catch (const std::exception& error) {
        report({ErrorKind::kInternal, "internal", "an unexpected failure", error.what(),
                "this is a bug in bpg"},
               "", json, colour);
        return static_cast<int>(ExitCode::kFailed);
    }
}

}  // namespace bpg::cli
