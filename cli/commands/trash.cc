// bpg trash …: what was deleted or replaced, and can come back.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/follow.h"
#include "cli/reference.h"
#include "cli/show.h"

namespace bpg::cli {
namespace {

int list(Session& session, const Arguments&) {
    show_list(session, session.get("/v1/trash"), trash_table);
    return 0;
}

int purge(Session& session, const Arguments& arguments) {
    const auto what = arguments.find("ID");
    const bool all = arguments.has("--all");
    if (all == what.has_value()) {
        throw usage_failure("it takes an id, or --all", all ? "both were given" : "none was given",
                            "bpg trash list shows the ids");
    }
    session.confirm(all ? "Destroy everything in the trash?"
                        : fmt::format("Destroy {} for good?", one_line(*what)),
                    false);
    const nlohmann::json job =
        run_mutation(session, {"DELETE", all ? "/v1/trash" : trash_target(*what), nullptr},
                     {.prints_job = true});
    if (session.json() || session.names() || session.globals().no_wait) {
        show_object(session, job);
    } else {
        session.note(all ? "the trash is empty" : fmt::format("{} is gone", one_line(*what)));
    }
    return 0;
}

}  // namespace

std::span<const Command> trash_commands() {
    static const std::vector<Command> kCommands{
        {"trash list", "list what can be brought back, oldest first", {}, {}, list},
        {"trash purge",
         "destroy what is in the trash",
         {{"ID", "the id of an item, or the beginning of it", false}},
         {{"--all", "", "everything"}},
         purge},
    };
    return kCommands;
}

}  // namespace bpg::cli
