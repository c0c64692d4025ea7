// How far a running step is, for display.
#pragma once

#include <cstdint>
#include <string>

namespace bpg::jobs {

struct StepProgress {
    std::uint64_t done = 0;
    std::uint64_t total = 0;  ///< 0 while it is not known
    std::string unit;         ///< "bytes"
};

}  // namespace bpg::jobs
