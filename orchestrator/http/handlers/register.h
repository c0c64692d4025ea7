// The API: every route of it, and what its handlers share: the services, reading a request
// strictly, answering with objects and with jobs. All on the loop thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "jobs/job_logs.h"
#include "jobs/pauses.h"
#include "jobs/queue.h"
#include "orchestrator/catalog/catalog.h"
#include "orchestrator/http/message.h"
#include "orchestrator/http/router.h"
#include "orchestrator/operations/requests.h"
#include "orchestrator/operations/services.h"

namespace bpg::scheduler {
class Scheduler;
}

namespace bpg::http {

/// What the handlers work with; the daemon says what only it knows.
struct ApiServices {
    catalog::Catalog& catalog;
    jobs::Queue& queue;
    jobs::Pauses& pauses;
    jobs::JobLogs& job_logs;
    operations::Requests& requests;
    operations::Services& services;
    scheduler::Scheduler& scheduler;
    const Clock& clock;
    std::function<bool()> is_ready;  ///< the store is read and every instance was looked at
    std::function<nlohmann::json()> runtime_json;  ///< {driver, version}
    std::function<nlohmann::json()>
        storage_json;  ///< {driver, pool, size_bytes, free_bytes, health}
    std::chrono::steady_clock::time_point started;
    std::function<nlohmann::json()> warnings_json = {};  ///< texts for the status; may be empty
};

/// Adds every route. `api` must live as long as the router is asked.
void register_api(Router& router, ApiServices& api);

using ApiHandler = asio::awaitable<Response> (*)(ApiServices& api, Request request);

/// Adds a route that is answered with 503 `starting` until the daemon is ready.
void add_route(Router& router, ApiServices& api, std::string method, std::string_view route,
               ApiHandler handler);

using Mutation = asio::awaitable<Response> (*)(ApiServices& api, Request request,
                                               operations::RequestKey key);

/// Adds a route whose handler makes a job. A request that was made before with the same
/// Idempotency-Key is answered with the job it made then; the handler does not see it.
void add_mutation(Router& router, ApiServices& api, std::string method, std::string_view route,
                  Mutation handler);

/// The body is no JSON: answered with 400 `request_malformed`.
class Malformed : public std::exception {
  public:
    explicit Malformed(std::string why) : why_(std::move(why)) {}
    const char* what() const noexcept override { return why_.c_str(); }

  private:
    std::string why_;
};

/// Reads the members of a JSON object body, strictly: wrong types are kInvalid `field_invalid`, and
/// whatever was not asked for by the time of finish() is `field_unknown`.
class Fields {
  public:
    enum class Body { kNeeded, kOptional };
    /// Throws Malformed when the body is missing though needed, or no JSON.
    Fields(const Request& request, Body body);

    /// kInvalid `field_missing` when it is not there.
    std::string text(const std::string& name);
    std::optional<std::string> optional_text(const std::string& name);
    /// False when it is not there.
    bool flag(const std::string& name);
    std::optional<bool> optional_flag(const std::string& name);
    std::optional<std::int64_t> optional_number(const std::string& name);
    /// A text like "7d"; zero for "none". Nothing when it is not there.
    std::optional<std::chrono::milliseconds> optional_duration(const std::string& name);
    /// As it was sent, whatever its type; nullptr when it is not there.
    const nlohmann::json* value(const std::string& name) { return take(name); }
    bool has(const std::string& name) const { return object_.contains(name); }
    /// Members that are texts, by name; empty when it is not there.
    std::map<std::string, std::string> texts(const std::string& name);
    void finish() const;

  private:
    const nlohmann::json* take(const std::string& name);

    nlohmann::json object_ = nlohmann::json::object();
    std::vector<std::string> taken_;
};

/// "1" or "true"; false when it is not there; anything else is kInvalid `parameter_invalid`.
bool query_flag(const Request& request, const std::string& name);
/// A whole number in [least, most], or `otherwise` when it is not there; else as above.
std::uint64_t query_number(const Request& request, const std::string& name, std::uint64_t least,
                           std::uint64_t most, std::uint64_t otherwise);

/// A job as it is now, with how long it may still take.
nlohmann::json show_job(const ApiServices& api, const jobs::Job& job);

Response json_response(int status, const nlohmann::json& object);
/// The object that a change of records alone was about, as it is now.
Response changed_response(ApiServices& api, const nlohmann::json& answer);
Response list_response(nlohmann::json items);
/// 202 with the job and its Location; with `Prefer: wait=N` (seconds, at most 600) waits for the
/// job, and answers 200 when it is final by then. A `note` that is not empty goes into the object.
asio::awaitable<Response> job_response(ApiServices& api, Request request, jobs::Job job,
                                       std::string note = {});
/// The job that creates `target`, once it is durable; nothing when no such job is open.
asio::awaitable<std::optional<jobs::Job>> find_creation(ApiServices& api, std::string operation,
                                                        std::string target);

}  // namespace bpg::http
