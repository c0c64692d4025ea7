#include "orchestrator/http/handlers/jobs.h"

#include <algorithm>
#include <limits>

#include "orchestrator/base/error.h"
#include "orchestrator/http/render.h"
#include "orchestrator/http/wire.h"
#include "orchestrator/operations/explain.h"
#include "orchestrator/operations/submit.h"

namespace bpg::http {
namespace {

using nlohmann::json;

constexpr std::size_t kListMax = 10'000;
constexpr std::size_t kListUsual = 100;
constexpr std::size_t kEventsAtOnce = 500;
constexpr std::uint64_t kBehindMax = 2000;  // events; a reader that has more to read is told of it
constexpr std::chrono::milliseconds kLookAtLog{200};
constexpr std::chrono::seconds kLookAgain{15};

asio::awaitable<Response> list(ApiServices& api, Request request) {
    jobs::JobFilter filter;
    if (const auto state = request.query_value("state")) {
        filter.state = jobs::job_state_from_string(*state);
        if (!filter.state) {
            throw Error(ErrorKind::kInvalid, "parameter_invalid",
                        "there is no job state \"" + *state + "\"",
                        "the query parameter \"state\" takes queued, waiting, running, retrying, "
                        "undoing, succeeded, failed, cancelled or stuck",
                        "correct it, or leave it out");
        }
    }
    filter.database = request.query_value("database").value_or("");
    filter.limit = query_number(request, "limit", 1, kListMax, kListUsual);
    auto work = [&queue = api.queue, &logs = api.job_logs,
                 listing = api.queue.begin_list(std::move(filter))]() mutable {
        json items = json::array();
        for (const jobs::Job& job : queue.finish_list(std::move(listing)))
            items.push_back(job_json(job, {logs.directory(), std::nullopt}));
        return list_response(std::move(items));
    };
    co_return co_await api.services.pool.run(std::move(work));
}

asio::awaitable<Response> get(ApiServices& api, Request request) {
    const bool explained = query_flag(request, "explain");
    const jobs::Job job = api.queue.get(request.param("id"));
    json object = show_job(api, job);
    if (explained) {
        object["explanation"] = co_await operations::explain(api.services, api.queue, job);
    }
    co_return json_response(200, object);
}

asio::awaitable<Response> submit(ApiServices& api, Request request, jobs::RequestKey key) {
    Fields fields(request, Fields::Body::kNeeded);
    std::string operation = fields.text("operation");
    operations::Parameters parameters = fields.texts("params");
    fields.finish();
    jobs::Job job = co_await operations::submit(api.requests, std::move(operation),
                                                std::move(parameters), std::move(key));
    co_return co_await job_response(api, std::move(request), std::move(job));
}

asio::awaitable<Response> cancel(ApiServices& api, Request request, jobs::RequestKey key) {
    Fields(request, Fields::Body::kOptional).finish();
    jobs::Job job = co_await api.queue.request_cancel(request.param("id"), std::move(key));
    co_return co_await job_response(api, std::move(request), std::move(job));
}

asio::awaitable<Response> retry(ApiServices& api, Request request, jobs::RequestKey key) {
    Fields(request, Fields::Body::kOptional).finish();
    jobs::Job job = co_await api.queue.retry(request.param("id"), std::move(key));
    co_return co_await job_response(api, std::move(request), std::move(job));
}

std::string line_of(const json& object) {
    return object.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

/// Stands in the stream for events that are left out; whoever wants them asks for them.
std::string gap_line(std::uint64_t from, std::uint64_t to, const char* why) {
    return line_of({{"type", "gap"}, {"message", why}, {"data", {{"from", from}, {"to", to}}}});
}

struct PartWanted {
    std::string job_id;
    std::uint64_t after = 0;  ///< the number of an event, or a byte of the log
    bool follow = false;
};

PartWanted part_wanted(const ApiServices& api, const Request& request) {
    constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    const std::uint64_t after = query_number(request, "after", 0, kMost, 0);
    const bool follow = query_flag(request, "follow");
    return {api.queue.get(request.param("id")).id, after, follow};
}

/// Nothing: the job was removed from the history while its events were read.
std::optional<jobs::Job> look_again(const jobs::Queue& queue, const std::string& job_id) {
    try {
        return queue.get(job_id);
    } catch (const Error& error) {
        if (error.kind() != ErrorKind::kNotFound) throw;
        return std::nullopt;
    }
}

/// Sends the events after `after`; with `follow` until the job is final and all were sent. Every
/// reader has a place of its own in the stored events: one that is slow waits for itself alone, and
/// one that falls far behind is told what it missed and goes on with the newest.
asio::awaitable<void> send_events(jobs::Queue& queue, PartWanted wanted, StreamWriter& writer) {
    std::uint64_t last_known = 0;
    bool has_followed = false;
    while (true) {
        // The job is read before its events: once it is final here, they are all there below.
        const auto job = look_again(queue, wanted.job_id);
        if (!job) {
            if (last_known > wanted.after) {
                co_await writer.write(
                    gap_line(wanted.after + 1, last_known, "the job has left the history"));
            }
            co_return;
        }
        last_known = job->last_seq;
        if (has_followed && job->last_seq > wanted.after + kBehindMax) {
            const std::uint64_t newest = job->last_seq - kEventsAtOnce;
            const std::string gap =
                gap_line(wanted.after + 1, newest, "the reader was too slow for these");
            if (!co_await writer.write(gap)) co_return;
            wanted.after = newest;
        }
        const std::vector<jobs::Event> events = queue.events(*job, wanted.after, kEventsAtOnce);
        std::string lines;
        for (const jobs::Event& event : events) {
            lines += line_of(to_json_object(event));
            wanted.after = event.seq;
        }
        if (!lines.empty() && !co_await writer.write(std::move(lines))) co_return;
        if (events.size() == kEventsAtOnce) continue;
        if (!wanted.follow || jobs::is_final(job->state)) co_return;
        has_followed = true;
        // Never waits for what was known above: that would not wait at all.
        const std::uint64_t seen = std::max(wanted.after, job->last_seq);
        if (!look_again(queue, wanted.job_id)) continue;
        co_await queue.wait_for_event(wanted.job_id, seen,
                                      std::chrono::steady_clock::now() + kLookAgain);
    }
}

asio::awaitable<Response> events(ApiServices& api, Request request) {
    Response response;
    response.content_type = kEventsContentType;
    response.stream = [&queue = api.queue, wanted = part_wanted(api, request)](
                          StreamWriter& writer) { return send_events(queue, wanted, writer); };
    co_return response;
}

/// Sends the log from byte `after`; with `follow` until the job is final and all was sent.
asio::awaitable<void> send_log(ApiServices& api, PartWanted wanted, StreamWriter& writer) {
    while (true) {
        const auto job = look_again(api.queue, wanted.job_id);
        std::string piece = co_await api.job_logs.read(wanted.job_id, wanted.after);
        const bool at_end = piece.empty();
        wanted.after += piece.size();
        if (!at_end && !co_await writer.write(std::move(piece))) co_return;
        if (!at_end) continue;
        if (!wanted.follow || !job || jobs::is_final(job->state)) co_return;
        co_await pause_for(kLookAtLog);
    }
}

asio::awaitable<Response> job_log(ApiServices& api, Request request) {
    Response response;
    response.content_type = "text/plain; charset=utf-8";
    response.stream = [&api, wanted = part_wanted(api, request)](StreamWriter& writer) {
        return send_log(api, wanted, writer);
    };
    co_return response;
}

}  // namespace

void add_job_routes(Router& router, ApiServices& api) {
    add_route(router, api, "GET", "/v1/jobs", list);
    add_route(router, api, "GET", "/v1/jobs/{id}", get);
    add_route(router, api, "GET", "/v1/jobs/{id}/events", events);
    add_route(router, api, "GET", "/v1/jobs/{id}/log", job_log);
    add_mutation(router, api, "POST", "/v1/jobs", submit);
    add_mutation(router, api, "POST", "/v1/jobs/{id}/cancel", cancel);
    add_mutation(router, api, "POST", "/v1/jobs/{id}/retry", retry);
}

}  // namespace bpg::http
