// bpg wal …: the WAL archives of branches, and what can be restored from them.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/follow.h"
#include "cli/reference.h"
#include "cli/show.h"

namespace bpg::cli {
namespace {

int info(Session& session, const Arguments& arguments) {
    std::string target = "/v1/wal";
    if (const auto branch = arguments.find("DB/BR")) target = wal_target(parse_branch_ref(*branch));
    show_list(session, session.get(target), wal_table);
    return 0;
}

int parse_days(const Arguments& arguments) {
    const auto text = arguments.find("--days");
    if (!text) {
        throw usage_failure("--days is missing",
                            "it says for how long every point in time stays restorable",
                            "for example --days 7");
    }
    const auto days = parse_whole_number(*text);
    if (!days || *days < 0) {
        throw usage_failure(fmt::format("\"{}\" is no number of days", one_line(*text)),
                            "it takes a whole number", "for example --days 7");
    }
    return *days;
}

int cleanup(Session& session, const Arguments& arguments) {
    const BranchRef ref = parse_branch_ref(arguments.at("DB/BR"));
    nlohmann::json body{{"days", parse_days(arguments)}};
    const std::string target = wal_target(ref) + "/cleanup";
    if (arguments.has("--dry-run")) {
        body["dry_run"] = true;
        show_object(session, submit(session, {"POST", target, body}));
        return 0;
    }
    const nlohmann::json job = run_mutation(session, {"POST", target, body}, {.prints_job = true});
    if (session.json() || session.names() || session.globals().no_wait) {
        show_object(session, job);
        return 0;
    }
    const nlohmann::json result = job.value("result", nlohmann::json::object());
    session.note(fmt::format("{} segments of WAL removed, {} bytes", result.value("segments", 0ULL),
                             result.value("bytes", 0ULL)));
    return 0;
}

}  // namespace

std::span<const Command> wal_commands() {
    static const std::vector<Command> kCommands{
        {"wal info",
         "show the archived WAL of branches, and the times that can be restored",
         {{"DB/BR", "of this branch only", false}},
         {},
         info},
        {"wal cleanup",
         "remove WAL that no point in time of the last days needs",
         {{"DB/BR", "the branch"}},
         {{"--days", "N", "every time since then that can be restored stays so"},
          {"--dry-run", "", "say what would go"}},
         cleanup,
         false,
         "bpg wal cleanup prod/main --days 7"},
    };
    return kCommands;
}

}  // namespace bpg::cli
