#include "orchestrator/housekeeper.h"

#include <fmt/format.h>

#include <algorithm>

#include "orchestrator/base/log.h"
#include "orchestrator/operations/spare_origins.h"
#include "orchestrator/operations/trash_purge.h"

namespace bpg {
namespace {

using catalog::Branch;
using catalog::BranchState;

constexpr std::chrono::seconds kLookEvery{1};
constexpr std::chrono::minutes kTryAgainAfter{1};
/// Whoever let go of a snapshot last may be destroying it.
constexpr std::chrono::seconds kSpareFor{5};

std::string overdue_warning(const Branch& branch, std::size_t children) {
    return fmt::format("its time was over at {}, but {} cut from it; it goes with the last of them",
                       format_time(*branch.expires_at),
                       children == 1 ? "a branch was" : fmt::format("{} branches were", children));
}

}  // namespace

asio::awaitable<void> Housekeeper::run() {
    bool knows_names = false;
    while (true) {
        std::optional<Error> failure;
        try {
            co_await expire_branches();
            co_await empty_trash();
            co_await destroy_spare_origins();
            if (!knows_names) co_await learn_names();
            knows_names = true;
            co_await follow_names();
        } catch (const Error& error) {
            failure = error;
        }
        if (failure) log::debug("housekeeping is put off", {{"why", failure->what()}});
        std::erase_if(put_off_,
                      [now = Steady::now()](const auto& entry) { return entry.second <= now; });
        co_await queue_.changed().wait_until(Steady::now() + kLookEvery);
    }
}

bool Housekeeper::has_open_job(const std::string& job_id) const {
    const auto& open = queue_.open_jobs();
    return std::any_of(open.begin(), open.end(),
                       [&job_id](const auto& entry) { return entry.second->id == job_id; });
}

bool Housekeeper::is_put_off(const std::string& what) const {
    const auto found = put_off_.find(what);
    return found != put_off_.end() && found->second > Steady::now();
}

/// What was asked for, or failed, is not asked for again at once.
void Housekeeper::put_off(const std::string& what) {
    put_off_[what] = Steady::now() + kTryAgainAfter;
}

asio::awaitable<void> Housekeeper::expire_branches() {
    const WallTime now = services_.clock.now();
    std::vector<std::string> over;
    for (const Branch* branch : services_.catalog.branches()) {
        const bool is_over = branch->expires_at && *branch->expires_at <= now;
        const bool may_go = !branch->is_protected && branch->name != catalog::kMain &&
                            branch->state != BranchState::kCreating &&
                            branch->state != BranchState::kDeleting;
        if (is_over && may_go) over.push_back(branch->id);
    }
    for (const std::string& id : over) {
        const Branch* branch = services_.catalog.branch_by_id(id);
        if (branch == nullptr || is_put_off(id)) continue;
        if (!services_.catalog.children(id).empty()) {
            co_await note_overdue(id);
            continue;
        }
        if (queue_.find_open_on(services_.catalog.ref_of(*branch))) continue;
        put_off(id);
        const jobs::Job job = co_await requests_.expire(id);
        log::info("a branch's time is over", {{"branch", job.target}, {"job", job.id}});
    }
}

asio::awaitable<void> Housekeeper::note_overdue(std::string branch_id) {
    Branch branch = *services_.catalog.branch_by_id(branch_id);
    const std::string warning =
        overdue_warning(branch, services_.catalog.children(branch_id).size());
    const auto& known = branch.warnings;
    if (std::find(known.begin(), known.end(), warning) != known.end()) co_return;
    branch.warnings = {warning};
    jobs::Batch batch;
    services_.catalog.put(branch, batch);
    co_await store_.commit(std::move(batch));
}

/// Those whose time is over; where space is short, the oldest whatever its time.
std::vector<std::string> Housekeeper::due_items() const {
    const WallTime now = services_.clock.now();
    const storage::Space space = space_();
    const bool is_short = space.size > 0 && space.free < reserve_.of(space.size);
    std::vector<std::string> due;
    for (const catalog::TrashItem& item : services_.catalog.trash()) {
        const bool is_worked_on =
            std::any_of(item.branch_ids.begin(), item.branch_ids.end(), [&](const auto& id) {
                return has_open_job(services_.catalog.branch_by_id(id)->last_job);
            });
        if (is_worked_on || is_put_off(item.trash.item) || queue_.find_open_on(item.trash.item) ||
            !requests_.may_purge(item)) {
            continue;
        }
        if (item.trash.purge_at <= now || (is_short && due.empty())) {
            due.push_back(item.trash.item);
        }
    }
    return due;
}

/// One job at a time: what one destroys may move what another one looks for.
bool Housekeeper::is_trash_being_emptied() const {
    const auto& open = queue_.open_jobs();
    return std::any_of(open.begin(), open.end(), [](const auto& entry) {
        return entry.second->operation == operations::TrashPurge::kName;
    });
}

asio::awaitable<void> Housekeeper::empty_trash() {
    if (is_trash_being_emptied()) co_return;
    const std::vector<std::string> due = due_items();
    if (due.empty()) co_return;
    for (const std::string& item : due)
        put_off(item);
    const jobs::Job job = co_await requests_.purge_items(due, jobs::Priority::kHousekeeping, {});
    log::info("the trash is emptied", {{"items", std::to_string(due.size())}, {"job", job.id}});
}

/// A snapshot goes with the last branch that hangs on it, but not when that is a branch that was to
/// be made from it and was not: such a job leaves alone what it found. One that cannot go, since
/// some time can be restored from it alone, is not tried again: it goes with a cleanup.
asio::awaitable<void> Housekeeper::destroy_spare_origins() {
    const auto now = Steady::now();
    if (now < spare_looked_at_ + kLookEvery) co_return;
    spare_looked_at_ = now;
    std::map<std::string, Steady::time_point> spare;
    for (const catalog::Snapshot& snapshot : operations::unclaimed_origins(services_)) {
        const auto known = spare_.find(snapshot.id);
        spare.emplace(snapshot.id, known == spare_.end() ? now + kSpareFor : known->second);
    }
    spare_ = std::move(spare);
    const auto is_due = [now](const auto& entry) { return entry.second <= now; };
    if (std::none_of(spare_.begin(), spare_.end(), is_due) || is_trash_being_emptied()) co_return;
    const jobs::Job job = co_await requests_.purge_items({}, jobs::Priority::kHousekeeping, {});
    for (auto& [id, when] : spare_) {
        if (when <= now) when = Steady::time_point::max();
    }
    log::info("snapshots that nothing hangs on are destroyed", {{"job", job.id}});
}

/// A rename is one commit; its daemon may have died before the volumes followed.
asio::awaitable<void> Housekeeper::learn_names() {
    std::map<std::string, std::string> carried;
    for (const storage::Found& found : co_await services_.storage.list()) {
        if (!found.snapshot && found.identity) carried[found.volume] = found.identity->ref;
    }
    for (const auto& [id, branch] : services_.catalog.all_branches()) {
        const auto found = carried.find(branch.volume);
        if (found != carried.end()) names_[id] = found->second;
    }
}

asio::awaitable<void> Housekeeper::follow_names() {
    std::vector<std::string> renamed;
    for (const auto& [id, branch] : services_.catalog.all_branches()) {
        const std::string ref = services_.catalog.ref_of(branch);
        const auto [known, is_new] = names_.try_emplace(id, ref);
        if (!is_new && known->second != ref && !is_put_off("name of " + id)) renamed.push_back(id);
    }
    std::erase_if(names_, [this](const auto& entry) {
        return services_.catalog.branch_by_id(entry.first) == nullptr;
    });
    for (const std::string& id : renamed) {
        const Branch* found = services_.catalog.branch_by_id(id);
        if (found == nullptr) continue;
        const Branch branch = *found;
        const std::string ref = services_.catalog.ref_of(branch);
        put_off("name of " + id);
        co_await services_.storage.set_ref(branch.volume, branch.owner_of_volume(), ref);
        names_[id] = ref;
        put_off_.erase("name of " + id);
    }
}

}  // namespace bpg
