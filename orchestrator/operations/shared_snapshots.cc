#include "orchestrator/operations/shared_snapshots.h"

#include <algorithm>

namespace bpg::operations {

asio::awaitable<SharedSnapshots::Place> SharedSnapshots::enter(std::string parent_id, bool fast,
                                                               std::string branch_id,
                                                               std::string snapshot_id) {
    close(snapshot_id);  // of an earlier try of the same leader
    while (true) {
        forget_what_is_over();
        if (const auto round = expecting(parent_id, fast, branch_id)) {
            if (round->taken) {
                round->expected.erase(branch_id);
                released_.erase(branch_id);
                co_return Place{round, /*leads=*/false};
            }
        } else if (!is_being_taken(parent_id, fast)) {
            co_return Place{begin(parent_id, fast, branch_id, snapshot_id), /*leads=*/true};
        }
        co_await changed_.wait_until(std::chrono::steady_clock::time_point::max());
    }
}

void SharedSnapshots::taken(const std::string& snapshot_id) {
    const auto round = find(snapshot_id);
    if (round == nullptr || round->taken) return;
    round->taken = true;
    changed_.notify();
}

void SharedSnapshots::close(const std::string& snapshot_id) {
    if (rounds_.erase(snapshot_id) > 0) changed_.notify();
}

std::shared_ptr<SharedSnapshots::Round> SharedSnapshots::expecting(
    const std::string& parent_id, bool fast, const std::string& branch_id) const {
    for (const auto& [id, round] : rounds_) {
        if (round->parent_id == parent_id && round->fast == fast &&
            round->expected.contains(branch_id)) {
            return round;
        }
    }
    return nullptr;
}

bool SharedSnapshots::is_being_taken(const std::string& parent_id, bool fast) const {
    return std::any_of(rounds_.begin(), rounds_.end(), [&](const auto& entry) {
        const Round& round = *entry.second;
        return round.parent_id == parent_id && round.fast == fast && !round.taken;
    });
}

bool SharedSnapshots::is_still_to_come(const std::string& branch_id) const {
    const catalog::Branch* branch = catalog_.branch_by_id(branch_id);
    return branch != nullptr && branch->state == catalog::BranchState::kCreating &&
           (branch->created_from.snapshot.empty() || released_.contains(branch_id));
}

std::shared_ptr<SharedSnapshots::Round> SharedSnapshots::begin(const std::string& parent_id,
                                                               bool fast,
                                                               const std::string& branch_id,
                                                               const std::string& snapshot_id) {
    released_.erase(branch_id);
    auto round = std::make_shared<Round>();
    round->facts.snapshot_id = snapshot_id;
    round->parent_id = parent_id;
    round->fast = fast;
    // A reservation in the catalog is an arrival: the snapshot begins after it.
    for (const catalog::Branch* sibling : catalog_.all_children(parent_id)) {
        if (sibling->id != branch_id && is_still_to_come(sibling->id)) {
            round->expected.insert(sibling->id);
        }
    }
    rounds_.emplace(snapshot_id, round);
    return round;
}

std::shared_ptr<SharedSnapshots::Round> SharedSnapshots::find(
    const std::string& snapshot_id) const {
    const auto found = rounds_.find(snapshot_id);
    return found == rounds_.end() ? nullptr : found->second;
}

bool SharedSnapshots::is_claimed(const std::string& snapshot_id) const {
    const auto branches = catalog_.branches_from(snapshot_id);
    return std::any_of(branches.begin(), branches.end(), [this](const catalog::Branch* branch) {
        return !released_.contains(branch->id);
    });
}

std::set<std::string> SharedSnapshots::claimed() const {
    std::set<std::string> claimed;
    for (const auto& [id, branch] : catalog_.all_branches())
        if (!released_.contains(id)) claimed.insert(branch.created_from.snapshot);
    return claimed;
}

void SharedSnapshots::forget_what_is_over() {
    std::erase_if(released_,
                  [this](const std::string& id) { return catalog_.branch_by_id(id) == nullptr; });
    std::erase_if(going_,
                  [this](const std::string& id) { return catalog_.snapshot_by_id(id) == nullptr; });
    std::erase_if(rounds_, [this](const auto& entry) {
        Round& round = *entry.second;
        if (!round.taken) return false;
        std::erase_if(round.expected,
                      [this](const std::string& id) { return !is_still_to_come(id); });
        const bool recorded = catalog_.snapshot_by_id(entry.first) != nullptr;
        return round.expected.empty() && (recorded || !is_claimed(entry.first));
    });
}

}  // namespace bpg::operations
