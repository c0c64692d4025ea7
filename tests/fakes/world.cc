#include "tests/fakes/world.h"

#include <fmt/format.h>

#include "orchestrator/base/clock.h"
#include "orchestrator/base/error.h"

namespace bpg::fakes {
namespace {

namespace asio = boost::asio;

const std::filesystem::path kRoot = "/model";
const std::filesystem::path kArchives = "/archives";

Error no_such(const std::string& what) {
    return {ErrorKind::kInternal, "model_refuses", what + " does not exist", "", ""};
}

class FakeStorage final : public storage::Storage {
  public:
    explicit FakeStorage(World& world) : world_(world) {}
    std::string_view driver() const override { return world_.atomic ? "btrfs" : "copy"; }
    bool atomic() const override { return world_.atomic; }
    std::filesystem::path volume_path(const std::string& volume) const override {
        return kRoot / volume;
    }
    std::filesystem::path snapshot_path(const storage::SnapshotRef& snapshot) const override {
        return kRoot / ".snapshots" / snapshot.volume / snapshot.id;
    }
    asio::awaitable<std::optional<storage::Identity>> find_volume(
        const std::string& volume) override {
        const auto found = world_.volumes.find(volume);
        if (found == world_.volumes.end()) co_return std::nullopt;
        co_return found->second.identity;
    }
    asio::awaitable<void> mount_volume(const std::string&) override { co_return; }
    asio::awaitable<bool> snapshot_exists(const storage::SnapshotRef& snapshot) override {
        co_return world_.snapshots.contains({snapshot.volume, snapshot.id});
    }
    asio::awaitable<void> create_volume(const std::string& volume,
                                        const storage::Identity& identity) override {
        if (!holds(volume, identity)) world_.volumes[volume].identity = identity;
        world_.answer();
        co_return;
    }
    asio::awaitable<void> snapshot(const storage::SnapshotRef& snapshot) override {
        if (!world_.atomic) throw no_such("a snapshot of this driver");
        if (world_.snapshots.contains({snapshot.volume, snapshot.id})) {
            throw Error(ErrorKind::kConflict, "snapshot_exists", "the snapshot exists");
        }
        const auto source = world_.volumes.find(snapshot.volume);
        if (source == world_.volumes.end()) throw no_such("volume " + snapshot.volume);
        FakeVolume& taken = world_.snapshots[{snapshot.volume, snapshot.id}] = source->second;
        taken.home = snapshot.volume;
        world_.answer();
        co_return;
    }
    asio::awaitable<void> clone(const storage::SnapshotRef& snapshot, const std::string& volume,
                                const storage::Identity& identity) override {
        if (holds(volume, identity)) co_return;
        const auto source = world_.snapshots.find({snapshot.volume, snapshot.id});
        if (source == world_.snapshots.end()) {
            throw Error(ErrorKind::kNotFound, "snapshot_not_found", "there is no such snapshot");
        }
        FakeVolume made = source->second;
        made.identity = identity;
        made.has_own_password = false;
        made.origin = source->first;
        world_.volumes[volume] = made;
        world_.answer();
    }
    asio::awaitable<std::filesystem::path> begin_copy(const std::string& source,
                                                      const std::string& volume,
                                                      const storage::Identity& identity,
                                                      const storage::CopyPlan&) override {
        const auto found = world_.volumes.find(source);
        if (found == world_.volumes.end()) throw no_such("volume " + source);
        FakeVolume made = found->second;
        made.copied_while_running = false;
        made.has_own_password = false;
        for (const auto& [branch, on] : world_.running) {
            if (on != source) continue;
            made.copied_while_running = true;
            world_.expect(world_.backups[branch] > 0,
                          "a running server was copied outside backup mode");
        }
        made.identity = identity;
        made.has_config = false;
        world_.building[volume] = made;
        world_.answer();
        co_return kRoot / ".building" / volume;
    }
    asio::awaitable<void> finish_copy(const std::string& volume,
                                      const storage::Identity& identity) override {
        if (holds(volume, identity)) co_return;
        const auto built = world_.building.find(volume);
        if (built == world_.building.end()) throw no_such("build place " + volume);
        world_.expect(!built->second.copied_while_running || built->second.has_label,
                      "a copy of a running server got its name without a label");
        world_.volumes[volume] = built->second;
        world_.building.erase(built);
        world_.answer();
    }
    asio::awaitable<void> destroy_volume(const std::string& volume,
                                         const std::string& owner_id) override {
        world_.building.erase(volume);
        const auto found = world_.volumes.find(volume);
        if (found == world_.volumes.end()) co_return;
        if (found->second.identity.id != owner_id) {
            throw Error(ErrorKind::kConflict, "volume_foreign", "not ours");
        }
        for (const auto& [branch, on] : world_.running) {
            world_.expect(on != volume, "a volume was destroyed under a running server");
        }
        // As ZFS does, where those with clones move to a clone; btrfs would let it go.
        for (auto& [key, frozen] : world_.snapshots) {
            if (frozen.home != volume) continue;
            const std::string heir = clone_of(key, volume);
            if (heir.empty()) {
                throw Error(ErrorKind::kConflict, "volume_has_snapshots", "snapshots hang on it");
            }
            frozen.home = heir;
            world_.volumes.at(heir).origin = found->second.origin;
        }
        world_.volumes.erase(found);
        world_.answer();
    }
    asio::awaitable<void> destroy_snapshot(const storage::SnapshotRef& snapshot) override {
        const auto found = world_.snapshots.find({snapshot.volume, snapshot.id});
        if (found == world_.snapshots.end()) co_return;
        // A clone that was promoted has become the snapshot's home, and hangs on it no more.
        if (world_.snapshots_hold && !clone_of(found->first, found->second.home).empty()) {
            throw Error(ErrorKind::kConflict, "snapshot_has_clones", "a volume hangs on it");
        }
        if (world_.while_a_snapshot_goes) co_await world_.while_a_snapshot_goes();
        world_.snapshots.erase({snapshot.volume, snapshot.id});
        world_.answer();
    }
    asio::awaitable<void> set_ref(const std::string& volume, const std::string& owner_id,
                                  const std::string& ref) override {
        const auto found = world_.volumes.find(volume);
        if (found == world_.volumes.end()) co_return;
        world_.expect(found->second.identity.id == owner_id, "a foreign volume was renamed");
        found->second.identity.ref = ref;
        world_.answer();
    }
    asio::awaitable<storage::Usage> usage(const std::string&) override {
        co_return storage::Usage{};
    }
    asio::awaitable<storage::Space> space() override { co_return storage::Space{}; }
    asio::awaitable<std::uint64_t> free_bytes(std::uint64_t) override { co_return 1ULL << 40U; }
    asio::awaitable<std::vector<storage::Found>> list() override {
        co_return std::vector<storage::Found>{};
    }

  private:
    /// A volume other than `home` that was cloned from it; empty when there is none.
    std::string clone_of(const std::pair<std::string, std::string>& snapshot,
                         const std::string& home) const {
        for (const auto& [name, volume] : world_.volumes) {
            if (volume.origin == snapshot && name != home) return name;
        }
        return "";
    }
    bool holds(const std::string& volume, const storage::Identity& identity) const {
        const auto found = world_.volumes.find(volume);
        if (found == world_.volumes.end()) return false;
        if (found->second.identity == identity) return true;
        throw Error(ErrorKind::kConflict, "volume_foreign", "the name is taken");
    }
    World& world_;
};

class FakeRuntime final : public runtime::Runtime {
  public:
    explicit FakeRuntime(World& world) : world_(world) {}
    std::string_view driver() const override { return "process"; }
    asio::awaitable<std::string> version() override { co_return std::string("15.20"); }
    asio::awaitable<runtime::Engine> find_engine(runtime::EngineRequest) override {
        runtime::Engine engine;
        engine.version = "15.20";
        engine.user = {101, 104};
        co_return engine;
    }
    asio::awaitable<runtime::Engine> prepare_engine(runtime::Engine engine,
                                                    runtime::FetchReport) override {
        co_return engine;
    }
    runtime::Reach reach(const std::string& listen) const override { return {listen, false}; }
    asio::awaitable<std::string> init_data_directory(const runtime::InitSpec& spec) override {
        world_.expect(spec.engine.user.uid != 0, "a cluster was made for an unknown user");
        world_.at(spec.data_directory).initialised = true;
        world_.answer();
        co_return "made";
    }
    asio::awaitable<void> make_ready(const runtime::InstanceSpec& spec) override {
        world_.expect(world_.at(spec.data_directory).initialised,
                      "a server was made ready on an empty data directory");
        co_return;
    }
    asio::awaitable<void> start(const runtime::InstanceSpec& spec) override {
        FakeVolume& volume = world_.at(spec.data_directory);
        const std::string name = spec.data_directory.parent_path().filename().string();
        for (const auto& [branch, on] : world_.running) {
            if (on != name) continue;
            world_.expect(branch == spec.branch_id, "two servers on one data directory");
            co_return;
        }
        world_.expect(volume.initialised, "a server was started on an empty data directory");
        world_.expect(
            !volume.prepared_for.empty() && volume.prepared_for == volume.identity.incarnation,
            "a clone was started before its hygiene");
        world_.expect(volume.has_config, "a server was started without its config");
        for (const std::filesystem::path& archive : spec.writable) {
            world_.expect(world_.archives.contains({archive.parent_path().filename().string(),
                                                    archive.filename().string()}),
                          "a server was started without its archive");
        }
        for (const auto& [setting, value] : spec.settings) {
            const bool restores = setting == "restore_command" && value != "exit 1";
            world_.expect(!restores || volume.has_spool,
                          "a recovery was started without the last WAL of its source");
        }
        world_.expect(!volume.open || volume.has_own_password,
                      "a clone was open to users while it had its parent's password");
        world_.running[spec.branch_id] = name;
        world_.socket_directories.insert(spec.branch_id);
        world_.answer();
    }
    asio::awaitable<void> stop(const runtime::InstanceRef& instance, runtime::StopMode,
                               std::chrono::milliseconds) override {
        world_.running.erase(instance.branch_id);
        world_.answer();
        co_return;
    }
    asio::awaitable<void> remove(const runtime::InstanceRef& instance) override {
        const auto running = world_.running.find(instance.branch_id);
        const bool runs =
            running != world_.running.end() &&
            running->second == instance.data_directory.parent_path().filename().string();
        world_.expect(!runs, "a running server was removed");
        if (instance.socket_directory.empty()) co_return;
        world_.expect(running == world_.running.end(), "a running server lost its sockets");
        world_.socket_directories.erase(instance.branch_id);
        world_.answer();
        co_return;
    }
    asio::awaitable<void> reload(const runtime::InstanceRef& instance) override {
        if (!world_.running.contains(instance.branch_id)) throw no_such("the server");
        co_return;
    }
    asio::awaitable<runtime::InstanceStatus> inspect(
        const runtime::InstanceRef& instance) override {
        const bool running = world_.running.contains(instance.branch_id);
        co_return runtime::InstanceStatus{running, running ? 4711 : 0};
    }
    asio::awaitable<void> wait_until_gone(const runtime::InstanceRef&) override { co_return; }
    asio::awaitable<std::string> log_tail(const runtime::InstanceRef&, std::size_t) override {
        co_return std::string();
    }
    asio::awaitable<runtime::LogPiece> read_log(const runtime::InstanceRef&, std::string,
                                                std::size_t) override {
        co_return runtime::LogPiece{};
    }

  private:
    World& world_;
};

class FakeBackup final : public postgres::BackupSession {
  public:
    FakeBackup(World& world, std::string branch_id)
        : world_(world), branch_id_(std::move(branch_id)) {
        ++world_.backups[branch_id_];
        start_ = {postgres::Lsn{100}, 1, 16U << 20U};
    }
    ~FakeBackup() override { --world_.backups[branch_id_]; }
    const postgres::BackupStart& start() const override { return start_; }
    asio::awaitable<postgres::Position> position() override {
        co_return postgres::Position{postgres::Lsn{200}, SystemClock().now()};
    }
    asio::awaitable<postgres::BackupStop> stop() override {
        co_return postgres::BackupStop{postgres::Lsn{300}, "label", ""};
    }

  private:
    World& world_;
    std::string branch_id_;
    postgres::BackupStart start_;
};

class FakeParent final : public postgres::ParentSession {
  public:
    asio::awaitable<postgres::Position> position() override {
        co_return postgres::Position{postgres::Lsn{200}, SystemClock().now()};
    }
};

class FakePostgres final : public postgres::Postgres {
  public:
    explicit FakePostgres(World& world) : world_(world) {}
    asio::awaitable<postgres::ReadyFacts> await_ready(const std::filesystem::path&,
                                                      const postgres::Endpoint& endpoint,
                                                      std::function<asio::awaitable<bool>()>,
                                                      std::chrono::milliseconds,
                                                      std::string verifier) override {
        FakeVolume& volume = must_run(endpoint);
        if (!verifier.empty()) volume.has_own_password = true;
        co_return postgres::ReadyFacts{2, "42"};
    }
    asio::awaitable<postgres::ParentFacts> inspect_parent(
        const postgres::Endpoint& endpoint) override {
        must_run(endpoint);
        co_return postgres::ParentFacts{};
    }
    asio::awaitable<std::unique_ptr<postgres::BackupSession>> start_backup(
        const postgres::Endpoint& endpoint, std::string, bool) override {
        must_run(endpoint);
        std::unique_ptr<postgres::BackupSession> made =
            std::make_unique<FakeBackup>(world_, endpoint.branch_id);
        co_return made;
    }
    asio::awaitable<std::unique_ptr<postgres::ParentSession>> fence(
        const postgres::Endpoint& endpoint) override {
        must_run(endpoint);
        std::unique_ptr<postgres::ParentSession> made = std::make_unique<FakeParent>();
        co_return made;
    }
    asio::awaitable<postgres::Position> switch_wal(const postgres::Endpoint& endpoint) override {
        must_run(endpoint);
        co_return postgres::Position{postgres::Lsn{400}, SystemClock().now()};
    }
    asio::awaitable<void> disable_subscriptions(const postgres::Endpoint&) override { co_return; }
    asio::awaitable<void> checkpoint(const postgres::Endpoint&) override { co_return; }
    asio::awaitable<void> verify_login(std::string, int, Secret, std::string branch_id) override {
        const auto on = world_.running.find(branch_id);
        if (on == world_.running.end() || !world_.volumes.at(on->second).open) {
            throw Error(ErrorKind::kUnavailable, "postgres_unreachable", "no login");
        }
        co_return;
    }

  private:
    FakeVolume& must_run(const postgres::Endpoint& endpoint) {
        const auto on = world_.running.find(endpoint.branch_id);
        if (on != world_.running.end()) return world_.volumes.at(on->second);
        throw Error(ErrorKind::kInternal, "postgres_refused", "no server answers");
    }
    World& world_;
};

class FakeDataDirectories final : public postgres::DataDirectories {
  public:
    explicit FakeDataDirectories(World& world) : world_(world) {}
    asio::awaitable<postgres::ControlFile> control_file(
        const std::filesystem::path& data) override {
        world_.at(data);
        postgres::ControlFile control;
        control.cleanly_shut_down = true;
        co_return control;
    }
    asio::awaitable<void> check_source(const std::filesystem::path& data, bool) override {
        world_.at(data);
        co_return;
    }
    asio::awaitable<bool> has_unlogged_relations(const std::filesystem::path&) override {
        co_return false;
    }
    asio::awaitable<void> prepare_clone(const postgres::CloneSpec& spec) override {
        FakeVolume& volume = world_.at(spec.volume / "data");
        volume.has_label = volume.has_label || !spec.backup.label.empty();
        volume.prepared_for = spec.incarnation_id;
        world_.answer();
        co_return;
    }
    asio::awaitable<void> mark_prepared(const postgres::CloneSpec& spec) override {
        world_.at(spec.volume / "data").prepared_for = spec.incarnation_id;
        co_return;
    }
    asio::awaitable<void> write_owned_config(const postgres::OwnedConfig& config) override {
        world_.expect(config.owner.uid != 0, "a config was written for an unknown user");
        FakeVolume& volume = world_.at(config.volume / "data");
        volume.has_config = true;
        volume.open = config.open;
        world_.answer();
        co_return;
    }
    asio::awaitable<postgres::StartNeeds> start_needs(
        const postgres::OwnedConfig& config) override {
        world_.at(config.volume / "data");
        co_return postgres::StartNeeds{};
    }
    asio::awaitable<void> copy_wal(const std::filesystem::path& source,
                                   const std::filesystem::path& target,
                                   const postgres::BackupStart&, postgres::Lsn) override {
        world_.at(source);
        world_.at(target);
        co_return;
    }
    asio::awaitable<std::optional<std::string>> newest_wal(const std::filesystem::path& data,
                                                           const std::string&,
                                                           const std::string&) override {
        world_.at(data);
        co_return std::nullopt;
    }
    asio::awaitable<std::optional<postgres::Lsn>> fork_point(const std::filesystem::path&,
                                                             std::uint32_t) override {
        co_return postgres::Lsn{250};
    }

  private:
    World& world_;
};

class FakeArchives final : public wal::Archives {
  public:
    explicit FakeArchives(World& world) : world_(world) {}
    std::filesystem::path place(const wal::ArchiveRef& archive) const override {
        return kArchives / archive.volume / archive.incarnation_id;
    }
    asio::awaitable<void> prepare(const wal::ArchiveRef& archive, FileOwner owner) override {
        world_.expect(owner.uid != 0, "an archive was made for an unknown user");
        world_.archives.insert({archive.volume, archive.incarnation_id});
        world_.answer();
        co_return;
    }
    asio::awaitable<void> remove(const std::string& volume) override {
        for (const auto& [branch, on] : world_.running)
            world_.expect(on != volume, "an archive was removed under a running server");
        std::erase_if(world_.archives,
                      [&volume](const auto& archive) { return archive.first == volume; });
        world_.answer();
        co_return;
    }

    asio::awaitable<wal::Holding> look(const wal::ArchiveRef& archive,
                                       const std::optional<wal::WalServer>& server) override {
        wal::Holding holding;
        if (server && server->runs) must_exist(archive);
        // One segment for each that a snapshot of the model may begin in.
        for (std::uint32_t timeline = 1; timeline <= 2; ++timeline)
            holding.segments[{timeline, 0}].archived = true;
        co_return holding;
    }
    asio::awaitable<void> catch_up(const wal::ArchiveRef& archive, const wal::WalServer&) override {
        must_exist(archive);
        co_return;
    }
    asio::awaitable<void> copy_tail(const wal::ArchiveRef& archive, const wal::WalServer&,
                                    const std::filesystem::path& spool) override {
        must_exist(archive);
        world_.at(spool).has_spool = true;
        co_return;
    }
    asio::awaitable<void> remove_before(const wal::ArchiveRef& archive,
                                        const std::string&) override {
        must_exist(archive);
        co_return;
    }
    asio::awaitable<void> note_damage(const wal::ArchiveRef&) override { co_return; }
    asio::awaitable<std::optional<std::uint64_t>> find_restore_point(const wal::ArchiveRef&,
                                                                     const std::string&) override {
        co_return std::nullopt;
    }

  private:
    void must_exist(const wal::ArchiveRef& archive) const {
        if (world_.archives.contains({archive.volume, archive.incarnation_id})) return;
        throw no_such("archive of " + archive.volume);
    }
    World& world_;
};

}  // namespace

void World::answer() {
    if (++changes != unanswered_change) return;
    throw Error(ErrorKind::kUnavailable, "unanswered", "it was done, and nobody was told");
}

FakeVolume& World::at(const std::filesystem::path& path) {
    const std::filesystem::path below = path.lexically_relative(kRoot);
    auto part = below.begin();
    const bool is_building = *part == ".building";
    if (is_building) ++part;
    auto& where = is_building ? building : volumes;
    const auto found = where.find(part->string());
    if (found == where.end()) throw no_such("path " + path.string());
    return found->second;
}

std::unique_ptr<storage::Storage> make_storage(World& world) {
    return std::make_unique<FakeStorage>(world);
}
std::unique_ptr<runtime::Runtime> make_runtime(World& world) {
    return std::make_unique<FakeRuntime>(world);
}
std::unique_ptr<postgres::Postgres> make_postgres(World& world) {
    return std::make_unique<FakePostgres>(world);
}
std::unique_ptr<postgres::DataDirectories> make_data_directories(World& world) {
    return std::make_unique<FakeDataDirectories>(world);
}

std::unique_ptr<wal::Archives> make_archives(World& world) {
    return std::make_unique<FakeArchives>(world);
}

}  // namespace bpg::fakes
