#include "jobs/engine.h"

#include <fmt/format.h>

#include <exception>

#include "jobs/backoff.h"
#include "metrics/instruments.h"
#include "orchestrator/base/log.h"
#include "orchestrator/base/signal.h"

namespace bpg::jobs {
namespace {

using Steady = std::chrono::steady_clock;

constexpr std::chrono::seconds kLookAtDeadlines{1};
/// A job that waits no longer than this keeps its slot.
constexpr std::chrono::milliseconds kShortPause{50};

double milliseconds_since(Steady::time_point began) {
    return std::chrono::duration<double, std::milli>(Steady::now() - began).count();
}

void collect_warnings(Job& job, JobContext& context, Queue& queue, Batch& batch) {
    for (std::string& warning : context.take_warnings()) {
        queue.append_event(job, batch, "warning", job.step, warning);
        job.warnings.push_back(std::move(warning));
    }
}

void log_turn(const Job& job, const ErrorInfo& error) {
    log::warning("a job failed and is undone", {{"job", job.id},
                                                {"operation", job.operation},
                                                {"target", job.target},
                                                {"step", job.step},
                                                {"code", error.code},
                                                {"why", error.message + ": " + error.detail}});
}

/// Anything but an exception a driver may throw (a simulated crash, say) goes through.
struct Failure {
    std::optional<ErrorInfo> error;
};

}  // namespace

/// What lives as long as the daemon works on a job without a restart.
struct Engine::Attempt {
    Job job;  ///< the copy that is changed and committed
    std::shared_ptr<Cancellation> cancellation;
    JobContext context;
    const OperationRegistry::Entry* operation;
    std::unique_ptr<Program> program;
    std::size_t row = 0;
    bool row_begun = false;  ///< perhaps, after a restart
    int failures = 0;        ///< of this row, or of its undo
    int rewinds = 0;
    Timeline::Point began{};
    Timeline::Point row_began{};
    Timeline::Point moved{};  ///< when the row last told of progress
    bool tells_progress = false;
};

Engine::Engine(Queue& queue, Admission& admission, Slots& slots, const OperationRegistry& registry,
               const Clock& clock, const Timeline& timeline, metrics::Instruments& metrics,
               CrashPoints& crash, EngineLimits limits)
    : queue_(queue),
      admission_(admission),
      slots_(slots),
      registry_(registry),
      clock_(clock),
      timeline_(timeline),
      metrics_(metrics),
      crash_(crash),
      limits_(std::move(limits)) {
    if (!limits_.backoff) {
        limits_.backoff = [this](int failures) {
            return backoff(failures, std::uniform_real_distribution<double>(0, 1)(random_));
        };
    }
}

asio::awaitable<void> Engine::run(std::uint64_t number) {
    Job opened = queue_.open_job(number);
    const auto* operation = registry_.find(opened.operation);
    const std::optional<std::size_t> row =
        operation == nullptr ? std::nullopt : operation->row_of(opened.step);
    if (!row || opened.version > operation->version) {
        std::string why = fmt::format("this bpgd does not know how to resume {}@v{} at step \"{}\"",
                                      opened.operation, opened.version, opened.step);
        co_await park(std::move(opened), std::move(why));
        co_return;
    }
    std::shared_ptr<Cancellation> cancellation = queue_.cancellation(number);
    JobContext::Hooks hooks{
        [this, number](StepProgress progress) { note_progress(number, std::move(progress)); },
        [this, id = opened.id](std::string output) { queue_.log(id, std::move(output)); }};
    JobContext context(opened.id, opened.target, std::move(hooks), cancellation);
    Attempt attempt{.job = std::move(opened),
                    .cancellation = std::move(cancellation),
                    .context = std::move(context),
                    .operation = operation,
                    .program = nullptr,
                    .row = *row,
                    .began = timeline_.now(),
                    .row_began = timeline_.now()};
    struct Membership {
        Engine& engine;
        std::uint64_t number;
        ~Membership() {
            engine.running_.erase(number);
            engine.admission_.stop_waiting(number);
        }
    };
    running_.emplace(number, &attempt);
    const Membership membership{*this, number};
    attempt.program = operation->make(attempt.context, attempt.job.data);
    if (attempt.job.fresh) {
        co_await begin(attempt);
    } else {
        co_await resume(attempt);
    }
    co_await walk(attempt);
}

/// Of a job that was admitted with its submission, the commit that ends the first row carries it.
asio::awaitable<void> Engine::begin(Attempt& attempt) {
    Job& job = attempt.job;
    job.started_at = clock_.now();
    job.state = JobState::kRunning;
    queue_.show(job.number, JobState::kRunning, "");
    if (job.locks_saved) co_return;
    Batch batch;
    queue_.append_event(job, batch, "job_started", job.step,
                        fmt::format("{} {} begins", job.operation, job.target));
    co_await queue_.commit(job, std::move(batch));
}

/// A job that kills bpgd whenever it runs must end that by itself. One that only happens to be at
/// work while another does, or while somebody kills bpgd again and again, is let go on: it bears no
/// more than its share, and nothing of it once its row is done, or has got further since: one that
/// takes longer than bpgd is left to live must come to its end all the same.
bool Engine::is_blamed_too_often(Job& job) const {
    if (!queue_.predecessor_died()) return false;
    const std::uint64_t got_to = queue_.progress_of(job);
    if (got_to > job.got_to) {
        job.got_to = got_to;
        job.deaths = 0;
        job.blame = 0;
    }
    ++job.deaths;
    job.blame += 1.0 / static_cast<double>(queue_.at_work_at_death());
    constexpr double kRounding = 0.001;
    return job.blame + kRounding >= limits_.deaths_max;
}

/// Of a job that may have begun: bpgd was restarted, or somebody has it tried again.
asio::awaitable<void> Engine::resume(Attempt& attempt) {
    Job& job = attempt.job;
    attempt.row_begun = true;
    if (!job.started_at) job.started_at = clock_.now();
    Batch batch;
    if (!std::exchange(job.retried, false)) {
        metrics_.job_resumed(job.operation);
        if (is_blamed_too_often(job)) {
            std::string why = fmt::format("bpgd died {} times, one after the other, at step \"{}\"",
                                          job.deaths, job.step);
            co_await park(job, std::move(why));
            job.state = JobState::kStuck;
            co_return;
        }
        queue_.append_event(job, batch, "job_resumed", job.step,
                            fmt::format("bpgd was restarted, going on at {}", job.step));
    }
    job.state = job.direction == Direction::kForward ? JobState::kRunning : JobState::kUndoing;
    co_await queue_.commit(job, std::move(batch));
}

asio::awaitable<void> Engine::end_unstarted(std::uint64_t number) {
    Job job = queue_.open_job(number);
    JobContext::Hooks silent{[](StepProgress) {}, [](std::string) {}};
    JobContext context(job.id, job.target, std::move(silent), queue_.cancellation(number));
    Batch batch;
    job.cancelled = true;
    job.error = cancelled_error();
    job.state = JobState::kCancelled;
    job.finished_at = clock_.now();
    queue_.append_event(job, batch, "job_cancelled", "",
                        fmt::format("{} {} cancelled", job.operation, job.target));
    registry_.find(job.operation)->make(context, job.data)->record_failure(*job.error, batch);
    co_await queue_.commit(job, std::move(batch));
    note_end(job);
}

void Engine::stop() {
    stopping_ = true;
    slots_.open_all();
    for (const auto& [number, attempt] : running_)
        attempt->cancellation->wake.notify();
}

void Engine::note_progress(std::uint64_t number, StepProgress progress) {
    const auto found = running_.find(number);
    if (found != running_.end()) {
        Attempt& attempt = *found->second;
        const auto& shown = queue_.open_job(number).progress;
        if (!shown || shown->done != progress.done) attempt.moved = timeline_.now();
        attempt.tells_progress = true;
    }
    queue_.show_progress(number, std::move(progress));
}

// --- deadlines -----------------------------------------------------------------------------------

asio::awaitable<void> Engine::watch_deadlines() {
    while (true) {
        co_await timeline_.wait(tick_, timeline_.now() + kLookAtDeadlines);
        for (const auto& [number, attempt] : running_) {
            if (auto passed = passed_deadline(*attempt)) {
                attempt->cancellation->expire(std::move(*passed));
                queue_.changed().notify();  // it may wait for a lock
            }
        }
        co_await queue_.keep_progress(jobs_with_progress());
    }
}

/// Those at work in a row that has told how far it is, and that is not being ended.
std::vector<std::uint64_t> Engine::jobs_with_progress() const {
    std::vector<std::uint64_t> numbers;
    for (const auto& [number, attempt] : running_) {
        const Job& job = attempt->job;
        const bool is_there = !is_final(job.state) && job.step == queue_.open_job(number).step;
        if (attempt->tells_progress && is_there) numbers.push_back(number);
    }
    return numbers;
}

/// What cannot be undone has to go on, however long it takes.
std::optional<ErrorInfo> Engine::passed_deadline(const Attempt& attempt) const {
    const Job& job = attempt.job;
    if (job.direction != Direction::kForward || is_final(job.state)) return std::nullopt;
    if (!attempt.operation->steps[attempt.row].irreversible.empty()) return std::nullopt;
    const auto now = timeline_.now();
    const auto passed = [now](Timeline::Point since, std::chrono::milliseconds limit) {
        return limit.count() > 0 && now - since >= limit;
    };
    const auto error = [&job](const char* code, const char* what, const std::string& why,
                              const char* setting) {
        return ErrorInfo{
            ErrorKind::kTimeout, code, what, why,
            fmt::format("see what kept it: bpg job tail --log {}; or raise {}", job.id, setting)};
    };
    if (passed(attempt.began, limits_.job_deadline)) {
        return error("job_deadline", "the job took too long",
                     fmt::format("it has run for {}", format_duration(limits_.job_deadline)),
                     "jobs.deadline");
    }
    if (passed(attempt.row_began, limits_.step_deadline)) {
        return error(
            "step_deadline", "a step took too long",
            fmt::format("{} has run for {}", job.step, format_duration(limits_.step_deadline)),
            "jobs.step_deadline");
    }
    if (attempt.tells_progress && passed(attempt.moved, limits_.no_progress)) {
        return error("no_progress", "a step stands still",
                     fmt::format("{} has got no further for {}", job.step,
                                 format_duration(limits_.no_progress)),
                     "jobs.no_progress");
    }
    return std::nullopt;
}

// --- locks ---------------------------------------------------------------------------------------

/// False when the job was turned round, or bpgd stops, before it had them.
asio::awaitable<bool> Engine::take_locks(Attempt& attempt) {
    bool grew = false;
    std::string why = admission_.take_row(attempt.job, attempt.row, grew);
    if (!why.empty()) co_await wait_for_locks(attempt, std::move(why));
    if (stopping_) co_return false;
    if (is_to_end(attempt)) {
        co_await turn(attempt, attempt.cancellation->reason());
        co_return false;
    }
    // Written before anything is done under it.
    if (grew || !queue_.open_job(attempt.job.number).locks_saved) {
        co_await queue_.commit(attempt.job, Batch{});
    }
    co_return true;
}

asio::awaitable<void> Engine::wait_for_locks(Attempt& attempt, std::string why) {
    Job& job = attempt.job;
    Batch batch;
    queue_.append_event(job, batch, "step_waiting", job.step, "waiting for " + why);
    co_await queue_.commit(job, std::move(batch));
    slots_.release(job.number);
    bool grew = false;
    while (!why.empty() && !stopping_ && !is_to_end(attempt)) {
        queue_.show(job.number, JobState::kWaiting, why);
        co_await queue_.changed().wait_until(Steady::time_point::max());
        why = admission_.take_row(job, attempt.row, grew);
    }
    admission_.stop_waiting(job.number);
    co_await slots_.take(job.number, job.priority);
    queue_.show(job.number, JobState::kRunning, "");
}

void Engine::release_locks(Job& job, std::size_t row) const {
    for (Lock& lock : job.locks) {
        if (row_of(job, lock.until_step) == row) lock.held = false;
    }
}

/// Ends early when the job is to end or bpgd stops.
asio::awaitable<void> Engine::pause(const Attempt& attempt, std::chrono::milliseconds duration) {
    if (stopping_ || is_to_end(attempt)) co_return;
    const std::uint64_t number = attempt.job.number;
    const bool is_long = duration > kShortPause;
    if (is_long) {
        slots_.release(number);
        queue_.changed().notify();
    }
    co_await timeline_.wait(attempt.cancellation->wake, timeline_.now() + duration);
    if (is_long) co_await slots_.take(number, attempt.job.priority);
}

/// Where a row is irreversible, only before it is begun.
bool Engine::is_to_end(const Attempt& attempt) const {
    if (attempt.job.direction != Direction::kForward) return false;
    if (!attempt.cancellation->is_to_end()) return false;
    return attempt.operation->steps[attempt.row].irreversible.empty() || !attempt.row_begun;
}

asio::awaitable<void> Engine::park(Job job, std::string why) {
    Batch batch;
    job.state = JobState::kStuck;
    if (job.error) job.cause = std::move(job.error);
    job.error = ErrorInfo{ErrorKind::kInternal, "job_stuck", "the job is stuck", why,
                          "nothing was lost; once the reason is gone: bpg job retry " + job.id};
    if (job.error_step.empty()) job.error_step = job.step;
    queue_.append_event(job, batch, "job_stuck", job.step, why);
    log::error("a job is stuck", {{"job", job.id}, {"operation", job.operation}, {"why", why}});
    metrics_.attempt_finished(job.operation, "stuck");
    co_await queue_.commit(std::move(job), std::move(batch));
}

asio::awaitable<void> Engine::walk(Attempt& attempt) {
    while (!is_final(attempt.job.state) && !stopping_) {
        if (is_to_end(attempt)) {
            co_await turn(attempt, attempt.cancellation->reason());
        } else if (attempt.job.direction == Direction::kForward) {
            co_await step_forward(attempt);
        } else {
            co_await step_backward(attempt);
        }
    }
}

asio::awaitable<void> Engine::step_forward(Attempt& attempt) {
    if (!co_await take_locks(attempt)) co_return;
    Job& job = attempt.job;
    begin_row(attempt);
    crash_.reach(job.operation, job.step, "before_run");
    const auto began = Steady::now();
    Failure failure;
    Progress progress = Done{};
    try {
        progress = co_await attempt.program->run(attempt.row);
        crash_.fail_if_armed(job.operation, job.step);
    } catch (const std::exception&) {
        failure.error = describe(std::current_exception());
    }
    if (failure.error) {
        co_await fail_row(attempt, std::move(*failure.error));
    } else {
        co_await end_row(attempt, progress, milliseconds_since(began));
    }
}

/// Again, perhaps: it waited, or failed for a while.
void Engine::begin_row(Attempt& attempt) {
    StepRecord& record = attempt.job.steps[attempt.row];
    record.state = "running";
    record.started_at = clock_.now();
    attempt.context.begin_row(attempt.operation->steps[attempt.row].irreversible.empty(),
                              /*was_begun_before=*/attempt.row_begun);
    attempt.row_begun = true;
}

asio::awaitable<void> Engine::end_row(Attempt& attempt, const Progress& progress,
                                      double duration_ms) {
    Job& job = attempt.job;
    if (const auto* wait = std::get_if<Wait>(&progress)) {
        queue_.show(job.number, JobState::kWaiting, wait->for_what);
        co_await pause(attempt, wait->delay);
        queue_.show(job.number, JobState::kRunning, "");
        co_return;
    }
    if (const auto* back = std::get_if<Rewind>(&progress)) {
        co_await rewind(attempt, *back);
        co_return;
    }
    crash_.reach(job.operation, job.step, "after_run");
    co_await finish_row(attempt, duration_ms, std::get<Done>(progress).ends_job);
}

/// What is temporary is tried again; anything else turns the job round at once.
asio::awaitable<void> Engine::fail_row(Attempt& attempt, ErrorInfo error) {
    const bool temporary = error.kind == ErrorKind::kUnavailable;
    if (is_to_end(attempt)) {
        co_await turn(attempt, attempt.cancellation->reason());
    } else if (temporary && ++attempt.failures < limits_.step_failures_max) {
        co_await retry_row(attempt, error);
    } else {
        co_await turn(attempt, std::move(error));
    }
}

asio::awaitable<void> Engine::finish_row(Attempt& attempt, double duration_ms, bool ends_job) {
    Job& job = attempt.job;
    const std::string step = job.step;
    StepRecord& record = job.steps[attempt.row];
    record.state = "done";
    record.duration_ms = duration_ms;
    metrics_.step_finished(job.operation, step, duration_ms / 1000);
    Batch batch;
    collect_warnings(job, attempt.context, queue_, batch);
    queue_.append_event(job, batch, "step_done", step, record.purpose,
                        {{"duration_ms", duration_ms}});
    attempt.program->record(attempt.row, batch);
    job.data = attempt.program->draft();
    attempt.failures = 0;
    attempt.row_begun = false;
    attempt.row_began = timeline_.now();
    attempt.tells_progress = false;
    job.deaths = 0;
    job.blame = 0;
    job.got_to = 0;
    release_locks(job, attempt.row);
    const bool last = ends_job || attempt.row + 1 == job.steps.size();
    if (last) {
        for (std::size_t row = attempt.row + 1; row < job.steps.size(); ++row)
            job.steps[row].state = "skipped";
        job.state = JobState::kSucceeded;
        job.finished_at = clock_.now();
        job.result = attempt.program->result();
        queue_.append_event(job, batch, "job_succeeded", "",
                            fmt::format("{} {} succeeded", job.operation, job.target));
    } else {
        job.state = JobState::kRunning;
        job.step = job.steps[++attempt.row].name;
        bool grew = false;
        admission_.take_row(job, attempt.row, grew);  // in the same commit, if they are free
        admission_.stop_waiting(job.number);
    }
    co_await queue_.commit(job, std::move(batch));
    attempt.program->accept();
    crash_.reach(job.operation, step, "after_commit");
    if (last) note_end(job);
}

asio::awaitable<void> Engine::retry_row(Attempt& attempt, const ErrorInfo& error) {
    Job& job = attempt.job;
    const auto delay = limits_.backoff(attempt.failures);
    Batch batch;
    job.state = JobState::kRetrying;
    ++job.attempt;
    queue_.append_event(
        job, batch, "step_retry", job.step,
        fmt::format("{}; trying again in {}", error.message, format_duration(delay)),
        {{"code", error.code}, {"detail", error.detail}});
    metrics_.attempt_finished(job.operation, "retried");
    co_await queue_.commit(job, std::move(batch));
    co_await pause(attempt, delay);
    job.state = JobState::kRunning;
    queue_.show(job.number, JobState::kRunning, "");
}

asio::awaitable<void> Engine::turn(Attempt& attempt, ErrorInfo error) {
    Job& job = attempt.job;
    job.cancelled = error.code == cancelled_error().code;
    Batch batch;
    collect_warnings(job, attempt.context, queue_, batch);
    if (job.cancelled) {
        queue_.append_event(job, batch, "job_undoing", job.step,
                            fmt::format("cancelled at {}", job.step), {{"code", error.code}});
    } else {
        log_turn(job, error);
        queue_.append_event(job, batch, "job_undoing", job.step,
                            fmt::format("{} failed: {}", job.step, error.message),
                            {{"code", error.code}, {"detail", error.detail}});
        job.steps[attempt.row].state = "failed";
    }
    job.state = JobState::kUndoing;
    job.direction = Direction::kUndo;
    job.error = std::move(error);
    job.error_step = job.step;
    attempt.failures = 0;
    const std::string step = job.step;
    co_await queue_.commit(job, std::move(batch));
    crash_.reach(job.operation, step, "after_turn");
}

asio::awaitable<void> Engine::rewind(Attempt& attempt, Rewind rewind) {
    Job& job = attempt.job;
    if (++attempt.rewinds > limits_.rewinds_max) {
        co_await turn(attempt, {ErrorKind::kInternal, "rewound_too_often",
                                "the job had to begin again too often", rewind.why, ""});
        co_return;
    }
    Batch batch;
    queue_.append_event(job, batch, "job_rewinding", job.step,
                        fmt::format("going back to {}: {}", rewind.to, rewind.why));
    job.state = JobState::kUndoing;
    job.direction = Direction::kRewind;
    job.rewind_to = std::string(rewind.to);
    job.data = attempt.program->draft();
    co_await queue_.commit(job, std::move(batch));
    attempt.program->accept();
}

asio::awaitable<void> Engine::step_backward(Attempt& attempt) {
    Job& job = attempt.job;
    if (attempt.program->has_undo(attempt.row)) {
        crash_.reach(job.operation, job.step, "before_undo");
        attempt.context.begin_undo();
        Failure failure;
        try {
            co_await attempt.program->undo(attempt.row);
        } catch (const std::exception&) {
            failure.error = describe(std::current_exception());
        }
        if (failure.error) {
            // What is only away for a while is waited for: a stuck job would hold its locks for
            // good.
            const bool temporary = failure.error->kind == ErrorKind::kUnavailable;
            if (++attempt.failures >= limits_.undo_failures_max && !temporary) {
                co_await park(job,
                              fmt::format("undoing step \"{}\" keeps failing: {}: {}", job.step,
                                          failure.error->message, failure.error->detail));
                job.state = JobState::kStuck;
            } else {
                co_await pause(attempt, limits_.backoff(attempt.failures));
            }
            co_return;
        }
        crash_.reach(job.operation, job.step, "after_undo");
    }
    attempt.failures = 0;
    co_await finish_undo(attempt);
}

asio::awaitable<void> Engine::finish_undo(Attempt& attempt) {
    Job& job = attempt.job;
    const std::string step = job.step;
    const bool had_undo = attempt.program->has_undo(attempt.row);
    job.deaths = 0;
    job.blame = 0;
    job.got_to = 0;
    const bool rewound = job.direction == Direction::kRewind && job.step == job.rewind_to;
    const bool ended = job.direction == Direction::kUndo && attempt.row == 0;
    StepRecord& record = job.steps[attempt.row];
    Batch batch;
    if (rewound) {
        record.state = "pending";
        attempt.row_begun = false;
        attempt.row_began = timeline_.now();
        attempt.tells_progress = false;
        job.direction = Direction::kForward;
        job.state = JobState::kRunning;
    } else {
        if (record.state == "done" || record.state == "running") record.state = "undone";
        if (!ended) job.step = job.steps[--attempt.row].name;
    }
    if (had_undo) queue_.append_event(job, batch, "step_undone", step, record.purpose);
    if (ended) {
        attempt.program->record_failure(*job.error, batch);
        job.state = job.cancelled ? JobState::kCancelled : JobState::kFailed;
        job.finished_at = clock_.now();
        if (job.cancelled) {
            queue_.append_event(job, batch, "job_cancelled", job.error_step,
                                fmt::format("{} {} cancelled", job.operation, job.target));
        } else {
            queue_.append_event(job, batch, "job_failed", job.error_step, job.error->message,
                                {{"code", job.error->code}});
        }
    }
    // A row without an undo changed nothing: its step back costs no commit.
    if (had_undo || rewound || ended) co_await queue_.commit(job, std::move(batch));
    if (had_undo) crash_.reach(job.operation, step, "after_undo_commit");
    if (ended) note_end(job);
}

void Engine::note_end(const Job& job) {
    const std::string outcome(to_string(job.state));
    const std::chrono::duration<double> took = *job.finished_at - job.created_at;
    metrics_.attempt_finished(job.operation, outcome);
    metrics_.operation_finished(job.operation, job.mode, outcome, took.count());
    log::info("a job ended", {{"job", job.id},
                              {"operation", job.operation},
                              {"target", job.target},
                              {"outcome", outcome},
                              {"seconds", fmt::format("{:.3f}", took.count())}});
}

}  // namespace bpg::jobs
