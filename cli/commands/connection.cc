// bpg url|env|psql: how to reach a branch.
#include "cli/connection.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/failure.h"
#include "cli/follow.h"
#include "cli/reference.h"
#include "cli/show.h"
#include "orchestrator/base/files.h"

namespace bpg::cli {
namespace {

namespace fs = std::filesystem;

Credentials with_password(Session& session, const BranchRef& ref) {
    return credentials_from(session.get(branch_target(ref) + "/credentials"));
}

int url(Session& session, const Arguments& arguments) {
    const BranchRef ref = parse_branch_ref(arguments.at("DB/BR"));
    // Without a password nothing secret needs to be asked for.
    Credentials credentials = arguments.has("--no-password")
                                  ? credentials_from(session.get(branch_target(ref)))
                                  : with_password(session, ref);
    if (const auto dbname = arguments.find("--dbname")) credentials.dbname = *dbname;
    const std::string text = connection_url(credentials);
    print_out(session.json() ? render_json({{"url", text}}) : text + "\n");
    return 0;
}

int env(Session& session, const Arguments& arguments) {
    const auto variables =
        connection_variables(with_password(session, parse_branch_ref(arguments.at("DB/BR"))));
    std::string lines;
    nlohmann::json object = nlohmann::json::object();
    for (const auto& [name, value] : variables) {
        object[name] = value;
        lines += shell_assignment(name, value) + "\n";
    }
    print_out(session.json() ? render_json(object) : lines);
    return 0;
}

/// A password file that has no name: memory that psql inherits as a descriptor and reads by its
/// /proc path. libpq wants a regular file nobody else may read, which this is; it is in no
/// directory, and gone with the last process that has it open.
UniqueFd password_in_memory(const Credentials& credentials) {
    UniqueFd file(memfd_create("bpg-passfile", 0));
    if (!file) throw errno_error("keep the password in memory", errno);
    if (fchmod(file.get(), S_IRUSR | S_IWUSR) != 0)
        throw errno_error("protect the password", errno);
    const std::string line = password_file_line(credentials);
    if (write(file.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
        throw errno_error("keep the password in memory", errno);
    }
    return file;
}

/// PATH first; then where Debian keeps the versions, the newest.
fs::path find_psql() {
    const char* path = std::getenv("PATH");
    std::string_view rest = path == nullptr ? "/usr/local/bin:/usr/bin:/bin" : path;
    while (!rest.empty()) {
        const auto colon = rest.find(':');
        const fs::path candidate = fs::path(rest.substr(0, colon)) / "psql";
        if (candidate.is_absolute() && access(candidate.c_str(), X_OK) == 0) return candidate;
        rest = colon == std::string_view::npos ? "" : rest.substr(colon + 1);
    }
    fs::path newest;
    int newest_version = 0;
    std::error_code ignored;  // no such directory: no such psql
    for (const auto& entry : fs::directory_iterator("/usr/lib/postgresql", ignored)) {
        const int version = std::atoi(entry.path().filename().c_str());
        const fs::path candidate = entry.path() / "bin/psql";
        if (version > newest_version && access(candidate.c_str(), X_OK) == 0) {
            newest = candidate;
            newest_version = version;
        }
    }
    if (!newest.empty()) return newest;
    throw Error(ErrorKind::kNotFound, "psql_not_found", "there is no psql on this machine",
                "looked in PATH and below /usr/lib/postgresql",
                "install it (Debian: postgresql-client), or use what `bpg url` prints");
}

/// Our environment with the variables that name the branch, and none that would lead elsewhere.
std::vector<std::string> psql_environment(const Credentials& credentials, int password_fd) {
    constexpr std::array<std::string_view, 9> kOurs{"PGHOST",     "PGHOSTADDR", "PGPORT",
                                                    "PGUSER",     "PGPASSWORD", "PGDATABASE",
                                                    "PGPASSFILE", "PGSERVICE",  "PGSERVICEFILE"};
    std::vector<std::string> environment;
    for (char** entry = environ; *entry != nullptr; ++entry) {
        const std::string_view text = *entry;
        const std::string_view name = text.substr(0, text.find('='));
        if (std::find(kOurs.begin(), kOurs.end(), name) == kOurs.end())
            environment.emplace_back(text);
    }
    for (const auto& [name, value] : connection_variables(credentials)) {
        if (name != "PGPASSWORD") environment.push_back(name + "=" + value);
    }
    environment.push_back(fmt::format("PGPASSFILE=/proc/self/fd/{}", password_fd));
    return environment;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
    std::vector<char*> result;
    result.reserve(texts.size() + 1);
    for (std::string& text : texts)
        result.push_back(text.data());
    result.push_back(nullptr);
    return result;
}

int psql(Session& session, const Arguments& arguments) {
    const fs::path program = find_psql();
    const Credentials credentials = with_password(session, parse_branch_ref(arguments.at("DB/BR")));
    const UniqueFd password = password_in_memory(credentials);
    std::vector<std::string> argv{"psql"};
    argv.insert(argv.end(), arguments.rest.begin(), arguments.rest.end());
    std::vector<std::string> environment = psql_environment(credentials, password.get());
    execve(program.c_str(), pointers(argv).data(), pointers(environment).data());
    throw errno_error(fmt::format("run {}", program.string()), errno);
}

/// What PostgreSQL wrote, as it is but for control characters.
int logs(Session& session, const Arguments& arguments) {
    const BranchRef ref = parse_branch_ref(arguments.at("DB/BR"));
    const std::string query = arguments.has("--follow") ? "?follow=1" : "";
    try {
        session.client().stream(branch_target(ref) + "/logs" + query,
                                [](const std::string& line) { print_out(one_line(line) + "\n"); });
    } catch (const Unreachable& lost) {
        throw unreachable_failure(session.client(), lost.what());
    } catch (const DeadlinePassed&) {
        throw no_answer_failure(*session.globals().timeout);
    }
    return 0;
}

int rotate_password(Session& session, const Arguments& arguments) {
    const BranchRef ref = parse_branch_ref(arguments.at("DB/BR"));
    show_object(session, run_mutation(session, {"POST", branch_target(ref) + "/rotate-password",
                                                nlohmann::json::object()}));
    return 0;
}

}  // namespace

std::span<const Command> connection_commands() {
    static const Positional kBranch{"DB/BR", "the branch"};
    static const std::vector<Command> kCommands{
        {"url",
         "print the connection URL of a branch",
         {kBranch},
         {{"--dbname", "NAME", "a PostgreSQL database in it (postgres)"},
          {"--no-password", "", "leave the password out"}},
         url},
        {"env",
         "print PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE",
         {kBranch},
         {},
         env,
         false,
         "set -a; eval \"$(bpg env prod/dev)\""},
        {"psql",
         "open psql on a branch; what follows -- goes to psql",
         {kBranch},
         {},
         psql,
         true,
         "bpg psql prod/dev -- -c 'select 1'"},
        {"logs",
         "show what the PostgreSQL of a branch wrote",
         {kBranch},
         {{"-f,--follow", "", "go on until interrupted"}},
         logs},
        {"password rotate", "give a branch a new password", {kBranch}, {}, rotate_password},
    };
    return kCommands;
}

}  // namespace bpg::cli
