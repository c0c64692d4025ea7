// Disks that are full, read-only, or hold what a later version wrote: the pool of the branches and
// the directory of bpgd's state. What cannot be done is refused before it is begun or undone
// completely, what was accepted is never lost, and once there is room everything works again.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <map>
#include <thread>

#include "orchestrator/base/files.h"
#include "tests/harness/refusals.h"
#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMiB = 1U << 20U;

/// Takes the space of a file system away, until it is destroyed: to the last byte, and then gives
/// `left` back.
class Filler {
  public:
    Filler(const fs::path& directory, std::uint64_t left) : file_(directory / ".filler") {
        const UniqueFd file(::open(file_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        const std::string block(64UL * 1024, 'x');
        off_t end = 0;
        // Without being written, as far as the file system can.
        for (off_t piece = 64 * kMiB; piece >= off_t(kMiB);) {
            ::fallocate(file.get(), 0, end, piece) == 0 ? end += piece : piece /= 2;
        }
        for (std::size_t piece = block.size(); piece > 0;) {
            const ssize_t written = ::pwrite(file.get(), block.data(), piece, end);
            written > 0 ? end += written : piece /= 2;
        }
        if (::ftruncate(file.get(), end - static_cast<off_t>(left)) != 0) {
            throw std::runtime_error("cannot give back what was taken");
        }
        ::syncfs(file.get());
    }
    ~Filler() { fs::remove(file_); }
    Filler(const Filler&) = delete;
    Filler& operator=(const Filler&) = delete;

  private:
    fs::path file_;
};

/// The same of a ZFS pool: a dataset that reserves what is left.
class ZfsFiller {
  public:
    ZfsFiller(const std::string& pool, std::uint64_t left) : dataset_(pool + "/filler") {
        run_zfs({"zfs", "create", "-o", "mountpoint=none", dataset_});
        // ZFS gives what was freed back some transaction groups later; each `zfs set` ends one.
        std::uint64_t reserved = 0;
        for (int settled = 0; settled < 3;) {
            const std::uint64_t available =
                std::stoull(run_zfs({"zfs", "get", "-Hp", "-o", "value", "available", pool}));
            settled = available <= left ? settled + 1 : 0;
            if (available > left) reserved += available - left;
            run_zfs({"zfs", "set", fmt::format("reservation={}", reserved), dataset_});
        }
    }
    ~ZfsFiller() { run_zfs({"zfs", "destroy", dataset_}); }
    ZfsFiller(const ZfsFiller&) = delete;
    ZfsFiller& operator=(const ZfsFiller&) = delete;

  private:
    std::string dataset_;
};

// ---- the pool -----------------------------------------------------------------------------------

class FullPool : public HostSuite<FullPool> {
  protected:
    void adapt(HostOptions& options) const override {
        if (options.drivers.storage == "btrfs") options.pool_size = "1G";
        if (options.drivers.storage == "copy") options.volumes_size = "400M";
    }
    void SetUp() override {
        HostSuite::SetUp();
        database("shop");
        execute(host().url("shop/main"), "CREATE TABLE IF NOT EXISTS kept AS SELECT 7 AS n");
        create("shop/old");
        // So that nothing is left to write for one that is only read.
        query_number(host().url("shop/main"), "SELECT n FROM kept");
        execute_alone(host().url("shop/main"), "CHECKPOINT");
        parent_ = host().postmaster("shop/main").pid;
        host().wait_until_idle();
    }
    void TearDown() override {
        make_room();
        EXPECT_EQ(host().compare_world_with_catalog(), "");
        if (host().branch_exists("shop/old")) remove("shop/old");
    }

    /// PostgreSQL crashes by itself when it cannot write the little that an idle one writes; what
    /// is left is enough for that, and not for a WAL segment.
    static constexpr std::uint64_t kLeft = 8 * kMiB;
    void fill(std::uint64_t left = kLeft) {
        if (host().on_zfs()) {
            zfs_filler_ = std::make_unique<ZfsFiller>(host().pool_name(), left);
        } else {
            filler_ = std::make_unique<Filler>(host().volumes(), left);
        }
    }
    void make_room() {
        zfs_filler_.reset();
        filler_.reset();
    }
    /// What a create needs here, in MiB: room to start, and for a copy what is copied.
    static std::uint64_t needed(const std::string& from) {
        if (atomic()) return 128;
        const Json used = host().branch(from).at("storage").at("used_bytes");
        return 128 + used.get<std::uint64_t>() / kMiB;
    }
    void expect_parent_undisturbed() const {
        EXPECT_EQ(query_number(host().url("shop/main"), "SELECT n FROM kept"), 7);
        EXPECT_EQ(host().postmaster("shop/main").pid, parent_);
    }

  private:
    pid_t parent_ = 0;
    std::unique_ptr<Filler> filler_;
    std::unique_ptr<ZfsFiller> zfs_filler_;
};

TEST_P(FullPool, RefusesCreatesBeforeAnythingIsMadeAndStillDeletes) {
    for (const char* ref : {"shop/main", "shop/old"}) {
        ASSERT_TRUE(eventually(
            [&] { return host().branch(ref).at("storage").at("used_bytes").is_number(); }, 10s));
    }
    fill();
    const Untouched before(host());
    const auto full = [&](std::uint64_t needed) {
        return CliError{8, "pool_full", "the pool is full",
                        fmt::format("{} MiB are free, a new instance needs {} MiB to start",
                                    free_bytes(host().volumes()) / kMiB, needed),
                        "delete branches, or make the pool larger"};
    };
    expect_refused(host(), {"branch", "create", "shop/new"}, full(needed("shop/main")));
    expect_refused(host(), {"branch", "create", "shop/new", "--from", "shop/old"},
                   full(needed("shop/old")));
    expect_refused(host(), {"db", "create", "more"}, full(128));
    before.expect();
    expect_parent_undisturbed();
    remove("shop/old");
    expect_parent_undisturbed();
    make_room();
    create("shop/new");
    EXPECT_EQ(query_number(host().url("shop/new"), "SELECT n FROM kept"), 7);
    expect_parent_undisturbed();
    remove("shop/new");
}

TEST_P(FullPool, ThatFillsUpBeforeTheStartUndoesTheCreateAndSparesTheParent) {
    // A running server of so full a pool could crash by itself, whatever bpgd does.
    for (const char* ref : {"shop/old", "shop/main"})
        host().bpg_json({"stop", ref});
    const Untouched before(host());
    ASSERT_EQ(host().stop_daemon(), 0);
    host().start_daemon({"--crash-at", "branch-create.start_instance.before_run"});
    const std::string id = host().bpg_json({"--no-wait", "branch", "create", "shop/new"}).at("id");
    ASSERT_TRUE(host().wait_for_daemon_end(60s).has_value());
    fill(0);
    host().start_daemon();
    const Json job = host().finished_job(id);
    EXPECT_EQ(job.at("state"), "failed") << job.dump(2);
    ASSERT_TRUE(job.at("error").is_object());
    EXPECT_EQ(job.at("error").at("code"), "no_space") << job.dump(2);
    const CliResult tail = host().bpg({"job", "tail", "-f", id});
    EXPECT_EQ(tail.exit_code, 8) << tail.text();
    EXPECT_NE(tail.err.find("No space left on device"), std::string::npos) << tail.text();
    make_room();
    before.expect();
    for (const char* ref : {"shop/main", "shop/old"}) {
        host().bpg_json({"start", ref});
        EXPECT_EQ(query_number(host().url(ref), "SELECT n FROM kept"), 7);
    }
    create("shop/new");
    EXPECT_EQ(query_number(host().url("shop/new"), "SELECT n FROM kept"), 7);
    remove("shop/new");
}

TEST_P(FullPool, ThatIsFullWhenABranchIsStartedSaysSoAndStartsItLater) {
    for (const char* ref : {"shop/old", "shop/main"})
        host().bpg_json({"stop", ref});
    fill(0);
    const World before = host().world();
    const CliError error = host().bpg_error({"start", "shop/old"});
    EXPECT_EQ(error.exit_code, 8) << error.what << ": " << error.why;
    EXPECT_EQ(error.code, "no_space") << error.what << ": " << error.why;
    EXPECT_NE(error.why.find("No space left on device"), std::string::npos) << error.why;
    EXPECT_EQ(describe_difference(before, host().world()), "");
    make_room();
    for (const char* ref : {"shop/old", "shop/main"}) {
        host().bpg_json({"start", ref});
        EXPECT_EQ(query_number(host().url(ref), "SELECT n FROM kept"), 7);
    }
}

INSTANTIATE_TEST_SUITE_P(Btrfs, FullPool, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Copy, FullPool, ::testing::Values(DriverPair{"copy", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Zfs, FullPool, ::testing::Values(DriverPair{"zfs", "process"}), pair_name);

// ---- the state ----------------------------------------------------------------------------------

/// Name, size, time and content of every file below.
std::map<std::string, std::string> files_below(const fs::path& directory) {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(directory)) {
        if (!entry.is_regular_file()) continue;
        std::ifstream in(entry.path(), std::ios::binary);
        files[entry.path().string()] =
            fmt::format("{} ", entry.last_write_time().time_since_epoch().count()) +
            std::string(std::istreambuf_iterator<char>(in), {});
    }
    return files;
}

class StateDisk : public HostSuite<StateDisk> {
  protected:
    void adapt(HostOptions& options) const override { options.state_size = "256M"; }
    void SetUp() override {
        HostSuite::SetUp();
        database("shop");
        host().bpg_json({"start", "shop/main"});
        execute(host().url("shop/main"), "CREATE TABLE IF NOT EXISTS kept AS SELECT 7 AS n");
        create("shop/old", {"--if-not-exists"});
        host().bpg_json({"stop", "shop/old"});
        host().wait_until_idle();
    }
    void TearDown() override { EXPECT_EQ(host().compare_world_with_catalog(), ""); }

    static fs::path store() { return host().state() / "state"; }
    static CliError full(std::uint64_t reserve) {
        return {8, "state_disk_full", "the disk of the state directory is nearly full",
                fmt::format("{} MiB are free around {}; below {} MiB no job is taken, so that "
                            "those that are open can end",
                            free_bytes(store()) / kMiB, store().string(), reserve),
                "free space on the disk of paths.state, or enlarge it; nothing that was accepted "
                "is lost"};
    }
    static void expect_reads_work() {
        EXPECT_EQ(host().bpg_json({"status"}).at("databases").size(), 1U);
        EXPECT_EQ(host().bpg_json({"branch", "list"}).at("items").at(0).at("ref"), "shop/main");
        EXPECT_FALSE(host().bpg_json({"job", "list"}).at("items").empty());
        EXPECT_EQ(query_number(host().url("shop/main"), "SELECT n FROM kept"), 7);
    }
    static void remount(unsigned long flags) {
        ASSERT_EQ(::mount(nullptr, host().state().c_str(), nullptr, MS_REMOUNT | flags, nullptr), 0)
            << std::strerror(errno);
    }
};

TEST_P(StateDisk, ThatIsNearlyFullTakesNoNewJobsButReadsAndDeletes) {
    {
        const Filler filler(host().state(), 40 * kMiB);
        const Untouched before(host());
        const std::size_t jobs = host().bpg_json({"job", "list"}).at("items").size();
        expect_refused(host(), {"branch", "create", "shop/new"}, full(64));
        expect_refused(host(), {"db", "create", "more"}, full(64));
        for (const char* verb : {"start", "stop", "restart"})
            expect_refused(host(), {verb, "shop/old"}, full(64));
        EXPECT_EQ(host().bpg_json({"job", "list"}).at("items").size(), jobs);
        before.expect();
        expect_reads_work();
        remove("shop/old");
    }
    create("shop/new");
    remove("shop/new");
}

TEST_P(StateDisk, ThatIsFullIsReadAndRefusesTheNextStartUntilThereIsRoom) {
    {
        const Filler filler(host().state(), 0);
        const Untouched before(host());
        expect_refused(host(), {"branch", "create", "shop/new"}, full(64));
        expect_refused(host(), {"-y", "branch", "delete", "shop/old"}, full(32));
        before.expect();
        expect_reads_work();
        ASSERT_EQ(host().stop_daemon(), 0);
        const auto files = files_below(store());
        std::uint64_t needed = 20 * kMiB;
        for (const auto& [file, content] : files) {
            if (file.ends_with(".log")) needed += fs::file_size(file);
        }
        expect_same(
            refusal_of_bpgd(host().config_file()),
            {1, "state_disk_full", "cannot open the store " + store().string(),
             fmt::format("0 MiB are free on its disk, opening it needs {} MiB", needed / kMiB),
             full(0).fix});
        EXPECT_EQ(files_below(store()), files);
    }
    host().start_daemon();
    EXPECT_EQ(host().branch("shop/old").at("state"), "stopped");
    expect_reads_work();
    host().bpg_json({"start", "shop/old"});
    EXPECT_EQ(query_number(host().url("shop/old"), "SELECT n FROM kept"), 7);
}

/// A create of shop/new that is accepted, and whose first step ends only when the disk is full.
class StateDiskInAJob : public StateDisk {
  protected:
    void SetUp() override {
        StateDisk::SetUp();
        const pid_t parent = host().postmaster("shop/main").pid;
        ::kill(parent, SIGSTOP);  // the step waits for an answer
        job_ = host().bpg_json({"--no-wait", "branch", "create", "shop/new"}).at("id");
        filler_ = std::make_unique<Filler>(host().state(), 0);
        ::kill(parent, SIGCONT);
        const auto says_so = [] {
            const std::string warnings = host().bpg_json({"status"}).at("warnings").dump();
            return warnings.find(
                       fmt::format("the disk of {} is full: jobs wait until there is room",
                                   host().state().string())) != std::string::npos;
        };
        EXPECT_TRUE(eventually(says_so, 30s));
        EXPECT_EQ(host().bpg_json({"job", "get", job_}).at("state"), "running");
        expect_reads_work();
    }
    void expect_it_went_on() {
        EXPECT_EQ(host().outcome(job_), "succeeded");
        EXPECT_EQ(query_number(host().url("shop/new"), "SELECT n FROM kept"), 7);
        EXPECT_EQ(host().bpg_json({"status"}).at("warnings").dump().find("full"),
                  std::string::npos);
        remove("shop/new");
    }

    std::string job_;
    std::unique_ptr<Filler> filler_;
};

TEST_P(StateDiskInAJob, LetsTheJobWaitForRoomAndGoOn) {
    std::this_thread::sleep_for(1500ms);
    EXPECT_EQ(host().bpg_json({"job", "get", job_}).at("state"), "running");
    filler_.reset();
    expect_it_went_on();
}

TEST_P(StateDiskInAJob, LosesNothingWhenBpgdIsKilledMeanwhile) {
    host().kill_daemon();
    EXPECT_EQ(refusal_of_bpgd(host().config_file()).code, "state_disk_full");
    filler_.reset();
    host().start_daemon();
    expect_it_went_on();
}

TEST_P(StateDiskInAJob, StopsInTimeAndGoesOnAtTheNextStart) {
    EXPECT_EQ(host().stop_daemon(10s), 0);
    filler_.reset();
    host().start_daemon();
    expect_it_went_on();
}

INSTANTIATE_TEST_SUITE_P(Btrfs, StateDiskInAJob, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);

TEST_P(StateDisk, ThatIsReadOnlyIsNamedByBpgdAndByInit) {
    host().bpg_json({"stop", "shop/main"});  // the logs of instances lie there too
    ASSERT_EQ(host().stop_daemon(), 0);
    remount(MS_RDONLY);
    const auto before = files_below(host().state());
    const CliError read_only{
        1, "read_only",
        fmt::format("cannot write to the state directory {}", host().state().string()),
        "Read-only file system",
        "make the file system writable again (mount -o remount,rw), then try again"};
    expect_same(refusal_of_bpgd(host().config_file()), read_only);
    expect_refused(host(), {"init", "--no-start"}, read_only);
    EXPECT_EQ(files_below(host().state()), before);
    remount(0);
    host().start_daemon();
    host().bpg_json({"start", "shop/main"});
    expect_reads_work();
}

/// Writes the number of the schema, as only a bpgd of another version does; the one it had.
std::string exchange_schema(const fs::path& store, const std::string& schema) {
    rocksdb::DB* raw = nullptr;
    const auto opened = rocksdb::DB::Open({}, store.string(), &raw);
    EXPECT_TRUE(opened.ok()) << opened.ToString();
    const std::unique_ptr<rocksdb::DB> db(raw);
    std::string before;
    EXPECT_TRUE(db->Get({}, "meschema", &before).ok());
    rocksdb::WriteOptions durably;
    durably.sync = true;
    EXPECT_TRUE(db->Put(durably, "meschema", schema).ok());
    return before;
}

TEST_P(StateDisk, WithAStoreOfANewerVersionIsRefusedAndNotChanged) {
    ASSERT_EQ(host().stop_daemon(), 0);
    const std::string known = exchange_schema(store(), "4711");
    const auto before = files_below(host().state());
    expect_same(
        refusal_of_bpgd(host().config_file()),
        {1, "store_newer", fmt::format("the store in {} is of another version", store().string()),
         fmt::format("it has schema 4711, this bpgd knows {}", known),
         "run the version of bpgd that wrote it, or a later one"});
    EXPECT_EQ(files_below(host().state()), before);
    exchange_schema(store(), known);
    host().start_daemon();
    expect_reads_work();
}

INSTANTIATE_TEST_SUITE_P(Btrfs, StateDisk, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);

}  // namespace
}  // namespace bpg::test
