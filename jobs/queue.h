// The queue: every job, its events and its idempotency key, in the store; the open ones also in
// memory, which is where the runner looks. RocksDB is scanned at start, and for lists of jobs that
// ended.
//
// Loop thread only, but for what says otherwise. References to open jobs stay valid until the job
// is final.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "jobs/estimates.h"
#include "jobs/job.h"
#include "jobs/job_logs.h"
#include "jobs/step.h"
#include "jobs/store.h"
#include "orchestrator/base/clock.h"
#include "orchestrator/base/signal.h"

namespace bpg::jobs {

struct QueueLimits {
    std::size_t queued_max = 1000;  ///< open jobs; one more is kExhausted `queue_full`
};

/// Who asks.
struct RequestKey {
    std::string idempotency_key = {};  ///< the caller's, may be empty
    std::string request_hash = {};     ///< of the request that carried the key
    std::string schedule = {};         ///< whose fire it is: the job goes to the scheduled lane
    /// Called with a new job right before its commit, to write more in that: of a schedule, that it
    /// has fired. It must not throw. An open job that is attached to is not told.
    std::function<void(Job& job, Batch& batch)> beside = {};
};

struct Submission {
    std::string operation;
    std::string target;
    nlohmann::json params = nlohmann::json::object();
    nlohmann::json data = nlohmann::json::object();  ///< the operation's first State
    std::vector<Lock> locks;
    Priority priority = Priority::kInteractive;
    std::string mode;
    RequestKey key;
    std::string job_id;  ///< fixed beforehand, since identities on disk carry it
};

/// What a request becomes while the very same one is open.
enum class Again {
    kAttach,    ///< that job
    kCoalesce,  ///< that job unless it has begun; at most one waits behind one that runs
    kNever,     ///< one more, always
};

struct JobFilter {
    std::optional<JobState> state;
    std::string database;  ///< jobs whose target is this database or one of its branches
    std::size_t limit = 100;
};

/// A list of jobs on its way: the open ones are in it, those that ended are not yet.
struct JobListing {
    JobFilter filter;
    std::vector<Job> jobs;
    std::set<std::uint64_t> open;  ///< numbers, also of those the filter leaves out
};

class Queue {
  public:
    Queue(Store& store, const OperationRegistry& registry, const Clock& clock, QueueLimits limits);

    /// Reads the open jobs; called once before anything else.
    void load();

    /// Why no job may be taken: the store's disk is nearly full. Blocks: call it on a pool.
    std::optional<ErrorInfo> shortage(std::uint64_t reserve) const {
        return store_.shortage(reserve);
    }
    /// Throws `queue_full`. Called before anything is changed for a job that is submitted next.
    void require_room() const;
    /// Job, reservation and first event in one commit; returns when they are durable.
    asio::awaitable<Job> submit(Submission submission, Batch reservation);

    /// A change of records alone: one commit and no job. A repeated key is answered with `answer`.
    asio::awaitable<void> change(RequestKey key, nlohmann::json answer, Batch change);
    /// What change() was given under this key; nothing for a new one, and for that of a job. Throws
    /// as find_by_key() does.
    std::optional<nlohmann::json> find_answer(const RequestKey& key) const;

    /// The job that an idempotency key stands for; nothing for a new key; throws kInvalid
    /// `idempotency_key_reused` when the request was another one.
    std::optional<Job> find_by_key(const RequestKey& key) const;
    /// An open job of the same operation, target and parameters, once it is durable: the caller
    /// attaches to it instead of submitting another. With kCoalesce only one that has not begun:
    /// one that runs may have passed what is asked for now.
    asio::awaitable<std::optional<Job>> find_open_same(std::string operation, std::string target,
                                                       nlohmann::json params,
                                                       Again again = Again::kAttach);
    /// An open job on this target, whatever it does.
    std::optional<Job> find_open_on(const std::string& target) const;

    /// By id or unique prefix: kNotFound `job_not_found`, kConflict `id_ambiguous`.
    Job get(const std::string& id_or_prefix) const;
    JobListing begin_list(JobFilter filter) const;
    /// Open ones first, then newest first. Reads the history: call it on a pool.
    std::vector<Job> finish_list(JobListing listing) const;
    std::vector<Event> events(const Job& job, std::uint64_t after, std::size_t max) const;
    /// Waits for a commit of this job after event `seen`, or the deadline (false).
    asio::awaitable<bool> wait_for_event(std::string job_id, std::uint64_t seen,
                                         std::chrono::steady_clock::time_point deadline);
    /// Waits until the job is final, or the deadline; returns it as it is then.
    asio::awaitable<Job> wait_until_final(std::string job_id,
                                          std::chrono::steady_clock::time_point deadline);

    const std::map<std::uint64_t, std::unique_ptr<Job>>& open_jobs() const { return open_; }
    /// Notified whenever a job is submitted or ends.
    Signal& changed() { return changed_; }

    /// Asks for an open job to be undone and ended; durable when this returns. Whoever works on it
    /// does so at the next boundary. Asking again changes nothing. By id or unique prefix; refused
    /// with kConflict: `job_ended`, `job_undoing`, `job_irreversible`.
    asio::awaitable<Job> request_cancel(std::string id_or_prefix, RequestKey key);
    /// Lets a stuck job go on where it stands; any other is refused: kConflict `job_not_stuck`.
    asio::awaitable<Job> retry(std::string id_or_prefix, RequestKey key);
    /// Jobs that failed within the last 24 hours.
    std::size_t failed_last_day();

    /// Where the logs of jobs go from here on; without it there are none. It outlives the queue.
    void keep_logs(JobLogs& logs) { logs_ = &logs; }
    /// What a program said that a job ran.
    void log(const std::string& job_id, std::string output) const;
    /// How long open jobs may still take.
    const Estimates& estimates() const { return estimates_; }

    /// Called with every job that is submitted, before its commit: it may be given its locks.
    void on_submission(std::function<void(Job&)> admit) { admit_ = std::move(admit); }
    /// Who holds what, as of now: what a job gives back counts until its commit is durable.
    const LockTable& locks() const { return locks_; }
    /// The job has the locks of a row from here on; written with its next commit.
    void grant(std::uint64_t number, std::size_t row);

    // What the engine uses. It changes a copy of a job and commits the copy, so nobody ever sees a
    // state that is not on disk.
    const Job& open_job(std::uint64_t number) const { return *open_.at(number); }
    std::shared_ptr<Cancellation> cancellation(std::uint64_t number);
    bool is_cancel_requested(std::uint64_t number) const;
    /// Whether the daemon before this one ended without saying so.
    bool predecessor_died() const { return predecessor_died_; }
    /// How many jobs the predecessor may have been at work on when it died; at least 1.
    std::size_t at_work_at_death() const { return at_work_at_death_; }
    /// Says so to the next one; the store is closed next.
    void note_orderly_end();
    /// How far the row that the job is in has got, as it told this daemon or one before.
    std::uint64_t progress_of(const Job& job) const;
    /// Remembers how far these rows have got, for the daemons to come. Jobs whose end is being
    /// written must not be among them.
    asio::awaitable<void> keep_progress(std::vector<std::uint64_t> numbers);
    /// For display only, not persisted.
    void show(std::uint64_t number, JobState state, std::string waiting_for);
    void show_progress(std::uint64_t number, StepProgress progress);
    void append_event(Job& job, Batch& batch, std::string type, std::string step,
                      std::string message, nlohmann::json data = nlohmann::json::object()) const;
    /// Writes the job with the batch; a job that became final leaves memory (stuck ones stay: they
    /// keep their locks).
    asio::awaitable<void> commit(Job job, Batch batch);

  private:
    std::optional<Job> read(std::uint64_t number) const;
    std::optional<nlohmann::json> read_key(const RequestKey& key) const;
    std::shared_ptr<Signal> signal_of(const std::string& job_id);
    void load_history();
    void load_cancellations();
    void count_at_work();
    void refuse_cancel(const Job& job) const;
    Job make_job(Submission submission) const;
    void remember(const RequestKey& key, std::uint64_t number, Batch& batch) const;
    asio::awaitable<Job> find_durable(std::string id_or_prefix);

    Store& store_;
    const OperationRegistry& registry_;
    const Clock& clock_;
    QueueLimits limits_;
    std::uint64_t next_number_ = 1;
    std::map<std::uint64_t, std::unique_ptr<Job>> open_;
    std::map<std::string, std::shared_ptr<Signal>> signals_;  ///< of open jobs that are waited for
    std::map<std::uint64_t, std::shared_ptr<Cancellation>> cancellations_;  ///< of open jobs
    /// How far a row has got, as it is in the store.
    struct KeptProgress {
        std::string step;
        std::uint64_t done = 0;
    };
    std::map<std::uint64_t, KeptProgress> kept_progress_;  ///< of open jobs
    LockTable locks_;
    JobLogs* logs_ = nullptr;
    Estimates estimates_;
    std::function<void(Job&)> admit_;
    bool predecessor_died_ = false;
    std::size_t at_work_at_death_ = 1;
    Batch leftovers_;                ///< goes with the next commit
    std::deque<WallTime> failures_;  ///< when jobs failed, oldest first
    Signal changed_;
};

}  // namespace bpg::jobs
