#include "orchestrator/http/handlers/jobs.h"

#include <algorithm>
#include <limits>

#include "orchestrator/base/error.h"
#include "orchestrator/http/render.h"
#include "orchestrator/http/wire.h"
#include "orchestrator/operations/submit.h"

namespace bpg::http {
namespace {

using nlohmann::json;

constexpr std::size_t kListMax = 10'000;
constexpr std::size_t kListUsual = 100;
constexpr std::size_t kEventsAtOnce = 500;
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
    auto work = [&queue = api.queue, listing = api.queue.begin_list(std::move(filter))]() mutable {
        json items = json::array();
        for (const jobs::Job& job : queue.finish_list(std::move(listing)))
            items.push_back(job_json(job));
        return list_response(std::move(items));
    };
    co_return co_await api.services.pool.run(std::move(work));
}

asio::awaitable<Response> get(ApiServices& api, Request request) {
    co_return json_response(200, job_json(api.queue.get(request.param("id"))));
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

/// Sends the events after `after`; with `follow` until the job is final and all were sent.
asio::awaitable<void> send_events(jobs::Queue& queue, std::string job_id, std::uint64_t after,
                                  bool follow, StreamWriter& writer) {
    while (true) {
        // The job is read before its events: once it is final here, they are all there below.
        const jobs::Job job = queue.get(job_id);
        const std::vector<jobs::Event> events = queue.events(job, after, kEventsAtOnce);
        std::string lines;
        for (const jobs::Event& event : events) {
            lines +=
                to_json_object(event).dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
            after = event.seq;
        }
        if (!lines.empty() && !co_await writer.write(std::move(lines))) co_return;
        if (events.size() == kEventsAtOnce) continue;
        if (!follow || jobs::is_final(job.state)) co_return;
        // Never waits for what was known above: that would not wait at all.
        const std::uint64_t seen = std::max(after, job.last_seq);
        co_await queue.wait_for_event(job_id, seen, std::chrono::steady_clock::now() + kLookAgain);
    }
}

asio::awaitable<Response> events(ApiServices& api, Request request) {
    constexpr auto kSeqMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    const std::uint64_t after = query_number(request, "after", 0, kSeqMax, 0);
    const bool follow = query_flag(request, "follow");
    const std::string id = api.queue.get(request.param("id")).id;
    Response response;
    response.content_type = kEventsContentType;
    response.stream = [&queue = api.queue, id, after, follow](StreamWriter& writer) {
        return send_events(queue, id, after, follow, writer);
    };
    co_return response;
}

}  // namespace

void add_job_routes(Router& router, ApiServices& api) {
    add_route(router, api, "GET", "/v1/jobs", list);
    add_route(router, api, "GET", "/v1/jobs/{id}", get);
    add_route(router, api, "GET", "/v1/jobs/{id}/events", events);
    add_mutation(router, api, "POST", "/v1/jobs", submit);
    add_mutation(router, api, "POST", "/v1/jobs/{id}/cancel", cancel);
    add_mutation(router, api, "POST", "/v1/jobs/{id}/retry", retry);
}

}  // namespace bpg::http
