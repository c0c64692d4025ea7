#include "jobs/estimates.h"

#include <algorithm>
#include <vector>

namespace bpg::jobs {
namespace {

constexpr std::size_t kSeenMax = 20;

}  // namespace

void Estimates::learn(const Job& job) {
    for (const StepRecord& row : job.steps)
        learn_row(job, row);
}

void Estimates::learn_row(const Job& job, const StepRecord& row) {
    if (row.state != "done" || !row.duration_ms) return;
    std::deque<double>& seen = seen_[{job.operation, job.mode, row.name}];
    seen.push_back(*row.duration_ms);
    if (seen.size() > kSeenMax) seen.pop_front();
}

std::optional<double> Estimates::typical_ms(const Job& job, const StepRecord& row) const {
    const auto found = seen_.find({job.operation, job.mode, row.name});
    if (found == seen_.end()) return std::nullopt;
    std::vector<double> sorted(found->second.begin(), found->second.end());
    const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
    std::nth_element(sorted.begin(), middle, sorted.end());
    return *middle;
}

/// A row that tells how far it is knows better than history.
double Estimates::left_of_current(const Job& job, const StepRecord& row, double typical_ms,
                                  WallTime now) {
    const double passed =
        std::chrono::duration<double, std::milli>(now - row.started_at.value_or(now)).count();
    if (job.progress && job.progress->done > 0 && job.progress->total >= job.progress->done) {
        const auto done = static_cast<double>(job.progress->done);
        return passed * (static_cast<double>(job.progress->total) - done) / done;
    }
    return std::max(0.0, typical_ms - passed);
}

std::optional<std::chrono::milliseconds> Estimates::left(const Job& job, WallTime now) const {
    if (is_final(job.state) || job.direction != Direction::kForward) return std::nullopt;
    const std::size_t current = row_of(job, job.step).value_or(0);
    const bool begun = job.started_at.has_value();
    double left_ms = 0;
    for (std::size_t row = current; row < job.steps.size(); ++row) {
        const StepRecord& record = job.steps[row];
        const auto typical = typical_ms(job, record);
        if (!typical) return std::nullopt;
        left_ms += row == current && begun ? left_of_current(job, record, *typical, now) : *typical;
    }
    return std::chrono::milliseconds(static_cast<std::int64_t>(left_ms));
}

}  // namespace bpg::jobs
