#include "orchestrator/operations/requests.h"

#include <fmt/format.h>

#include <algorithm>

#include "orchestrator/base/id.h"
#include "orchestrator/operations/branch_create.h"
#include "orchestrator/operations/branch_delete.h"
#include "orchestrator/operations/db_create.h"
#include "orchestrator/operations/db_delete.h"
#include "orchestrator/operations/instance_control.h"
#include "orchestrator/operations/pool_space.h"
#include "orchestrator/operations/prune.h"
#include "orchestrator/operations/request_parts.h"
#include "orchestrator/operations/rules.h"
#include "orchestrator/operations/snapshot_delete.h"
#include "orchestrator/operations/trash_purge.h"
#include "orchestrator/operations/wal_cleanup.h"

namespace bpg::operations {
namespace {

using catalog::Branch;
using catalog::BranchState;
using catalog::Database;

/// Such a job is taken when others are refused for want of space on the state's disk.
bool frees_space(std::string_view operation) {
    return operation == BranchDelete::kName || operation == DbDelete::kName ||
           operation == TrashPurge::kName || operation == SnapshotDelete::kName ||
           operation == WalCleanup::kName || operation == Prune::kName;
}

}  // namespace

/// Made before the catalog is touched: a job that is refused must leave no reservation in it.
jobs::Submission Requests::submission(std::string_view operation, std::string target,
                                      nlohmann::json params, nlohmann::json data,
                                      RequestKey key) const {
    queue_.require_room();
    jobs::Submission made;
    made.operation = std::string(operation);
    made.target = std::move(target);
    made.params = std::move(params);
    made.data = std::move(data);
    made.key = std::move(key);
    made.job_id = new_id();
    return made;
}

asio::awaitable<std::optional<jobs::Job>> Requests::attach(std::string operation,
                                                           std::string target,
                                                           nlohmann::json params) {
    // Asked first, said last: between the looks below and the reservation nothing may wait.
    const auto too_little = co_await shortage(operation);
    const jobs::Again again = rule_of(operation).again;
    const auto same = co_await queue_.find_open_same(operation, target, params, again);
    if (same) co_return same;
    const auto other = queue_.find_open_on(target);
    const bool comes_behind = other && again == jobs::Again::kCoalesce &&
                              other->operation == operation && other->params == params;
    if (other && !comes_behind) refuse_busy(target);
    refuse(too_little);
    co_return std::nullopt;
}

/// Of space on the state's disk.
asio::awaitable<std::optional<ErrorInfo>> Requests::shortage(std::string_view operation) {
    const jobs::Queue& queue = queue_;
    const std::uint64_t reserve =
        frees_space(operation) ? jobs::kDiskReserveOfDeletes : jobs::kDiskReserve;
    co_return co_await services_.pool.run([&queue, reserve] { return queue.shortage(reserve); });
}

std::uint64_t Requests::size_of_copy(const Branch& parent) const {
    if (services_.storage.atomic()) return 0;
    const auto usage = services_.catalog.usage(parent.id);
    return usage ? usage->used : 0;  // measured within a minute of its creation
}

asio::awaitable<int> Requests::require_port(int port) {
    const PortPolicy& ports = ports_;
    const bool is_held = services_.catalog.port_is_held(port);
    const bool is_free =
        !is_held && co_await services_.pool.run([&ports, port] { return ports.is_free(port); });
    if (is_free && !services_.catalog.port_is_held(port)) co_return port;
    throw Error(ErrorKind::kConflict, "port_taken", fmt::format("port {} is taken", port),
                is_held ? "another branch holds it"
                        : "somebody listens on it, or a cluster under /etc/postgresql claims it",
                "choose another one, or --port auto");
}

asio::awaitable<int> Requests::choose_port(std::vector<int> taken) {
    const PortPolicy& ports = ports_;
    // Ports are looked at again when a reservation came in between.
    for (int port = ports.first; port <= ports.last; ++port) {
        if (services_.catalog.port_is_held(port)) continue;
        if (std::find(taken.begin(), taken.end(), port) != taken.end()) continue;
        const bool free =
            co_await services_.pool.run([&ports, port] { return ports.is_free(port); });
        if (free && !services_.catalog.port_is_held(port)) co_return port;
    }
    throw Error(
        ErrorKind::kExhausted, "ports_exhausted", "no port is free for another branch",
        fmt::format("every port of network.ports {}-{} is held by a branch, in use, or claimed "
                    "by a cluster under /etc/postgresql",
                    ports.first, ports.last),
        "delete a branch, or widen network.ports");
}

asio::awaitable<jobs::Job> Requests::db_create(DbCreateRequest request, RequestKey key) {
    check_name("database", request.name);
    const nlohmann::json params{
        {"name", request.name}, {"pg_version", request.pg_version}, {"image", request.image}};
    const auto open = co_await attach("db-create", request.name, params);
    if (open) co_return *open;
    refuse(services_.catalog.can_create_database(request.name));
    runtime::EngineRequest wanted{request.pg_version, request.image};
    if (wanted.version.empty() && wanted.image.empty()) wanted = default_engine_;
    const runtime::Engine found = co_await services_.runtime.find_engine(wanted);
    co_await require_pool_space(services_, 0);
    const int port = co_await choose_port();
    // Both waited; another request may have taken the name meanwhile.
    refuse(services_.catalog.can_create_database(request.name));

    Database database;
    database.id = new_id();
    database.name = request.name;
    database.created_at = services_.clock.now();
    set_engine(database, found);
    Branch main;
    main.id = new_id();
    main.database_id = database.id;
    main.name = std::string(catalog::kMain);
    main.host = services_.settings.listen;
    main.port = port;
    main.volume = services_.catalog.choose_volume(database.name, main.name);
    main.storage_driver = std::string(services_.storage.driver());
    main.incarnation_id = new_id();
    main.created_at = database.created_at;
    DbCreate::State state;
    state.database_id = database.id;
    state.branch_id = main.id;
    state.snapshot_id = new_id();
    state.pg_version = wanted.version;
    state.image = wanted.image;
    jobs::Submission job =
        submission(DbCreate::kName, database.name, params, state, std::move(key));
    main.last_job = job.job_id;
    job.locks = {whole(database)};
    jobs::Batch batch;
    services_.catalog.put(database, batch);
    services_.catalog.put(main, batch);
    co_return co_await queue_.submit(std::move(job), std::move(batch));
}

asio::awaitable<jobs::Job> Requests::db_delete(std::string name, bool force, RequestKey key) {
    const nlohmann::json params{{"name", name}, {"force", force}};
    const auto open = co_await attach("db-delete", name, params);
    if (open) co_return *open;
    const Database database = services_.catalog.database(name);
    refuse(services_.catalog.can_delete_database(database, force));
    DbDelete::State state;
    state.database_id = database.id;
    state.name = database.name;
    state.purge = services_.settings.trash_keep.count() == 0;
    jobs::Batch batch;
    jobs::Submission job = submission(DbDelete::kName, name, params, nullptr, std::move(key));
    job.locks = {whole(database)};
    std::vector<Branch> doomed;
    for (const Branch* branch : services_.catalog.branches(database.id))
        doomed.push_back(*branch);
    for (const Branch& branch : doomed) {
        const std::string ref = services_.catalog.ref_of(branch);
        if (const auto other = queue_.find_open_on(ref)) {
            throw Error(ErrorKind::kConflict, "busy", "\"" + ref + "\" is busy",
                        fmt::format("job {} ({}) is open", other->id, other->operation),
                        "wait for it: bpg job tail -f " + other->id);
        }
        state.branch_ids.push_back(branch.id);
    }
    state.doomed = Destruction::doom(services_.catalog, std::move(doomed), job.job_id, batch);
    // What waits in the trash could not come back without its database.
    for (const auto& [id, branch] : services_.catalog.all_branches()) {
        const bool is_trash = branch.database_id == database.id && branch.trash;
        if (is_trash && state.purge) state.branch_ids.push_back(id);
    }
    for (const std::string& id : state.branch_ids) {
        const Branch& branch = *services_.catalog.branch_by_id(id);
        if (state.purge) add_last_lock(job.locks, branch, services_.catalog.ref_of(branch));
    }
    job.data = state;
    co_return co_await queue_.submit(std::move(job), std::move(batch));
}

asio::awaitable<jobs::Job> Requests::branch_create(BranchCreateRequest request, RequestKey key) {
    const auto [database_name, branch_name] = catalog::split_ref(request.ref);
    const std::string from =
        request.from.empty() ? database_name + "/" + std::string(catalog::kMain) : request.from;
    nlohmann::json params{{"ref", request.ref}, {"from", from}, {"fast", request.fast}};
    if (!request.snapshot.empty()) params["snapshot"] = request.snapshot;
    if (request.ttl) params["ttl_ms"] = request.ttl->count();
    if (request.stopped) params["stopped"] = true;
    if (request.no_archive) params["no_archive"] = true;
    if (request.target.is_set()) params[request.target.kind] = request.target.shown();
    const auto open = co_await attach("branch-create", request.ref, params);
    if (open) co_return *open;
    const Branch before = parent_for(request, from);
    const std::uint64_t copied = size_of_copy(before);
    if (request.fast) refuse_fast();
    std::optional<RestoreChoice> restored;
    int port = 0;
    do {
        if (request.target.is_set()) restored = co_await choose_restore(before.id, request.target);
        co_await require_pool_space(services_, copied);
        port = co_await choose_port();
    } while (restored && !stays(services_, restored->base_id));  // it may have gone meanwhile
    const Branch parent = parent_for(request, from);  // all of them waited

    const Database& database = services_.catalog.database(database_name);
    Branch branch;
    branch.id = new_id();
    branch.database_id = database.id;
    branch.name = branch_name;
    branch.parent_id = parent.id;
    branch.host = services_.settings.listen;
    branch.port = port;
    branch.volume = services_.catalog.choose_volume(database_name, branch_name);
    branch.storage_driver = std::string(services_.storage.driver());
    branch.incarnation_id = new_id();
    branch.created_at = services_.clock.now();
    branch.archives = !request.no_archive;
    if (request.ttl) branch.expires_at = branch.created_at + *request.ttl;
    BranchCreate::State state;
    state.branch_id = branch.id;
    state.parent_id = parent.id;
    state.snapshot_id = new_id();
    state.fast = request.fast;
    state.stopped = request.stopped;
    if (!request.snapshot.empty()) {
        take_facts(state, given_snapshot(services_, request.snapshot, parent));
    }
    if (restored) {
        take_facts(state, services_.catalog.snapshot(restored->base_id));
        state.restore = std::move(restored->restore);
        state.restore.own_snapshot_id = new_id();
        state.mode = "pitr";
        state.line_at = state.restore.target.time;
    }
    jobs::Submission job =
        submission(BranchCreate::kName, request.ref, params, state, std::move(key));
    job.mode = restored ? "pitr" : request.fast ? "fast" : "safe";
    branch.last_job = job.job_id;
    if (state.is_given) branch.created_from.snapshot = state.snapshot_id;  // kept from here on
    jobs::Lock source = lock_of(parent, from, jobs::LockMode::kShared);
    source.until_step = BranchCreate::last_step_on_parent(services_.storage.atomic());
    job.locks = {std::move(source), whole(branch, request.ref)};
    if (restored) {
        job.locks.front().until_step = BranchCreate::kLastStepOnSource;
        add_restore_locks(job.locks, parent, state.restore);
    }
    jobs::Batch batch;
    services_.catalog.put(branch, batch);
    co_return co_await queue_.submit(std::move(job), std::move(batch));
}

asio::awaitable<jobs::Job> Requests::control(std::string operation, std::string ref, bool force,
                                             RequestKey key) {
    const std::string branch_id = services_.catalog.branch(ref).id;
    co_return co_await submit_control(std::move(operation), branch_id, force,
                                      jobs::Priority::kInteractive, std::move(key));
}

asio::awaitable<jobs::Job> Requests::start_again(std::string branch_id) {
    co_return co_await submit_control("start", std::move(branch_id), false,
                                      jobs::Priority::kHousekeeping, {});
}

asio::awaitable<jobs::Job> Requests::submit_control(std::string operation, std::string branch_id,
                                                    bool force, jobs::Priority priority,
                                                    RequestKey key) {
    const Branch* found = services_.catalog.branch_by_id(branch_id);
    if (found == nullptr) {
        throw Error(ErrorKind::kNotFound, "branch_not_found", "the branch is gone", branch_id);
    }
    const std::string ref = services_.catalog.ref_of(*found);
    const nlohmann::json params{{"ref", ref}, {"force", force}};
    const auto open = co_await attach(operation, ref, params);
    if (open) co_return *open;
    const Branch branch = services_.catalog.branch(ref);
    refuse_in_between(branch, ref);
    InstanceControlState state;
    state.branch_id = branch.id;
    state.force = force;
    state.ref = ref;
    state.supervised = priority == jobs::Priority::kHousekeeping;
    state.state_before = branch.state;
    state.should_run_before = branch.should_run;
    jobs::Submission job = submission(operation, ref, params, state, std::move(key));
    job.priority = priority;
    job.locks = {whole(branch, ref)};
    co_return co_await queue_.submit(std::move(job), jobs::Batch{});
}

}  // namespace bpg::operations
