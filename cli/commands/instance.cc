// bpg start|stop|restart: the running PostgreSQL of a branch, or of every branch of a database.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "cli/command.h"
#include "cli/follow.h"
#include "cli/reference.h"
#include "cli/show.h"

namespace bpg::cli {
namespace {

using nlohmann::json;

json change(Session& session, const BranchRef& ref, const char* verb, bool force) {
    return run_mutation(session, {"POST", branch_target(ref) + "/" + verb, {{"force", force}}});
}

void report(const Session& session, const Failure& failure) {
    if (session.json()) return print_err(render_error_json(failure.info(), failure.job_id()));
    print_err(render_error(failure.info(), session.terminal().err_colour));
}

/// Every branch in turn, parents first as the list has them; one that fails does not stop the rest.
int change_all(Session& session, const std::string& database, const char* verb, bool force) {
    const json branches = session.get("/v1/branches?database=" + percent_encode(database));
    if (member(branches, "items").empty()) session.get(database_target(database));
    json changed = json::array();
    std::optional<ExitCode> first_failure;
    for (const json& branch : member(branches, "items")) {
        const std::string state = text_of(branch, "state");
        if (state == "creating" || state == "deleting") continue;
        session.note(text_of(branch, "ref"));
        try {
            changed.push_back(
                change(session, parse_branch_ref(text_of(branch, "ref")), verb, force));
        } catch (const Failure& failure) {
            const bool concerns_all = failure.exit() == ExitCode::kInterrupted ||
                                      failure.exit() == ExitCode::kUnreachable ||
                                      failure.exit() == ExitCode::kTimedOut;
            if (concerns_all) throw;
            report(session, failure);
            if (!first_failure) first_failure = failure.exit();
        }
    }
    const bool jobs = !changed.empty() && is_job(changed.front());
    show_list(session, {{"items", changed}}, jobs ? job_table : branch_table);
    return static_cast<int>(first_failure.value_or(ExitCode::kOk));
}

int change_named(Session& session, const Arguments& arguments, const char* verb) {
    const std::string& name = arguments.at("DB/BR|DB");
    const bool force = arguments.has("--force");
    if (name.find('/') == std::string::npos) {
        return change_all(session, parse_database_name(name), verb, force);
    }
    show_object(session, change(session, parse_branch_ref(name), verb, force));
    return 0;
}

int start(Session& session, const Arguments& arguments) {
    return change_named(session, arguments, "start");
}
int stop(Session& session, const Arguments& arguments) {
    return change_named(session, arguments, "stop");
}
int restart(Session& session, const Arguments& arguments) {
    return change_named(session, arguments, "restart");
}

}  // namespace

std::span<const Command> instance_commands() {
    static const Positional kTarget{"DB/BR|DB", "a branch, or all branches of a database"};
    static const std::vector<Command> kCommands{
        {"start", "start a branch", {kTarget}, {{"--force", "", "start it whatever it is"}}, start},
        {"stop",
         "stop a branch",
         {kTarget},
         {{"--force", "", "immediate shutdown; the next start recovers"}},
         stop},
        {"restart",
         "stop and start a branch",
         {kTarget},
         {{"--force", "", "immediate shutdown; the start recovers"}},
         restart},
    };
    return kCommands;
}

}  // namespace bpg::cli
