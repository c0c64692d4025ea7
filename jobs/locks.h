// Which jobs may work on what at the same time. A lock names a resource (the pool, a database, a
// branch, a snapshot) and what lies above it; whoever locks a resource has intention locks on all
// of that, so that a database can be locked as a whole against whatever happens inside it.
//
// A lock belongs to rows of its job's table: it is taken before the first that needs it, and let go
// in the commit that ends the last. What a job holds is part of its record, written before anything
// is done under it, so that a daemon that was killed goes on with exactly the locks it had. No job
// waits for a lock that comes before one it holds (pool, database, branch, snapshot, wal; then by
// name):
// that is why two jobs can never wait for one another.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bpg::jobs {

/// Of the usual four: intention locks are taken above a resource, the others on it.
enum class LockMode { kIntentShared, kIntentExclusive, kShared, kExclusive };

std::string_view to_string(LockMode mode);
std::optional<LockMode> lock_mode_from_string(std::string_view text);
/// Whether two jobs may have a resource in these modes at once.
bool compatible(LockMode one, LockMode other);
/// What a lock in this mode is on everything above its resource.
LockMode intention(LockMode mode);

struct Lock {
    std::string resource = {};  ///< "pool", "database/<id>", "branch/<id>", "snapshot/<id>",
                                ///< "wal/<incarnation id>"
    std::vector<std::string> above = {};  ///< resources that contain it, the pool first
    LockMode mode = LockMode::kShared;
    std::string shown_as = {};    ///< how a user knows it: "prod/main"
    std::string from_step = {};   ///< the first row that needs it; empty: the first of all
    std::string until_step = {};  ///< the last one; empty: the last of all
    bool held = false;
};

/// Whether two jobs may not have both.
bool conflict(const Lock& one, const Lock& other);
/// The order in which locks are taken.
bool comes_before(const Lock& one, const Lock& other);

/// Who has which lock. Loop thread only.
class LockTable {
  public:
    /// A job that has a lock which keeps another from being taken.
    struct Obstacle {
        std::uint64_t job;
        std::string shown_as;  ///< of the lock that was wanted
    };

    /// Who keeps `lock` from this job; nothing when it may have it.
    std::optional<Obstacle> obstacle(std::uint64_t job, const Lock& lock) const;
    void add(std::uint64_t job, const Lock& lock);
    /// From here on the job has those of `locks` that it holds, and no others.
    void set(std::uint64_t job, const std::vector<Lock>& locks);
    void drop(std::uint64_t job);
    void clear();

  private:
    struct Entry {
        std::uint64_t job;
        LockMode mode;
    };
    bool is_kept_from(std::uint64_t job, const std::string& resource, LockMode mode,
                      std::uint64_t& by) const;
    void remove(std::uint64_t job, const std::string& resource);

    std::map<std::string, std::vector<Entry>> entries_;            ///< intentions too
    std::map<std::uint64_t, std::vector<std::string>> resources_;  ///< of each job
};

}  // namespace bpg::jobs
