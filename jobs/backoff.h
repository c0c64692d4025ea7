// How long to wait before a temporary failure is tried again. Pure.
#pragma once

#include <chrono>

namespace bpg::jobs {

/// Full jitter: a uniform part of min(60 s, 0.5 s · 2^(failures-1)), at least 50 ms.
/// `failures` counts from 1; `random` is uniform in [0, 1).
std::chrono::milliseconds backoff(int failures, double random);

}  // namespace bpg::jobs
