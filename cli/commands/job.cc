// bpg job …: what the daemon does and did.
#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

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
    show_object(session, session.get(job_target(arguments.at("ID")) + "?explain=1"));
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

/// Hands the events there are after `after` to `sink`.
void stream_events(Session& session, const std::string& target, std::int64_t after,
                   const EventSink& sink) {
    try {
        session.client().stream(fmt::format("{}/events?after={}", target, after),
                                [&sink](const std::string& line) {
                                    sink(line, nlohmann::json::parse(line, nullptr, false));
                                });
    } catch (const Unreachable& lost) {
        throw unreachable_failure(session.client(), lost.what());
    } catch (const DeadlinePassed&) {
        throw no_answer_failure(*session.globals().timeout);
    }
}

/// The number of the newest event.
std::int64_t last_event(Session& session, const std::string& target) {
    std::int64_t last = 0;
    stream_events(session, target, 0, [&last](const std::string&, const nlohmann::json& event) {
        const nlohmann::json& seq = member(event, "seq");
        if (seq.is_number_integer()) last = seq.get<std::int64_t>();
    });
    return last;
}

Failure not_cancelled(const nlohmann::json& job) {
    const std::string id = text_of(job, "id");
    return {ExitCode::kConflict,
            {ErrorKind::kConflict, "job_not_cancelled",
             fmt::format("job {} ended before it could be cancelled", id),
             fmt::format("{} {} {}", text_of(job, "operation"), text_of(job, "target"),
                         text_of(job, "state")),
             fmt::format("see what it did: bpg job get {}", id)},
            id};
}

/// Asks for it, shows the job, and with --no-wait not its end but what it is now.
int change(Session& session, const Arguments& arguments, const char* verb,
           void (*check_end)(const nlohmann::json& job)) {
    const std::string target = job_target(arguments.at("ID"));
    const std::int64_t seen = last_event(session, target);
    nlohmann::json job = submit(session, {"POST", fmt::format("{}/{}", target, verb), nullptr});
    if (!session.globals().no_wait) {
        job = follow_showing_steps(session, text_of(job, "id"), seen);
        check_end(job);
    }
    show_object(session, job);
    return 0;
}

int cancel(Session& session, const Arguments& arguments) {
    return change(session, arguments, "cancel", [](const nlohmann::json& job) {
        if (text_of(job, "state") != "cancelled") throw not_cancelled(job);
    });
}

int retry(Session& session, const Arguments& arguments) {
    return change(session, arguments, "retry", [](const nlohmann::json& job) {
        if (!succeeded(job)) throw failure_of_job(job);
    });
}

int submit_any(Session& session, const Arguments& arguments) {
    const nlohmann::json body{{"operation", arguments.at("OPERATION")},
                              {"params", parse_parameters(arguments)}};
    show_object(session, run_mutation(session, {"POST", "/v1/jobs", body}, {.prints_job = true}));
    return 0;
}

/// The log of a job, as it is; with `follow` until the job ends, over restarts of bpgd.
int show_log(Session& session, const std::string& id, bool follow) {
    if (follow) {
        const nlohmann::json job = follow_log(session, id, print_out);
        if (!succeeded(job)) throw failure_of_job(job);
        return 0;
    }
    try {
        session.client().stream(job_target(id) + "/log",
                                [](const std::string& line) { print_out(line + "\n"); });
    } catch (const Unreachable& lost) {
        throw unreachable_failure(session.client(), lost.what());
    } catch (const DeadlinePassed&) {
        throw no_answer_failure(*session.globals().timeout);
    }
    return 0;
}

/// What --lane or --database names, of which a pause takes one.
std::pair<std::string, std::string> paused_thing(const Arguments& arguments) {
    const auto lane = arguments.find("--lane");
    const auto database = arguments.find("--database");
    if (lane.has_value() != database.has_value()) {
        return lane ? std::pair{"lane", *lane}
                    : std::pair{"database", parse_database_name(*database)};
    }
    throw usage_failure("it takes a lane or a database",
                        lane ? "both were given" : "none was given",
                        "give --lane interactive|scheduled|housekeeping, or --database DB");
}

std::string pause_line(const nlohmann::json& pause) {
    const std::string lane = text_of(pause, "lane");
    const std::string what =
        lane.empty() ? "database " + text_of(pause, "database") : "the " + lane + " lane";
    const std::string reason = text_of(pause, "reason");
    return fmt::format("{} is paused since {}{}", what, text_of(pause, "since"),
                       reason.empty() ? "" : ": " + one_line(reason));
}

int pause(Session& session, const Arguments& arguments) {
    const auto [kind, name] = paused_thing(arguments);
    const nlohmann::json body{{kind, name}, {"reason", arguments.find("--reason").value_or("")}};
    const nlohmann::json made = submit(session, {"POST", "/v1/pauses", body});
    if (session.json()) {
        print_out(render_json(made));
    } else {
        print_out(pause_line(made) + "\n");
    }
    return 0;
}

int resume(Session& session, const Arguments& arguments) {
    const auto [kind, name] = paused_thing(arguments);
    const std::string target = fmt::format("/v1/pauses/{}s/{}", kind, percent_encode(name));
    const nlohmann::json answer = submit(session, {"DELETE", target, nullptr});
    if (session.json()) {
        print_out(render_json(answer));
    } else {
        print_out(text_of(answer, "resumed") + " goes on\n");
    }
    return 0;
}

int tail(Session& session, const Arguments& arguments) {
    std::int64_t after = 0;
    if (const auto from = arguments.find("--from-event")) {
        after = parse_count(*from, "--from-event", 0) - 1;
    }
    after = std::max<std::int64_t>(after, 0);
    const std::string& id = arguments.at("ID");
    if (arguments.has("--log")) {
        if (arguments.find("--from-event")) {
            throw usage_failure("--log and --from-event do not go together",
                                "a log is lines of text, not events", "leave one of them out");
        }
        return show_log(session, id, arguments.has("--follow"));
    }
    const EventSink print = [&session](const std::string& line, const nlohmann::json& event) {
        print_event(session, line, event);
    };
    if (arguments.has("--follow")) {
        const nlohmann::json job = follow(session, id, after, Patience::kForever, print);
        if (!succeeded(job)) throw failure_of_job(job);
        return 0;
    }
    stream_events(session, job_target(id), after, print);
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
          {"--from-event", "N", "begin with this event"},
          {"--log", "", "its log instead: also what the programs it ran said"}},
         tail,
         false,
         "bpg job tail -f 7k3m"},
        {"job submit",
         "have any operation done",
         {{"OPERATION", "for example branch-create"}},
         {{"--param", "K=V", "a long flag of its command, without dashes", true}},
         submit_any,
         false,
         "bpg job submit branch-create --param target=prod/dev --param fast=true"},
        {"job cancel",
         "undo an open job and end it",
         {{"ID", "its id, or the beginning of it"}},
         {},
         cancel},
        {"job retry",
         "let a stuck job go on",
         {{"ID", "its id, or the beginning of it"}},
         {},
         retry},
        {"job pause",
         "let the jobs of a lane or a database stand still",
         {},
         {{"--lane", "LANE", "interactive, scheduled or housekeeping"},
          {"--database", "DB", "what happens in this database"},
          {"--reason", "TEXT", "shown to whoever waits"}},
         pause,
         false,
         "bpg job pause --database prod --reason 'moving disks'"},
        {"job resume",
         "let them go on",
         {},
         {{"--lane", "LANE", "interactive, scheduled or housekeeping"},
          {"--database", "DB", "what happens in this database"}},
         resume},
    };
    return kCommands;
}

}  // namespace bpg::cli
