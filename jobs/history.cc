#include "jobs/history.h"

#include <algorithm>
#include <set>

namespace bpg::jobs {
namespace {

constexpr std::size_t kAtOnce = 300;  // jobs; their keys go in one commit

std::string key(std::string_view kind, std::uint64_t number) {
    return std::string(kind) + big_endian(number);
}

}  // namespace

bool History::is_expired(const Job& job, WallTime now) const {
    if (!job.finished_at) return false;
    const auto listed_for = now - *job.finished_at;
    switch (job.state) {
        case JobState::kSucceeded:
            return listed_for >= keep_.succeeded;
        case JobState::kFailed:
            return listed_for >= keep_.failed;
        case JobState::kCancelled:
            return listed_for >= keep_.cancelled;
        default:
            return false;
    }
}

void History::add_keys(const Job& job, std::vector<std::string>& keys) const {
    keys.push_back(key(kinds::kJob, job.number));
    keys.push_back(std::string(kinds::kJobId) + job.id);
    store_.scan(key(kinds::kEvent, job.number), [&keys](std::string_view event, std::string_view) {
        keys.emplace_back(event);
        return true;
    });
}

History::Expired History::expired(WallTime now, std::size_t max) const {
    Expired found;
    std::set<std::uint64_t> numbers;
    store_.scan(kinds::kJob, [&](std::string_view, std::string_view value) {
        const Job job = from_record(nlohmann::json::parse(value));
        if (!is_expired(job, now)) return true;
        found.job_ids.push_back(job.id);
        numbers.insert(job.number);
        add_keys(job, found.keys);
        return numbers.size() < max;
    });
    if (numbers.empty()) return found;
    store_.scan(kinds::kIdempotency, [&](std::string_view caller, std::string_view value) {
        const auto record = nlohmann::json::parse(value);
        if (numbers.contains(record.value("number", std::uint64_t{0}))) {
            found.keys.emplace_back(caller);
        }
        return true;
    });
    return found;
}

void History::remove_logs(const std::vector<std::string>& job_ids) const {
    for (const std::string& id : job_ids)
        logs_.remove(id);
}

std::span<const Step<HistoryPrune>> HistoryPrune::steps() {
    static constexpr Step<HistoryPrune> kSteps[] = {
        {"remove_expired", "remove jobs that ended long ago", &HistoryPrune::find_expired,
         nothing_to_undo, &HistoryPrune::forget},
    };
    return checked(kSteps);
}

asio::awaitable<Progress> HistoryPrune::find_expired(State& state) {
    auto work = [this, now = clock_.now()] {
        History::Expired found = history_.expired(now, kAtOnce);
        history_.remove_logs(found.job_ids);
        return found;
    };
    History::Expired expired = co_await pool_.run(std::move(work));
    state.removed = expired.job_ids.size();
    keys_ = std::move(expired.keys);
    co_return Done{};
}

void HistoryPrune::forget(const State&, Batch& batch) const {
    for (const std::string& gone : keys_)
        batch.remove(gone);
}

}  // namespace bpg::jobs
