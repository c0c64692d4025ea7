#include "cli/session.h"

#include <fmt/format.h>

#include <iostream>

#include "cli/failure.h"
#include "cli/settings.h"

namespace bpg::cli {

Session::Session(Globals globals, Terminal terminal)
    : globals_(std::move(globals)), terminal_(terminal), began_(std::chrono::steady_clock::now()) {}

Client& Session::client() {
    if (client_) return *client_;
    std::filesystem::path socket;
    if (globals_.socket) {
        socket = *globals_.socket;
    } else {
        const auto settings = Settings::read(config_file(globals_.config));
        socket = settings.value_or(Settings()).socket();
    }
    client_ = std::make_unique<Client>(socket);
    if (globals_.timeout) client_->set_deadline(began_ + *globals_.timeout);
    return *client_;
}

nlohmann::json Session::get(const std::string& target) {
    try {
        return client().get(target);
    } catch (const Unreachable& lost) {
        throw unreachable_failure(*client_, lost.what());
    } catch (const DeadlinePassed&) {
        throw no_answer_failure(*globals_.timeout);
    }
}

void Session::note(std::string_view text) const {
    if (!globals_.quiet) print_err(std::string(text) + "\n");
}

void Session::warn(std::string_view text) const {
    print_err(styled("warning:", Style::kWarning, terminal_.err_colour) + " " + one_line(text) +
              "\n");
}

void Session::warn_all(const nlohmann::json& warnings) const {
    if (!warnings.is_array()) return;
    for (const auto& warning : warnings) {
        if (warning.is_string()) {
            warn(warning.get<std::string>());
        } else if (warning.is_object()) {
            const std::string text = text_of(warning, "message");
            warn(text.empty() ? warning.dump() : text);
        }
    }
}

void Session::confirm(const std::string& question, bool forced) const {
    if (forced || globals_.yes || !terminal_.in_is_tty || !terminal_.err_is_tty) return;
    print_err(question + " [y/N] ");
    std::string answer;
    if (std::getline(std::cin, answer) && (answer == "y" || answer == "Y" || answer == "yes"))
        return;
    throw Failure(ExitCode::kFailed, {ErrorKind::kCancelled, "not_confirmed", "nothing was changed",
                                      "it was not confirmed", "answer y, or pass --yes"});
}

Failure unreachable_failure(const Client& client, const std::string& why) {
    return {ExitCode::kUnreachable,
            {ErrorKind::kUnavailable, "daemon_unreachable",
             fmt::format("cannot reach bpgd on {}", client.socket().string()), why,
             "start it: bpg init, or systemctl start betterpg; another socket: --socket"}};
}

Failure no_answer_failure(std::chrono::milliseconds timeout) {
    return {ExitCode::kTimedOut,
            {ErrorKind::kTimeout, "timed_out",
             fmt::format("no answer within {}", format_duration(timeout)),
             "bpgd did not answer in time", "try again with a longer --timeout"}};
}

}  // namespace bpg::cli
