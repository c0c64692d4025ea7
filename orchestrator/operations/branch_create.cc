#include "orchestrator/operations/branch_create.h"

#include "orchestrator/base/error.h"

namespace bpg::operations {
namespace {

using jobs::Done;
using jobs::Progress;
using jobs::Rewind;

constexpr std::string_view kTakeSnapshot = "take_snapshot";

storage::CopyPlan copy_plan() {
    const postgres::BackupExclusions& exclusions = postgres::backup_exclusions();
    storage::CopyPlan plan;
    for (const std::string& directory : exclusions.empty_directories) {
        plan.empty_directories.push_back("data/" + directory);
    }
    plan.empty_directories.emplace_back(
        "conf");  // each branch has its own, written before its start
    plan.skipped_names = exclusions.skipped_names;
    plan.skipped_prefixes = exclusions.skipped_prefixes;
    plan.last = "data/" + exclusions.last;
    plan.last_is_whole = postgres::control_file_is_whole;
    return plan;
}

/// A parent that does not run changes nothing while it is copied: all of it, WAL included, is
/// taken.
storage::CopyPlan stopped_copy_plan() {
    storage::CopyPlan plan;
    plan.empty_directories.emplace_back("conf");
    plan.skipped_names = {"postmaster.pid", "postmaster.opts"};
    plan.last = "data/" + postgres::backup_exclusions().last;
    plan.last_is_whole = postgres::control_file_is_whole;
    return plan;
}

}  // namespace

std::span<const jobs::Step<BranchCreate>> BranchCreate::steps() {
    using jobs::nothing_to_record;
    using jobs::nothing_to_undo;
    static constexpr jobs::Step<BranchCreate> kSteps[] = {
        {kTakeSnapshot, "freeze the parent in a snapshot", &BranchCreate::take_snapshot,
         &BranchCreate::destroy_snapshot, nothing_to_record},
        {"clone_volume", "clone it, sharing what the driver can share", &BranchCreate::clone_volume,
         &BranchCreate::destroy_volume, nothing_to_record},
        {"prepare_clone", "remove what belongs to the parent's server",
         &BranchCreate::prepare_clone, nothing_to_undo, nothing_to_record},
        {"start_instance", "start PostgreSQL on the clone", &BranchCreate::start_instance,
         &BranchCreate::remove_instance, nothing_to_record},
        {"await_ready", "recover, and answer a query", &BranchCreate::await_ready, nothing_to_undo,
         nothing_to_record},
        {"open_to_users", "give it its own password and let users in", &BranchCreate::open_to_users,
         &BranchCreate::forget_password, nothing_to_record},
        {"finish_backup", "end backup mode and record the snapshot", &BranchCreate::finish_backup,
         nothing_to_undo, &BranchCreate::record_snapshot},
        {"publish", "make the branch visible", &BranchCreate::publish, nothing_to_undo,
         &BranchCreate::record_branch},
    };
    return jobs::checked(kSteps);
}

const catalog::Branch& BranchCreate::branch(const State& state) const {
    if (const auto* found = services_.catalog.branch_by_id(state.branch_id)) return *found;
    throw Error(ErrorKind::kInternal, "branch_gone", "the reservation of this branch is gone");
}

const catalog::Branch& BranchCreate::parent(const State& state) const {
    if (const auto* found = services_.catalog.branch_by_id(state.parent_id)) return *found;
    throw Error(ErrorKind::kNotFound, "parent_gone", "the parent branch is gone",
                "it was deleted, or could not be created", "branch from another one");
}

storage::SnapshotRef BranchCreate::snapshot_ref(const State& state) const {
    return {parent(state).volume, state.snapshot_id};
}

storage::Identity BranchCreate::identity(const State& state) const {
    const catalog::Branch& place = branch(state);
    return {place.id, services_.catalog.ref_of(place), place.incarnation_id, context_.job_id()};
}

postgres::CloneSpec BranchCreate::clone_spec(const State& state,
                                             std::filesystem::path volume) const {
    postgres::CloneSpec spec;
    spec.volume = std::move(volume);
    spec.incarnation_id = branch(state).incarnation_id;
    spec.owner = instances_.owner(branch(state));
    spec.new_timeline = state.new_timeline;
    return spec;
}

asio::awaitable<bool> BranchCreate::parent_runs(const State& state) {
    const runtime::InstanceRef instance = instances_.ref(parent(state));
    const runtime::InstanceStatus status = co_await services_.runtime.inspect(instance);
    co_return status.running;
}

// --- take_snapshot -------------------------------------------------------------------------------

asio::awaitable<Progress> BranchCreate::take_snapshot(State& state) {
    co_await instances_.prepare_engine(state.branch_id);
    if (!services_.storage.atomic())
        co_return Done{};  // clone_volume copies from the parent itself
    const storage::SnapshotRef snapshot = snapshot_ref(state);
    // One whose metadata was never recorded tells nothing of itself: take another.
    co_await services_.storage.destroy_snapshot(snapshot);
    const bool running = co_await parent_runs(state);
    co_await services_.data_directories.check_source(instances_.data_directory(parent(state)),
                                                     running);
    if (running) {
        co_await snapshot_running_parent(state);
    } else {
        co_await snapshot_stopped_parent(state);
    }
    co_return Done{};
}

asio::awaitable<void> BranchCreate::examine_running_parent(State& state) {
    const postgres::ParentFacts facts =
        co_await services_.postgres.inspect_parent(instances_.endpoint(parent(state)));
    state.has_subscriptions = facts.has_subscriptions;
    const std::string ref = services_.catalog.ref_of(parent(state));
    for (std::string& warning : check_parent(facts, ref))
        context_.warn(std::move(warning));
}

asio::awaitable<void> BranchCreate::snapshot_running_parent(State& state) {
    co_await examine_running_parent(state);
    const postgres::Endpoint endpoint = instances_.endpoint(parent(state));
    const storage::SnapshotRef snapshot = snapshot_ref(state);
    if (state.fast) {
        co_await services_.postgres.fence(endpoint);
        co_await services_.storage.snapshot(snapshot);
        const postgres::Position position = co_await services_.postgres.position(endpoint);
        state.mode = "fast";
        state.line_lsn = postgres::to_string(position.lsn);
        state.line_at = position.at;
        co_return;
    }
    const std::string ref = services_.catalog.ref_of(parent(state));
    backup_ = std::make_unique<BackupInProgress>(co_await services_.postgres.start_backup(
        endpoint, backup_label_of(ref, state.snapshot_id), /*keep_wal=*/false));
    co_await services_.storage.snapshot(snapshot);
    const postgres::Position position = co_await backup_->position();
    const BackupInProgress& backup = *backup_;
    snapshot_ = snapshot_record(parent(state), state.snapshot_id, backup.start(), {}, position,
                                services_.clock.now());
    // Its WAL switch is slow and the clone does not need it: it runs while the clone starts.
    co_await backup_->begin_stop();
    state.mode = "safe";
    state.in_backup = true;
    state.line_lsn = postgres::to_string(position.lsn);
    state.line_at = position.at;
}

asio::awaitable<void> BranchCreate::snapshot_stopped_parent(State& state) {
    co_await decide_timeline(state, /*running=*/false);
    co_await services_.storage.snapshot(snapshot_ref(state));
    state.mode = "clean";
    state.line_at = services_.clock.now();
}

asio::awaitable<void> BranchCreate::decide_timeline(State& state, bool running) {
    const std::filesystem::path data = instances_.data_directory(parent(state));
    const postgres::ControlFile control = co_await services_.data_directories.control_file(data);
    state.line_lsn = postgres::to_string(control.checkpoint);
    state.new_timeline = true;
    // Archive recovery refuses wal_level=minimal, and it would empty the unlogged relations that a
    // clean shutdown has kept (E70): both start plainly, on the parent's timeline.
    if (control.wal_level_minimal) state.new_timeline = false;
    if (!running && control.cleanly_shut_down &&
        co_await services_.data_directories.has_unlogged_relations(data)) {
        state.new_timeline = false;
    }
}

asio::awaitable<void> BranchCreate::destroy_snapshot(const State& state) {
    backup_.reset();  // ends backup mode on the parent
    if (!services_.storage.atomic()) co_return;
    if (services_.catalog.branch_by_id(state.parent_id) == nullptr) co_return;
    co_await services_.storage.destroy_snapshot(snapshot_ref(state));
}

// --- clone_volume --------------------------------------------------------------------------------

asio::awaitable<Progress> BranchCreate::clone_volume(State& state) {
    const storage::Identity mine = identity(state);
    const std::string volume = branch(state).volume;
    if (services_.storage.atomic()) {
        co_await services_.storage.clone(snapshot_ref(state), volume, mine);
        co_return Done{};
    }
    // A finished copy holds its label already (prepared before it got its name), but what this step
    // learned about it is lost: copy again rather than guess.
    co_await services_.storage.destroy_volume(volume, mine.id);
    co_await copy_parent(state);
    co_return Done{};
}

asio::awaitable<void> BranchCreate::copy_parent(State& state) {
    const bool running = co_await parent_runs(state);
    co_await services_.data_directories.check_source(instances_.data_directory(parent(state)),
                                                     running);
    const storage::Identity mine = identity(state);
    if (running) {
        co_await copy_running_parent(state, mine);
        co_return;
    }
    co_await decide_timeline(state, /*running=*/false);
    const storage::CopyPlan plan = stopped_copy_plan();
    const std::string source = parent(state).volume;
    const std::string volume = branch(state).volume;
    const std::filesystem::path place =
        co_await services_.storage.begin_copy(source, volume, mine, plan);
    const postgres::CloneSpec spec = clone_spec(state, place);
    co_await services_.data_directories.prepare_clone(spec);
    co_await services_.storage.finish_copy(volume, mine);
    state.mode = "clean";
    state.line_at = services_.clock.now();
}

asio::awaitable<void> BranchCreate::copy_running_parent(State& state,
                                                        const storage::Identity& mine) {
    co_await examine_running_parent(state);
    const std::string source = parent(state).volume;
    const std::string volume = branch(state).volume;
    const std::filesystem::path source_data = instances_.data_directory(parent(state));
    const std::string ref = services_.catalog.ref_of(parent(state));
    const auto session = co_await services_.postgres.start_backup(
        instances_.endpoint(parent(state)), backup_label_of(ref, state.branch_id),
        /*keep_wal=*/true);
    const storage::CopyPlan plan = copy_plan();
    const std::filesystem::path place =
        co_await services_.storage.begin_copy(source, volume, mine, plan);
    const postgres::Position position = co_await session->position();
    const postgres::BackupStop stop = co_await session->stop();
    co_await services_.data_directories.copy_wal(source_data, place / "data", session->start(),
                                                 stop.lsn);
    postgres::CloneSpec spec = clone_spec(state, place);
    spec.backup = stop;
    // With the label in it before it gets its name, no copy can ever start without one (NA-6).
    co_await services_.data_directories.prepare_clone(spec);
    co_await services_.storage.finish_copy(volume, mine);
    state.mode = "safe";
    state.line_lsn = postgres::to_string(stop.lsn);
    state.line_at = position.at;
}

asio::awaitable<void> BranchCreate::destroy_volume(const State& state) {
    const std::string volume = branch(state).volume;
    try {
        co_await services_.storage.destroy_volume(volume, state.branch_id);
    } catch (const Error& error) {
        // Somebody else's under our name: we made nothing, and touch nothing.
        if (error.code() != "volume_foreign") throw;
    }
}

// --- the instance --------------------------------------------------------------------------------

asio::awaitable<Progress> BranchCreate::prepare_clone(State& state) {
    const postgres::CloneSpec spec =
        clone_spec(state, services_.storage.volume_path(branch(state).volume));
    co_await services_.data_directories.prepare_clone(spec);
    co_return Done{};
}

asio::awaitable<Progress> BranchCreate::start_instance(State& state) {
    co_await instances_.start(state.branch_id, /*open=*/false);
    co_return Done{};
}

asio::awaitable<void> BranchCreate::remove_instance(const State& state) {
    co_await instances_.remove(state.branch_id);
    co_await instances_.remove_log(state.branch_id);
}

asio::awaitable<Progress> BranchCreate::await_ready(State& state) {
    const postgres::ReadyFacts facts = co_await instances_.await_ready(state.branch_id);
    state.timeline = facts.timeline;
    state.system_identifier = facts.system_identifier;
    const std::filesystem::path data = instances_.data_directory(branch(state));
    // The clone's own history says exactly where it left the parent's.
    const auto fork = co_await services_.data_directories.fork_point(data, facts.timeline);
    if (state.new_timeline && fork) state.line_lsn = postgres::to_string(*fork);
    if (state.has_subscriptions) {
        co_await services_.postgres.disable_subscriptions(instances_.endpoint(branch(state)));
        context_.warn("subscriptions of the parent are disabled in this branch");
    }
    co_return Done{};
}

asio::awaitable<Progress> BranchCreate::open_to_users(State& state) {
    co_await instances_.open_to_users(state.branch_id);
    co_return Done{};
}

asio::awaitable<void> BranchCreate::forget_password(const State& state) {
    const SecretStore& secrets = services_.secrets;
    const std::string id = state.branch_id;
    co_await services_.pool.run([&secrets, &id] { secrets.remove_password(id); });
}

// --- what is recorded ----------------------------------------------------------------------------

asio::awaitable<Progress> BranchCreate::finish_backup(State& state) {
    if (!services_.storage.atomic()) co_return Done{};
    if (!state.in_backup) {
        // Fast and clean snapshots need no session; their record is complete by itself.
        catalog::Snapshot snapshot;
        snapshot.id = state.snapshot_id;
        snapshot.branch_id = state.parent_id;
        snapshot.incarnation_id = parent(state).incarnation_id;
        snapshot.volume = parent(state).volume;
        snapshot.created_at = services_.clock.now();
        snapshot.consistent_at = state.line_at;
        snapshot.lsn = state.line_lsn;
        snapshot.timeline = parent(state).timeline;
        snapshot.mode = state.mode;
        snapshot.system_identifier = state.system_identifier;
        snapshot_ = std::move(snapshot);
    } else if (backup_ == nullptr) {
        co_return Rewind{kTakeSnapshot, "the backup session of the snapshot ended with the daemon"};
    } else {
        const postgres::BackupStop stop = co_await backup_->stopped();
        snapshot_->stop_lsn = postgres::to_string(stop.lsn);
        snapshot_->backup_label = stop.label;
        snapshot_->tablespace_map = stop.tablespace_map;
        backup_.reset();
    }
    snapshot_->kind = "origin";
    snapshot_->created_by = "branch";
    snapshot_->label = services_.catalog.ref_of(branch(state));
    co_return Done{};
}

void BranchCreate::record_snapshot(const State&, jobs::Batch& batch) const {
    if (snapshot_) services_.catalog.put(*snapshot_, batch);
}

asio::awaitable<Progress> BranchCreate::publish(State&) {
    co_return Done{};
}

void BranchCreate::record_branch(const State& state, jobs::Batch& batch) const {
    catalog::Branch record = branch(state);
    record.state = catalog::BranchState::kRunning;
    record.should_run = true;
    record.timeline = state.timeline;
    record.system_identifier = state.system_identifier;
    record.created_from = {services_.storage.atomic() ? state.snapshot_id : "", state.mode,
                           state.line_lsn, state.line_at};
    record.last_job = context_.job_id();
    services_.catalog.put(record, batch);
}

void BranchCreate::record_failure(const State& state, const ErrorInfo&, jobs::Batch& batch) const {
    services_.catalog.remove_branch(state.branch_id, batch);
    services_.catalog.remove_snapshot(state.snapshot_id, batch);
}

nlohmann::json BranchCreate::result(const State& state) const {
    return {{"ref", services_.catalog.ref_of(branch(state))}, {"branch", state.branch_id}};
}

}  // namespace bpg::operations
