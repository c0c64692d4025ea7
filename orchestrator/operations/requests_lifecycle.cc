// The requests that change what is there: delete and bring back, sync, promote, rename, settings,
// snapshots, passwords.
#include <absl/time/time.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "orchestrator/base/id.h"
#include "orchestrator/operations/branch_delete.h"
#include "orchestrator/operations/branch_promote.h"
#include "orchestrator/operations/branch_sync.h"
#include "orchestrator/operations/password_rotate.h"
#include "orchestrator/operations/pool_space.h"
#include "orchestrator/operations/request_parts.h"
#include "orchestrator/operations/requests.h"
#include "orchestrator/operations/rules.h"
#include "orchestrator/operations/snapshot_delete.h"
#include "orchestrator/operations/snapshot_take.h"
#include "orchestrator/operations/trash_purge.h"
#include "orchestrator/operations/undo_delete.h"
#include "orchestrator/postgres/settings.h"
#include "scheduler/schedules.h"

namespace bpg::operations {
namespace {

using catalog::Branch;
using catalog::BranchState;
using catalog::Database;
using nlohmann::json;

constexpr std::size_t kLabelMax = 128;

json bytes_json(const catalog::Catalog& catalog, const std::string& branch_id) {
    const auto usage = catalog.usage(branch_id);
    return usage ? json(usage->used) : json(nullptr);
}

void check_label(const std::string& label) {
    const bool has_control = std::any_of(label.begin(), label.end(), [](char c) {
        return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    });
    // Bytes that are no UTF-8 are left out of the dump.
    const json written =
        json::parse(json(label).dump(-1, ' ', false, json::error_handler_t::ignore));
    const bool is_text = written == label;
    if (label.size() <= kLabelMax && !has_control && is_text) return;
    throw Error(ErrorKind::kInvalid, "label_invalid", "this is no label",
                label.size() > kLabelMax
                    ? fmt::format("it has {} bytes, {} are the most", label.size(), kLabelMax)
                    : "it has control characters, or is no UTF-8",
                "choose another one");
}

void check_settings(const std::map<std::string, std::string>& settings) {
    for (const auto& [name, value] : settings) {
        std::optional<ErrorInfo> refusal;
        try {
            postgres::check_setting(name, value);
        } catch (const Error& error) {
            refusal = error.info();
        }
        if (!refusal) continue;
        refusal->hint = "bpg branch set --pg takes settings of PostgreSQL like work_mem=64MB";
        throw Error(*refusal);
    }
}

}  // namespace

void Requests::refuse_busy(const std::string& target) const {
    const auto other = queue_.find_open_on(target);
    if (!other) return;
    throw Error(ErrorKind::kConflict, "busy", "\"" + target + "\" is busy",
                fmt::format("job {} ({}) is {}, at step {}", other->id, other->operation,
                            jobs::to_string(other->state), other->step),
                "wait for it: bpg job tail -f " + other->id);
}

void Requests::refuse_fast() const {
    if (services_.storage.atomic()) return;
    throw Error(
        ErrorKind::kInvalid, "fast_unsupported",
        fmt::format("--fast is not possible with storage driver {}", services_.storage.driver()),
        "it needs snapshots that are atomic, and this driver copies file by file",
        "leave out --fast, or use storage driver btrfs or zfs");
}

/// A branch, or the id of one that is in the trash.
const Branch& Requests::parent_named(const std::string& text) const {
    if (text.find('/') != std::string::npos) return services_.catalog.branch(text);
    const catalog::TrashItem item = services_.catalog.trash_item(text);
    if (item.branch_ids.size() == 1 && item.database_id.empty()) {
        return *services_.catalog.branch_by_id(item.branch_ids.front());
    }
    throw Error(ErrorKind::kInvalid, "trash_item_is_database",
                "\"" + text + "\" is a whole database", "a branch is cut from a branch",
                "bring it back first: bpg db undo-delete " + item.trash.ref);
}

// --- delete --------------------------------------------------------------------------------------

asio::awaitable<jobs::Job> Requests::branch_delete(BranchDeleteRequest request, RequestKey key) {
    co_return co_await submit_delete(std::move(request), jobs::Priority::kInteractive,
                                     std::move(key));
}

asio::awaitable<jobs::Job> Requests::expire(std::string branch_id) {
    BranchDeleteRequest request;
    const Branch* branch = services_.catalog.branch_by_id(branch_id);
    if (branch == nullptr) {
        throw Error(ErrorKind::kNotFound, "branch_not_found", "the branch is gone", branch_id);
    }
    request.ref = services_.catalog.ref_of(*branch);
    co_return co_await submit_delete(std::move(request), jobs::Priority::kHousekeeping, {});
}

asio::awaitable<jobs::Job> Requests::submit_delete(BranchDeleteRequest request,
                                                   jobs::Priority priority, RequestKey key) {
    const std::string ref = request.ref;
    json params{{"ref", ref}, {"force", request.force}};
    if (request.recursive) params["recursive"] = true;
    if (request.purge) params["purge"] = true;
    const auto open = co_await attach("branch-delete", ref, params);
    if (open) co_return *open;
    const Branch branch = services_.catalog.branch(ref);
    refuse(services_.catalog.can_delete_branch(branch, request.force, request.recursive));
    std::vector<Branch> doomed;
    for (const Branch* member : services_.catalog.family(branch)) {
        if (member->id != branch.id) refuse_busy(services_.catalog.ref_of(*member));
        doomed.push_back(*member);
    }
    jobs::Submission job =
        submission(BranchDelete::kName, ref, std::move(params), nullptr, std::move(key));
    job.priority = priority;
    BranchDelete::State state;
    state.branch_id = branch.id;
    state.ref = ref;
    state.purge = request.purge || services_.settings.trash_keep.count() == 0;
    for (const Branch& member : doomed) {
        job.locks.push_back(whole(member, services_.catalog.ref_of(member)));
        if (state.purge) add_last_lock(job.locks, member, services_.catalog.ref_of(member));
    }
    jobs::Batch batch;
    state.doomed = Destruction::doom(services_.catalog, std::move(doomed), job.job_id, batch);
    job.data = state;
    co_return co_await queue_.submit(std::move(job), std::move(batch));
}

json Requests::plan_branch_delete(const BranchDeleteRequest& request) const {
    const Branch& branch = services_.catalog.branch(request.ref);
    refuse(services_.catalog.can_delete_branch(branch, request.force, request.recursive));
    const bool purge = request.purge || services_.settings.trash_keep.count() == 0;
    json branches = json::array();
    json summary = json::array();
    std::uint64_t bytes = 0;
    for (const Branch* member : services_.catalog.family(branch)) {
        const std::string ref = services_.catalog.ref_of(*member);
        const auto usage = services_.catalog.usage(member->id);
        bytes += usage ? usage->used : 0;
        json snapshots = json::array();
        for (const auto* snapshot : services_.catalog.snapshots_of(member->id))
            snapshots.push_back(snapshot->id);
        summary.push_back(fmt::format("{} goes {}, with {} snapshots", ref,
                                      purge ? "for good" : "to the trash", snapshots.size()));
        branches.push_back({{"ref", ref},
                            {"used_bytes", bytes_json(services_.catalog, member->id)},
                            {"snapshots", std::move(snapshots)}});
    }
    summary.push_back(
        fmt::format("{} bytes come back{}", bytes, purge ? "" : ", once its trash time is over"));
    return {{"plan", "branch-delete"},         {"dry_run", true}, {"ref", request.ref},
            {"branches", std::move(branches)}, {"bytes", bytes},  {"purge", purge},
            {"summary", std::move(summary)}};
}

// --- trash ---------------------------------------------------------------------------------------

bool Requests::may_purge(const catalog::TrashItem& item, const std::set<std::string>& going) const {
    if (item.trash.kind != "incarnation") return true;
    const catalog::Catalog& catalog = services_.catalog;
    const std::string volume = catalog.branch_by_id(item.branch_ids.front())->volume;
    const auto& snapshots = catalog.snapshots();
    return std::none_of(snapshots.begin(), snapshots.end(), [&](const auto& entry) {
        const catalog::Snapshot& snapshot = entry.second;
        if (snapshot.volume != volume) return false;
        const bool is_of_somebody = catalog.branch_by_id(snapshot.branch_id) != nullptr &&
                                    !going.contains(snapshot.branch_id);
        const auto cut = catalog.branches_from(snapshot.id);
        return (snapshot.kind == "base" && is_of_somebody) ||
               std::any_of(cut.begin(), cut.end(),
                           [&](const Branch* branch) { return !going.contains(branch->id); });
    });
}

/// What of the trash can go together, items that only others of it hold included.
std::vector<std::string> Requests::all_that_may_go() const {
    std::vector<catalog::TrashItem> left = services_.catalog.trash();
    std::vector<std::string> items;
    std::set<std::string> going;
    for (bool found = true; found;) {
        found = false;
        std::erase_if(left, [&](const catalog::TrashItem& item) {
            if (!may_purge(item, going)) return false;
            going.insert(item.branch_ids.begin(), item.branch_ids.end());
            items.push_back(item.trash.item);
            return found = true;
        });
    }
    return items;
}

asio::awaitable<jobs::Job> Requests::trash_purge(std::string what, RequestKey key) {
    std::vector<std::string> items;
    if (what.empty()) {
        items = all_that_may_go();
    } else {
        const catalog::TrashItem item = services_.catalog.trash_item(what);
        if (!may_purge(item)) {
            throw Error(ErrorKind::kConflict, "trash_item_in_use",
                        "what " + item.trash.ref + " was before its sync is in use",
                        "snapshots of it are kept, or branches hang on it",
                        "delete these snapshots first: bpg snapshot list " + item.trash.ref);
        }
        items.push_back(item.trash.item);
    }
    co_return co_await purge_items(std::move(items), jobs::Priority::kInteractive, std::move(key));
}

asio::awaitable<jobs::Job> Requests::purge_items(std::vector<std::string> items,
                                                 jobs::Priority priority, RequestKey key) {
    const std::string target = items.size() == 1 ? items.front() : "trash";
    const json params{{"items", items}};
    const auto open = co_await attach(std::string(TrashPurge::kName), target, params);
    if (open) co_return *open;
    TrashPurge::State state;
    std::vector<jobs::Lock> locks;
    std::set<std::string> doomed;
    for (const std::string& id : items) {
        const catalog::TrashItem item = services_.catalog.trash_item(id);
        state.items.push_back(id);
        if (!item.database_id.empty()) {
            state.database_ids.push_back(item.database_id);
            locks.push_back(whole(*services_.catalog.database_by_id(item.database_id)));
            // What else of it is in the trash could not come back without it.
            for (const auto& [branch_id, branch] : services_.catalog.all_branches()) {
                const bool is_of_it = branch.database_id == item.database_id && branch.trash;
                if (!is_of_it) continue;
                doomed.insert(branch_id);
                add_last_lock(locks, branch, services_.catalog.ref_of(branch));
            }
            continue;
        }
        for (const std::string& branch_id : item.branch_ids) {
            const Branch& branch = *services_.catalog.branch_by_id(branch_id);
            doomed.insert(branch_id);
            locks.push_back(whole(branch, services_.catalog.ref_of(branch)));
            add_last_lock(locks, branch, services_.catalog.ref_of(branch));
        }
    }
    state.branch_ids.assign(doomed.begin(), doomed.end());
    jobs::Submission job = submission(TrashPurge::kName, target, params, state, std::move(key));
    job.priority = priority;
    job.locks = std::move(locks);
    co_return co_await queue_.submit(std::move(job), jobs::Batch{});
}

asio::awaitable<jobs::Job> Requests::undo_delete(std::string what, std::string as, RequestKey key) {
    const auto coming_back = queue_.find_open_on(as.empty() ? what : as);
    if (coming_back && coming_back->operation == UndoDelete::kName) {
        const auto same = co_await queue_.find_open_same(coming_back->operation,
                                                         coming_back->target, coming_back->params);
        if (same) co_return *same;
    }
    const catalog::TrashItem item = services_.catalog.trash_item(what);
    refuse_while_purged(item);
    const std::string target = as.empty() ? item.trash.ref : as;
    const json params{{"what", item.trash.item}, {"as", as}};
    const auto open = co_await attach(std::string(UndoDelete::kName), target, params);
    if (open) co_return *open;
    co_return co_await submit_undo_delete(item, std::move(as), std::move(key));
}

void Requests::refuse_while_purged(const catalog::TrashItem& item) const {
    for (const auto& [number, job] : queue_.open_jobs()) {
        const auto ids = job->data.find("branch_ids");
        if (job->operation != TrashPurge::kName || ids == job->data.end()) continue;
        for (const std::string& id : item.branch_ids) {
            if (std::find(ids->begin(), ids->end(), json(id)) == ids->end()) continue;
            throw Error(ErrorKind::kConflict, "trash_item_going",
                        item.trash.ref + " is being destroyed",
                        "job " + job->id + " (trash-purge) is open",
                        "nothing brings it back; cancel that job if it has not begun: bpg job "
                        "cancel " +
                            job->id);
        }
    }
}

/// Its name is free, and its database there.
void Requests::refuse_undo_delete(const catalog::TrashItem& item, const std::string& as) const {
    if (!item.database_id.empty()) {
        if (as.empty()) return refuse(services_.catalog.can_create_database(item.trash.ref));
        throw Error(ErrorKind::kInvalid, "as_unsupported", "--as is for branches",
                    item.trash.ref + " is a whole database", "bring it back, then: bpg db rename");
    }
    const Branch& branch = *services_.catalog.branch_by_id(item.branch_ids.front());
    const Database& database = *services_.catalog.database_by_id(branch.database_id);
    const auto [db, name] = catalog::split_ref(as.empty() ? database.name + "/" + branch.name : as);
    if (database.trash || db != database.name) {
        throw Error(ErrorKind::kConflict, "database_elsewhere",
                    "a branch comes back into its own database",
                    database.trash ? database.name + " is in the trash itself"
                                   : "it is of " + database.name,
                    database.trash ? "bring it back first: bpg db undo-delete " + database.name
                                   : "name it " + database.name + "/…");
    }
    if (services_.catalog.branch_named(database.id, name) == nullptr) return;
    throw Error(ErrorKind::kConflict, "branch_exists",
                fmt::format("branch \"{}/{}\" already exists", db, name),
                "the name was taken since", fmt::format("give another one: --as {}/NAME", db));
}

/// For each branch of an item: the port it had, where that is free, else another.
asio::awaitable<std::map<std::string, int>> Requests::ports_for_undo_delete(
    catalog::TrashItem item) {
    std::map<std::string, int> ports;
    for (const std::string& id : item.branch_ids) {
        const int before = services_.catalog.branch_by_id(id)->trash->port;
        const PortPolicy& policy = ports_;
        const bool is_free =
            before > 0 && !services_.catalog.port_is_held(before) &&
            co_await services_.pool.run([&policy, before] { return policy.is_free(before); });
        ports[id] = is_free ? before : 0;
    }
    for (auto& [id, port] : ports) {
        if (port > 0) continue;
        std::vector<int> taken;
        for (const auto& entry : ports)
            taken.push_back(entry.second);
        port = co_await choose_port(taken);
    }
    co_return ports;
}

asio::awaitable<jobs::Job> Requests::submit_undo_delete(catalog::TrashItem item, std::string as,
                                                        RequestKey key) {
    refuse_undo_delete(item, as);
    co_await require_pool_space(services_, 0);
    const std::map<std::string, int> ports = co_await ports_for_undo_delete(item);
    item = services_.catalog.trash_item(item.trash.item);  // all of that waited
    refuse_undo_delete(item, as);
    refuse_while_purged(item);

    jobs::Batch batch;
    UndoDelete::State state;
    const std::string target = as.empty() ? item.trash.ref : as;
    const json params{{"what", item.trash.item}, {"as", as}};
    jobs::Submission job = submission(UndoDelete::kName, target, params, nullptr, std::move(key));
    state.ref = target;
    const bool is_database = !item.database_id.empty();
    if (is_database) {
        Database database = *services_.catalog.database_by_id(item.database_id);
        state.database_id = database.id;
        state.database_trash = database.trash;
        database.trash.reset();
        job.locks = {whole(database)};
        services_.catalog.put(database, batch);
    }
    for (const std::string& id : item.branch_ids) {
        Branch branch = *services_.catalog.branch_by_id(id);
        state.branches.push_back({id, branch.name, branch.password_id, *branch.trash});
        if (item.trash.kind == "incarnation") branch.password_id.clear();  // that is its heir's
        if (!as.empty()) branch.name = catalog::split_ref(as).second;
        branch.trash.reset();
        branch.state = BranchState::kCreating;
        branch.port = ports.at(id);
        branch.last_job = job.job_id;
        if (!is_database) job.locks.push_back(whole(branch, target));
        services_.catalog.put(branch, batch);
    }
    job.data = state;
    co_return co_await queue_.submit(std::move(job), std::move(batch));
}

// --- sync and promote ----------------------------------------------------------------------------

asio::awaitable<jobs::Job> Requests::branch_sync(std::string ref, bool fast, RequestKey key) {
    const json params{{"ref", ref}, {"fast", fast}};
    const auto open = co_await attach(std::string(BranchSync::kName), ref, params);
    if (open) co_return *open;
    const auto look_again = [this, &ref]() -> Branch {
        const Branch& found = services_.catalog.branch(ref);
        refuse_in_between(found, ref);
        refuse(services_.catalog.can_sync(found));
        return found;
    };
    if (fast) refuse_fast();
    const Branch before = look_again();
    const std::uint64_t copied = size_of_copy(*services_.catalog.branch_by_id(before.parent_id));
    co_await require_pool_space(services_, copied);
    const Branch target = look_again();  // it waited

    const Branch& parent = *services_.catalog.branch_by_id(target.parent_id);
    const std::string database = ref.substr(0, ref.find('/'));
    Branch made;
    made.id = new_id();
    made.database_id = target.database_id;
    made.name = target.name;
    made.parent_id = parent.id;
    made.replaces = target.id;
    made.host = target.host;
    made.port = target.port;
    made.volume = services_.catalog.choose_volume(database, target.name);
    made.storage_driver = std::string(services_.storage.driver());
    made.incarnation_id = new_id();
    made.password_id = target.password();
    made.created_at = target.created_at;
    made.settings = target.settings;
    made.archives = target.archives;
    BranchSync::State state;
    state.branch_id = made.id;
    state.parent_id = parent.id;
    state.snapshot_id = new_id();
    state.fast = fast;
    state.target_id = target.id;
    state.target_ran = target.should_run;
    jobs::Submission job = submission(BranchSync::kName, ref, params, state, std::move(key));
    job.mode = fast ? "fast" : "safe";
    made.last_job = job.job_id;
    jobs::Lock source = lock_of(parent, services_.catalog.ref_of(parent), jobs::LockMode::kShared);
    source.until_step = BranchSync::last_step_on_parent(services_.storage.atomic());
    job.locks = {std::move(source), whole(target, ref)};
    jobs::Batch batch;
    services_.catalog.put(made, batch);
    co_return co_await queue_.submit(std::move(job), std::move(batch));
}

json Requests::plan_branch_sync(const std::string& ref, bool fast) const {
    const Branch& target = services_.catalog.branch(ref);
    refuse(services_.catalog.can_sync(target));
    if (fast) refuse_fast();
    const Branch& parent = *services_.catalog.branch_by_id(target.parent_id);
    const std::string from = services_.catalog.ref_of(parent);
    return {
        {"plan", "branch-sync"},
        {"dry_run", true},
        {"ref", ref},
        {"parent", from},
        {"replaces",
         {{"incarnation", target.incarnation_id},
          {"used_bytes", bytes_json(services_.catalog, target.id)}}},
        {"summary",
         {fmt::format("{} is cut again from {} as it is then", ref, from),
          fmt::format("its data of now, incarnation {}, waits in the trash for {}",
                      target.incarnation_number, format_duration(services_.settings.trash_keep)),
          "name, port, password, TTL and children stay"}}};
}

std::string Requests::name_of_old_main(const std::string& old_name) const {
    if (!old_name.empty()) return old_name;
    const auto seconds =
        std::chrono::duration_cast<std::chrono::seconds>(services_.clock.now().time_since_epoch());
    return fmt::format("{}-{}", catalog::kMain,
                       absl::FormatTime("%Y%m%d%H%M%S", absl::FromUnixSeconds(seconds.count()),
                                        absl::UTCTimeZone()));
}

asio::awaitable<jobs::Job> Requests::branch_promote(std::string ref, std::string old_name,
                                                    RequestKey key) {
    if (!old_name.empty()) check_name("branch", old_name);
    const json params{{"ref", ref}, {"old_name", old_name}};
    const auto open = co_await attach(std::string(BranchPromote::kName), ref, params);
    if (open) co_return *open;
    const Branch branch = services_.catalog.branch(ref);
    refuse(services_.catalog.can_promote(branch));
    refuse_in_between(branch, ref);
    const Branch main =
        *services_.catalog.branch_named(branch.database_id, std::string(catalog::kMain));
    const std::string main_ref = services_.catalog.ref_of(main);
    refuse_in_between(main, main_ref);
    refuse_busy(main_ref);
    BranchPromote::State state;
    state.branch_id = branch.id;
    state.main_id = main.id;
    state.old_name = name_of_old_main(old_name);
    state.branch_ran = branch.should_run;
    state.main_ran = main.should_run;
    if (const auto* taken = services_.catalog.branch_named(main.database_id, state.old_name)) {
        throw Error(ErrorKind::kConflict, "branch_exists",
                    "branch \"" + services_.catalog.ref_of(*taken) + "\" already exists",
                    "the old main was to get this name", "choose another one with --old-name");
    }
    jobs::Submission job = submission(BranchPromote::kName, ref, params, state, std::move(key));
    job.locks = {whole(main, main_ref), whole(branch, ref)};
    co_return co_await queue_.submit(std::move(job), jobs::Batch{});
}

json Requests::plan_branch_promote(const std::string& ref, const std::string& old_name) const {
    const Branch& branch = services_.catalog.branch(ref);
    refuse(services_.catalog.can_promote(branch));
    const Branch& main =
        *services_.catalog.branch_named(branch.database_id, std::string(catalog::kMain));
    const std::string main_ref = services_.catalog.ref_of(main);
    const std::string retired =
        main_ref.substr(0, main_ref.find('/') + 1) + name_of_old_main(old_name);
    return {{"plan", "branch-promote"},
            {"dry_run", true},
            {"ref", ref},
            {"main", main_ref},
            {"old_main", retired},
            {"summary",
             {fmt::format("{}, port {}, is served by the data of {}", main_ref, main.port, ref),
              fmt::format("the old main becomes {}, port {}, protected", retired, branch.port),
              "both restart once; no data moves"}}};
}

// --- records alone -------------------------------------------------------------------------------

asio::awaitable<void> Requests::branch_rename(std::string ref, std::string name, RequestKey key) {
    check_name("branch", name);
    Branch branch = services_.catalog.branch(ref);
    refuse_busy(ref);
    refuse(services_.catalog.can_rename(branch, name));
    branch.name = name;
    jobs::Batch batch;
    services_.catalog.put(branch, batch);
    services_.schedules.retarget(ref, services_.catalog.ref_of(branch), batch);
    json answer{{"branch", branch.id}};
    co_await queue_.change(std::move(key), std::move(answer), std::move(batch));
}

asio::awaitable<void> Requests::db_rename(std::string name, std::string new_name, RequestKey key) {
    check_name("database", new_name);
    Database database = services_.catalog.database(name);
    refuse(services_.catalog.can_create_database(new_name));
    refuse_busy(name);
    for (const Branch* branch : services_.catalog.branches(database.id))
        refuse_busy(services_.catalog.ref_of(*branch));
    database.name = new_name;
    jobs::Batch batch;
    services_.catalog.put(database, batch);
    services_.schedules.retarget(name, new_name, batch);
    json answer{{"database", database.id}};
    co_await queue_.change(std::move(key), std::move(answer), std::move(batch));
}

asio::awaitable<void> Requests::snapshot_pin(std::string id, bool pinned, bool with_wal,
                                             RequestKey key) {
    catalog::Snapshot snapshot = services_.catalog.snapshot(id);
    snapshot.pinned = pinned;
    snapshot.pinned_with_wal = pinned && with_wal;
    jobs::Batch batch;
    services_.catalog.put(snapshot, batch);
    json answer{{"snapshot", snapshot.id}};
    co_await queue_.change(std::move(key), std::move(answer), std::move(batch));
}

asio::awaitable<std::optional<jobs::Job>> Requests::branch_set(std::string ref,
                                                               BranchChanges changes,
                                                               RequestKey key) {
    Branch branch = services_.catalog.branch(ref);
    check_settings(changes.settings);
    const bool takes_ttl = changes.ttl && changes.ttl->count() > 0;
    if (takes_ttl && branch.name == catalog::kMain) {
        throw Error(ErrorKind::kConflict, "branch_is_main", "main takes no TTL",
                    "it goes only with its database", "leave out --ttl");
    }
    if (takes_ttl && changes.is_protected.value_or(branch.is_protected)) {
        throw Error(ErrorKind::kConflict, "branch_protected", "a protected branch takes no TTL",
                    "\"" + ref + "\" is to be kept", "bpg branch unprotect " + ref + " first");
    }
    EndpointSettings after{branch.port, branch.settings};
    for (const auto& [name, value] : changes.settings) {
        if (value.empty()) {
            after.settings.erase(name);
        } else {
            after.settings.insert_or_assign(name, value);
        }
    }
    if (changes.port && *changes.port == 0) after.port = co_await choose_port();
    if (changes.port && *changes.port != 0 && *changes.port != branch.port) {
        after.port = co_await require_port(*changes.port);
    }
    branch = services_.catalog.branch(ref);  // that waited
    if (changes.is_protected) branch.is_protected = *changes.is_protected;
    if (changes.is_protected == true) branch.expires_at.reset();
    if (changes.ttl) branch.expires_at.reset();
    if (takes_ttl) branch.expires_at = services_.clock.now() + *changes.ttl;
    const bool restarts = after.port != branch.port || after.settings != branch.settings;
    if (restarts) {
        refuse_busy(ref);
        refuse_in_between(branch, ref);
        const bool runs = branch.should_run;
        if (runs) co_return co_await restart_with(std::move(branch), std::move(after), key);
        branch.port = after.port;
        branch.settings = after.settings;
    }
    jobs::Batch batch;
    services_.catalog.put(branch, batch);
    json answer{{"branch", branch.id}};
    co_await queue_.change(std::move(key), std::move(answer), std::move(batch));
    co_return std::nullopt;
}

/// What does not need the restart is in the commit that submits it.
asio::awaitable<jobs::Job> Requests::restart_with(Branch branch, EndpointSettings after,
                                                  RequestKey key) {
    const std::string ref = services_.catalog.ref_of(branch);
    InstanceControlState state;
    state.branch_id = branch.id;
    state.ref = ref;
    state.state_before = branch.state;
    state.should_run_before = branch.should_run;
    state.before = {branch.port, branch.settings};
    state.after = std::move(after);
    const json params{{"ref", ref},
                      {"force", false},
                      {"port", state.after->port},
                      {"settings", state.after->settings}};
    jobs::Submission job = submission("restart", ref, params, state, std::move(key));
    job.locks = {whole(branch, ref)};
    jobs::Batch batch;
    services_.catalog.put(branch, batch);
    co_return co_await queue_.submit(std::move(job), std::move(batch));
}

// --- snapshots and passwords ---------------------------------------------------------------------

asio::awaitable<jobs::Job> Requests::snapshot(std::string ref, std::string label,
                                              std::string created_by, RequestKey key) {
    check_label(label);
    const auto look = [&]() -> Branch {
        const Branch& found = services_.catalog.branch(ref);
        refuse_in_between(found, ref);
        return found;
    };
    look();
    if (!services_.storage.atomic()) {
        throw Error(
            ErrorKind::kInvalid, "snapshot_unsupported",
            fmt::format("the storage driver {} has no snapshots", services_.storage.driver()),
            "it copies file by file", "use storage driver btrfs or zfs");
    }
    refuse(co_await shortage(SnapshotTake::kName));
    co_await require_pool_space(services_, 0);
    const Branch branch = look();  // both of them waited: a delete may have come in between
    SnapshotTake::State state;
    state.branch_id = branch.id;
    state.snapshot_id = new_id();
    state.label = label;
    state.created_by = created_by;
    // Always one more: each is its own target, and none attaches to another.
    const json params{{"ref", ref}, {"label", label}, {"snapshot", state.snapshot_id}};
    jobs::Submission job = submission(SnapshotTake::kName, ref, params, state, std::move(key));
    job.locks = {lock_of(branch, ref, jobs::LockMode::kShared)};
    co_return co_await queue_.submit(std::move(job), jobs::Batch{});
}

asio::awaitable<jobs::Job> Requests::snapshot_delete(std::string id, bool force, RequestKey key) {
    const std::string snapshot_id = services_.catalog.snapshot(id).id;
    const json params{{"id", snapshot_id}, {"force", force}};
    const auto open = co_await attach(std::string(SnapshotDelete::kName), snapshot_id, params);
    if (open) co_return *open;
    const catalog::Snapshot snapshot = services_.catalog.snapshot(snapshot_id);
    std::vector<std::string> hanging;
    for (const Branch* branch : services_.catalog.branches_from(snapshot.id)) {
        hanging.push_back(services_.catalog.ref_of(*branch) +
                          (branch->trash ? " (in the trash)" : ""));
    }
    if (!hanging.empty()) {
        throw Error(ErrorKind::kConflict, "snapshot_in_use",
                    "snapshot " + snapshot.id + " is in use",
                    fmt::format("cut from it: {}", fmt::join(hanging, ", ")), "delete those first");
    }
    if (snapshot.pinned && !force) {
        throw Error(ErrorKind::kConflict, "snapshot_pinned",
                    "snapshot " + snapshot.id + " is pinned", "somebody asked that it be kept",
                    "bpg snapshot unpin " + snapshot.id + ", or pass --force");
    }
    SnapshotDelete::State state{snapshot.id, snapshot.volume};
    jobs::Submission job =
        submission(SnapshotDelete::kName, snapshot.id, params, state, std::move(key));
    job.locks = {snapshot_lock(snapshot.id)};
    co_return co_await queue_.submit(std::move(job), jobs::Batch{});
}

asio::awaitable<jobs::Job> Requests::password_rotate(std::string ref, RequestKey key) {
    const json params{{"ref", ref}};
    const auto open = co_await attach(std::string(PasswordRotate::kName), ref, params);
    if (open) co_return *open;
    const Branch branch = services_.catalog.branch(ref);
    refuse_in_between(branch, ref);
    if (branch.state != BranchState::kRunning) {
        throw Error(
            ErrorKind::kConflict, "branch_not_running", "branch \"" + ref + "\" does not run",
            "only PostgreSQL itself can change a password", "start it first: bpg start " + ref);
    }
    PasswordRotate::State state{branch.id, ref};
    jobs::Submission job = submission(PasswordRotate::kName, ref, params, state, std::move(key));
    job.locks = {whole(branch, ref)};
    co_return co_await queue_.submit(std::move(job), jobs::Batch{});
}

}  // namespace bpg::operations
