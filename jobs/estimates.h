// How long the steps of an operation took lately, and so how long a job may still take.
#pragma once

#include <chrono>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <tuple>

#include "jobs/job.h"

namespace bpg::jobs {

/// Loop thread only.
class Estimates {
  public:
    /// Of the rows a job has done.
    void learn(const Job& job);
    void learn_row(const Job& job, const StepRecord& row);

    /// What an open job still needs once it goes on, as a median of those before it; nothing
    /// without such, or while it is being undone.
    std::optional<std::chrono::milliseconds> left(const Job& job, WallTime now) const;

  private:
    using Key = std::tuple<std::string, std::string, std::string>;  ///< operation, mode, step

    std::optional<double> typical_ms(const Job& job, const StepRecord& row) const;
    static double left_of_current(const Job& job, const StepRecord& row, double typical_ms,
                                  WallTime now);

    std::map<Key, std::deque<double>> seen_;  ///< the newest last
};

}  // namespace bpg::jobs
