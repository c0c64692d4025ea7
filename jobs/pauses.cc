#include "jobs/pauses.h"

#include <algorithm>

#include "orchestrator/base/json.h"

namespace bpg::jobs {
namespace {

bool concerns(const Pause& pause, const Job& job) {
    if (pause.resource == "lane/" + std::string(to_string(job.priority))) return true;
    return std::any_of(job.locks.begin(), job.locks.end(), [&pause](const Lock& lock) {
        return lock.resource == pause.resource ||
               std::find(lock.above.begin(), lock.above.end(), pause.resource) != lock.above.end();
    });
}

}  // namespace

void Pauses::load() {
    store_.scan(kinds::kPause, [this](std::string_view key, std::string_view value) {
        const auto record = nlohmann::json::parse(value);
        Pause pause{std::string(key.substr(kinds::kPause.size())), record.value("shown_as", ""),
                    record.value("reason", ""), record.value("since", WallTime{})};
        pauses_.insert_or_assign(pause.resource, std::move(pause));
        return true;
    });
}

asio::awaitable<void> Pauses::pause(Pause pause) {
    const nlohmann::json record{
        {"shown_as", pause.shown_as}, {"reason", pause.reason}, {"since", pause.since}};
    Batch batch;
    batch.put(std::string(kinds::kPause) + pause.resource, json_text(record));
    co_await store_.commit(std::move(batch));
    pauses_.insert_or_assign(pause.resource, std::move(pause));
}

asio::awaitable<bool> Pauses::resume(std::string resource) {
    if (!pauses_.contains(resource)) co_return false;
    Batch batch;
    batch.remove(std::string(kinds::kPause) + resource);
    co_await store_.commit(std::move(batch));
    pauses_.erase(resource);
    co_return true;
}

std::string Pauses::reason(const Job& job) const {
    for (const auto& [resource, pause] : pauses_) {
        if (!concerns(pause, job)) continue;
        return pause.shown_as + " is paused" + (pause.reason.empty() ? "" : ": " + pause.reason);
    }
    return {};
}

}  // namespace bpg::jobs
