// bpg branch …: branches of a database.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/follow.h"
#include "cli/reference.h"
#include "cli/show.h"

namespace bpg::cli {
namespace {

/// "7d", or "none"; checked here so that a slip is answered without a daemon.
std::string parse_ttl(const std::string& text) {
    const auto parsed = parse_duration(text);
    if (text == "none" || (parsed && parsed->count() > 0)) return text;
    throw usage_failure(fmt::format("\"{}\" is no duration for --ttl", one_line(text)),
                        "a duration is a number with ms, s, m, h, d or w, or none",
                        "for example --ttl 7d");
}

int create(Session& session, const Arguments& arguments) {
    const BranchRef ref = parse_branch_ref(arguments.at("DB/BR"));
    nlohmann::json body{{"ref", ref.text()}};
    if (const auto from = arguments.find("--from")) {
        // Without a slash it is the id of something in the trash.
        const bool is_ref = from->find('/') != std::string::npos;
        body["from"] = is_ref ? parse_branch_ref(*from).text() : *from;
    }
    if (arguments.has("--fast")) body["fast"] = true;
    if (const auto snapshot = arguments.find("--snapshot")) body["snapshot"] = *snapshot;
    if (const auto ttl = arguments.find("--ttl")) body["ttl"] = parse_ttl(*ttl);
    if (arguments.has("--stopped")) body["stopped"] = true;
    if (arguments.has("--if-not-exists")) body["if_not_exists"] = true;
    if (arguments.has("--no-archive")) body["no_archive"] = true;
    if (const auto time = arguments.find("--pitr")) body["pitr"] = *time;
    if (const auto lsn = arguments.find("--at-lsn")) body["at_lsn"] = *lsn;
    if (const auto name = arguments.find("--at-restore-point")) body["at_restore_point"] = *name;
    if (arguments.has("--dry-run")) {
        body["dry_run"] = true;
        show_object(session, submit(session, {"POST", "/v1/branches", body}));
        return 0;
    }
    const nlohmann::json branch = run_mutation(session, {"POST", "/v1/branches", body});
    const std::string parent = text_of(branch, "parent");
    const bool came_from_ref = text_of(body, "from").find('/') != std::string::npos;
    if (came_from_ref && !is_job(branch) && parent != text_of(body, "from")) {
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
    std::string query;
    for (const char* flag : {"--force", "--recursive", "--purge"}) {
        if (!arguments.has(flag)) continue;
        query += fmt::format("{}{}=1", query.empty() ? "?" : "&", flag + 2);
    }
    if (arguments.has("--dry-run")) {
        query += query.empty() ? "?dry_run=1" : "&dry_run=1";
        show_object(session, submit(session, {"DELETE", branch_target(ref) + query, nullptr}));
        return 0;
    }
    session.confirm(
        fmt::format("Delete the branch {}{}?", ref.text(),
                    arguments.has("--recursive") ? " and all that was cut from it" : ""),
        force);
    const nlohmann::json job = run_mutation(
        session, {"DELETE", branch_target(ref) + query, nullptr}, {.prints_job = true});
    if (session.json() || session.names() || session.globals().no_wait) {
        show_object(session, job);
    } else {
        session.note(fmt::format("branch {} deleted", ref.text()));
    }
    return 0;
}

int sync(Session& session, const Arguments& arguments) {
    const BranchRef ref = parse_branch_ref(arguments.at("DB/BR"));
    nlohmann::json body = nlohmann::json::object();
    if (arguments.has("--fast")) body["fast"] = true;
    const bool is_dry_run = arguments.has("--dry-run");
    if (is_dry_run) {
        body["dry_run"] = true;
    } else {
        session.confirm(fmt::format("Replace the data of {} by its parent's?", ref.text()), false);
    }
    const Mutation mutation{"POST", branch_target(ref) + "/sync", body};
    show_object(session, is_dry_run ? submit(session, mutation) : run_mutation(session, mutation));
    return 0;
}

int promote(Session& session, const Arguments& arguments) {
    const BranchRef ref = parse_branch_ref(arguments.at("DB/BR"));
    nlohmann::json body = nlohmann::json::object();
    if (const auto name = arguments.find("--old-name")) body["old_name"] = *name;
    const bool is_dry_run = arguments.has("--dry-run");
    if (is_dry_run) {
        body["dry_run"] = true;
    } else {
        session.confirm(fmt::format("Make the data of {} that of {}/main? Both restart.",
                                    ref.text(), ref.database),
                        false);
    }
    const Mutation mutation{"POST", branch_target(ref) + "/promote", body};
    show_object(session, is_dry_run ? submit(session, mutation) : run_mutation(session, mutation));
    return 0;
}

int rename(Session& session, const Arguments& arguments) {
    const BranchRef from = parse_branch_ref(arguments.at("DB/OLD"));
    const BranchRef to = parse_branch_ref(arguments.at("DB/NEW"));
    if (from.database != to.database) {
        throw usage_failure("a branch stays in its database",
                            fmt::format("{} and {} are of two", from.text(), to.text()),
                            fmt::format("name it {}/{}", from.database, to.branch));
    }
    show_object(session,
                submit(session, {"POST", branch_target(from) + "/rename", {{"name", to.branch}}}));
    return 0;
}

int set_protected(Session& session, const Arguments& arguments, bool value) {
    const BranchRef ref = parse_branch_ref(arguments.at("DB/BR"));
    show_object(session, submit(session, {"PATCH", branch_target(ref), {{"protected", value}}}));
    return 0;
}

int protect(Session& session, const Arguments& arguments) {
    return set_protected(session, arguments, true);
}
int unprotect(Session& session, const Arguments& arguments) {
    return set_protected(session, arguments, false);
}

int set(Session& session, const Arguments& arguments) {
    const BranchRef ref = parse_branch_ref(arguments.at("DB/BR"));
    nlohmann::json body = nlohmann::json::object();
    if (const auto ttl = arguments.find("--ttl")) body["ttl"] = parse_ttl(*ttl);
    if (const auto port = arguments.find("--port")) {
        const auto number = parse_whole_number(*port);
        if (*port != "auto" && !number) {
            throw usage_failure(fmt::format("\"{}\" is no port", one_line(*port)),
                                "it takes a number, or auto", "for example --port 5440");
        }
        body["port"] = number ? nlohmann::json(*number) : nlohmann::json("auto");
    }
    const auto given = arguments.lists.find("--pg");
    if (given != arguments.lists.end()) {
        for (const std::string& setting : given->second) {
            const auto equals = setting.find('=');
            if (equals == std::string::npos || equals == 0) {
                throw usage_failure(fmt::format("\"{}\" is no setting", one_line(setting)),
                                    "a setting has a name and a value",
                                    "write it like --pg work_mem=64MB, or --pg work_mem= to take "
                                    "it back");
            }
            body["pg"][setting.substr(0, equals)] = setting.substr(equals + 1);
        }
    }
    if (body.empty()) {
        throw usage_failure("there is nothing to set", "no option was given",
                            "give --ttl, --port or --pg");
    }
    show_object(session, run_mutation(session, {"PATCH", branch_target(ref), body}));
    return 0;
}

int undo_delete(Session& session, const Arguments& arguments) {
    nlohmann::json body = nlohmann::json::object();
    if (const auto as = arguments.find("--as")) body["as"] = parse_branch_ref(*as).text();
    show_object(session,
                run_mutation(session, {"POST", trash_target(arguments.at("DB/BR|ID")), body}));
    return 0;
}

Command create_command() {
    return {"branch create",
            "make a writable copy of a branch, from main unless told otherwise",
            {{"DB/BR", "the new branch"}},
            {{"--from", "DB/BR|ID", "the branch to copy, or one in the trash"},
             {"--fast", "",
              "no checkpoint on the parent: the cut is instant, recovery may take longer"},
             {"--snapshot", "ID", "as it was in this snapshot"},
             {"--pitr", "TIME", "as it was then: 2025-10-07T14:30:00Z, or 2 hours ago, or 90m"},
             {"--at-lsn", "LSN", "as it was at this position of its WAL"},
             {"--at-restore-point", "NAME", "as it was when pg_create_restore_point() was called"},
             {"--ttl", "D", "to the trash after this time, like 7d"},
             {"--stopped", "", "leave it stopped"},
             {"--no-archive", "", "do not archive its WAL: no points in time of it"},
             {"--dry-run", "", "of a point in time: say from what it would be restored"},
             {"--if-not-exists", "", "succeed with the existing branch"}},
            create,
            false,
            "bpg branch create prod/dev --from prod/main"};
}

}  // namespace

std::span<const Command> branch_commands() {
    static const std::vector<Command> kCommands{
        create_command(),
        {"branch list",
         "list branches",
         {{"DB", "of this database only", false}},
         {{"--tree", "", "children below their parents"}},
         list},
        {"branch get", "show a branch", {{"DB/BR", "the branch"}}, {}, get},
        {"branch delete",
         "delete a branch",
         {{"DB/BR", "the branch"}},
         {{"--force", "", "do not ask; also when it is protected"},
          {"--recursive", "", "also all that was cut from it"},
          {"--purge", "", "past the trash: it cannot come back"},
          {"--dry-run", "", "say what would go"}},
         remove},
        {"branch undo-delete",
         "bring a deleted branch back",
         {{"DB/BR|ID", "what it was called (the newest of that name), or its id in the trash"}},
         {{"--as", "DB/NAME", "under another name"}},
         undo_delete},
        {"branch sync",
         "cut a branch again from its parent as that is now",
         {{"DB/BR", "the branch"}},
         {{"--fast", "", "no checkpoint on the parent"},
          {"--dry-run", "", "say what would happen"}},
         sync},
        {"branch promote",
         "make a branch's data the main branch of its database",
         {{"DB/BR", "the branch"}},
         {{"--old-name", "N", "what the old main is called then (main-<time>)"},
          {"--dry-run", "", "say what would happen"}},
         promote},
        {"branch rename",
         "give a branch another name; nothing moves or restarts",
         {{"DB/OLD", "the branch"}, {"DB/NEW", "its new name"}},
         {},
         rename},
        {"branch protect",
         "keep a branch: it is deleted with --force only, and not synced",
         {{"DB/BR", "the branch"}},
         {},
         protect},
        {"branch unprotect", "let a branch go again", {{"DB/BR", "the branch"}}, {}, unprotect},
        {"branch set",
         "change what a branch has of its own; port and settings restart it",
         {{"DB/BR", "the branch"}},
         {{"--ttl", "D|none", "to the trash after this time"},
          {"--port", "auto|N", "another port"},
          {"--pg", "NAME=VALUE", "a setting of PostgreSQL; an empty value takes it back", true}},
         set,
         false,
         "bpg branch set prod/dev --ttl 7d --pg work_mem=64MB"},
    };
    return kCommands;
}

}  // namespace bpg::cli
