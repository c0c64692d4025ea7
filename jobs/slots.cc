#include "jobs/slots.h"

#include <algorithm>

namespace bpg::jobs {

/// With a single slot there is none to keep.
bool Slots::is_free(Priority priority) const {
    if (is_open_) return true;
    if (held_.size() >= count_) return false;
    if (priority == Priority::kInteractive || count_ < 2) return true;
    const auto others = std::count_if(held_.begin(), held_.end(), [](const auto& one) {
        return one.second != Priority::kInteractive;
    });
    return static_cast<std::size_t>(others) + 1 < count_;
}

bool Slots::try_take(std::uint64_t job, Priority priority) {
    if (going_on_ > 0 || !is_free(priority)) return false;
    held_.emplace(job, priority);
    return true;
}

asio::awaitable<void> Slots::take(std::uint64_t job, Priority priority) {
    struct Count {
        std::size_t& waiting;
        explicit Count(std::size_t& counter) : waiting(counter) { ++waiting; }
        ~Count() { --waiting; }
    };
    {
        const Count count(going_on_);
        while (!is_free(priority))
            co_await freed_.wait_until(std::chrono::steady_clock::time_point::max());
    }
    held_.emplace(job, priority);
}

void Slots::release(std::uint64_t job) {
    if (held_.erase(job) > 0) freed_.notify();
}

void Slots::open_all() {
    is_open_ = true;
    freed_.notify();
}

}  // namespace bpg::jobs
