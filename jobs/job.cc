#include "jobs/job.h"

#include <array>
#include <utility>

#include "orchestrator/base/json.h"

namespace bpg::jobs {
namespace {

constexpr std::array<std::pair<JobState, std::string_view>, 9> kStateNames{{
    {JobState::kQueued, "queued"},
    {JobState::kWaiting, "waiting"},
    {JobState::kRunning, "running"},
    {JobState::kRetrying, "retrying"},
    {JobState::kUndoing, "undoing"},
    {JobState::kSucceeded, "succeeded"},
    {JobState::kFailed, "failed"},
    {JobState::kCancelled, "cancelled"},
    {JobState::kStuck, "stuck"},
}};

constexpr std::array<std::string_view, 3> kLaneNames{"interactive", "scheduled", "housekeeping"};

nlohmann::json time_or_null(const std::optional<WallTime>& time) {
    return time ? nlohmann::json(time->time_since_epoch().count()) : nlohmann::json(nullptr);
}

std::optional<WallTime> time_from(const nlohmann::json& record, const char* key) {
    const auto found = record.find(key);
    if (found == record.end() || found->is_null()) return std::nullopt;
    return WallTime(std::chrono::microseconds(found->get<std::int64_t>()));
}

nlohmann::json step_record(const StepRecord& step) {
    return {{"name", step.name},
            {"purpose", step.purpose},
            {"state", step.state},
            {"started_at", time_or_null(step.started_at)},
            {"duration_ms",
             step.duration_ms ? nlohmann::json(*step.duration_ms) : nlohmann::json(nullptr)}};
}

nlohmann::json lock_record(const Lock& lock) {
    return {{"resource", lock.resource},
            {"above", lock.above},
            {"mode", std::string(to_string(lock.mode))},
            {"exclusive", lock.mode == LockMode::kExclusive},
            {"shown_as", lock.shown_as},
            {"from_step", lock.from_step},
            {"until_step", lock.until_step},
            {"held", lock.held}};
}

/// A record of schema 1 has no mode, nothing above it, and its locks for the life of the job.
Lock lock_from(const nlohmann::json& record, bool has_started) {
    Lock lock;
    lock.resource = record.value("resource", "");
    lock.above = record.value("above", std::vector<std::string>{});
    const LockMode old_mode =
        record.value("exclusive", true) ? LockMode::kExclusive : LockMode::kShared;
    lock.mode = lock_mode_from_string(record.value("mode", "")).value_or(old_mode);
    lock.shown_as = record.value("shown_as", "");
    lock.from_step = record.value("from_step", "");
    lock.until_step = record.value("until_step", "");
    lock.held = record.value("held", has_started);
    return lock;
}

StepRecord step_from(const nlohmann::json& record) {
    StepRecord step;
    step.name = record.at("name").get<std::string>();
    step.purpose = record.value("purpose", "");
    step.state = record.value("state", "pending");
    step.started_at = time_from(record, "started_at");
    if (record.contains("duration_ms") && record["duration_ms"].is_number()) {
        step.duration_ms = record["duration_ms"].get<double>();
    }
    return step;
}

}  // namespace

std::string_view to_string(JobState state) {
    for (const auto& [value, name] : kStateNames) {
        if (value == state) return name;
    }
    return "stuck";
}

std::optional<JobState> job_state_from_string(std::string_view text) {
    for (const auto& [value, name] : kStateNames) {
        if (name == text) return value;
    }
    return std::nullopt;
}

std::string_view to_string(Priority priority) {
    return kLaneNames.at(static_cast<std::size_t>(priority));
}

std::optional<Priority> priority_from_string(std::string_view text) {
    for (std::size_t lane = 0; lane < kLaneNames.size(); ++lane) {
        if (kLaneNames.at(lane) == text) return static_cast<Priority>(lane);
    }
    return std::nullopt;
}

bool is_final(JobState state) {
    return state == JobState::kSucceeded || state == JobState::kFailed ||
           state == JobState::kCancelled || state == JobState::kStuck;
}

std::optional<std::size_t> row_of(const Job& job, std::string_view step) {
    for (std::size_t row = 0; row < job.steps.size(); ++row) {
        if (job.steps[row].name == step) return row;
    }
    return std::nullopt;
}

bool needs(const Job& job, const Lock& lock, std::size_t row) {
    const std::size_t last = job.steps.empty() ? 0 : job.steps.size() - 1;
    return row >= row_of(job, lock.from_step).value_or(0) &&
           row <= row_of(job, lock.until_step).value_or(last);
}

nlohmann::json to_record(const Job& job) {
    nlohmann::json steps = nlohmann::json::array();
    for (const StepRecord& step : job.steps)
        steps.push_back(step_record(step));
    nlohmann::json locks = nlohmann::json::array();
    for (const Lock& lock : job.locks)
        locks.push_back(lock_record(lock));
    nlohmann::json record = {
        {"id", job.id},
        {"number", job.number},
        {"operation", job.operation},
        {"version", job.version},
        {"target", job.target},
        {"params", job.params},
        {"state", std::string(to_string(job.state))},
        {"direction", static_cast<int>(job.direction)},
        {"priority", static_cast<int>(job.priority)},
        {"attempt", job.attempt},
        {"created_at", time_or_null(job.created_at)},
        {"started_at", time_or_null(job.started_at)},
        {"finished_at", time_or_null(job.finished_at)},
        {"step", job.step},
        {"rewind_to", job.rewind_to},
        {"data", job.data},
        {"steps", std::move(steps)},
        {"result", job.result},
        {"warnings", job.warnings},
        {"error", job.error ? nlohmann::json(*job.error) : nlohmann::json(nullptr)},
        {"error_step", job.error_step},
        {"cause", job.cause ? nlohmann::json(*job.cause) : nlohmann::json(nullptr)},
        {"cancelled", job.cancelled},
        {"deaths", job.deaths},
        {"blame", job.blame},
        {"got_to", job.got_to},
        {"locks", std::move(locks)},
        {"last_seq", job.last_seq},
        {"mode", job.mode},
        {"has_log", job.has_log},
        {"fire", job.fire}};
    add_unknown(record, job.unknown);
    return record;
}

Job from_record(const nlohmann::json& record) {
    Job job;
    job.id = record.at("id").get<std::string>();
    job.number = record.at("number").get<std::uint64_t>();
    job.operation = record.at("operation").get<std::string>();
    job.version = record.value("version", 1U);
    job.target = record.value("target", "");
    job.params = record.value("params", nlohmann::json::object());
    job.state = job_state_from_string(record.value("state", "stuck")).value_or(JobState::kStuck);
    job.direction = static_cast<Direction>(record.value("direction", 0));
    job.priority = static_cast<Priority>(record.value("priority", 0));
    job.attempt = record.value("attempt", 1);
    job.created_at = time_from(record, "created_at").value_or(WallTime{});
    job.started_at = time_from(record, "started_at");
    job.finished_at = time_from(record, "finished_at");
    job.step = record.value("step", "");
    job.rewind_to = record.value("rewind_to", "");
    job.data = record.value("data", nlohmann::json::object());
    for (const auto& step : record.value("steps", nlohmann::json::array())) {
        job.steps.push_back(step_from(step));
    }
    job.result = record.value("result", nlohmann::json(nullptr));
    job.warnings = record.value("warnings", std::vector<std::string>{});
    if (record.contains("error") && record["error"].is_object()) {
        job.error = record["error"].get<ErrorInfo>();
    }
    job.error_step = record.value("error_step", "");
    if (record.contains("cause") && record["cause"].is_object()) {
        job.cause = record["cause"].get<ErrorInfo>();
    }
    job.cancelled = record.value("cancelled", false);
    job.deaths = record.value("deaths", 0);
    job.blame = record.value("blame", static_cast<double>(job.deaths));
    job.got_to = record.value("got_to", std::uint64_t{0});
    for (const auto& lock : record.value("locks", nlohmann::json::array())) {
        job.locks.push_back(lock_from(lock, job.started_at.has_value()));
    }
    job.last_seq = record.value("last_seq", std::uint64_t{0});
    job.mode = record.value("mode", "");
    job.has_log = record.value("has_log", false);
    job.fire = record.value("fire", nlohmann::json());
    static const nlohmann::json kKnown = to_record(Job{});
    job.unknown = unknown_members(record, kKnown);
    return job;
}

nlohmann::json to_json_object(const Event& event) {
    return {{"seq", event.seq},   {"at", format_time(event.at)}, {"type", event.type},
            {"step", event.step}, {"message", event.message},    {"data", event.data}};
}

}  // namespace bpg::jobs
