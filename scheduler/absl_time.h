// Between our times and those that Abseil computes with.
#pragma once

#include <absl/time/time.h>

#include "orchestrator/base/clock.h"

namespace bpg::scheduler {

inline absl::Time to_absl(WallTime time) {
    return absl::FromUnixMicros(time.time_since_epoch().count());
}
inline WallTime from_absl(absl::Time time) {
    return WallTime(std::chrono::microseconds(absl::ToUnixMicros(time)));
}

}  // namespace bpg::scheduler
