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
constexpr std::size_t kLearntFrom = 200;  // the newest jobs, at start

std::string job_key(std::uint64_t number) {
    return std::string(kinds::kJob) + big_endian(number);
}
std::string active_key(std::uint64_t number) {
    return std::string(kinds::kActive) + big_endian(number);
}
std::string cancel_key(std::uint64_t number) {
    return std::string(kinds::kCancel) + big_endian(number);
}
/// There while no daemon runs and the last one ended in good order.
std::string orderly_end_key() {
    return std::string(kinds::kMeta) + "orderly_end";
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

/// A lock that is taken later must come after all that are held then: two jobs could wait for one
/// another otherwise.
void require_order(const Job& job) {
    for (const Lock& later : job.locks) {
        const std::size_t first = row_of(job, later.from_step).value_or(0);
        for (const Lock& held : job.locks) {
            if (first == 0 || needs(job, later, first - 1) || !needs(job, held, first - 1) ||
                !needs(job, held, first) || comes_before(held, later)) {
                continue;
            }
            throw Error(ErrorKind::kInternal, "locks_out_of_order",
                        "the locks of " + job.operation + " are out of order",
                        later.resource + " is taken while " + held.resource + " is held", "");
        }
    }
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
    store_.scan(kinds::kActive, [this](std::string_view key, std::string_view value) {
        const std::uint64_t number = from_big_endian(key.substr(kinds::kActive.size()));
        if (auto job = read(number)) {
            locks_.set(number, job->locks);
            open_.emplace(number, std::make_unique<Job>(std::move(*job)));
        }
        if (value.empty()) return true;
        const auto kept = nlohmann::json::parse(value);
        kept_progress_[number] = {kept.at("step"), kept.at("done")};
        return true;
    });
    load_cancellations();
    load_history();
    count_at_work();
    predecessor_died_ = !store_.get(orderly_end_key()).has_value();
    if (!predecessor_died_) leftovers_.remove(orderly_end_key());
}

/// Those that have begun, as far as their records say.
void Queue::count_at_work() {
    const auto count = std::count_if(open_.begin(), open_.end(), [](const auto& entry) {
        const Job& job = *entry.second;
        const bool holds_lock = std::any_of(job.locks.begin(), job.locks.end(),
                                            [](const Lock& lock) { return lock.held; });
        return job.state != JobState::kStuck && (job.started_at || holds_lock);
    });
    at_work_at_death_ = std::max<std::size_t>(1, static_cast<std::size_t>(count));
}

void Queue::load_cancellations() {
    store_.scan(kinds::kCancel, [this](std::string_view key, std::string_view) {
        const std::uint64_t number = from_big_endian(key.substr(kinds::kCancel.size()));
        if (open_.contains(number)) {
            cancellation(number)->is_requested = true;
        } else {
            leftovers_.remove(std::string(key));
        }
        return true;
    });
}

/// What failed lately, and how long the steps of those that succeeded took.
void Queue::load_history() {
    const WallTime since = clock_.now() - kDay;
    std::vector<Job> newest;
    store_.scan(
        kinds::kJob,
        [&](std::string_view, std::string_view value) {
            Job job = from_record(nlohmann::json::parse(value));
            if (job.state == JobState::kFailed && job.finished_at && *job.finished_at >= since) {
                failures_.push_front(*job.finished_at);
            }
            const bool is_old = job.created_at < since;
            if (newest.size() < kLearntFrom) newest.push_back(std::move(job));
            return !is_old || newest.size() < kLearntFrom;
        },
        /*reverse=*/true);
    std::sort(failures_.begin(), failures_.end());
    for (auto job = newest.rbegin(); job != newest.rend(); ++job) {
        if (job->state == JobState::kSucceeded) estimates_.learn(*job);
    }
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

Job Queue::make_job(Submission submission) const {
    const auto* entry = registry_.find(submission.operation);
    if (entry == nullptr) {
        throw Error(ErrorKind::kInvalid, "operation_unknown",
                    "there is no operation \"" + submission.operation + "\"");
    }
    Job job;
    job.id = submission.job_id.empty() ? new_id() : std::move(submission.job_id);
    job.operation = std::move(submission.operation);
    job.version = entry->version;
    job.target = std::move(submission.target);
    job.params = std::move(submission.params);
    job.priority = submission.priority;
    job.created_at = clock_.now();
    job.data = std::move(submission.data);
    job.locks = std::move(submission.locks);
    job.mode = std::move(submission.mode);
    for (const StepName& step : entry->steps)
        job.steps.push_back({std::string(step.name), std::string(step.purpose), "pending", {}, {}});
    job.step = job.steps.front().name;
    job.has_log = logs_ != nullptr;
    require_order(job);
    return job;
}

asio::awaitable<Job> Queue::submit(Submission submission, Batch reservation) {
    require_room();
    const RequestKey key = std::move(submission.key);
    auto job = std::make_unique<Job>(make_job(std::move(submission)));
    if (!key.schedule.empty()) job->priority = Priority::kScheduled;
    if (key.beside) key.beside(*job, reservation);
    job->number = next_number_++;
    // Only a durable job may run: an effect before its intent is on disk could never be undone.
    job->durable = false;
    job->fresh = true;
    if (admit_) admit_(*job);
    locks_.set(job->number, job->locks);
    reservation.add(std::exchange(leftovers_, {}));
    append_event(*job, reservation, "job_queued", "",
                 fmt::format("{} {} queued", job->operation, job->target));
    reservation.put(std::string(kinds::kJobId) + job->id, big_endian(job->number));
    reservation.put(active_key(job->number), "");
    remember(key, job->number, reservation);
    reservation.put(job_key(job->number), json_text(to_record(*job)));
    Job& placed = *job;
    open_.emplace(placed.number, std::move(job));
    co_await store_.commit(std::move(reservation));
    placed.durable = true;
    const Job answer = placed;
    changed_.notify();
    co_return answer;
}

void Queue::grant(std::uint64_t number, std::size_t row) {
    Job& job = *open_.at(number);
    for (Lock& lock : job.locks) {
        if (lock.held || !needs(job, lock, row)) continue;
        lock.held = true;
        job.locks_saved = false;
    }
    locks_.set(number, job.locks);
}

void Queue::remember(const RequestKey& key, std::uint64_t number, Batch& batch) const {
    if (key.idempotency_key.empty()) return;
    const nlohmann::json record{{"number", number},
                                {"hash", key.request_hash},
                                {"at", clock_.now().time_since_epoch().count()}};
    batch.put(std::string(kinds::kIdempotency) + key.idempotency_key, json_text(record));
}

asio::awaitable<void> Queue::change(RequestKey key, nlohmann::json answer, Batch change) {
    if (!key.idempotency_key.empty()) {
        const nlohmann::json record{{"answer", std::move(answer)},
                                    {"hash", key.request_hash},
                                    {"at", clock_.now().time_since_epoch().count()}};
        change.put(std::string(kinds::kIdempotency) + key.idempotency_key, json_text(record));
    }
    co_await store_.commit(std::move(change));
    changed_.notify();
}

std::optional<Job> Queue::find_by_key(const RequestKey& key) const {
    const auto record = read_key(key);
    if (!record || record->contains("answer")) return std::nullopt;
    return read(record->value("number", std::uint64_t{0}));
}

std::optional<nlohmann::json> Queue::find_answer(const RequestKey& key) const {
    const auto record = read_key(key);
    if (!record || !record->contains("answer")) return std::nullopt;
    return std::optional<nlohmann::json>(std::in_place, record->at("answer"));
}

std::optional<nlohmann::json> Queue::read_key(const RequestKey& key) const {
    if (key.idempotency_key.empty()) return std::nullopt;
    const auto value = store_.get(std::string(kinds::kIdempotency) + key.idempotency_key);
    if (!value) return std::nullopt;
    auto record = nlohmann::json::parse(*value);
    if (record.value("hash", "") != key.request_hash) {
        throw Error(ErrorKind::kInvalid, "idempotency_key_reused",
                    "this Idempotency-Key was used for another request",
                    "a key stands for exactly one request", "send a new key");
    }
    return record;
}

asio::awaitable<std::optional<Job>> Queue::find_open_same(std::string operation, std::string target,
                                                          nlohmann::json params, Again again) {
    const auto same = [&](const auto& entry) {
        const Job& job = *entry.second;
        const bool has_begun = job.started_at || job.admitted || !job.fresh;
        if (again == Again::kCoalesce && has_begun) return false;
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

std::shared_ptr<Cancellation> Queue::cancellation(std::uint64_t number) {
    auto& found = cancellations_[number];
    if (!found) found = std::make_shared<Cancellation>();
    return found;
}

bool Queue::is_cancel_requested(std::uint64_t number) const {
    const auto found = cancellations_.find(number);
    return found != cancellations_.end() && found->second->is_requested;
}

/// As get(), of a job that no crash can take back any more.
asio::awaitable<Job> Queue::find_durable(std::string id_or_prefix) {
    while (true) {
        Job job = get(id_or_prefix);
        if (job.durable) co_return job;
        co_await changed_.wait_until(std::chrono::steady_clock::time_point::max());
    }
}

void Queue::refuse_cancel(const Job& job) const {
    const bool is_stuck = job.state == JobState::kStuck;
    const std::string hint = is_stuck ? "it is stuck; go on with: bpg job retry " + job.id
                                      : "wait for it: bpg job tail -f " + job.id;
    if (is_final(job.state) && !is_stuck) {
        throw Error(ErrorKind::kConflict, "job_ended", "job " + job.id + " has ended already",
                    fmt::format("{} {} {}", job.operation, job.target, to_string(job.state)),
                    "there is nothing left to cancel");
    }
    if (job.direction == Direction::kUndo && !job.cancelled) {
        const ErrorInfo& why = job.cause ? *job.cause : *job.error;
        throw Error(ErrorKind::kConflict, "job_undoing",
                    "job " + job.id + " is being undone already",
                    fmt::format("{} failed: {}", job.error_step, why.message), hint);
    }
    const auto* entry = registry_.find(job.operation);
    const bool begun = !job.fresh || job.state != JobState::kQueued;
    for (std::size_t i = 0; begun && entry != nullptr && i < entry->steps.size(); ++i) {
        const StepName& row = entry->steps[i];
        if (row.name != job.step || row.irreversible.empty()) continue;
        throw Error(ErrorKind::kConflict, "job_irreversible",
                    "job " + job.id + " can no longer be cancelled",
                    fmt::format("{} {} is at step {}: {}", job.operation, job.target, job.step,
                                row.irreversible),
                    hint);
    }
}

asio::awaitable<Job> Queue::request_cancel(std::string id_or_prefix, RequestKey key) {
    Job job = co_await find_durable(std::move(id_or_prefix));
    if (job.cancelled) co_return job;
    refuse_cancel(job);
    const std::shared_ptr<Cancellation> cancel = cancellation(job.number);
    Batch batch;
    remember(key, job.number, batch);
    cancel->is_requested = true;
    batch.put(cancel_key(job.number), "");
    if (job.state == JobState::kStuck) {
        // Nobody works on it: it goes on from here, and is undone.
        job.state = JobState::kRunning;
        job.error.reset();
        job.deaths = 0;
        job.blame = 0;
        job.retried = true;
        co_await commit(job, std::move(batch));
    } else {
        co_await store_.commit(std::move(batch));
    }
    cancel->wake.notify();
    changed_.notify();
    co_return get(job.id);
}

asio::awaitable<Job> Queue::retry(std::string id_or_prefix, RequestKey key) {
    Job job = co_await find_durable(std::move(id_or_prefix));
    if (job.state != JobState::kStuck) {
        throw Error(ErrorKind::kConflict, "job_not_stuck", "job " + job.id + " is not stuck",
                    fmt::format("{} {} is {}", job.operation, job.target, to_string(job.state)),
                    is_final(job.state) ? "to have it done again, give the command again"
                                        : "it goes on by itself: bpg job tail -f " + job.id);
    }
    Batch batch;
    remember(key, job.number, batch);
    job.state = job.direction == Direction::kForward ? JobState::kRunning : JobState::kUndoing;
    job.error = std::exchange(job.cause, std::nullopt);
    if (!job.error) job.error_step.clear();
    job.deaths = 0;
    job.blame = 0;
    job.retried = true;
    ++job.attempt;
    append_event(job, batch, "job_retried", job.step, "tried again, going on at " + job.step);
    co_await commit(job, std::move(batch));
    co_return get(job.id);
}

void Queue::note_orderly_end() {
    Batch batch;
    batch.put(orderly_end_key(), "");
    store_.commit_unawaited(std::move(batch));
}

std::shared_ptr<Signal> Queue::signal_of(const std::string& job_id) {
    auto& signal = signals_[job_id];
    if (!signal) signal = std::make_shared<Signal>();
    return signal;
}

asio::awaitable<bool> Queue::wait_for_event(std::string job_id, std::uint64_t seen,
                                            std::chrono::steady_clock::time_point deadline) {
    const Job job = get(job_id);
    while (true) {
        const auto open = open_.find(job.number);
        if (open == open_.end()) co_return true;
        if (open->second->last_seq > seen || is_final(open->second->state)) co_return true;
        const std::shared_ptr<Signal> signal = signal_of(job.id);
        if (!co_await signal->wait_until(deadline)) co_return false;
    }
}

asio::awaitable<Job> Queue::wait_until_final(std::string job_id,
                                             std::chrono::steady_clock::time_point deadline) {
    const Job job = get(job_id);
    while (true) {
        // Every event of it wakes us: nothing is read from the store and copied but the end.
        const auto open = open_.find(job.number);
        if (open == open_.end() || is_final(open->second->state)) co_return get(job.id);
        const std::shared_ptr<Signal> signal = signal_of(job.id);
        if (!co_await signal->wait_until(deadline)) co_return get(job.id);
    }
}

void Queue::append_event(Job& job, Batch& batch, std::string type, std::string step,
                         std::string message, nlohmann::json data) const {
    const Event event{++job.last_seq,  clock_.now(),       std::move(type),
                      std::move(step), std::move(message), std::move(data)};
    batch.put(event_prefix(job.number) + big_endian(event.seq), json_text(event_record(event)));
    if (logs_ != nullptr) logs_->note(job, event);
}

void Queue::log(const std::string& job_id, std::string output) const {
    if (logs_ != nullptr) logs_->append(job_id, std::move(output));
}

void Queue::show(std::uint64_t number, JobState state, std::string waiting_for) {
    Job& job = *open_.at(number);
    job.state = state;
    job.waiting_for = std::move(waiting_for);
}

void Queue::show_progress(std::uint64_t number, StepProgress progress) {
    open_.at(number)->progress = std::move(progress);
}

std::uint64_t Queue::progress_of(const Job& job) const {
    const auto kept = kept_progress_.find(job.number);
    return kept == kept_progress_.end() || kept->second.step != job.step ? 0 : kept->second.done;
}

asio::awaitable<void> Queue::keep_progress(std::vector<std::uint64_t> numbers) {
    Batch batch;
    for (const std::uint64_t number : numbers) {
        const Job& job = *open_.at(number);
        if (!job.progress || job.progress->done <= progress_of(job)) continue;
        kept_progress_[number] = {job.step, job.progress->done};
        const nlohmann::json value{{"step", job.step}, {"done", job.progress->done}};
        batch.put(active_key(number), json_text(value));
    }
    if (!batch.empty()) co_await store_.commit(std::move(batch));
}

asio::awaitable<void> Queue::commit(Job job, Batch batch) {
    const bool ended = is_final(job.state) && job.state != JobState::kStuck;
    batch.put(job_key(job.number), json_text(to_record(job)));
    if (ended) batch.remove(active_key(job.number));
    if (ended || job.cancelled) batch.remove(cancel_key(job.number));
    batch.add(std::exchange(leftovers_, {}));
    co_await store_.commit(std::move(batch));
    const std::string id = job.id;
    if (job.state == JobState::kSucceeded) estimates_.learn(job);
    if (job.state == JobState::kFailed) failures_.push_back(*job.finished_at);
    if (ended) {
        cancellations_.erase(job.number);
        kept_progress_.erase(job.number);
        locks_.drop(job.number);
        open_.erase(job.number);
    } else {
        locks_.set(job.number, job.locks);
        job.locks_saved = true;
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
