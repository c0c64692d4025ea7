// Mutations are jobs. Here one is handed in, followed step by step on stderr through broken
// connections and restarts of bpgd, and turned into what the command prints and how it ends.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "cli/command.h"
#include "cli/failure.h"
#include "cli/session.h"

namespace bpg::cli {

struct Mutation {
    std::string method;
    std::string target;
    nlohmann::json body;  ///< null: none
};

/// Hands it in with an Idempotency-Key and comes back with the job, or with the object itself when
/// there was nothing to do. An answer lost on the way is asked for again for 10 s with the same
/// key. Throws Failure: 6 (no daemon), 7 (--timeout), 130 (Ctrl-C), or what the daemon refused it
/// with.
nlohmann::json submit(Session& session, const Mutation& mutation);

/// Whether submit() brought back a job.
bool is_job(const nlohmann::json& object);

enum class Patience {
    kTenSeconds,  ///< a daemon that is away for longer ends the wait with exit 6
    kForever,     ///< `job tail -f`
};

using EventSink = std::function<void(const std::string& line, const nlohmann::json& event)>;

/// Hands every event after `after` to `sink`, each once and in order, until the job is final; gives
/// back the job. Throws Failure as submit() does, with the id of the job.
nlohmann::json follow(Session& session, const std::string& job_id, std::int64_t after,
                      Patience patience, const EventSink& sink);

/// Hands the log of a job to `print`, line by line, until the job is final; gives back the job.
nlohmann::json follow_log(Session& session, const std::string& job_id,
                          const std::function<void(std::string_view)>& print);

/// The same with a line a step on stderr.
nlohmann::json follow_showing_steps(Session& session, const std::string& job_id,
                                    std::int64_t after);

/// The Failure of a job that did not succeed, exit code by the kind of its error.
Failure failure_of_job(const nlohmann::json& job);
bool succeeded(const nlohmann::json& job);

/// The line for one event, without line feed; empty for events that are no news to a person.
std::string event_line(const nlohmann::json& event, bool colour);

/// Those of --param k=v, by name.
nlohmann::json parse_parameters(const Arguments& arguments);

struct MutationOptions {
    bool prints_job = false;  ///< delete: the object is gone, the final job is printed
};

/// What a mutating command does: submit, wait showing the steps, give back what is to be printed:
/// the object that result.ref (or the target) names, or the job (with --no-wait, and for deletes).
nlohmann::json run_mutation(Session& session, const Mutation& mutation,
                            MutationOptions options = {});

}  // namespace bpg::cli
