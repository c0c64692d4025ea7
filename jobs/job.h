// The nouns of the queue. A job is one persisted run of an operation; it never disappears without
// an outcome.
//
//   queued ──▶ running ──▶ succeeded
//     │         │ ▲  └──▶ undoing ──▶ failed | cancelled
//     ▼         ▼ │          │
//   waiting   retrying       └──▶ stuck   (undo kept failing, bpgd kept dying in a row, or a record
//                                          nobody understands; `job retry` goes on with it)
//
// queued: not started, a lock or slot is missing (waiting_for says which). waiting: a step looks
// again later. retrying: a step met something temporary and is tried again after a back-off.
#pragma once

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/locks.h"
#include "jobs/step_progress.h"
#include "orchestrator/base/clock.h"
#include "orchestrator/base/error.h"

namespace bpg::jobs {

enum class JobState {
    kQueued,
    kWaiting,
    kRunning,
    kRetrying,
    kUndoing,
    kSucceeded,
    kFailed,
    kCancelled,
    kStuck
};

std::string_view to_string(JobState state);
std::optional<JobState> job_state_from_string(std::string_view text);
/// succeeded, failed, cancelled, stuck: nothing more happens by itself.
bool is_final(JobState state);

/// Which way a job walks its table.
enum class Direction {
    kForward,
    kUndo,    ///< back to the first row, then failed
    kRewind,  ///< back to Job::rewind_to, then forward again (something volatile was lost)
};

/// The three lanes.
enum class Priority { kInteractive, kScheduled, kHousekeeping };

std::string_view to_string(Priority priority);
std::optional<Priority> priority_from_string(std::string_view text);

struct StepRecord {
    std::string name;
    std::string purpose;
    std::string state = "pending";  ///< pending, running, done, failed, undone, skipped
    std::optional<WallTime> started_at;
    std::optional<double> duration_ms;
};

struct Job {
    std::string id;
    std::uint64_t number = 0;  ///< order of submission
    std::string operation;
    std::uint32_t version = 1;  ///< of the operation's table
    std::string target;         ///< "prod/dev": what a user calls it
    nlohmann::json params;      ///< the request, for display and for recognising the same one again
    JobState state = JobState::kQueued;
    Direction direction = Direction::kForward;
    Priority priority = Priority::kInteractive;
    int attempt = 1;
    WallTime created_at{};
    std::optional<WallTime> started_at;
    std::optional<WallTime> finished_at;
    std::string step;       ///< name of the row it is in; persisted names are never renamed
    std::string rewind_to;  ///< with kRewind: the row to go on from
    nlohmann::json data;    ///< the operation's State
    std::vector<StepRecord> steps;
    nlohmann::json result = nullptr;
    std::vector<std::string> warnings;
    std::optional<ErrorInfo> error;
    std::string error_step;
    /// Of a stuck job that was being undone: why. `error` says why it is stuck.
    std::optional<ErrorInfo> cause;
    bool cancelled = false;    ///< it is undone because it was cancelled
    int deaths = 0;            ///< of bpgd in the row it is in, one after the other
    double blame = 0;          ///< its share of them: each is shared by the jobs that were at work
    std::uint64_t got_to = 0;  ///< how far (StepProgress::done) the row was when last blamed
    bool retried = false;      ///< not persisted: it goes on because of `job retry`
    bool fresh = false;        ///< not persisted: no earlier bpgd can have done anything for it
    std::string waiting_for;   ///< not persisted
    std::optional<StepProgress> progress;  ///< not persisted
    std::vector<Lock> locks;
    bool admitted = false;       ///< not persisted: it has a slot since its submission
    bool locks_saved = true;     ///< not persisted: its record says which locks it holds
    std::uint64_t last_seq = 0;  ///< of its newest event
    bool durable = true;         ///< not persisted: false between submission and its commit
    std::string mode;            ///< "safe", "fast", … for metrics; may be empty
    bool has_log = false;        ///< there is a log file of it, or was
    /// Of a schedule's: {"schedule", "at" (nominal), "stands_for" (fires)}; else null.
    nlohmann::json fire = nullptr;
    nlohmann::json unknown;  ///< what a later version wrote into its record, kept as it is
};

/// The number of a row; nothing when the job's table has no such row.
std::optional<std::size_t> row_of(const Job& job, std::string_view step);
/// Whether the row needs this lock of the job.
bool needs(const Job& job, const Lock& lock, std::size_t row);

/// The stored form. Members that this version does not know survive being read and written.
nlohmann::json to_record(const Job& job);
Job from_record(const nlohmann::json& record);

/// One fact about a job. `seq` counts from 1 without gaps, over restarts too. Types: job_queued,
/// job_started (of one that had to wait), step_done, step_retry, step_waiting (for a lock),
/// job_resumed, job_retried, job_undoing, job_rewinding, step_undone, job_succeeded, job_failed,
/// job_cancelled, job_stuck, warning.
struct Event {
    std::uint64_t seq = 0;
    WallTime at{};
    std::string type;
    std::string step;
    std::string message;
    nlohmann::json data = nlohmann::json::object();
};

nlohmann::json to_json_object(const Event& event);

}  // namespace bpg::jobs
