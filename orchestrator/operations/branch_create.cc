#include "orchestrator/operations/branch_create.h"

#include <utility>

#include "orchestrator/base/error.h"
#include "orchestrator/base/id.h"
#include "orchestrator/operations/base_snapshot.h"
#include "orchestrator/operations/pool_space.h"
#include "orchestrator/operations/spare_origins.h"

namespace bpg::operations {
namespace {

using jobs::Done;
using jobs::Progress;
using jobs::Rewind;

constexpr std::string_view kTakeSnapshot = "take_snapshot";
constexpr std::string_view kCloneVolume = "clone_volume";
constexpr std::string_view kStartInstance = "start_instance";
constexpr std::string_view kFinishBackup = "finish_backup";
constexpr std::string_view kSessionEnded =
    "the backup session of the snapshot ended with the daemon";

storage::CopyPlan copy_plan(const jobs::JobContext& context) {
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
    plan.may_go_on = [&context] { context.throw_if_cancelled(); };
    return plan;
}

/// A parent that does not run changes nothing while it is copied: all of it, WAL included, is
/// taken.
storage::CopyPlan stopped_copy_plan(const jobs::JobContext& context) {
    storage::CopyPlan plan;
    plan.empty_directories.emplace_back("conf");
    plan.skipped_names = {"postmaster.pid", "postmaster.opts"};
    plan.last = "data/" + postgres::backup_exclusions().last;
    plan.last_is_whole = postgres::control_file_is_whole;
    plan.may_go_on = [&context] { context.throw_if_cancelled(); };
    return plan;
}

/// Owns the endpoint, since it goes on beside its caller.
asio::awaitable<postgres::ParentFacts> inspect(postgres::Postgres& postgres,
                                               postgres::Endpoint endpoint) {
    co_return co_await postgres.inspect_parent(endpoint);
}

}  // namespace

std::span<const jobs::Step<BranchCreate>> BranchCreate::steps() {
    using jobs::nothing_to_record;
    using jobs::nothing_to_undo;
    static constexpr jobs::Step<BranchCreate> kSteps[] = {
        {kTakeSnapshot, "freeze the parent in a snapshot", &BranchCreate::take_snapshot,
         &BranchCreate::leave_snapshot, &BranchCreate::record_origin},
        {kCloneVolume, "clone it, sharing what the driver can share", &BranchCreate::clone_volume,
         &BranchCreate::destroy_volume, nothing_to_record},
        {"prepare_clone", "remove what belongs to the parent's server",
         &BranchCreate::prepare_clone, nothing_to_undo, nothing_to_record},
        {kStartInstance, "start PostgreSQL on the clone", &BranchCreate::start_instance,
         &BranchCreate::remove_instance, nothing_to_record},
        // As soon as the clone starts: what the session knows dies with the daemon, and the branch
        // would have to be begun again.
        {kFinishBackup, "end backup mode and record the snapshot", &BranchCreate::finish_backup,
         nothing_to_undo, &BranchCreate::record_snapshot},
        {"await_ready", "recover, answer a query, get its own password", &BranchCreate::await_ready,
         &BranchCreate::forget_password, nothing_to_record},
        {"open_to_users", "let users in", &BranchCreate::open_to_users,
         &BranchCreate::destroy_own_snapshot, &BranchCreate::record_own_snapshot},
        {"publish", "make the branch visible", &BranchCreate::publish, nothing_to_undo,
         &BranchCreate::record_branch},
    };
    return jobs::checked(kSteps);
}

std::string BranchCreate::last_step_on_parent(bool atomic) {
    return std::string(atomic ? kFinishBackup : kCloneVolume);
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

/// One that is recorded knows best where it lies: the parent may have been synced since.
storage::SnapshotRef BranchCreate::snapshot_ref(const State& state) const {
    if (const auto* recorded = services_.catalog.snapshot_by_id(state.snapshot_id)) {
        return {recorded->volume, recorded->id};
    }
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
    spec.archives = branch(state).archives;
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
    co_await require_pool_space(services_, 0);
    if (state.restore.is_wanted()) {
        state.snapshot_id = co_await point_in_time_.secure_wal(state.restore, state.snapshot_id);
        co_return Done{};
    }
    // clone_volume copies from the parent itself, or from a snapshot that is there.
    if (!services_.storage.atomic() || state.is_given) co_return Done{};
    // What an earlier try took, if it did, is nobody's when this one joins another's.
    if (context_.was_begun_before()) co_await let_go_of(state.snapshot_id, state);
    const SharedSnapshots::Place place = co_await services_.shared_snapshots.enter(
        state.parent_id, state.fast, state.branch_id, state.snapshot_id);
    if (place.leads && !co_await lead_round(state, *place.round)) {
        // One that an earlier run took and never recorded tells nothing of itself. Not under its
        // name again: others may hang on it.
        co_return begin_again(state, "what was known of the snapshot taken before is lost");
    }
    static_cast<SnapshotFacts&>(state) = place.round->facts;
    for (const std::string& warning : place.round->warnings)
        context_.warn(warning);
    state.lost_snapshot_id.clear();
    co_return Done{};
}

/// False when a snapshot of this id is there already.
asio::awaitable<bool> BranchCreate::lead_round(State& state, SharedSnapshots::Round& round) {
    std::optional<Error> failure;
    try {
        const bool running = co_await parent_runs(state);
        const std::filesystem::path data = instances_.data_directory(parent(state));
        co_await services_.data_directories.check_source(data, running);
        if (running) {
            co_await snapshot_running_parent(state, round);
        } else {
            co_await snapshot_stopped_parent(state);
        }
        round.facts = state;
        round.warnings = context_.take_warnings();
        co_return true;
    } catch (const Error& error) {
        failure = error;
    }
    services_.shared_snapshots.close(state.snapshot_id);
    if (failure->code() == "snapshot_exists") co_return false;
    throw *failure;
}

asio::awaitable<void> BranchCreate::examine_running_parent(State& state) {
    const postgres::Endpoint endpoint = instances_.endpoint(parent(state));
    note_parent(state, co_await services_.postgres.inspect_parent(endpoint));
}

void BranchCreate::note_parent(State& state, const postgres::ParentFacts& facts) {
    state.has_subscriptions = facts.has_subscriptions;
    const std::string ref = services_.catalog.ref_of(parent(state));
    for (std::string& warning : check_parent(facts, ref))
        context_.warn(std::move(warning));
}

/// What `begin` gives, once the parent has passed its examination beside it.
template <class Session>
asio::awaitable<std::unique_ptr<Session>> BranchCreate::examined(
    State& state, asio::awaitable<std::unique_ptr<Session>> begin) {
    const auto inspection = co_await Beside<postgres::ParentFacts>::begin(
        inspect(services_.postgres, instances_.endpoint(parent(state))));
    std::unique_ptr<Session> session;
    std::optional<Error> failure;
    try {
        session = co_await std::move(begin);
    } catch (const Error& error) {
        failure = error;
    }
    note_parent(state, co_await inspection.result());
    if (failure) throw *failure;
    co_return session;
}

asio::awaitable<void> BranchCreate::snapshot_running_parent(State& state,
                                                            SharedSnapshots::Round& round) {
    const postgres::Endpoint endpoint = instances_.endpoint(parent(state));
    const storage::SnapshotRef snapshot = snapshot_ref(state);
    if (state.fast) {
        const auto session =
            co_await examined<postgres::ParentSession>(state, services_.postgres.fence(endpoint));
        state.start_lsn = postgres::to_string((co_await session->position()).lsn);
        co_await services_.storage.snapshot(snapshot);
        const postgres::Position position = co_await session->position();
        state.mode = "fast";
        state.line_lsn = postgres::to_string(position.lsn);
        state.line_at = position.at;
        co_return;
    }
    const std::string label =
        backup_label_of(services_.catalog.ref_of(parent(state)), state.snapshot_id);
    auto backup = std::make_unique<BackupInProgress>(co_await examined<postgres::BackupSession>(
        state, services_.postgres.start_backup(endpoint, label, /*keep_wal=*/false)));
    co_await services_.storage.snapshot(snapshot);
    const postgres::Position position = co_await backup->position();
    round.record = snapshot_record(parent(state), state.snapshot_id, backup->start(), {}, position,
                                   services_.clock.now());
    round.backup = std::move(backup);
    state.mode = "safe";
    state.in_backup = true;
    state.line_lsn = postgres::to_string(position.lsn);
    state.line_at = position.at;
}

asio::awaitable<void> BranchCreate::snapshot_stopped_parent(State& state) {
    const std::filesystem::path data = instances_.data_directory(parent(state));
    co_await decide_timeline(state, data);
    co_await services_.storage.snapshot(snapshot_ref(state));
    state.mode = "clean";
    state.line_at = services_.clock.now();
}

/// Of the data of a server that does not run.
asio::awaitable<void> BranchCreate::decide_timeline(State& state, std::filesystem::path data) {
    const postgres::ControlFile control = co_await services_.data_directories.control_file(data);
    state.line_lsn = postgres::to_string(control.checkpoint);
    state.new_timeline = true;
    // Archive recovery refuses wal_level=minimal, and it would empty the unlogged relations that a
    // clean shutdown has kept (E70): both start plainly, on the parent's timeline.
    if (control.wal_level_minimal) state.new_timeline = false;
    if (control.cleanly_shut_down &&
        co_await services_.data_directories.has_unlogged_relations(data)) {
        state.new_timeline = false;
    }
}

/// The branch hangs on the snapshot from here on; whoever else does keeps it alive.
void BranchCreate::record_origin(const State& state, jobs::Batch& batch) const {
    if (!services_.storage.atomic()) return;
    catalog::Branch record = branch(state);
    record.created_from = {state.snapshot_id, state.mode, state.line_lsn, state.line_at};
    services_.catalog.put(record, batch);
    services_.shared_snapshots.taken(state.snapshot_id);
}

/// A snapshot taken in a session that is gone was never recorded, and never will be.
bool BranchCreate::is_lost(const State& state) const {
    return state.in_backup && services_.catalog.snapshot_by_id(state.snapshot_id) == nullptr &&
           services_.shared_snapshots.find(state.snapshot_id) == nullptr;
}

Progress BranchCreate::begin_again(State& state, std::string why) const {
    state.lost_snapshot_id = std::exchange(state.snapshot_id, new_id());
    return Rewind{kTakeSnapshot, std::move(why)};
}

/// One that was there before is not this job's to destroy, whatever hung on it meanwhile.
asio::awaitable<void> BranchCreate::leave_snapshot(const State& state) {
    if (!services_.storage.atomic() || state.is_given) co_return;
    if (services_.catalog.branch_by_id(state.parent_id) == nullptr) co_return;
    if (!state.lost_snapshot_id.empty()) co_await let_go_of(state.lost_snapshot_id, state);
    co_await let_go_of(state.snapshot_id, state);
}

/// Whoever lets go last destroys it; a lost one is destroyed by whoever can.
asio::awaitable<void> BranchCreate::let_go_of(std::string snapshot_id, const State& state) {
    SharedSnapshots& shared = services_.shared_snapshots;
    shared.release(state.branch_id);
    const catalog::Snapshot* recorded = services_.catalog.snapshot_by_id(snapshot_id);
    const bool lost = state.in_backup && recorded == nullptr && shared.find(snapshot_id) == nullptr;
    if (!lost && shared.is_claimed(snapshot_id)) co_return;
    storage::SnapshotRef place{parent(state).volume, snapshot_id};
    const bool was_recorded = recorded != nullptr;
    if (was_recorded) {
        if (recorded->pinned || recorded->kind != "origin") co_return;
        place.volume = recorded->volume;
        if (!co_await SpareOrigins(services_, context_).may_go(*recorded)) co_return;
    }
    shared.close(snapshot_id);
    try {
        co_await operations::destroy_snapshot(services_, place);
    } catch (const Error& error) {
        // One on record stays there (destroy_unless_cloned); of a lost one others that lost it have
        // clones yet, and the last of them destroys it.
        const bool may_stay = was_recorded || shared.is_claimed(snapshot_id);
        if (error.code() != "snapshot_has_clones" || !may_stay) throw;
        co_return;
    }
    if (was_recorded) destroyed_snapshot_ = snapshot_id;
}

// --- clone_volume --------------------------------------------------------------------------------

asio::awaitable<Progress> BranchCreate::clone_volume(State& state) {
    const storage::Identity mine = identity(state);
    const std::string volume = branch(state).volume;
    if (services_.storage.atomic()) {
        if (is_lost(state)) co_return begin_again(state, std::string(kSessionEnded));
        try {
            co_await services_.storage.clone(snapshot_ref(state), volume, mine);
        } catch (const Error& error) {
            if (!state.restore.is_wanted() || error.code() != "snapshot_not_found") throw;
            co_return begin_from_another(state);
        }
        if (state.restore.is_wanted()) {
            const std::filesystem::path place = services_.storage.volume_path(volume);
            co_await point_in_time_.bring_tail(state.restore, place);
        }
        co_return Done{};
    }
    // A finished copy holds its label already (prepared before it got its name), but what this step
    // learned about it is lost: copy again rather than guess.
    co_await services_.storage.destroy_volume(volume, mine.id);
    co_await copy_parent(state);
    co_return Done{};
}

/// What a bpgd that died had destroyed, and not come to forget, another restore does without.
Progress BranchCreate::begin_from_another(const State& state) const {
    services_.shared_snapshots.go(state.snapshot_id);
    return Rewind{kTakeSnapshot, "the snapshot it was to begin with is gone"};
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
    const std::filesystem::path source_data = instances_.data_directory(parent(state));
    co_await decide_timeline(state, source_data);
    const storage::CopyPlan plan = stopped_copy_plan(context_);
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
    const storage::CopyPlan plan = copy_plan(context_);
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
    const std::filesystem::path volume = services_.storage.volume_path(branch(state).volume);
    if (state.is_given && state.mode == "clean") {
        const std::string line = state.line_lsn;
        const std::filesystem::path data = volume / "data";
        co_await decide_timeline(state, data);
        state.line_lsn = line;
    }
    const postgres::CloneSpec spec = clone_spec(state, volume);
    co_await services_.data_directories.prepare_clone(spec);
    co_return Done{};
}

asio::awaitable<Progress> BranchCreate::start_instance(State& state) {
    // The clone does not need the stop, whose WAL switch writes a whole segment: it runs beside.
    if (const auto round = services_.shared_snapshots.find(state.snapshot_id)) {
        if (round->backup) co_await round->backup->begin_stop();
    }
    std::optional<Recovery> recovery;
    if (state.restore.is_wanted()) {
        const std::string volume = branch(state).volume;
        recovery = point_in_time_.recovery(state.restore, services_.storage.volume_path(volume));
    }
    co_await instances_.start(state.branch_id, /*open=*/false, std::move(recovery));
    co_return Done{};
}

asio::awaitable<void> BranchCreate::remove_instance(const State& state) {
    co_await instances_.remove(state.branch_id);
    co_await instances_.remove_files(state.branch_id);
}

asio::awaitable<Progress> BranchCreate::await_ready(State& state) {
    if (state.restore.is_wanted()) {
        const auto not_yet = co_await await_recovery(state);
        if (not_yet) co_return *not_yet;
    } else {
        ready_ = co_await instances_.await_ready_with_password(state.branch_id);
    }
    const postgres::ReadyFacts facts = *ready_;
    state.timeline = facts.timeline;
    state.system_identifier = facts.system_identifier;
    const std::filesystem::path data = instances_.data_directory(branch(state));
    // The clone's own history says exactly where it left the parent's.
    const auto fork = co_await services_.data_directories.fork_point(data, facts.timeline);
    if (state.new_timeline && fork) state.line_lsn = postgres::to_string(*fork);
    if (state.has_subscriptions) {
        co_await services_.postgres.disable_subscriptions(instances_.endpoint(branch(state)));
        if (!state.is_given) {
            context_.warn("subscriptions of the parent are disabled in this branch");
        }
    }
    co_return Done{};
}

/// Nothing once it has recovered; else what is to be done about that it has not.
asio::awaitable<std::optional<Progress>> BranchCreate::await_recovery(State& state) {
    const std::filesystem::path data = instances_.data_directory(branch(state));
    const Restore restore = state.restore;
    const std::function<asio::awaitable<void>()> watch = [this, restore, data] {
        return point_in_time_.show_progress(restore, data);
    };
    std::optional<Error> failure;
    try {
        ready_ = co_await instances_.await_recovery(state.branch_id, watch);
    } catch (const Error& error) {
        failure = error;
    }
    if (!failure) {
        if (ready_->timeline <= restore.timeline) {
            throw Error(ErrorKind::kInternal, "not_promoted", "the recovery did not end",
                        "it is still on the timeline of what it was restored from");
        }
        co_await point_in_time_.remove_tail(data.parent_path());
        co_return std::nullopt;
    }
    const std::string log = failure->info().detail;
    switch (failure->code() == "postgres_refused" ? PointInTime::verdict(log)
                                                  : PointInTime::Verdict::kOther) {
        case PointInTime::Verdict::kTargetBeforeBase: {
            const std::string older = point_in_time_.older_base(restore, state.snapshot_id);
            if (older.empty()) break;
            co_return begin_from(state, older,
                                 "the target lies before that snapshot is consistent");
        }
        case PointInTime::Verdict::kTargetBehindLast:
            if (!restore.target.time || restore.is_behind_last) break;
            state.restore.is_behind_last = true;
            co_return Rewind{kStartInstance, "nothing was committed after the target"};
        case PointInTime::Verdict::kWalBroken:
            co_await point_in_time_.require_source(restore);
            if (co_await point_in_time_.heal(state.restore)) {
                co_return Rewind{kStartInstance, "the archive was made whole as far as possible"};
            }
            throw co_await point_in_time_.broken_wal(restore, log);
        case PointInTime::Verdict::kTooFewPlaces:
            if (!co_await point_in_time_.can_make_places(state.restore, data)) break;
            co_return Rewind{kStartInstance, "it has prepared transactions that need a place each"};
        case PointInTime::Verdict::kOther:
            break;
    }
    throw *failure;
}

Progress BranchCreate::begin_from(State& state, std::string older, std::string why) const {
    state.snapshot_id = std::move(older);
    return Rewind{kTakeSnapshot, std::move(why)};
}

asio::awaitable<void> BranchCreate::forget_password(const State& state) {
    co_await instances_.forget_password(state.branch_id);
}

asio::awaitable<Progress> BranchCreate::open_to_users(State& state) {
    if (state.restore.is_wanted()) co_await take_own_snapshot(state);
    co_await instances_.open_to_users(state.branch_id);
    co_return Done{};
}

/// What a restored one began with is not all in the snapshot it hangs on: its own WAL begins here.
asio::awaitable<void> BranchCreate::take_own_snapshot(const State& state) {
    const catalog::Branch made = branch(state);
    const std::string own = state.restore.own_snapshot_id;
    snapshot_ = co_await take_base_snapshot(services_, context_, made, own);
    snapshot_->system_identifier = state.system_identifier;
    snapshot_->created_by = "branch";
    snapshot_->label = "first";
}

// --- what is recorded ----------------------------------------------------------------------------

asio::awaitable<Progress> BranchCreate::finish_backup(State& state) {
    if (!services_.storage.atomic()) co_return Done{};
    // Recorded before, or by another branch that shares it.
    if (services_.catalog.snapshot_by_id(state.snapshot_id) != nullptr) co_return Done{};
    if (is_lost(state)) co_return begin_again(state, std::string(kSessionEnded));
    if (state.in_backup) {
        const auto round = services_.shared_snapshots.find(state.snapshot_id);
        const postgres::BackupStop stop = co_await round->backup->stopped();
        snapshot_ = *round->record;
        snapshot_->stop_lsn = postgres::to_string(stop.lsn);
        snapshot_->backup_label = stop.label;
        snapshot_->tablespace_map = stop.tablespace_map;
    } else {
        snapshot_ = snapshot_without_session(state);
    }
    snapshot_->kind = "origin";
    snapshot_->created_by = state.target_id.empty() ? "branch" : "sync";
    snapshot_->label = services_.catalog.ref_of(branch(state));
    co_return Done{};
}

/// Fast and clean snapshots need no session; what the job remembers is all of their record.
catalog::Snapshot BranchCreate::snapshot_without_session(const State& state) const {
    catalog::Snapshot snapshot;
    snapshot.id = state.snapshot_id;
    snapshot.branch_id = state.parent_id;
    snapshot.incarnation_id = parent(state).incarnation_id;
    snapshot.volume = parent(state).volume;
    snapshot.created_at = services_.clock.now();
    snapshot.consistent_at = state.line_at;
    snapshot.start_lsn = state.start_lsn;
    snapshot.lsn = state.line_lsn;
    snapshot.timeline = parent(state).timeline;
    snapshot.mode = state.mode;
    snapshot.system_identifier = parent(state).system_identifier;
    return snapshot;
}

asio::awaitable<void> BranchCreate::destroy_own_snapshot(const State& state) {
    if (!state.restore.is_wanted()) co_return;
    const storage::SnapshotRef own{branch(state).volume, state.restore.own_snapshot_id};
    co_await services_.storage.destroy_snapshot(own);
}

void BranchCreate::record_own_snapshot(const State& state, jobs::Batch& batch) const {
    if (state.restore.is_wanted() && snapshot_) services_.catalog.put(*snapshot_, batch);
}

void BranchCreate::record_snapshot(const State& state, jobs::Batch& batch) const {
    if (!snapshot_ || services_.catalog.snapshot_by_id(state.snapshot_id) != nullptr) return;
    services_.catalog.put(*snapshot_, batch);
}

asio::awaitable<Progress> BranchCreate::publish(State& state) {
    // It has run once, so that its password is its own and its recovery is behind it.
    if (state.stopped) co_await instances_.stop(state.branch_id, runtime::StopMode::kFast);
    co_return Done{};
}

void BranchCreate::record_branch(const State& state, jobs::Batch& batch) const {
    catalog::Branch record = branch(state);
    record.state = state.stopped ? catalog::BranchState::kStopped : catalog::BranchState::kRunning;
    record.should_run = !state.stopped;
    record.timeline = state.timeline;
    record.system_identifier = state.system_identifier;
    record.created_from = {services_.storage.atomic() ? state.snapshot_id : "", state.mode,
                           state.line_lsn, state.line_at};
    record.incarnation_at = services_.clock.now();
    record.last_job = context_.job_id();
    services_.catalog.put(record, batch);
}

void BranchCreate::record_failure(const State& state, const ErrorInfo&, jobs::Batch& batch) const {
    services_.catalog.remove_branch(state.branch_id, batch);
    if (state.restore.is_wanted()) {
        services_.catalog.remove_snapshot(state.restore.own_snapshot_id, batch);
    }
    if (!destroyed_snapshot_.empty()) {
        services_.catalog.remove_snapshot(destroyed_snapshot_, batch);
    }
}

nlohmann::json BranchCreate::result(const State& state) const {
    return {{"ref", services_.catalog.ref_of(branch(state))}, {"branch", state.branch_id}};
}

}  // namespace bpg::operations
