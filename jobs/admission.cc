#include "jobs/admission.h"

#include <fmt/format.h>

namespace bpg::jobs {
namespace {

constexpr const char* kFreeSlot = "a free slot";

}  // namespace

void Admission::begin_round() {
    wanted_.clear();
    slot_is_wanted_ = false;
    for (const auto& [number, locks] : running_waiters_) {
        for (const Lock& lock : locks)
            wanted_.add(number, lock);
    }
}

/// A job that nobody is in the way of has its locks and its slot in the very commit that submits
/// it, so that it costs no write to begin.
void Admission::admit(Job& job) {
    if (!pauses_.reason(job).empty()) return;  // who is paused keeps nobody else waiting
    if (is_closed_ || slot_is_wanted_ || !obstacle(job, 0).empty() ||
        !slots_.try_take(job.number, job.priority)) {
        want(job, 0);
        return;
    }
    for (Lock& lock : job.locks)
        lock.held = needs(job, lock, 0);
    job.admitted = true;
}

std::string Admission::take(const Job& job) {
    if (is_closed_) return kFreeSlot;
    // Who is paused keeps nobody else waiting.
    if (std::string paused = pauses_.reason(job); !paused.empty()) return paused;
    const std::size_t row = row_of(job, job.step).value_or(0);
    const bool forward = job.direction == Direction::kForward;  // an undo has what it needs
    std::string why = forward ? obstacle(job, row) : std::string();
    if (why.empty() && !slots_.try_take(job.number, job.priority)) {
        why = kFreeSlot;
        slot_is_wanted_ = true;
    }
    if (!why.empty()) {
        want(job, row);
        return why;
    }
    if (forward) queue_.grant(job.number, row);
    return {};
}

std::string Admission::take_row(Job& job, std::size_t row, bool& grew) {
    grew = false;
    std::string why = held_by_other(job, row);
    if (!why.empty()) {
        std::vector<Lock>& waits_for = running_waiters_[job.number];
        waits_for.clear();
        for (const Lock& lock : job.locks) {
            if (!lock.held && needs(job, lock, row)) waits_for.push_back(lock);
        }
        return why;
    }
    stop_waiting(job.number);
    for (Lock& lock : job.locks) {
        if (lock.held || !needs(job, lock, row)) continue;
        lock.held = true;
        grew = true;
    }
    if (grew) queue_.grant(job.number, row);
    return {};
}

std::string Admission::obstacle(const Job& job, std::size_t row) const {
    std::string why = held_by_other(job, row);
    return why.empty() ? wanted_before(job, row) : why;
}

std::string Admission::held_by_other(const Job& job, std::size_t row) const {
    for (const Lock& lock : job.locks) {
        if (lock.held || !needs(job, lock, row)) continue;
        const auto obstacle = queue_.locks().obstacle(job.number, lock);
        if (!obstacle) continue;
        const Job& holder = queue_.open_job(obstacle->job);
        return fmt::format("{}: held by job {} ({} {}, step {})", obstacle->shown_as, holder.id,
                           holder.operation, holder.target, holder.step);
    }
    return {};
}

std::string Admission::wanted_before(const Job& job, std::size_t row) const {
    for (const Lock& lock : job.locks) {
        if (lock.held || !needs(job, lock, row)) continue;
        const auto obstacle = wanted_.obstacle(job.number, lock);
        // One that ended meanwhile wants nothing; the next round knows.
        if (!obstacle || !queue_.open_jobs().contains(obstacle->job)) continue;
        const Job& first = queue_.open_job(obstacle->job);
        return fmt::format("{}: job {} ({} {}) is first", obstacle->shown_as, first.id,
                           first.operation, first.target);
    }
    return {};
}

void Admission::want(const Job& job, std::size_t row) {
    for (const Lock& lock : job.locks) {
        if (!lock.held && needs(job, lock, row)) wanted_.add(job.number, lock);
    }
}

}  // namespace bpg::jobs
