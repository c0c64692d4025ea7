// Every schedule, in memory and in the store, with what it takes to find those that are due without
// looking at all of them. A change is applied to memory and added to a Batch that the caller
// commits. Loop thread only.
#pragma once

#include <absl/time/time.h>

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "jobs/store.h"
#include "scheduler/schedule.h"

namespace bpg::scheduler {

class Schedules {
  public:
    /// A schedule with what its texts mean.
    struct Entry {
        Schedule schedule;
        std::optional<CronExpression> expression;  ///< nothing: see `broken`
        absl::TimeZone zone;
        /// Why it cannot fire: its zone went with an update of the zone files, or a later version
        /// wrote what this one cannot read.
        std::string broken;
    };

    /// Reads everything from the store; called once at start.
    void load(const jobs::Store& store);

    const std::map<std::string, Entry>& all() const { return entries_; }  ///< by name
    const Entry* find(const std::string& name) const;
    /// Throws kNotFound `schedule_not_found`.
    const Entry& get(const std::string& name) const;
    std::vector<const Schedule*> of_target(std::string_view target) const;

    /// Names of those whose next fire is not later than `now`, the earliest first.
    std::vector<std::string> due(WallTime now) const;
    /// When the first fires that `may_fire` says yes to.
    template <class Predicate>
    std::optional<WallTime> next_fire(Predicate may_fire) const {
        for (const auto& [time, name] : by_fire_) {
            if (may_fire(name)) return time;
        }
        return std::nullopt;
    }
    /// Names of those that wait for the end of their last job.
    const std::set<std::string>& waiting() const { return waiting_; }

    // Changes: memory now, the store with `batch`.
    void put(const Schedule& schedule, jobs::Batch& batch);
    void remove(const std::string& name, jobs::Batch& batch);
    /// What a schedule is for has another name now: a branch, or a database with all its branches.
    void retarget(const std::string& from, const std::string& to, jobs::Batch& batch);

  private:
    void place(Schedule schedule);
    void forget(const std::string& name);

    std::map<std::string, Entry> entries_;
    std::set<std::pair<WallTime, std::string>> by_fire_;
    std::set<std::string> waiting_;
};

}  // namespace bpg::scheduler
