// What was told to stand still: a lane, or a database. Its jobs are accepted and wait; those that
// run go on. A pause is durable and ends only when somebody ends it.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "jobs/job.h"
#include "jobs/store.h"

namespace bpg::jobs {

struct Pause {
    std::string resource;  ///< "lane/housekeeping", "database/<id>"
    std::string shown_as;  ///< how a user knows it: "the housekeeping lane", "database prod"
    std::string reason;    ///< given by whoever paused it; may be empty
    WallTime since{};
};

/// Loop thread only.
class Pauses {
  public:
    explicit Pauses(Store& store) : store_(store) {}

    /// Called once before anything else.
    void load();
    /// Durable when it returns; pausing again changes the reason.
    asio::awaitable<void> pause(Pause pause);
    /// False when it was not paused.
    asio::awaitable<bool> resume(std::string resource);

    const std::map<std::string, Pause>& all() const { return pauses_; }
    /// Why a job may not begin: "database prod is paused: moving it"; empty when it may.
    std::string reason(const Job& job) const;

  private:
    Store& store_;
    std::map<std::string, Pause> pauses_;  ///< by resource
};

}  // namespace bpg::jobs
