// bpg db …: databases as a whole.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/follow.h"
#include "cli/reference.h"
#include "cli/show.h"

namespace bpg::cli {
namespace {

int create(Session& session, const Arguments& arguments) {
    nlohmann::json body{{"name", parse_database_name(arguments.at("NAME"))}};
    if (const auto image = arguments.find("--image")) body["image"] = *image;
    if (const auto version = arguments.find("--pg-version")) body["pg_version"] = *version;
    if (body.contains("image") && body.contains("pg_version")) {
        throw usage_failure("--image and --pg-version were both given",
                            "the image decides the PostgreSQL version", "give one of them");
    }
    if (arguments.has("--if-not-exists")) body["if_not_exists"] = true;
    show_object(session, run_mutation(session, {"POST", "/v1/databases", body}));
    return 0;
}

int list(Session& session, const Arguments&) {
    show_list(session, session.get("/v1/databases"), database_table);
    return 0;
}

int get(Session& session, const Arguments& arguments) {
    show_object(session, session.get(database_target(parse_database_name(arguments.at("NAME")))));
    return 0;
}

int remove(Session& session, const Arguments& arguments) {
    const std::string name = parse_database_name(arguments.at("NAME"));
    const bool force = arguments.has("--force");
    session.confirm(fmt::format("Delete the database {} with all its branches?", name), force);
    const nlohmann::json job = run_mutation(
        session, {"DELETE", database_target(name) + (force ? "?force=1" : ""), nullptr},
        {.prints_job = true});
    if (session.json() || session.names() || session.globals().no_wait) {
        show_object(session, job);
    } else {
        session.note(fmt::format("database {} deleted", name));
    }
    return 0;
}

int rename(Session& session, const Arguments& arguments) {
    const std::string name = parse_database_name(arguments.at("OLD"));
    const nlohmann::json body{{"name", parse_database_name(arguments.at("NEW"))}};
    show_object(session, submit(session, {"PATCH", database_target(name), body}));
    return 0;
}

int undo_delete(Session& session, const Arguments& arguments) {
    show_object(session, run_mutation(session, {"POST", trash_target(arguments.at("NAME|ID")),
                                                nlohmann::json::object()}));
    return 0;
}

}  // namespace

std::span<const Command> database_commands() {
    static const std::vector<Command> kCommands{
        {"db create",
         "create a database with its first branch, NAME/main",
         {{"NAME", "name of the new database"}},
         {{"--image", "IMAGE", "container image that decides the PostgreSQL version"},
          {"--pg-version", "VERSION", "PostgreSQL major version"},
          {"--if-not-exists", "", "succeed with the existing database"}},
         create,
         false,
         "bpg db create prod"},
        {"db list", "list the databases", {}, {}, list},
        {"db get", "show a database", {{"NAME", "name of the database"}}, {}, get},
        {"db delete",
         "delete a database with all its branches",
         {{"NAME", "name of the database"}},
         {{"--force", "", "do not ask; also with branches besides main"}},
         remove},
        {"db rename",
         "give a database another name; nothing moves or restarts",
         {{"OLD", "name of the database"}, {"NEW", "its new name"}},
         {},
         rename},
        {"db undo-delete",
         "bring a deleted database back, with all its branches",
         {{"NAME|ID", "what it was called, or its id in the trash"}},
         {},
         undo_delete},
    };
    return kCommands;
}

}  // namespace bpg::cli
