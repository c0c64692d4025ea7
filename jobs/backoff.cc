#include "jobs/backoff.h"

#include <algorithm>

namespace bpg::jobs {

std::chrono::milliseconds backoff(int failures, double random) {
    constexpr double kFirstMs = 500;
    constexpr double kMaxMs = 60'000;
    constexpr double kMinMs = 50;
    const int doublings = std::clamp(failures - 1, 0, 20);
    const double ceiling = std::min(kMaxMs, kFirstMs * static_cast<double>(1U << doublings));
    return std::chrono::milliseconds(static_cast<int>(std::max(kMinMs, ceiling * random)));
}

}  // namespace bpg::jobs
