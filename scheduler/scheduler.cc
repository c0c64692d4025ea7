#include "scheduler/scheduler.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <utility>

#include "orchestrator/base/error.h"
#include "orchestrator/base/log.h"

namespace bpg::scheduler {
namespace {

constexpr std::chrono::seconds kLookEvery{1};
/// How soon what could not become a job is tried again.
constexpr std::chrono::seconds kTryAgainAfter{1};
constexpr std::chrono::minutes kRecordTimeEvery{1};
constexpr std::size_t kReasonMax = 500;
constexpr std::string_view kPrune = "prune";

std::string time_key() {
    return std::string(jobs::kinds::kMeta) + "wall_clock";
}

/// It may be otherwise in a moment, and nobody has to do anything for it.
bool is_passing(const ErrorInfo& error) {
    return error.kind == ErrorKind::kUnavailable || error.kind == ErrorKind::kExhausted ||
           error.kind == ErrorKind::kTimeout || error.code == "busy";
}

/// From now on, and for nothing before.
void begin_now(Schedule& schedule, WallTime now) {
    schedule.handled_until = now;
    schedule.next_fire.reset();
    if (schedule.paused) return;
    const CronExpression expression =
        CronExpression::parse(schedule.cron, schedule.name, schedule.created_at);
    schedule.next_fire = expression.next_fire_time(now, load_zone(schedule.tz));
}

void note_decision(Schedule& schedule, const Decision& decision) {
    schedule.handled_until = std::max(schedule.handled_until, decision.handled_until);
    schedule.next_fire = schedule.paused ? std::nullopt : decision.next;
}

nlohmann::json answer_of(const std::string& name) {
    return {{"schedule", name}};
}

}  // namespace

ClockReading read_clocks() {
    timespec boot{};
    ::clock_gettime(CLOCK_BOOTTIME, &boot);
    const auto since_boot =
        std::chrono::seconds(boot.tv_sec) + std::chrono::duration_cast<std::chrono::microseconds>(
                                                std::chrono::nanoseconds(boot.tv_nsec));
    return {SystemClock().now(), since_boot};
}

// --- the loop ------------------------------------------------------------------------------------

asio::awaitable<void> Scheduler::run() {
    begin();
    while (true) {
        watch_clock();
        note_time();
        std::erase_if(put_off_,
                      [now = Steady::now()](const auto& entry) { return entry.second <= now; });
        for (const std::string& name : schedules_.due(now())) {
            if (!is_waiting(name)) spawn(name, look_at(name));
        }
        const std::set<std::string> waiting = schedules_.waiting();
        for (const std::string& name : waiting) {
            if (!is_waiting(name)) spawn(name, follow_up(name));
        }
        co_await queue_.changed().wait_until(next_look());
    }
}

void Scheduler::begin() {
    last_reading_ = clocks_();
    const auto stored = store_.get(time_key());
    const auto recorded = stored ? parse_time(*stored) : std::nullopt;
    if (!recorded || !starts_in_the_past(*recorded, last_reading_.wall)) return;
    log::warning("the clock says a time that is over: what deletes is paused",
                 {{"last", format_time(*recorded)}, {"now", format_time(last_reading_.wall)}});
    pause_deleting("bpgd was started before the last time that was recorded");
}

void Scheduler::watch_clock() {
    const ClockReading reading = clocks_();
    const ClockJump jump = clock_jump(last_reading_, reading);
    if (jump != ClockJump::kNone) {
        log::warning(
            "the wall clock was set: what deletes is paused",
            {{"from", format_time(last_reading_.wall)}, {"to", format_time(reading.wall)}});
        pause_deleting(jump == ClockJump::kBack ? "the clock went back" : "the clock went forward");
        recorded_time_.reset();
    }
    last_reading_ = reading;
}

void Scheduler::pause_deleting(std::string_view why) {
    jobs::Batch batch;
    std::vector<Schedule> paused;
    for (const auto& [name, entry] : schedules_.all()) {
        Schedule schedule = entry.schedule;
        if (pause_for_clock(schedule)) paused.push_back(std::move(schedule));
    }
    for (Schedule& schedule : paused) {
        schedule.next_fire.reset();
        log::warning("a schedule is paused",
                     {{"schedule", schedule.name}, {"why", std::string(why)}});
        schedules_.put(schedule, batch);
    }
    store_.commit_unawaited(std::move(batch));
}

/// So that a start before it is noticed. No schedules, no writes.
void Scheduler::note_time() {
    const WallTime time = last_reading_.wall;
    const bool is_recent = recorded_time_ && time < *recorded_time_ + kRecordTimeEvery;
    if (is_recent || schedules_.all().empty()) return;
    jobs::Batch batch;
    batch.put(time_key(), format_time(time));
    store_.commit_unawaited(std::move(batch));
    recorded_time_ = time;
}

/// One at a time for each schedule, and all of them side by side.
void Scheduler::spawn(std::string name, asio::awaitable<void> work) {
    at_work_.insert(name);
    asio::co_spawn(executor_, std::move(work), [this, name](std::exception_ptr failure) {
        at_work_.erase(name);
        if (!failure) return;
        put_off_[name] = Steady::now() + kTryAgainAfter;
        log::error("a schedule could not be looked at",
                   {{"schedule", name}, {"why", describe(failure).message}});
    });
}

bool Scheduler::is_waiting(const std::string& name) const {
    return at_work_.contains(name) || put_off_.contains(name);
}

Scheduler::Steady::time_point Scheduler::next_look() const {
    const auto latest = Steady::now() + kLookEvery;
    const auto next =
        schedules_.next_fire([this](const std::string& name) { return !is_waiting(name); });
    if (!next) return latest;
    return std::min(latest, Steady::now() + std::max(*next - now(), WallTime::duration(0)));
}

bool Scheduler::is_open(const std::string& job_id) const {
    const auto& open = queue_.open_jobs();
    return std::any_of(open.begin(), open.end(),
                       [&job_id](const auto& entry) { return entry.second->id == job_id; });
}

// --- fires ---------------------------------------------------------------------------------------

asio::awaitable<void> Scheduler::look_at(std::string name) {
    const Schedules::Entry* entry = schedules_.find(name);
    if (entry == nullptr || !entry->expression || entry->schedule.paused) co_return;
    const Schedule& schedule = entry->schedule;
    Decision decision = decide(schedule, *entry->expression, entry->zone, now());
    if (!decision.fire) {
        if (decision.missed > 0) {
            log::warning("fires were missed, and are too old to be made up for",
                         {{"schedule", name}, {"fires", std::to_string(decision.missed)}});
        }
        co_await record(name, [decision](Schedule& now) {
            note_decision(now, decision);
            now.missed += decision.missed;
        });
        co_return;
    }
    if (is_open(schedule.last_job)) {
        co_await overlap(name, std::move(decision));
        co_return;
    }
    Fire made;
    made.at = *decision.fire;
    made.stands_for = decision.stands_for;
    made.decision = std::move(decision);
    co_await fire(name, std::move(made));
}

/// The job of the one before is open. At most one waits for it.
asio::awaitable<void> Scheduler::overlap(std::string name, Decision decision) {
    const auto edit = [decision](Schedule& schedule) {
        note_decision(schedule, decision);
        schedule.missed += decision.missed;
        if (schedule.overlap == Overlap::kQueue && !schedule.queued_fire) {
            schedule.queued_fire = decision.fire;
            schedule.queued_for = decision.stands_for;
        } else {
            schedule.overlap_skipped += decision.stands_for;
        }
    };
    log::info("a fire came while the job of the one before is open", {{"schedule", name}});
    co_await record(name, edit);
}

/// What waited for the last job to end.
asio::awaitable<void> Scheduler::follow_up(std::string name) {
    const Schedules::Entry* entry = schedules_.find(name);
    if (entry == nullptr || is_open(entry->schedule.last_job)) co_return;
    if (entry->schedule.prune_due) {
        co_await prune(name);
        co_return;
    }
    if (!entry->schedule.queued_fire || entry->schedule.paused) co_return;
    Fire made;
    made.at = *entry->schedule.queued_fire;
    made.stands_for = entry->schedule.queued_for;
    made.was_queued = true;
    co_await fire(name, std::move(made));
}

/// Snapshots go only behind one that was taken, and never while the clock is in doubt.
asio::awaitable<void> Scheduler::prune(std::string name) {
    const Schedule schedule = schedules_.get(name).schedule;
    const auto done = [](Schedule& now) { now.prune_due = now.prune_is_forced = false; };
    std::optional<jobs::JobState> state;
    try {
        state = queue_.get(schedule.last_job).state;
    } catch (const Error&) {  // it is not in the history any more
    }
    const bool is_in_doubt = schedule.paused && schedule.pause_reason == kPausedByClock;
    if (state != jobs::JobState::kSucceeded || is_in_doubt) {
        co_await record(name, done);
        co_return;
    }
    std::map<std::string, std::string> parameters{{"target", schedule.target}, {"schedule", name}};
    if (schedule.prune_is_forced) parameters["force"] = "true";
    bool is_recorded = false;
    jobs::RequestKey key;
    key.schedule = name;
    key.beside = [this, name, done, &is_recorded](jobs::Job&, jobs::Batch& batch) {
        const Schedules::Entry* now = schedules_.find(name);
        if (now == nullptr) return;
        Schedule after = now->schedule;
        done(after);
        schedules_.put(after, batch);
        is_recorded = true;
    };
    std::optional<ErrorInfo> refusal;
    try {
        co_await submit_(std::string(kPrune), std::move(parameters), std::move(key));
    } catch (const Error& error) {
        refusal = error.info();
    }
    if (refusal) {
        co_await put_off_or(name, *refusal, done);
    } else if (!is_recorded) {
        co_await record(name, done);
    }
}

asio::awaitable<void> Scheduler::fire(std::string name, Fire fire) {
    jobs::RequestKey key;
    std::optional<ErrorInfo> refusal;
    try {
        co_await submit_fire(name, fire, std::move(key));
    } catch (const Error& error) {
        refusal = error.info();
    }
    if (!refusal) co_return;
    const auto give_up = [fire](Schedule& schedule) {
        note_decision(schedule, fire.decision);
        if (fire.was_queued) schedule.queued_fire.reset();
        schedule.missed += fire.stands_for + fire.decision.missed;
    };
    co_await put_off_or(name, *refusal, give_up);
}

asio::awaitable<jobs::Job> Scheduler::submit_fire(std::string name, Fire fire,
                                                  jobs::RequestKey key) {
    const Schedule schedule = schedules_.get(name).schedule;
    bool is_recorded = false;
    key.schedule = name;
    key.beside = [this, name, fire, &is_recorded](jobs::Job& job, jobs::Batch& batch) {
        job.fire = {
            {"schedule", name}, {"at", format_time(fire.at)}, {"stands_for", fire.stands_for}};
        const Schedules::Entry* now = schedules_.find(name);
        if (now == nullptr) return;  // deleted while this was on its way
        Schedule after = now->schedule;
        note_fire(after, fire, job.id);
        schedules_.put(after, batch);
        is_recorded = true;
    };
    const jobs::Job job = co_await submit_(schedule.op, job_parameters(schedule), std::move(key));
    // The same was asked for by somebody else, and is open: that is this fire's job too.
    if (!is_recorded) {
        co_await record(name,
                        [this, fire, id = job.id](Schedule& after) { note_fire(after, fire, id); });
    }
    log::info("a schedule fires", {{"schedule", name},
                                   {"at", format_time(fire.at)},
                                   {"stands_for", std::to_string(fire.stands_for)},
                                   {"job", job.id}});
    co_return job;
}

void Scheduler::note_fire(Schedule& schedule, const Fire& fire, const std::string& job_id) const {
    if (fire.decision.fire) note_decision(schedule, fire.decision);
    schedule.missed += fire.decision.missed;
    schedule.last_fire = std::max(schedule.last_fire.value_or(fire.at), fire.at);
    schedule.last_job = job_id;
    schedule.refusal.reset();
    schedule.prune_due = prunes(schedule);
    schedule.prune_is_forced = schedule.prune_due && fire.is_forced;
    if (fire.was_queued) schedule.queued_fire.reset();
}

/// One commit; nothing when it was deleted meanwhile.
asio::awaitable<void> Scheduler::record(std::string name, std::function<void(Schedule&)> edit) {
    const Schedules::Entry* entry = schedules_.find(name);
    if (entry == nullptr) co_return;
    Schedule schedule = entry->schedule;
    edit(schedule);
    jobs::Batch batch;
    schedules_.put(schedule, batch);
    co_await store_.commit(std::move(batch));
}

asio::awaitable<void> Scheduler::put_off_or(std::string name, ErrorInfo error,
                                            std::function<void(Schedule&)> give_up) {
    if (is_passing(error)) {
        put_off_[name] = Steady::now() + kTryAgainAfter;
        log::debug("a fire is put off", {{"schedule", name}, {"why", error.message}});
        co_return;
    }
    log::warning("a fire could not become a job",
                 {{"schedule", name}, {"code", error.code}, {"why", error.message}});
    const FireRefusal refusal{error.code, error.message, error.detail, now()};
    co_await record(name, [&refusal, &give_up](Schedule& schedule) {
        give_up(schedule);
        schedule.refusal = refusal;
    });
}

// --- verbs ---------------------------------------------------------------------------------------

asio::awaitable<void> Scheduler::create(Schedule schedule, jobs::RequestKey key) {
    const WallTime time = now();
    schedule.created_at = time;
    check_schedule(schedule);
    if (schedules_.find(schedule.name) != nullptr) {
        throw Error(ErrorKind::kConflict, "schedule_exists",
                    "schedule \"" + schedule.name + "\" exists already", "names are unique",
                    "choose another name, or delete it first");
    }
    begin_now(schedule, time);
    jobs::Batch batch;
    schedules_.put(schedule, batch);
    nlohmann::json answer = answer_of(schedule.name);
    co_await queue_.change(std::move(key), std::move(answer), std::move(batch));
    queue_.changed().notify();
}

asio::awaitable<void> Scheduler::change(std::string name, std::function<void(Schedule&)> edit,
                                        jobs::RequestKey key) {
    const Schedule before = schedules_.get(name).schedule;
    Schedule schedule = before;
    edit(schedule);
    check_schedule(schedule);
    const bool is_other_time = schedule.cron != before.cron || schedule.tz != before.tz ||
                               schedule.op != before.op || schedule.paused != before.paused;
    if (is_other_time) begin_now(schedule, now());
    jobs::Batch batch;
    schedules_.put(schedule, batch);
    nlohmann::json answer = answer_of(name);
    co_await queue_.change(std::move(key), std::move(answer), std::move(batch));
    queue_.changed().notify();
}

asio::awaitable<void> Scheduler::pause(std::string name, std::string reason, jobs::RequestKey key) {
    if (reason.size() > kReasonMax) {
        throw Error(ErrorKind::kInvalid, "reason_invalid", "the reason is too long",
                    fmt::format("it may have {} bytes", kReasonMax), "shorten it");
    }
    const auto edit = [reason = log::printable(reason)](Schedule& schedule) {
        schedule.paused = true;
        schedule.pause_reason = reason;
    };
    co_await change(std::move(name), edit, std::move(key));
}

asio::awaitable<void> Scheduler::resume(std::string name, jobs::RequestKey key) {
    if (!schedules_.get(name).schedule.paused) {
        throw Error(ErrorKind::kConflict, "not_paused", "schedule \"" + name + "\" is not paused",
                    "nobody paused it, or it was resumed already", "there is nothing to do");
    }
    const auto edit = [](Schedule& schedule) {
        schedule.paused = false;
        schedule.pause_reason.clear();
        schedule.queued_fire.reset();
    };
    co_await change(std::move(name), edit, std::move(key));
}

asio::awaitable<void> Scheduler::remove(std::string name, jobs::RequestKey key) {
    schedules_.get(name);
    jobs::Batch batch;
    schedules_.remove(name, batch);
    nlohmann::json answer = answer_of(name);
    co_await queue_.change(std::move(key), std::move(answer), std::move(batch));
}

asio::awaitable<jobs::Job> Scheduler::run_now(std::string name, bool force, jobs::RequestKey key) {
    const Schedule& schedule = schedules_.get(name).schedule;
    if (!force && is_open(schedule.last_job)) {
        throw Error(ErrorKind::kConflict, "busy",
                    "the last job of schedule \"" + name + "\" is open",
                    "it is " + schedule.last_job, "wait until it has ended, or pass --force");
    }
    Fire fire;
    fire.at = now();
    fire.is_forced = force;
    co_return co_await submit_fire(std::move(name), std::move(fire), std::move(key));
}

}  // namespace bpg::scheduler
