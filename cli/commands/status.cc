// bpg status: one screen about everything.
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/show.h"

namespace bpg::cli {
namespace {

int status(Session& session, const Arguments&) {
    const nlohmann::json answer = session.get("/v1/status");
    if (session.json()) {
        print_out(render_json(answer));
    } else if (session.names()) {
        std::string names;
        for (const auto& database : member(answer, "databases")) {
            for (const auto& branch : member(database, "branches"))
                names += name_of(branch) + "\n";
        }
        print_out(names);
    } else {
        print_out(status_text(session, answer));
        session.warn_all(member(answer, "warnings"));
    }
    return 0;
}

}  // namespace

std::span<const Command> status_commands() {
    static const std::vector<Command> kCommands{
        {"status", "show the daemon and every branch with its port", {}, {}, status},
    };
    return kCommands;
}

}  // namespace bpg::cli
