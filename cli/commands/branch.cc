// bpg branch …: branches of a database.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/follow.h"
#include "cli/reference.h"
#include "cli/show.h"

namespace bpg::cli {
namespace {

int create(Session& session, const Arguments& arguments) {
    const BranchRef ref = parse_branch_ref(arguments.at("DB/BR"));
    nlohmann::json body{{"ref", ref.text()}};
    if (const auto from = arguments.find("--from")) body["from"] = parse_branch_ref(*from).text();
    if (arguments.has("--fast")) body["fast"] = true;
    if (arguments.has("--if-not-exists")) body["if_not_exists"] = true;
    const nlohmann::json branch = run_mutation(session, {"POST", "/v1/branches", body});
    const std::string parent = text_of(branch, "parent");
    if (body.contains("from") && !is_job(branch) && parent != text_of(body, "from")) {
        session.note(fmt::format("note: {} was there already, made from {}, not from {}",
                                 ref.text(), parent.empty() ? "nothing" : parent,
                                 text_of(body, "from")));
    }
    show_object(session, branch);
    return 0;
}

int list(Session& session, const Arguments& arguments) {
    std::string target = "/v1/branches";
    if (const auto database = arguments.find("DB")) {
        target += "?database=" + percent_encode(parse_database_name(*database));
    }
    show_list(session, session.get(target), arguments.has("--tree") ? branch_tree : branch_table);
    return 0;
}

int get(Session& session, const Arguments& arguments) {
    show_object(session, session.get(branch_target(parse_branch_ref(arguments.at("DB/BR")))));
    return 0;
}

int remove(Session& session, const Arguments& arguments) {
    const BranchRef ref = parse_branch_ref(arguments.at("DB/BR"));
    const bool force = arguments.has("--force");
    session.confirm(fmt::format("Delete the branch {}?", ref.text()), force);
    const nlohmann::json job =
        run_mutation(session, {"DELETE", branch_target(ref) + (force ? "?force=1" : ""), nullptr},
                     {.prints_job = true});
    if (session.json() || session.names() || session.globals().no_wait) {
        show_object(session, job);
    } else {
        session.note(fmt::format("branch {} deleted", ref.text()));
    }
    return 0;
}

}  // namespace

std::span<const Command> branch_commands() {
    static const std::vector<Command> kCommands{
        {"branch create",
         "make a writable copy of a branch, from main unless told otherwise",
         {{"DB/BR", "the new branch"}},
         {{"--from", "DB/BR", "the branch to copy"},
          {"--fast", "",
           "no checkpoint on the parent: the cut is instant, recovery may take longer"},
          {"--if-not-exists", "", "succeed with the existing branch"}},
         create,
         false,
         "bpg branch create prod/dev --from prod/main"},
        {"branch list",
         "list branches",
         {{"DB", "of this database only", false}},
         {{"--tree", "", "children below their parents"}},
         list},
        {"branch get", "show a branch", {{"DB/BR", "the branch"}}, {}, get},
        {"branch delete",
         "delete a branch",
         {{"DB/BR", "the branch"}},
         {{"--force", "", "do not ask; also when it is protected"}},
         remove},
    };
    return kCommands;
}

}  // namespace bpg::cli
