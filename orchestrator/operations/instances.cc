#include "orchestrator/operations/instances.h"

#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <cerrno>

#include "orchestrator/base/error.h"
#include "orchestrator/base/signal.h"
#include "orchestrator/wal/commands.h"

namespace bpg::operations {
namespace {

constexpr std::size_t kStartUpLines = 200;
constexpr std::chrono::milliseconds kPatience{10'000};
/// So that what main has acknowledged is in the archive soon, however little it writes (ARC-7).
constexpr std::chrono::minutes kArchiveTimeout{5};

int major_of(const std::string& version) {
    return std::atoi(version.c_str());
}

/// From the end of its log.
Error postgres_refused(const std::string& log) {
    for (const char* sign : {"No space left on device", "Disk quota exceeded"}) {
        if (log.find(sign) == std::string::npos) continue;
        return {ErrorKind::kExhausted, "no_space", "there is no space for PostgreSQL to start", log,
                "delete branches, or make the pool larger"};
    }
    return {ErrorKind::kInternal, "postgres_refused", "PostgreSQL ended while it was starting", log,
            "the lines above are the end of its log: correct what they say, then try again"};
}

asio::awaitable<bool> runs(runtime::Runtime& runtime, runtime::InstanceRef instance) {
    const runtime::InstanceStatus status = co_await runtime.inspect(instance);
    co_return status.running;
}

asio::awaitable<void> copy_log(runtime::Runtime& runtime, runtime::InstanceRef instance,
                               std::function<void(std::string)> log) {
    log(co_await runtime.log_tail(instance, kStartUpLines));
}

}  // namespace

runtime::Engine engine_of(const catalog::Database& database) {
    return {database.pg_version,
            database.image,
            database.image_id,
            database.image_digest,
            {database.owner_uid, database.owner_gid}};
}

void set_engine(catalog::Database& database, const runtime::Engine& engine) {
    database.pg_version = engine.version;
    database.image = engine.image;
    database.image_id = engine.image_id;
    database.image_digest = engine.digest;
    database.owner_uid = engine.user.uid;
    database.owner_gid = engine.user.gid;
}

const catalog::Branch& Instances::branch(const std::string& id) const {
    if (const auto* found = services_.catalog.branch_by_id(id)) return *found;
    throw Error(ErrorKind::kNotFound, "branch_gone", "the branch of this job is gone", "id " + id);
}

std::filesystem::path Instances::data_directory(const catalog::Branch& branch) const {
    return services_.storage.volume_path(branch.volume) / "data";
}

std::filesystem::path Instances::log_path(const catalog::Branch& branch) const {
    return services_.settings.log_root / (branch.id + ".log");
}

runtime::Engine Instances::engine(const catalog::Branch& branch) const {
    if (const auto* database = services_.catalog.database_by_id(branch.database_id)) {
        return engine_of(*database);
    }
    throw Error(ErrorKind::kInternal, "database_gone", "the database of this branch is gone");
}

runtime::InstanceRef Instances::ref(const catalog::Branch& branch) const {
    return {branch.id, branch.volume, data_directory(branch),
            services_.settings.socket_root / branch.id, log_path(branch)};
}

void Instances::throw_if_cancelled() const {
    if (context_ != nullptr) context_->throw_if_cancelled();
}

asio::awaitable<bool> Instances::is_running(std::string branch_id) {
    const runtime::InstanceRef instance = ref(branch(branch_id));
    co_return co_await runs(services_.runtime, instance);
}

asio::awaitable<void> Instances::prepare_engine(std::string branch_id) {
    const runtime::Engine wanted = engine(branch(branch_id));
    const runtime::FetchReport report = [this](std::uint64_t done, std::uint64_t total) {
        throw_if_cancelled();
        if (context_ != nullptr) context_->show_progress({done, total, "bytes"});
    };
    co_await services_.runtime.prepare_engine(wanted, report);
}

postgres::Endpoint Instances::endpoint(const catalog::Branch& branch) const {
    return {services_.settings.socket_root / branch.id, branch.port, branch.id,
            major_of(engine(branch).version)};
}

postgres::OwnedConfig Instances::config(const catalog::Branch& branch, bool open) const {
    postgres::OwnedConfig config;
    config.volume = services_.storage.volume_path(branch.volume);
    config.owner = owner(branch);
    config.settings = services_.settings.postgres_config;
    for (const auto& [name, value] : branch.settings)
        config.settings.insert_or_assign(name, value);
    config.open = open;
    config.listen = services_.settings.listen;
    config.published = services_.runtime.reach(config.listen).published;
    return config;
}

asio::awaitable<void> Instances::write_config(catalog::Branch place, bool open) {
    const postgres::OwnedConfig wanted = config(place, open);
    co_await services_.data_directories.write_owned_config(wanted);
}

/// Whether its WAL is archived from this start on; the archive is there then.
asio::awaitable<bool> Instances::archives_now(catalog::Branch place, bool minimal_wal) {
    if (!place.archives || minimal_wal) co_return false;
    const wal::ArchiveRef own = archive(place);
    const FileOwner user = owner(place);
    co_await services_.archives.prepare(own, user);
    co_return true;
}

postgres::WalSettings Instances::wal_settings(const catalog::Branch& branch, bool archives,
                                              const std::optional<Recovery>& recovery) const {
    const std::filesystem::path& helper = services_.settings.wal_helper;
    postgres::WalSettings settings;
    if (archives) {
        const std::filesystem::path own = services_.archives.place(archive(branch));
        settings.archive_command = wal::archive_command(helper, own);
        if (branch.name == catalog::kMain) settings.archive_timeout = kArchiveTimeout;
    }
    if (recovery) {
        settings.restore_command =
            wal::restore_command(helper, recovery->archive, recovery->spool, recovery->bounds);
        settings.target_timeline = std::to_string(recovery->timeline);
        settings.target = recovery->target;
    }
    return settings;
}

/// What of the host's files an instance needs for these settings.
void Instances::show_wal(const catalog::Branch& branch, bool archives,
                         const std::optional<Recovery>& recovery,
                         runtime::InstanceSpec& spec) const {
    if (archives) spec.writable.push_back(services_.archives.place(archive(branch)));
    if (recovery) spec.readable.push_back(recovery->archive);
    if (archives || recovery) {
        spec.readable.push_back(services_.settings.wal_helper.parent_path());
    }
}

asio::awaitable<void> Instances::start(std::string branch_id, bool open,
                                       std::optional<Recovery> recovery) {
    const runtime::InstanceSpec spec =
        co_await prepare_start(branch(branch_id), open, std::move(recovery));
    co_await services_.runtime.start(spec);
}

asio::awaitable<void> Instances::make_ready(catalog::Branch successor) {
    const runtime::InstanceSpec spec =
        co_await prepare_start(std::move(successor), /*open=*/true, std::nullopt);
    co_await services_.runtime.make_ready(spec);
}

/// Writes what an instance reads, and says what it is.
asio::awaitable<runtime::InstanceSpec> Instances::prepare_start(catalog::Branch place, bool open,
                                                                std::optional<Recovery> recovery) {
    // Of one that was unmounted there would seem to be no data.
    co_await services_.storage.mount_volume(place.volume);
    co_await write_config(place, open);
    const postgres::OwnedConfig files = config(place, open);
    const postgres::StartNeeds needs = co_await services_.data_directories.start_needs(files);
    const bool archives = co_await archives_now(place, needs.minimal_wal);
    runtime::InstanceSpec spec;
    spec.branch_id = place.id;
    spec.name = place.volume;
    spec.ref = services_.catalog.ref_of(place);
    spec.engine = engine(place);
    spec.volume = services_.storage.volume_path(place.volume);
    spec.data_directory = data_directory(place);
    spec.socket_directory = services_.settings.socket_root / place.id;
    spec.log_path = log_path(place);
    spec.listen = services_.settings.listen;
    // What a sync makes is reached by us alone until it takes the branch's place.
    const bool is_aside = !place.replaces.empty();
    spec.port = is_aside ? 0 : place.port;
    spec.may_reach_out = !is_aside && place.name == catalog::kMain;
    const std::string listen =
        is_aside ? "" : services_.runtime.reach(spec.listen).listen_addresses;
    show_wal(place, archives, recovery, spec);
    spec.settings = postgres::owned_settings(spec.volume, endpoint(place), listen, place.volume,
                                             major_of(spec.engine.version),
                                             wal_settings(place, archives, recovery));
    if (needs.prepared_transactions > 0) {
        spec.settings.emplace_back("max_prepared_transactions",
                                   std::to_string(needs.prepared_transactions));
    }
    co_return spec;
}

asio::awaitable<postgres::ReadyFacts> Instances::await_ready(std::string branch_id) {
    Patience patience{services_.settings.ready_timeout, {}};
    co_return co_await await_ready(std::move(branch_id), "", std::move(patience));
}

asio::awaitable<std::string> Instances::own_verifier(std::string branch_id) {
    const SecretStore& secrets = services_.secrets;
    auto work = [&secrets, id = branch(branch_id).password()] {
        return postgres::scram_verifier(secrets.ensure_password(id));
    };
    co_return co_await services_.pool.run(work);
}

asio::awaitable<postgres::ReadyFacts> Instances::await_ready_with_password(std::string branch_id) {
    std::string verifier = co_await own_verifier(branch_id);
    Patience patience{services_.settings.ready_timeout, {}};
    co_return co_await await_ready(std::move(branch_id), std::move(verifier), std::move(patience));
}

asio::awaitable<postgres::ReadyFacts> Instances::await_recovery(
    std::string branch_id, std::function<asio::awaitable<void>()> watch) {
    std::string verifier = co_await own_verifier(branch_id);
    // The deadlines of the job watch over it: how long it may be without progress, above all.
    Patience patience{std::chrono::hours(24 * 365), std::move(watch)};
    co_return co_await await_ready(std::move(branch_id), std::move(verifier), std::move(patience));
}

asio::awaitable<void> Instances::set_verifier(std::string branch_id, std::string verifier) {
    if (!co_await is_running(branch_id)) {
        throw Error(ErrorKind::kConflict, "branch_not_running",
                    "branch \"" + services_.catalog.ref_of(branch(branch_id)) + "\" does not run",
                    "only PostgreSQL itself can change a password", "start it first");
    }
    Patience patience{services_.settings.ready_timeout, {}};
    co_await await_ready(std::move(branch_id), std::move(verifier), std::move(patience));
}

asio::awaitable<void> Instances::ensure_password(std::string branch_id) {
    const SecretStore& secrets = services_.secrets;
    auto work = [&secrets, id = branch(branch_id).password()] { secrets.ensure_password(id); };
    co_await services_.pool.run(work);
}

asio::awaitable<void> Instances::forget_password(std::string branch_id) {
    const SecretStore& secrets = services_.secrets;
    auto work = [&secrets, id = branch(branch_id).password()] { secrets.remove_password(id); };
    co_await services_.pool.run(work);
}

asio::awaitable<postgres::ReadyFacts> Instances::await_ready(std::string branch_id,
                                                             std::string verifier,
                                                             Patience patience) {
    const catalog::Branch& place = branch(branch_id);
    const runtime::InstanceRef instance = ref(place);
    runtime::Runtime& runtime = services_.runtime;
    const auto alive = [this, &runtime, instance, &patience]() -> asio::awaitable<bool> {
        throw_if_cancelled();
        if (patience.watch) co_await patience.watch();
        co_return co_await runs(runtime, instance);
    };
    std::optional<Error> failure;
    try {
        const postgres::ReadyFacts facts =
            co_await services_.postgres.await_ready(instance.data_directory, endpoint(place), alive,
                                                    patience.deadline, std::move(verifier));
        co_await log_start_up(instance);
        co_return facts;
    } catch (const Error& error) {
        failure = error;
    }
    if (failure->code() != "postgres_refused") throw *failure;
    const std::string tail = co_await runtime.log_tail(instance, 50);
    if (context_ != nullptr) context_->log(tail);
    throw postgres_refused(tail.empty() ? failure->info().detail : tail);
}

/// Beside the job: nobody who waits for a branch waits for its log.
asio::awaitable<void> Instances::log_start_up(const runtime::InstanceRef& instance) {
    if (context_ == nullptr) co_return;
    asio::co_spawn(co_await asio::this_coro::executor,
                   copy_log(services_.runtime, instance, context_->log_beside()),
                   [](std::exception_ptr) {});  // a log that cannot be read is no failure
}

asio::awaitable<void> Instances::open_to_users(std::string branch_id) {
    std::optional<Error> failure;
    try {
        co_await let_users_in(branch_id);
        co_return;
    } catch (const Error& error) {
        failure = error;
    }
    if (co_await is_running(branch_id)) throw *failure;
    const std::string tail = co_await services_.runtime.log_tail(ref(branch(branch_id)), 50);
    throw postgres_refused(tail.empty() ? failure->info().detail : tail);
}

asio::awaitable<void> Instances::let_users_in(std::string branch_id) {
    const SecretStore& secrets = services_.secrets;
    auto work = [&secrets, id = branch(branch_id).password()] {
        return secrets.ensure_password(id);
    };
    const Secret password = co_await services_.pool.run(work);
    const int port = branch(branch_id).port;
    // Only now may anybody in: before, the parent's password would have opened the branch.
    co_await write_config(branch(branch_id), /*open=*/true);
    co_await services_.runtime.reload(ref(branch(branch_id)));
    // The postmaster reads the file when the signal reaches it; until then it turns logins away.
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (true) {
        std::optional<Error> failure;
        try {
            co_await services_.postgres.verify_login(services_.settings.listen, port, password,
                                                     branch_id);
            co_return;
        } catch (const Error& error) {
            failure = error;
        }
        throw_if_cancelled();
        const bool given_up = std::chrono::steady_clock::now() > deadline;
        if (given_up || !co_await is_running(branch_id)) throw *failure;
        co_await pause_for(std::chrono::milliseconds(5));
    }
}

asio::awaitable<void> Instances::stop(std::string branch_id, runtime::StopMode mode) {
    co_await halt(branch_id, mode);
    const runtime::InstanceRef instance = ref(branch(branch_id));
    co_await services_.runtime.remove(instance);
}

asio::awaitable<void> Instances::halt(std::string branch_id, runtime::StopMode mode) {
    const runtime::InstanceRef instance = ref(branch(branch_id));
    co_await services_.runtime.stop(instance, mode, services_.settings.stop_timeout);
}

asio::awaitable<void> Instances::clear_place(std::string branch_id, std::string volume) {
    catalog::Branch place = branch(branch_id);
    place.volume = std::move(volume);
    runtime::InstanceRef instance = ref(place);
    instance.socket_directory.clear();
    co_await services_.runtime.remove(instance);
}

asio::awaitable<void> Instances::stop_or_kill(std::string branch_id) {
    const runtime::InstanceRef instance = ref(branch(branch_id));
    bool stopped = false;
    try {
        co_await services_.runtime.stop(instance, runtime::StopMode::kFast,
                                        std::min(services_.settings.stop_timeout, kPatience));
        stopped = true;
    } catch (const Error& error) {
        if (error.code() != "stop_timed_out") throw;
    }
    if (!stopped) {
        co_await services_.runtime.stop(instance, runtime::StopMode::kImmediate,
                                        services_.settings.stop_timeout);
    }
    co_await services_.runtime.remove(instance);
}

asio::awaitable<void> Instances::remove(std::string branch_id) {
    const runtime::InstanceRef instance = ref(branch(branch_id));
    co_await services_.runtime.stop(instance, runtime::StopMode::kImmediate,
                                    services_.settings.stop_timeout);
    co_await services_.runtime.remove(instance);
}

asio::awaitable<void> Instances::remove_files(std::string branch_id) {
    const std::string volume = branch(branch_id).volume;
    co_await services_.archives.remove(volume);
    const std::filesystem::path logs = services_.settings.log_root;
    co_await services_.pool.run([&logs, &branch_id] {
        for (const char* ending : {".log", ".log.1"}) {
            const std::filesystem::path path = logs / (branch_id + ending);
            if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
                throw errno_error("remove " + path.string(), errno);
            }
        }
    });
}

}  // namespace bpg::operations
