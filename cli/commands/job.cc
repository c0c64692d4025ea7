// bpg job …: what the daemon does and did.
#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/follow.h"
#include "cli/reference.h"
#include "cli/show.h"

namespace bpg::cli {
namespace {

std::int64_t parse_count(const std::string& text, const char* flag, std::int64_t least) {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc{} && end == text.data() + text.size() && value >= least) return value;
    throw usage_failure(fmt::format("\"{}\" is no value for {}", one_line(text), flag),
                        fmt::format("it takes a whole number, at least {}", least),
                        fmt::format("for example {} 20", flag));
}

int list(Session& session, const Arguments& arguments) {
    std::string query;
    const auto add = [&query](const char* name, const std::string& value) {
        query += fmt::format("{}{}={}", query.empty() ? "?" : "&", name, percent_encode(value));
    };
    if (const auto state = arguments.find("--state")) add("state", *state);
    if (const auto database = arguments.find("--database")) {
        add("database", parse_database_name(*database));
    }
    if (const auto limit = arguments.find("--limit")) {
        add("limit", std::to_string(parse_count(*limit, "--limit", 1)));
    }
    show_list(session, session.get("/v1/jobs" + query), job_table);
    return 0;
}

int get(Session& session, const Arguments& arguments) {
    show_object(session, session.get(job_target(arguments.at("ID"))));
    return 0;
}

/// One event as `job tail` prints it: data, so to stdout.
void print_event(const Session& session, const std::string& line, const nlohmann::json& event) {
    if (session.json()) return print_out(line + "\n");
    const std::string step = one_line(text_of(event, "step"));
    print_out(fmt::format(
        "{:>4}  {}  {:<16}{}{}\n", scalar_of(event, "seq"), text_of(event, "at"),
        one_line(text_of(event, "type")), step.empty() ? "" : "  " + step,
        text_of(event, "message").empty() ? "" : "  " + one_line(text_of(event, "message"))));
}

int tail(Session& session, const Arguments& arguments) {
    std::int64_t after = 0;
    if (const auto from = arguments.find("--from-event")) {
        after = parse_count(*from, "--from-event", 0) - 1;
    }
    after = std::max<std::int64_t>(after, 0);
    const std::string& id = arguments.at("ID");
    const EventSink print = [&session](const std::string& line, const nlohmann::json& event) {
        print_event(session, line, event);
    };
    if (arguments.has("--follow")) {
        const nlohmann::json job = follow(session, id, after, Patience::kForever, print);
        if (!succeeded(job)) throw failure_of_job(job);
        return 0;
    }
    try {
        session.client().stream(fmt::format("{}/events?after={}", job_target(id), after),
                                [&print](const std::string& line) {
                                    print(line, nlohmann::json::parse(line, nullptr, false));
                                });
    } catch (const Unreachable& lost) {
        throw unreachable_failure(session.client(), lost.what());
    } catch (const DeadlinePassed&) {
        throw no_answer_failure(*session.globals().timeout);
    }
    return 0;
}

}  // namespace

std::span<const Command> job_commands() {
    static const std::vector<Command> kCommands{
        {"job list",
         "list jobs, open ones first",
         {},
         {{"--state", "STATE", "in this state only"},
          {"--database", "DB", "of this database only"},
          {"--limit", "N", "at most so many"}},
         list},
        {"job get",
         "show a job with its steps",
         {{"ID", "its id, or the beginning of it"}},
         {},
         get},
        {"job tail",
         "show the events of a job",
         {{"ID", "its id, or the beginning of it"}},
         {{"-f,--follow", "", "go on until the job ends, over restarts of bpgd"},
          {"--from-event", "N", "begin with this event"}},
         tail,
         false,
         "bpg job tail -f 7k3m"},
    };
    return kCommands;
}

}  // namespace bpg::cli
