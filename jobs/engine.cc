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
};

Engine::Engine(Queue& queue, Slots& slots, const OperationRegistry& registry, const Clock& clock,
               metrics::Instruments& metrics, CrashPoints& crash, EngineLimits limits)
    : queue_(queue),
      slots_(slots),
      registry_(registry),
      clock_(clock),
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
    struct Membership {
        std::set<std::uint64_t>& running;
        std::uint64_t number;
        ~Membership() { running.erase(number); }
    };
    running_.insert(number);
    const Membership membership{running_, number};
    Job opened = queue_.open_job(number);
    const auto* operation = registry_.find(opened.operation);
    std::optional<std::size_t> row;
    for (std::size_t i = 0; operation != nullptr && i < operation->steps.size(); ++i) {
        if (operation->steps[i].name == opened.step) row = i;
    }
    if (!row || opened.version > operation->version) {
        std::string why = fmt::format("this bpgd does not know how to resume {}@v{} at step \"{}\"",
                                      opened.operation, opened.version, opened.step);
        co_await park(std::move(opened), std::move(why));
        co_return;
    }
    std::shared_ptr<Cancellation> cancellation = queue_.cancellation(number);
    JobContext context(
        opened.id, opened.target,
        [this, number](StepProgress progress) {
            queue_.show_progress(number, std::move(progress));
        },
        cancellation);
    Attempt attempt{std::move(opened),
                    std::move(cancellation),
                    std::move(context),
                    operation,
                    nullptr,
                    *row,
                    false,
                    0,
                    0};
    attempt.program = operation->make(attempt.context, attempt.job.data);
    if (!attempt.job.fresh) {
        co_await resume(attempt);
    } else {
        // Not a commit of its own: the one that ends the first row carries it.
        attempt.job.started_at = clock_.now();
        attempt.job.state = JobState::kRunning;
        queue_.show(number, JobState::kRunning, "");
    }
    co_await walk(attempt);
}

/// Of a job that may have begun: bpgd was restarted, or somebody has it tried again.
asio::awaitable<void> Engine::resume(Attempt& attempt) {
    Job& job = attempt.job;
    attempt.row_begun = true;
    if (!job.started_at) job.started_at = clock_.now();
    Batch batch;
    if (!std::exchange(job.retried, false)) {
        metrics_.job_resumed(job.operation);
        if (queue_.predecessor_died() && ++job.deaths >= limits_.deaths_max) {
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
    JobContext context(job.id, job.target, [](StepProgress) {}, queue_.cancellation(number));
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
    for (const std::uint64_t number : running_)
        queue_.cancellation(number)->wake.notify();
}

/// Ends early when the job is cancelled or bpgd stops.
asio::awaitable<void> Engine::pause(const Attempt& attempt, std::chrono::milliseconds duration) {
    if (stopping_ || is_to_cancel(attempt)) co_return;
    const std::uint64_t number = attempt.job.number;
    const bool is_long = duration > kShortPause;
    if (is_long) {
        slots_.release(number);
        queue_.changed().notify();
    }
    co_await attempt.cancellation->wake.wait_until(Steady::now() + duration);
    if (is_long) co_await slots_.take(number, attempt.job.priority);
}

/// Where a row is irreversible, only before it is begun.
bool Engine::is_to_cancel(const Attempt& attempt) const {
    if (attempt.job.direction != Direction::kForward) return false;
    if (!attempt.cancellation->is_requested) return false;
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
        if (is_to_cancel(attempt)) {
            co_await turn(attempt, cancelled_error());
        } else if (attempt.job.direction == Direction::kForward) {
            co_await step_forward(attempt);
        } else {
            co_await step_backward(attempt);
        }
    }
}

asio::awaitable<void> Engine::step_forward(Attempt& attempt) {
    Job& job = attempt.job;
    StepRecord& record = job.steps[attempt.row];
    record.state = "running";
    record.started_at = clock_.now();
    crash_.reach(job.operation, job.step, "before_run");
    const auto began = Steady::now();
    attempt.row_begun = true;
    attempt.context.set_reversible(attempt.operation->steps[attempt.row].irreversible.empty());
    Failure failure;
    Progress progress = Done{};
    try {
        progress = co_await attempt.program->run(attempt.row);
        crash_.fail_if_armed(job.operation, job.step);
    } catch (const std::exception&) {
        failure.error = describe(std::current_exception());
    }
    if (failure.error) {
        const bool temporary = failure.error->kind == ErrorKind::kUnavailable;
        if (is_to_cancel(attempt)) {
            co_await turn(attempt, cancelled_error());
        } else if (temporary && ++attempt.failures < limits_.step_failures_max) {
            co_await retry_row(attempt, *failure.error);
        } else {
            co_await turn(attempt, std::move(*failure.error));
        }
        co_return;
    }
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
    co_await finish_row(attempt, milliseconds_since(began));
}

asio::awaitable<void> Engine::finish_row(Attempt& attempt, double duration_ms) {
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
    job.deaths = 0;
    const bool last = attempt.row + 1 == job.steps.size();
    if (last) {
        job.state = JobState::kSucceeded;
        job.finished_at = clock_.now();
        job.result = attempt.program->result();
        queue_.append_event(job, batch, "job_succeeded", "",
                            fmt::format("{} {} succeeded", job.operation, job.target));
    } else {
        job.state = JobState::kRunning;
        job.step = job.steps[++attempt.row].name;
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
        attempt.context.set_reversible(false);
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
    const bool rewound = job.direction == Direction::kRewind && job.step == job.rewind_to;
    const bool ended = job.direction == Direction::kUndo && attempt.row == 0;
    StepRecord& record = job.steps[attempt.row];
    Batch batch;
    if (rewound) {
        record.state = "pending";
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
