// bpg schedule …, bpg retention plan: operations that fire by the clock, and what they let go.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/follow.h"
#include "cli/reference.h"
#include "cli/show.h"

namespace bpg::cli {
namespace {

int whole_number(std::string_view flag, const std::string& text) {
    const auto number = parse_whole_number(text);
    if (number) return *number;
    throw usage_failure(fmt::format("{} takes a whole number", flag),
                        fmt::format("\"{}\" is none", one_line(text)),
                        fmt::format("for example {} 7", flag));
}

/// A flag whose value goes into the body as it is.
void copy_text(const Arguments& arguments, std::string_view flag, const char* member,
               nlohmann::json& body) {
    if (const auto text = arguments.find(flag)) body[member] = *text;
}

const std::string& required(const Arguments& arguments, std::string_view flag, std::string_view why,
                            std::string_view example) {
    const auto found = arguments.values.find(flag);
    if (found != arguments.values.end()) return found->second;
    throw usage_failure(fmt::format("{} is missing", flag), std::string(why),
                        fmt::format("for example {} {}", flag, example));
}

int create(Session& session, const Arguments& arguments) {
    nlohmann::json body{
        {"name", arguments.at("NAME")},
        {"cron", required(arguments, "--cron", "it says when the schedule fires", "'30 2 * * *'")},
        {"op", required(arguments, "--op", "it says what a fire does", "snapshot")}};
    copy_text(arguments, "--tz", "tz", body);
    copy_text(arguments, "--target", "target", body);
    copy_text(arguments, "--overlap", "overlap", body);
    copy_text(arguments, "--catch-up", "catch_up", body);
    if (const auto days = arguments.find("--days")) body["days"] = whole_number("--days", *days);
    nlohmann::json rules = nlohmann::json::object();
    for (const std::string_view rule : kKeepRules) {
        const std::string flag = fmt::format("--keep-{}", rule);
        if (const auto count = arguments.find(flag))
            rules[std::string(rule)] = whole_number(flag, *count);
    }
    if (!rules.empty()) body["retention"] = std::move(rules);
    const nlohmann::json parameters = parse_parameters(arguments);
    if (!parameters.empty()) body["parameters"] = parameters;
    show_object(session, submit(session, {"POST", "/v1/schedules", body}));
    return 0;
}

int list(Session& session, const Arguments&) {
    show_list(session, session.get("/v1/schedules"), schedule_table);
    return 0;
}

int get(Session& session, const Arguments& arguments) {
    show_object(session, session.get(schedule_target(arguments.at("NAME"))));
    return 0;
}

int pause(Session& session, const Arguments& arguments) {
    const nlohmann::json body{{"paused", true},
                              {"pause_reason", arguments.find("--reason").value_or("")}};
    show_object(session, submit(session, {"PATCH", schedule_target(arguments.at("NAME")), body}));
    return 0;
}

int resume(Session& session, const Arguments& arguments) {
    const nlohmann::json body{{"paused", false}};
    show_object(session, submit(session, {"PATCH", schedule_target(arguments.at("NAME")), body}));
    return 0;
}

int run(Session& session, const Arguments& arguments) {
    nlohmann::json body = nlohmann::json::object();
    if (arguments.has("--force")) body["force"] = true;
    const std::string target = schedule_target(arguments.at("NAME")) + "/run";
    show_object(session, run_mutation(session, {"POST", target, body}, {.prints_job = true}));
    return 0;
}

int remove(Session& session, const Arguments& arguments) {
    const std::string& name = arguments.at("NAME");
    const nlohmann::json gone = submit(session, {"DELETE", schedule_target(name), nullptr});
    if (session.json() || session.names()) {
        show_object(session, gone);
    } else {
        session.note(fmt::format("schedule {} deleted", one_line(name)));
    }
    return 0;
}

int next(Session& session, const Arguments& arguments) {
    const auto name = arguments.find("NAME");
    const auto cron = arguments.find("--cron");
    if (name.has_value() == cron.has_value()) {
        throw usage_failure("it takes a name, or --cron",
                            name ? "both were given" : "neither was given",
                            "for example bpg schedule next --cron '30 2 * * *' --tz Europe/Berlin");
    }
    std::string target = "/v1/schedules:next?";
    target += name ? "name=" + percent_encode(*name) : "cron=" + percent_encode(*cron);
    if (const auto zone = arguments.find("--tz")) target += "&tz=" + percent_encode(*zone);
    if (const auto after = arguments.find("--after")) target += "&after=" + percent_encode(*after);
    if (const auto count = arguments.find("--count"))
        target += fmt::format("&n={}", whole_number("-n", *count));
    const nlohmann::json fires = session.get(target);
    show_list(session, fires, fire_table);
    session.warn_all(fires.at("warnings"));
    return 0;
}

int show_plan(Session& session, const Arguments& arguments) {
    const BranchRef ref = parse_branch_ref(arguments.at("DB/BR"));
    std::string target = "/v1/retention/" + ref.database + "/" + ref.branch;
    if (const auto at = arguments.find("--at")) target += "?at=" + percent_encode(*at);
    const nlohmann::json plan = session.get(target);
    show_list(session, plan, retention_table);
    if (session.json() || session.names()) return 0;
    for (const nlohmann::json& line : plan.at("summary"))
        session.note(one_line(line.get<std::string>()));
    return 0;
}

}  // namespace

std::span<const Command> schedule_commands() {
    static const Positional kName{"NAME", "its name"};
    static const std::vector<Command> kCommands{
        {"schedule create",
         "have an operation fire by the clock",
         {kName},
         {{"--cron", "EXPR", "when: five fields, six with seconds, @daily, @every 15m, H"},
          {"--tz", "ZONE", "IANA zone of the expression; UTC without it"},
          {"--op", "OPERATION", "what: snapshot, wal-cleanup, branch-sync, or any other"},
          {"--target", "DB/BR", "of which branch"},
          {"--keep-last", "N", "of its snapshots, keep the newest N"},
          {"--keep-hourly", "N", "and the newest of each of the last N hours that have one"},
          {"--keep-daily", "N", "and of each of N days"},
          {"--keep-weekly", "N", "and of each of N weeks"},
          {"--keep-monthly", "N", "and of each of N months"},
          {"--keep-yearly", "N", "and of each of N years"},
          {"--keep-min", "N", "and never fewer than N"},
          {"--days", "N", "every time of the last N days stays restorable; older WAL goes"},
          {"--overlap", "skip|queue", "while the job of the fire before is open; skip without it"},
          {"--catch-up", "D", "a fire missed by less is made up for; 24h without it"},
          {"--param", "k=v", "a parameter of the operation, as of bpg job submit", true}},
         create,
         false,
         "bpg schedule create nightly --cron '30 2 * * *' --tz Europe/Berlin --op snapshot "
         "--target prod/main --keep-daily 7 --keep-weekly 4 --keep-monthly 6 --days 7"},
        {"schedule list", "list schedules", {}, {}, list},
        {"schedule get", "show a schedule", {kName}, {}, get},
        {"schedule pause",
         "let a schedule fire no more",
         {kName},
         {{"--reason", "R", "shown with it"}},
         pause},
        {"schedule resume", "let it fire again, from now on", {kName}, {}, resume},
        {"schedule run",
         "fire now",
         {kName},
         {{"--force", "",
           "also while its last job is open; its prune may remove more than "
           "retention.max_fraction"}},
         run},
        {"schedule delete", "delete a schedule; what it made stays", {kName}, {}, remove},
        {"schedule next",
         "show when a schedule, or an expression, fires next",
         {{"NAME", "its name", false}},
         {{"--cron", "EXPR", "of this expression"},
          {"--tz", "ZONE", "in this zone"},
          {"-n,--count", "N", "how many; 5 without it"},
          {"--after", "TIME", "from then on"}},
         next,
         false,
         "bpg schedule next --cron '30 2 * * *' --tz Europe/Berlin -n 10"},
        {"retention plan",
         "show what a prune would remove, what stays, which rule keeps it and until when",
         {{"DB/BR", "the branch"}},
         {{"--at", "TIME", "as if it were then"}},
         show_plan},
    };
    return kCommands;
}

}  // namespace bpg::cli
