#include "jobs/queue.h"

#include <fmt/format.h>

#include <algorithm>

#include "orchestrator/base/id.h"
#include "orchestrator/base/json.h"
#include "orchestrator/base/log.h"

namespace bpg::jobs {
namespace {

constexpr std::size_t kListMax = 10'000;
constexpr std::chrono::hours kDay{24};

std::string job_key(std::uint64_t number) {
    return std::string(kinds::kJob) + big_endian(number);
}
std::string active_key(std::uint64_t number) {
    return std::string(kinds::kActive) + big_endian(number);
}
std::string event_prefix(std::uint64_t number) {
    return std::string(kinds::kEvent) + big_endian(number);
}

nlohmann::json event_record(const Event& event) {
    return {{"at", event.at.time_since_epoch().count()},
            {"type", event.type},
            {"step", event.step},
            {"message", event.message},
            {"data", event.data}};
}

Event event_from(std::uint64_t seq, const nlohmann::json& record) {
    return {seq,
            WallTime(std::chrono::microseconds(record.value("at", std::int64_t{0}))),
            record.value("type", ""),
            record.value("step", ""),
            record.value("message", ""),
            record.value("data", nlohmann::json::object())};
}

bool passes(const Job& job, const JobFilter& filter) {
    return (!filter.state || job.state == *filter.state) &&
           (filter.database.empty() || job.target == filter.database ||
            job.target.starts_with(filter.database + "/"));
}

}  // namespace

Queue::Queue(Store& store, const OperationRegistry& registry, const Clock& clock,
             QueueLimits limits)
    : store_(store), registry_(registry), clock_(clock), limits_(limits) {}

void Queue::load() {
    store_.scan(
        kinds::kJob,
        [this](std::string_view key, std::string_view) {
            next_number_ = from_big_endian(key.substr(kinds::kJob.size())) + 1;
            return false;
        },
        /*reverse=*/true);
    store_.scan(kinds::kActive, [this](std::string_view key, std::string_view) {
        const std::uint64_t number = from_big_endian(key.substr(kinds::kActive.size()));
        if (auto job = read(number)) open_.emplace(number, std::make_unique<Job>(std::move(*job)));
        return true;
    });
    load_failures();
}

void Queue::load_failures() {
    const WallTime since = clock_.now() - kDay;
    store_.scan(
        kinds::kJob,
        [&](std::string_view, std::string_view value) {
            const Job job = from_record(nlohmann::json::parse(value));
            if (job.state == JobState::kFailed && job.finished_at && *job.finished_at >= since) {
                failures_.push_front(*job.finished_at);
            }
            return job.created_at >= since;
        },
        /*reverse=*/true);
    std::sort(failures_.begin(), failures_.end());
}

std::optional<Job> Queue::read(std::uint64_t number) const {
    const auto value = store_.get(job_key(number));
    if (!value) return std::nullopt;
    return from_record(nlohmann::json::parse(*value));
}

void Queue::require_room() const {
    if (open_.size() < limits_.queued_max) return;
    throw Error(ErrorKind::kExhausted, "queue_full", "the job queue is full",
                fmt::format("{} jobs are open, jobs.queued_max allows {}", open_.size(),
                            limits_.queued_max),
                "wait for jobs to finish (bpg job list), or raise jobs.queued_max");
}

asio::awaitable<Job> Queue::submit(Submission submission, Batch reservation) {
    require_room();
    const auto* entry = registry_.find(submission.operation);
    if (entry == nullptr) {
        throw Error(ErrorKind::kInvalid, "operation_unknown",
                    "there is no operation \"" + submission.operation + "\"");
    }
    auto job = std::make_unique<Job>();
    job->id = submission.job_id.empty() ? new_id() : submission.job_id;
    job->number = next_number_++;
    job->operation = std::move(submission.operation);
    job->version = entry->version;
    job->target = std::move(submission.target);
    job->params = std::move(submission.params);
    job->priority = submission.priority;
    job->created_at = clock_.now();
    job->data = std::move(submission.data);
    job->locks = std::move(submission.locks);
    job->mode = std::move(submission.mode);
    for (const StepName& step : entry->steps) {
        job->steps.push_back(
            {std::string(step.name), std::string(step.purpose), "pending", {}, {}});
    }
    job->step = job->steps.front().name;
    append_event(*job, reservation, "job_queued", "",
                 fmt::format("{} {} queued", job->operation, job->target));
    reservation.put(std::string(kinds::kJobId) + job->id, big_endian(job->number));
    reservation.put(active_key(job->number), "");
    if (!submission.idempotency_key.empty()) {
        const nlohmann::json record{{"number", job->number},
                                    {"hash", submission.request_hash},
                                    {"at", job->created_at.time_since_epoch().count()}};
        reservation.put(std::string(kinds::kIdempotency) + submission.idempotency_key,
                        json_text(record));
    }
    reservation.put(job_key(job->number), json_text(to_record(*job)));
    // Only a durable job may run: an effect before its intent is on disk could never be undone.
    job->durable = false;
    Job& placed = *job;
    open_.emplace(placed.number, std::move(job));
    co_await store_.commit(std::move(reservation));
    placed.durable = true;
    const Job answer = placed;
    changed_.notify();
    co_return answer;
}

std::optional<Job> Queue::find_by_key(const std::string& key,
                                      const std::string& request_hash) const {
    if (key.empty()) return std::nullopt;
    const auto value = store_.get(std::string(kinds::kIdempotency) + key);
    if (!value) return std::nullopt;
    const auto record = nlohmann::json::parse(*value);
    if (record.value("hash", "") != request_hash) {
        throw Error(ErrorKind::kInvalid, "idempotency_key_reused",
                    "this Idempotency-Key was used for another request",
                    "a key stands for exactly one request", "send a new key");
    }
    return read(record.value("number", std::uint64_t{0}));
}

asio::awaitable<std::optional<Job>> Queue::find_open_same(std::string operation, std::string target,
                                                          nlohmann::json params) {
    const auto same = [&](const auto& entry) {
        const Job& job = *entry.second;
        return job.operation == operation && job.target == target && job.params == params &&
               !is_final(job.state);
    };
    while (true) {
        const auto found = std::find_if(open_.begin(), open_.end(), same);
        if (found == open_.end()) co_return std::nullopt;
        if (found->second->durable) co_return *found->second;
        co_await changed_.wait_until(std::chrono::steady_clock::time_point::max());
    }
}

std::optional<Job> Queue::find_open_on(const std::string& target) const {
    for (const auto& [number, job] : open_) {
        if (job->target == target) return *job;
    }
    return std::nullopt;
}

Job Queue::get(const std::string& id_or_prefix) const {
    std::vector<std::pair<std::string, std::uint64_t>> matches;
    const std::string prefix = std::string(kinds::kJobId) + id_or_prefix;
    if (!id_or_prefix.empty()) {
        store_.scan(prefix, [&](std::string_view key, std::string_view value) {
            matches.emplace_back(key.substr(kinds::kJobId.size()), from_big_endian(value));
            return matches.size() < 2 && key != prefix;
        });
    }
    if (matches.empty()) {
        throw Error(ErrorKind::kNotFound, "job_not_found", "there is no job " + id_or_prefix,
                    "no job's id is that or begins with it",
                    "bpg job list shows the jobs there are");
    }
    if (matches.size() > 1 && matches.front().first != id_or_prefix) {
        throw Error(ErrorKind::kConflict, "id_ambiguous",
                    "more than one job begins with " + id_or_prefix,
                    matches[0].first + " and " + matches[1].first, "give more of the id");
    }
    const std::uint64_t number = matches.front().second;
    const auto open = open_.find(number);
    if (open != open_.end()) return *open->second;
    return read(number).value();
}

JobListing Queue::begin_list(JobFilter filter) const {
    JobListing listing;
    filter.limit = std::min(filter.limit, kListMax);
    for (auto it = open_.rbegin(); it != open_.rend(); ++it) {
        listing.open.insert(it->first);
        if (listing.jobs.size() < filter.limit && passes(*it->second, filter)) {
            listing.jobs.push_back(*it->second);
        }
    }
    listing.filter = std::move(filter);
    return listing;
}

std::vector<Job> Queue::finish_list(JobListing listing) const {
    const JobFilter& filter = listing.filter;
    std::vector<Job>& jobs = listing.jobs;
    if (jobs.size() >= filter.limit) return std::move(jobs);
    store_.scan(
        kinds::kJob,
        [&](std::string_view key, std::string_view value) {
            const std::uint64_t number = from_big_endian(key.substr(kinds::kJob.size()));
            if (listing.open.contains(number)) return true;
            Job job = from_record(nlohmann::json::parse(value));
            if (passes(job, filter)) jobs.push_back(std::move(job));
            return jobs.size() < filter.limit;
        },
        /*reverse=*/true);
    return std::move(jobs);
}

std::size_t Queue::failed_last_day() {
    const WallTime since = clock_.now() - kDay;
    while (!failures_.empty() && failures_.front() < since)
        failures_.pop_front();
    return failures_.size();
}

std::vector<Event> Queue::events(const Job& job, std::uint64_t after, std::size_t max) const {
    std::vector<Event> events;
    const std::string prefix = event_prefix(job.number);
    store_.scan(
        prefix,
        [&](std::string_view key, std::string_view value) {
            const std::uint64_t seq = from_big_endian(key.substr(prefix.size()));
            events.push_back(event_from(seq, nlohmann::json::parse(value)));
            return events.size() < max;
        },
        /*reverse=*/false, prefix + big_endian(after + 1));
    return events;
}

std::shared_ptr<Signal> Queue::signal_of(const std::string& job_id) {
    auto& signal = signals_[job_id];
    if (!signal) signal = std::make_shared<Signal>();
    return signal;
}

asio::awaitable<bool> Queue::wait_for_event(std::string job_id, std::uint64_t seen,
                                            std::chrono::steady_clock::time_point deadline) {
    while (true) {
        const Job job = get(job_id);
        if (job.last_seq > seen || is_final(job.state)) co_return true;
        const std::shared_ptr<Signal> signal = signal_of(job.id);
        if (!co_await signal->wait_until(deadline)) co_return false;
    }
}

asio::awaitable<Job> Queue::wait_until_final(std::string job_id,
                                             std::chrono::steady_clock::time_point deadline) {
    while (true) {
        Job job = get(job_id);
        if (is_final(job.state)) co_return job;
        const std::shared_ptr<Signal> signal = signal_of(job.id);
        if (!co_await signal->wait_until(deadline)) co_return get(job_id);
    }
}

void Queue::append_event(Job& job, Batch& batch, std::string type, std::string step,
                         std::string message, nlohmann::json data) const {
    const Event event{++job.last_seq,  clock_.now(),       std::move(type),
                      std::move(step), std::move(message), std::move(data)};
    batch.put(event_prefix(job.number) + big_endian(event.seq), json_text(event_record(event)));
}

void Queue::show(std::uint64_t number, JobState state, std::string waiting_for) {
    Job& job = *open_.at(number);
    job.state = state;
    job.waiting_for = std::move(waiting_for);
}

void Queue::show_progress(std::uint64_t number, StepProgress progress) {
    open_.at(number)->progress = std::move(progress);
}

asio::awaitable<void> Queue::commit(Job job, Batch batch) {
    const bool ended = is_final(job.state) && job.state != JobState::kStuck;
    batch.put(job_key(job.number), json_text(to_record(job)));
    if (ended) batch.remove(active_key(job.number));
    co_await store_.commit(std::move(batch));
    const std::string id = job.id;
    if (job.state == JobState::kFailed) failures_.push_back(*job.finished_at);
    if (ended) {
        open_.erase(job.number);
    } else {
        *open_.at(job.number) = std::move(job);
    }
    const auto signal = signals_.find(id);
    if (signal != signals_.end()) {
        signal->second->notify();
        if (ended) signals_.erase(signal);
    }
    changed_.notify();
}

}  // namespace bpg::jobs
