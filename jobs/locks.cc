#include "jobs/locks.h"

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>

namespace bpg::jobs {
namespace {

using enum LockMode;

constexpr std::array<std::pair<LockMode, std::string_view>, 4> kModeNames{{
    {kIntentShared, "intent_shared"},
    {kIntentExclusive, "intent_exclusive"},
    {kShared, "shared"},
    {kExclusive, "exclusive"},
}};

/// 0 is the pool; what is of no kind we know comes last.
std::size_t level(const std::string& resource) {
    constexpr std::array<std::string_view, 5> kKinds{"pool", "database", "branch", "snapshot",
                                                     "wal"};
    const std::string_view kind = std::string_view(resource).substr(0, resource.find('/'));
    return static_cast<std::size_t>(std::find(kKinds.begin(), kKinds.end(), kind) - kKinds.begin());
}

bool lies_above(const std::string& resource, const Lock& lock) {
    return std::find(lock.above.begin(), lock.above.end(), resource) != lock.above.end();
}

}  // namespace

std::string_view to_string(LockMode mode) {
    for (const auto& [value, name] : kModeNames) {
        if (value == mode) return name;
    }
    return "exclusive";
}

std::optional<LockMode> lock_mode_from_string(std::string_view text) {
    for (const auto& [value, name] : kModeNames) {
        if (name == text) return value;
    }
    return std::nullopt;
}

bool compatible(LockMode one, LockMode other) {
    if (one == kExclusive || other == kExclusive) return false;
    if (one == kShared) return other != kIntentExclusive;
    if (other == kShared) return one != kIntentExclusive;
    return true;  // what two only intend, they may do in different places
}

LockMode intention(LockMode mode) {
    return mode == kShared || mode == kIntentShared ? kIntentShared : kIntentExclusive;
}

bool conflict(const Lock& one, const Lock& other) {
    if (one.resource == other.resource) return !compatible(one.mode, other.mode);
    if (lies_above(one.resource, other)) return !compatible(one.mode, intention(other.mode));
    if (lies_above(other.resource, one)) return !compatible(intention(one.mode), other.mode);
    return false;
}

bool comes_before(const Lock& one, const Lock& other) {
    return std::make_tuple(level(one.resource), one.resource) <
           std::make_tuple(level(other.resource), other.resource);
}

bool LockTable::is_kept_from(std::uint64_t job, const std::string& resource, LockMode mode,
                             std::uint64_t& by) const {
    const auto found = entries_.find(resource);
    if (found == entries_.end()) return false;
    for (const Entry& entry : found->second) {
        if (entry.job == job || compatible(entry.mode, mode)) continue;
        by = entry.job;
        return true;
    }
    return false;
}

std::optional<LockTable::Obstacle> LockTable::obstacle(std::uint64_t job, const Lock& lock) const {
    std::uint64_t by = 0;
    bool kept = is_kept_from(job, lock.resource, lock.mode, by);
    for (const std::string& resource : lock.above) {
        if (!kept) kept = is_kept_from(job, resource, intention(lock.mode), by);
    }
    if (!kept) return std::nullopt;
    return Obstacle{by, lock.shown_as};
}

void LockTable::add(std::uint64_t job, const Lock& lock) {
    std::vector<std::string>& resources = resources_[job];
    entries_[lock.resource].push_back({job, lock.mode});
    resources.push_back(lock.resource);
    for (const std::string& resource : lock.above) {
        entries_[resource].push_back({job, intention(lock.mode)});
        resources.push_back(resource);
    }
}

void LockTable::set(std::uint64_t job, const std::vector<Lock>& locks) {
    drop(job);
    for (const Lock& lock : locks) {
        if (lock.held) add(job, lock);
    }
}

void LockTable::drop(std::uint64_t job) {
    const auto found = resources_.find(job);
    if (found == resources_.end()) return;
    for (const std::string& resource : found->second)
        remove(job, resource);
    resources_.erase(found);
}

void LockTable::clear() {
    entries_.clear();
    resources_.clear();
}

void LockTable::remove(std::uint64_t job, const std::string& resource) {
    const auto found = entries_.find(resource);
    if (found == entries_.end()) return;
    std::erase_if(found->second, [job](const Entry& entry) { return entry.job == job; });
    if (found->second.empty()) entries_.erase(found);
}

}  // namespace bpg::jobs
