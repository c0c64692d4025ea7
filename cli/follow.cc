#include "cli/follow.h"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <utility>

#include "cli/reference.h"
#include "orchestrator/base/id.h"

namespace bpg::cli {
namespace {

using nlohmann::json;
using std::chrono::steady_clock;

constexpr std::chrono::seconds kLostFor{10};
constexpr std::chrono::milliseconds kBetweenTries{200};

std::string how_to_follow(const std::string& job_id) {
    return fmt::format("the job goes on; follow it with: bpg job tail -f {}", job_id);
}

Failure timed_out(const Session& session, const std::string& job_id) {
    if (job_id.empty()) return no_answer_failure(*session.globals().timeout);
    return {ExitCode::kTimedOut,
            {ErrorKind::kTimeout, "timed_out",
             fmt::format("job {} did not finish within {}", job_id,
                         format_duration(*session.globals().timeout)),
             "--timeout ends the waiting, not the job", how_to_follow(job_id)},
            job_id};
}

Failure interrupted(const std::string& job_id) {
    if (job_id.empty()) {
        return {ExitCode::kInterrupted,
                {ErrorKind::kCancelled, "interrupted", "interrupted before bpgd answered",
                 "the request may have been accepted", "look with: bpg job list"}};
    }
    return {ExitCode::kInterrupted,
            {ErrorKind::kCancelled, "detached", fmt::format("no longer waiting for job {}", job_id),
             "interrupted", how_to_follow(job_id)},
            job_id};
}

Failure lost_daemon(const Client& client, const std::string& job_id, const std::string& why) {
    return {
        ExitCode::kUnreachable,
        {ErrorKind::kUnavailable, "daemon_unreachable",
         fmt::format("lost bpgd on {} while waiting for job {}", client.socket().string(), job_id),
         fmt::format("{}; tried again for {} s", why, kLostFor.count()),
         fmt::format("the job goes on when bpgd is back: bpg job tail -f {}", job_id)},
        job_id};
}

Failure lost_answer(const Client& client, const std::string& key, const std::string& why) {
    return {
        ExitCode::kUnreachable,
        {ErrorKind::kUnavailable, "daemon_unreachable",
         fmt::format("bpgd on {} went away before it answered", client.socket().string()),
         fmt::format("{}; tried again for {} s", why, kLostFor.count()),
         fmt::format("repeat the command with --idempotency-key {}: it is never done twice", key)}};
}

/// How long the daemon has been away, and when to give up on it.
class Absence {
  public:
    void over() { since_.reset(); }
    /// True when it has lasted too long.
    bool goes_on() {
        if (!since_) since_ = steady_clock::now();
        return steady_clock::now() - *since_ > kLostFor;
    }
    bool is_new() const { return !since_.has_value(); }

  private:
    std::optional<steady_clock::time_point> since_;
};

/// A daemon that has just come back is not yet one that answers.
bool is_starting(const Failure& failure) {
    return failure.exit() == ExitCode::kUnreachable;
}

class Follower {
  public:
    Follower(Session& session, const std::string& job_id, std::int64_t after, Patience patience,
             const EventSink& sink)
        : session_(session), job_id_(job_id), last_(after), patience_(patience), sink_(sink) {}

    json run() {
        while (true) {
            std::string trouble;
            try {
                session_.client().stream(
                    fmt::format("{}/events?after={}&follow=1", job_target(job_id_), last_),
                    [this](const std::string& line) { take(line); });
                json job = session_.client().get(job_target(job_id_));
                away_.over();
                if (http::is_final_job_state(text_of(job, "state"))) return job;
            } catch (const Unreachable& lost) {
                trouble = lost.what();
            } catch (const Failure& failure) {
                if (!is_starting(failure)) throw;
                trouble = failure.info().message;
            }
            if (!trouble.empty()) daemon_is_away(trouble);
            pause_for(kBetweenTries, session_.client().deadline());
        }
    }

  private:
    void take(const std::string& line) {
        const json event = json::parse(line, nullptr, /*allow_exceptions=*/false);
        if (text_of(event, "type") == "gap") return read_what_was_left_out();
        const json& seq = member(event, "seq");
        if (!seq.is_number_integer() || seq.get<std::int64_t>() <= last_) return;
        last_ = seq.get<std::int64_t>();
        away_.over();
        sink_(line, event);
    }

    /// bpgd went on without us; what it skipped is still there, unless the job is gone.
    void read_what_was_left_out() {
        try {
            session_.client().stream(fmt::format("{}/events?after={}", job_target(job_id_), last_),
                                     [this](const std::string& line) { take(line); });
        } catch (const Failure& failure) {
            if (failure.exit() != ExitCode::kNotFound) throw;
        }
    }

    void daemon_is_away(const std::string& why) {
        if (away_.is_new()) {
            session_.note(patience_ == Patience::kForever
                              ? fmt::format("bpgd is away ({}); waiting for it", why)
                              : fmt::format("bpgd is away ({}); trying again for {} s", why,
                                            kLostFor.count()));
        }
        if (away_.goes_on() && patience_ == Patience::kTenSeconds) {
            throw lost_daemon(session_.client(), job_id_, why);
        }
    }

    Session& session_;
    const std::string& job_id_;
    std::int64_t last_;
    Patience patience_;
    const EventSink& sink_;
    Absence away_;
};

/// The same for the log: told by bytes how far it is.
class LogFollower {
  public:
    LogFollower(Session& session, const std::string& job_id,
                const std::function<void(std::string_view)>& print)
        : session_(session), job_id_(job_id), print_(print) {}

    json run() {
        while (true) {
            try {
                session_.client().stream(
                    fmt::format("{}/log?after={}&follow=1", job_target(job_id_), read_),
                    [this](const std::string& line) {
                        read_ += line.size() + 1;
                        print_(line + "\n");
                    });
                json job = session_.client().get(job_target(job_id_));
                was_told_ = false;
                if (http::is_final_job_state(text_of(job, "state"))) return job;
            } catch (const Unreachable& lost) {
                daemon_is_away(lost.what());
            } catch (const Failure& failure) {
                if (!is_starting(failure)) throw;
                daemon_is_away(failure.info().message);
            }
            pause_for(kBetweenTries, session_.client().deadline());
        }
    }

  private:
    void daemon_is_away(const std::string& why) {
        if (!std::exchange(was_told_, true)) {
            session_.note(fmt::format("bpgd is away ({}); waiting for it", why));
        }
    }

    Session& session_;
    const std::string& job_id_;
    const std::function<void(std::string_view)>& print_;
    std::size_t read_ = 0;
    bool was_told_ = false;
};

/// The path of what a finished job made or changed.
std::string object_target(const json& job) {
    const std::string snapshot = text_of(member(job, "result"), "snapshot");
    if (!snapshot.empty()) return snapshot_target(snapshot);
    std::string ref = text_of(member(job, "result"), "ref");
    if (ref.empty()) ref = text_of(job, "target");
    if (ref.find('/') != std::string::npos) return branch_target(parse_branch_ref(ref));
    return database_target(parse_database_name(ref));
}

}  // namespace

bool is_job(const json& object) {
    return !text_of(object, "operation").empty();
}

bool succeeded(const json& job) {
    return text_of(job, "state") == "succeeded";
}

json submit(Session& session, const Mutation& mutation) {
    const InterruptGuard guard;
    const Client& client = session.client();
    const std::string key = session.globals().idempotency_key.value_or(random_hex(16));
    bool sent = false;
    Absence away;
    try {
        while (true) {
            std::string trouble;
            try {
                return client.call({mutation.method, mutation.target, mutation.body, key}).body;
            } catch (const Unreachable& lost) {
                sent = sent || lost.request_sent();
                if (!sent) throw unreachable_failure(client, lost.what());
                trouble = lost.what();
            } catch (const Failure& failure) {
                if (!sent || !is_starting(failure)) throw;
                trouble = failure.info().message;
            }
            if (away.goes_on()) throw lost_answer(client, key, trouble);
            pause_for(kBetweenTries, client.deadline());
        }
    } catch (const DeadlinePassed&) {
        throw timed_out(session, "");
    } catch (const Interrupted&) {
        throw interrupted("");
    }
}

json follow(Session& session, const std::string& job_id, std::int64_t after, Patience patience,
            const EventSink& sink) {
    const InterruptGuard guard;
    try {
        return Follower(session, job_id, after, patience, sink).run();
    } catch (const DeadlinePassed&) {
        throw timed_out(session, job_id);
    } catch (const Interrupted&) {
        throw interrupted(job_id);
    }
}

json follow_log(Session& session, const std::string& job_id,
                const std::function<void(std::string_view)>& print) {
    const InterruptGuard guard;
    try {
        return LogFollower(session, job_id, print).run();
    } catch (const DeadlinePassed&) {
        throw timed_out(session, job_id);
    } catch (const Interrupted&) {
        throw interrupted(job_id);
    }
}

Failure failure_of_job(const json& job) {
    const std::string id = text_of(job, "id");
    const std::string state = text_of(job, "state");
    const json& error = member(job, "error");
    const std::string what =
        fmt::format("{} of {}", text_of(job, "operation"), text_of(job, "target"));
    ErrorInfo info;
    const std::string kind = text_of(error, "kind");
    info.kind = state == "cancelled" ? ErrorKind::kCancelled
                : kind.empty()       ? ErrorKind::kInternal
                                     : error_kind_from_string(kind);
    info.code = text_of(error, "code");
    if (info.code.empty()) info.code = "job_" + state;
    info.message = text_of(error, "title");
    if (info.message.empty()) {
        info.message = state == "cancelled" ? what + " was cancelled"
                       : state == "stuck"   ? what + " is stuck"
                                            : what + " failed";
    }
    info.detail = text_of(error, "detail");
    const std::string step = text_of(error, "step");
    if (!step.empty()) {
        info.detail +=
            (info.detail.empty() ? "" : "\n") + fmt::format("in step {} of {}", step, what);
    }
    info.hint = text_of(error, "hint");
    if (info.hint.empty()) info.hint = fmt::format("see what it did: bpg job get {}", id);
    return {http::exit_code_of_failed_job(info.kind), info, id};
}

std::string event_line(const json& event, bool colour) {
    const std::string type = text_of(event, "type");
    const std::string step = text_of(event, "step");
    const std::string message = text_of(event, "message");
    const json& ms = member(member(event, "data"), "duration_ms");
    const bool undone = type == http::kEventStepUndone;
    if (type == http::kEventStepDone || undone) {
        const std::string time =
            ms.is_number() ? human_duration(std::chrono::milliseconds(ms.get<std::int64_t>())) : "";
        const std::string mark = !colour  ? ""
                                 : undone ? styled("↶ ", Style::kWarning, true)
                                          : styled("✓ ", Style::kGood, true);
        return fmt::format("{}{:<28} {:>9}", mark, (undone ? "undo " : "") + one_line(step), time);
    }
    // Why a job is not getting on is news; that it is, the steps show.
    constexpr std::array<std::string_view, 7> kNews{"wait",   "retry", "resumed", "undoing",
                                                    "rewind", "warn",  "cancel"};
    for (const std::string_view word : kNews) {
        if (type.find(word) != std::string::npos && !message.empty()) {
            return styled(one_line(message), Style::kFaint, colour);
        }
    }
    return {};
}

json follow_showing_steps(Session& session, const std::string& job_id, std::int64_t after) {
    const bool colour = session.terminal().err_colour;
    return follow(session, job_id, after, Patience::kTenSeconds,
                  [&session, colour](const std::string&, const json& event) {
                      const std::string line = event_line(event, colour);
                      // With JSON, stderr is for one object: the error.
                      if (!line.empty() && !session.json()) session.note(line);
                  });
}

json run_mutation(Session& session, const Mutation& mutation, MutationOptions options) {
    const json answer = submit(session, mutation);
    if (!is_job(answer) || session.globals().no_wait) return answer;
    json job = follow_showing_steps(session, text_of(answer, "id"), 0);
    if (!succeeded(job)) throw failure_of_job(job);
    session.warn_all(member(job, "warnings"));
    if (options.prints_job) return job;
    return session.get(object_target(job));
}

nlohmann::json parse_parameters(const Arguments& arguments) {
    nlohmann::json parameters = nlohmann::json::object();
    const auto given = arguments.lists.find("--param");
    if (given == arguments.lists.end()) return parameters;
    for (const std::string& parameter : given->second) {
        const auto equals = parameter.find('=');
        if (equals == std::string::npos || equals == 0) {
            throw usage_failure(fmt::format("\"{}\" is no parameter", one_line(parameter)),
                                "a parameter has a name and a value",
                                "write it like --param target=prod/dev");
        }
        parameters[parameter.substr(0, equals)] = parameter.substr(equals + 1);
    }
    return parameters;
}

}  // namespace bpg::cli
