#include "orchestrator/operations/db_create.h"

#include "orchestrator/base/error.h"
#include "orchestrator/operations/base_snapshot.h"

namespace bpg::operations {

using jobs::Done;
using jobs::Progress;

std::span<const jobs::Step<DbCreate>> DbCreate::steps() {
    using jobs::nothing_to_record;
    using jobs::nothing_to_undo;
    static constexpr jobs::Step<DbCreate> kSteps[] = {
        {"prepare_engine", "find the PostgreSQL it will run", &DbCreate::prepare_engine,
         &DbCreate::abandon_engine, &DbCreate::record_engine},
        {"create_volume", "make an empty volume", &DbCreate::create_volume,
         &DbCreate::destroy_volume, nothing_to_record},
        {"init_data_directory", "initialise the data directory", &DbCreate::init_data_directory,
         &DbCreate::abandon_init, nothing_to_record},
        {"start_instance", "start PostgreSQL", &DbCreate::start_instance,
         &DbCreate::remove_instance, nothing_to_record},
        {"await_ready", "answer a query, get its own password", &DbCreate::await_ready,
         &DbCreate::forget_password, nothing_to_record},
        {"open_to_users", "let users in", &DbCreate::open_to_users, nothing_to_undo,
         nothing_to_record},
        {"take_first_snapshot", "take a first snapshot", &DbCreate::take_first_snapshot,
         &DbCreate::destroy_snapshot, &DbCreate::record_snapshot},
        {"publish", "make the database visible", &DbCreate::publish, nothing_to_undo,
         &DbCreate::record_database},
    };
    return jobs::checked(kSteps);
}

const catalog::Branch& DbCreate::branch(const State& state) const {
    if (const auto* found = services_.catalog.branch_by_id(state.branch_id)) return *found;
    throw Error(ErrorKind::kInternal, "branch_gone", "the reservation of this branch is gone");
}

storage::Identity DbCreate::identity(const State& state) const {
    const catalog::Branch& place = branch(state);
    return {place.id, services_.catalog.ref_of(place), place.incarnation_id, context_.job_id()};
}

asio::awaitable<Progress> DbCreate::prepare_engine(State& state) {
    const runtime::EngineRequest wanted{state.pg_version, state.image};
    const runtime::Engine found = co_await services_.runtime.find_engine(wanted);
    const jobs::JobContext& context = context_;
    const runtime::FetchReport report = [&context](std::uint64_t done, std::uint64_t total) {
        context.throw_if_cancelled();
        context.show_progress({done, total, "bytes"});
    };
    engine_ = co_await services_.runtime.prepare_engine(found, report);
    co_return Done{};
}

/// What a runtime that is away has of it goes with whatever it removes next: no reason to wait.
asio::awaitable<void> DbCreate::abandon_engine(const State& state) {
    try {
        co_await instances_.remove(state.branch_id);
    } catch (const Error& error) {
        if (error.kind() != ErrorKind::kUnavailable) throw;
    }
}

void DbCreate::record_engine(const State& state, jobs::Batch& batch) const {
    catalog::Database record = *services_.catalog.database_by_id(state.database_id);
    set_engine(record, *engine_);
    services_.catalog.put(record, batch);
}

asio::awaitable<Progress> DbCreate::create_volume(State& state) {
    const storage::Identity mine = identity(state);
    co_await services_.storage.create_volume(branch(state).volume, mine);
    co_return Done{};
}

asio::awaitable<void> DbCreate::destroy_volume(const State& state) {
    const std::string volume = branch(state).volume;
    try {
        co_await services_.storage.destroy_volume(volume, state.branch_id);
    } catch (const Error& error) {
        // Somebody else's under our name: we made nothing, and touch nothing.
        if (error.code() != "volume_foreign") throw;
    }
}

asio::awaitable<Progress> DbCreate::init_data_directory(State& state) {
    runtime::InitSpec init;
    init.branch_id = state.branch_id;
    init.name = branch(state).volume;
    init.engine = instances_.engine(branch(state));
    init.volume = services_.storage.volume_path(branch(state).volume);
    init.data_directory = instances_.data_directory(branch(state));
    init.locale = services_.settings.locale;
    context_.log(co_await services_.runtime.init_data_directory(init));
    postgres::CloneSpec mark;
    mark.volume = services_.storage.volume_path(branch(state).volume);
    mark.incarnation_id = branch(state).incarnation_id;
    mark.owner = init.engine.user;
    co_await services_.data_directories.mark_prepared(mark);
    co_return Done{};
}

asio::awaitable<Progress> DbCreate::start_instance(State& state) {
    co_await instances_.start(state.branch_id, /*open=*/false);
    co_return Done{};
}

/// What makes a data directory may still be at work in it after bpgd was killed.
asio::awaitable<void> DbCreate::abandon_init(const State& state) {
    co_await instances_.remove(state.branch_id);
}

asio::awaitable<void> DbCreate::remove_instance(const State& state) {
    co_await instances_.remove(state.branch_id);
    co_await instances_.remove_files(state.branch_id);
}

asio::awaitable<Progress> DbCreate::await_ready(State& state) {
    const postgres::ReadyFacts facts =
        co_await instances_.await_ready_with_password(state.branch_id);
    state.timeline = facts.timeline;
    state.system_identifier = facts.system_identifier;
    co_return Done{};
}

asio::awaitable<void> DbCreate::forget_password(const State& state) {
    co_await instances_.forget_password(state.branch_id);
}

asio::awaitable<Progress> DbCreate::open_to_users(State& state) {
    co_await instances_.open_to_users(state.branch_id);
    co_return Done{};
}

asio::awaitable<Progress> DbCreate::take_first_snapshot(State& state) {
    if (!services_.storage.atomic()) co_return Done{};
    const catalog::Branch place = branch(state);
    snapshot_ = co_await take_base_snapshot(services_, context_, place, state.snapshot_id);
    snapshot_->system_identifier = state.system_identifier;
    snapshot_->created_by = "create";
    snapshot_->label = "first";
    co_return Done{};
}

asio::awaitable<void> DbCreate::destroy_snapshot(const State& state) {
    if (!services_.storage.atomic()) co_return;
    const storage::SnapshotRef snapshot{branch(state).volume, state.snapshot_id};
    co_await services_.storage.destroy_snapshot(snapshot);
}

void DbCreate::record_snapshot(const State&, jobs::Batch& batch) const {
    if (snapshot_) services_.catalog.put(*snapshot_, batch);
}

asio::awaitable<Progress> DbCreate::publish(State&) {
    co_return Done{};
}

void DbCreate::record_database(const State& state, jobs::Batch& batch) const {
    catalog::Branch record = branch(state);
    record.state = catalog::BranchState::kRunning;
    record.timeline = state.timeline;
    record.system_identifier = state.system_identifier;
    record.incarnation_at = services_.clock.now();
    record.last_job = context_.job_id();
    services_.catalog.put(record, batch);
}

void DbCreate::record_failure(const State& state, const ErrorInfo&, jobs::Batch& batch) const {
    services_.catalog.remove_snapshot(state.snapshot_id, batch);
    services_.catalog.remove_branch(state.branch_id, batch);
    services_.catalog.remove_database(state.database_id, batch);
}

nlohmann::json DbCreate::result(const State& state) const {
    const auto* database = services_.catalog.database_by_id(state.database_id);
    return {{"ref", database == nullptr ? "" : database->name},
            {"database", state.database_id},
            {"branch", state.branch_id}};
}

}  // namespace bpg::operations
