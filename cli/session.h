// One run of `bpg`: the global options, the terminal, and the connection to bpgd that is made when
// a command first needs it.
#pragma once

#include <chrono>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/client.h"
#include "cli/output.h"

namespace bpg::cli {

struct Globals {
    std::optional<std::string> config;
    std::optional<std::string> socket;
    OutputFormat format = OutputFormat::kTable;
    bool no_colour = false;
    bool quiet = false;
    bool yes = false;
    bool no_wait = false;
    std::optional<std::chrono::milliseconds> timeout;
    std::optional<std::string> idempotency_key;
};

class Session {
  public:
    Session(Globals globals, Terminal terminal);

    const Globals& globals() const { return globals_; }
    const Terminal& terminal() const { return terminal_; }
    bool json() const { return globals_.format == OutputFormat::kJson; }
    bool names() const { return globals_.format == OutputFormat::kName; }

    /// The daemon named by --socket, or by the configuration. Throws when that cannot be read.
    Client& client();
    /// client().get(); an absent daemon is a Failure (exit 6), a passed deadline too (exit 7).
    nlohmann::json get(const std::string& target);

    /// A remark on stderr; nothing with --quiet.
    void note(std::string_view text) const;
    /// "warning: …" on stderr, also with --quiet: a warning is not progress.
    void warn(std::string_view text) const;
    /// Each text of a `warnings` array.
    void warn_all(const nlohmann::json& warnings) const;

    /// Asks on a terminal (stdin and stderr); without one, or with --yes or `forced`, does not.
    /// Throws Failure (exit 1) `not_confirmed` for any answer but yes.
    void confirm(const std::string& question, bool forced) const;

  private:
    Globals globals_;
    Terminal terminal_;
    std::chrono::steady_clock::time_point began_;
    std::unique_ptr<Client> client_;
};

class Failure;
/// Exit 6: nobody answers on the socket.
Failure unreachable_failure(const Client& client, const std::string& why);
/// Exit 7 for a request that is no job.
Failure no_answer_failure(std::chrono::milliseconds timeout);

}  // namespace bpg::cli
