// bpg snapshot …: read-only points of a branch.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/follow.h"
#include "cli/reference.h"
#include "cli/show.h"

namespace bpg::cli {
namespace {

int create(Session& session, const Arguments& arguments) {
    nlohmann::json body{{"branch", parse_branch_ref(arguments.at("DB/BR")).text()}};
    if (const auto label = arguments.find("--label")) body["label"] = *label;
    show_object(session, run_mutation(session, {"POST", "/v1/snapshots", body}));
    return 0;
}

int list(Session& session, const Arguments& arguments) {
    std::string target = "/v1/snapshots";
    if (const auto branch = arguments.find("DB/BR")) {
        target += "?branch=" + percent_encode(parse_branch_ref(*branch).text());
    }
    show_list(session, session.get(target), snapshot_table);
    return 0;
}

int get(Session& session, const Arguments& arguments) {
    show_object(session, session.get(snapshot_target(arguments.at("ID"))));
    return 0;
}

int remove(Session& session, const Arguments& arguments) {
    const std::string& id = arguments.at("ID");
    const bool force = arguments.has("--force");
    session.confirm(fmt::format("Delete the snapshot {}?", one_line(id)), force);
    const nlohmann::json job =
        run_mutation(session, {"DELETE", snapshot_target(id) + (force ? "?force=1" : ""), nullptr},
                     {.prints_job = true});
    if (session.json() || session.names() || session.globals().no_wait) {
        show_object(session, job);
    } else {
        session.note(fmt::format("snapshot {} deleted", one_line(id)));
    }
    return 0;
}

int pin(Session& session, const Arguments& arguments) {
    const nlohmann::json body{{"pinned", true}, {"with_wal", arguments.has("--with-wal")}};
    show_object(session, submit(session, {"PATCH", snapshot_target(arguments.at("ID")), body}));
    return 0;
}

int unpin(Session& session, const Arguments& arguments) {
    const nlohmann::json body{{"pinned", false}};
    show_object(session, submit(session, {"PATCH", snapshot_target(arguments.at("ID")), body}));
    return 0;
}

}  // namespace

std::span<const Command> snapshot_commands() {
    static const Positional kId{"ID", "its id, or the beginning of it"};
    static const std::vector<Command> kCommands{
        {"snapshot create",
         "take a snapshot of a branch",
         {{"DB/BR", "the branch"}},
         {{"--label", "L", "a remark of up to 128 bytes"}},
         create,
         false,
         "bpg snapshot create prod/main --label 'before the migration'"},
        {"snapshot list",
         "list snapshots, newest first",
         {{"DB/BR", "of this branch only", false}},
         {},
         list},
        {"snapshot get", "show a snapshot", {kId}, {}, get},
        {"snapshot delete",
         "delete a snapshot",
         {kId},
         {{"--force", "", "do not ask; also when it is pinned"}},
         remove},
        {"snapshot pin",
         "keep a snapshot: no schedule removes it",
         {kId},
         {{"--with-wal", "", "and the WAL behind it, for points in time"}},
         pin},
        {"snapshot unpin", "let a snapshot go again", {kId}, {}, unpin},
    };
    return kCommands;
}

}  // namespace bpg::cli
