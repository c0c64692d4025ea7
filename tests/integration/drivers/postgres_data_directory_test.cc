// Clones of real data directories: hygiene, first start, backup copies.
#include <sys/stat.h>

#include <regex>

#include "tests/integration/drivers/instance_fixture.h"

namespace bpg::test {
namespace {

class DataDirectory : public InstanceTest {
  protected:
    /// As if the machine had lost power: what an atomic snapshot of a running parent holds.
    static void crash_into(Instance& parent, Instance& clone) {
        parent.kill();
        clone.copy_data(parent.data());
    }
    /// What an atomic snapshot of a parent holds that goes on afterwards.
    static void freeze_into(Instance& parent, Instance& clone) {
        std::vector<pid_t> processes = {parent.pid()};
        ::kill(processes[0], SIGSTOP);
        std::ifstream children(fmt::format("/proc/{0}/task/{0}/children", processes[0]));
        for (pid_t child = 0; children >> child;)
            processes.push_back(child);
        for (const pid_t process : processes)
            ::kill(process, SIGSTOP);
        clone.copy_data(parent.data());
        for (const pid_t process : processes)
            ::kill(process, SIGCONT);
    }
    static postgres::CloneSpec clone_spec(const Instance& clone) {
        postgres::CloneSpec spec;
        spec.volume = clone.volume();
        spec.incarnation_id = clone.id();
        spec.owner = clone.owner();
        return spec;
    }
    void prepare(const Instance& clone) { prepare(clone_spec(clone)); }
    void prepare(const postgres::CloneSpec& spec) {
        drivers_.run(drivers_.directories.prepare_clone(spec));
    }
    /// A copy as the storage driver makes it, while the parent goes on (NA-3).
    static void copy_running(const Instance& parent, const Instance& clone) {
        ensure_directory(clone.data(), 0700, clone.owner());
        const auto& leave_out = postgres::backup_exclusions();
        std::vector<std::string> argv = {"tar",
                                         "-C",
                                         parent.data().native(),
                                         "-cf",
                                         (clone.volume() / "copy.tar").native(),
                                         "--warning=no-file-changed"};
        for (const auto& name : leave_out.skipped_names)
            argv.push_back("--exclude=./" + name);
        for (const auto& prefix : leave_out.skipped_prefixes)
            argv.push_back("--exclude=" + prefix + "*");
        for (const auto& name : leave_out.empty_directories)
            argv.push_back("--exclude=./" + name + "/*");
        argv.emplace_back(".");
        Command command;
        command.argv = argv;
        const CommandResult result = run_command(command);
        ASSERT_LE(result.exit_code, 1) << result.err;  // 1: a file changed as it was read
        shell_free(
            {"tar", "-C", clone.data().native(), "-xpf", (clone.volume() / "copy.tar").native()});
        fs::remove(clone.volume() / "copy.tar");
        ASSERT_TRUE(
            postgres::control_file_is_whole(content_of(clone.data() / "global/pg_control")));
    }
};

std::string in_controldata(const std::string& output, const std::string& name) {
    std::smatch match;
    return std::regex_search(output, match, std::regex("(^|\n)" + name + ": +([^\n]*)"))
               ? match[2].str()
               : "";
}

TEST_F(DataDirectory, ControlFileSaysWhatPgControldataSays) {
    if (!Drivers::bin_dir().empty()) GTEST_SKIP() << "a chosen PostgreSQL has no pg_controldata";
    Instance instance(drivers_);
    instance.start_ready({{"max_prepared_transactions", "3"}});
    instance.sql("SELECT pg_switch_wal()");
    instance.sql("CHECKPOINT");
    const auto control = drivers_.run(drivers_.directories.control_file(instance.data()));
    Command command;
    command.argv = {fmt::format("/usr/lib/postgresql/{}/bin/pg_controldata", Place::get().major()),
                    "-D", instance.data().native()};
    const std::string output = run_command(command).out;
    EXPECT_EQ(control.system_identifier, in_controldata(output, "Database system identifier"));
    EXPECT_EQ(std::to_string(control.version), in_controldata(output, "pg_control version number"));
    EXPECT_EQ(to_string(control.checkpoint), in_controldata(output, "Latest checkpoint location"));
    EXPECT_EQ(to_string(control.redo), in_controldata(output, "Latest checkpoint's REDO location"));
    EXPECT_EQ(std::to_string(control.timeline),
              in_controldata(output, "Latest checkpoint's TimeLineID"));
    EXPECT_EQ(std::to_string(control.segment_size),
              in_controldata(output, "Bytes per WAL segment"));
    EXPECT_EQ(std::to_string(control.max_prepared_transactions),
              in_controldata(output, "max_prepared_xacts setting"));
    EXPECT_EQ(in_controldata(output, "Database cluster state"), "in production");
    EXPECT_FALSE(control.cleanly_shut_down);
    EXPECT_FALSE(control.wal_level_minimal);
}

TEST_F(DataDirectory, ACloneForgetsItsParentAndKeepsItsData) {
    Instance parent(drivers_);
    parent.start_ready({{"wal_level", "logical"}});
    parent.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    parent.sql("SELECT pg_create_physical_replication_slot('physical', true)");
    parent.sql("SELECT pg_create_logical_replication_slot('logical', 'pgoutput')");
    for (const char* setting :
         {"work_mem = '7MB'", "primary_conninfo = 'host=parent'",
          "synchronous_standby_names = 'dead'", "recovery_target_time = '2020-01-01'",
          "archive_command = 'exit 1'", "port = 1"}) {
        parent.sql(std::string("ALTER SYSTEM SET ") + setting);
    }
    Instance clone(drivers_);
    shell_free({"rm", "-r", clone.data().native()});
    crash_into(parent, clone);
    std::ofstream(clone.data() / "standby.signal").close();
    std::ofstream(clone.data() / "core.123") << "secret";
    fs::create_directories(clone.data() / "log");
    std::ofstream(clone.data() / "log/postgresql.log") << "secret";

    prepare(clone);
    for (const char* gone : {"postmaster.pid", "postmaster.opts", "standby.signal", "core.123",
                             "log/postgresql.log", "pg_replslot/physical", "pg_replslot/logical"}) {
        EXPECT_FALSE(fs::exists(clone.data() / gone)) << gone;
    }
    EXPECT_TRUE(fs::exists(clone.data() / "pg_replslot"));
    const std::string conf = content_of(clone.data() / "postgresql.auto.conf");
    EXPECT_NE(conf.find("work_mem = '7MB'\n"), std::string::npos) << conf;
    for (const char* inherited : {"primary_conninfo", "recovery_target", "archive_command", "port",
                                  "synchronous_standby_names"}) {
        EXPECT_EQ(conf.find(inherited), std::string::npos) << conf;
    }
    struct stat facts{};
    ASSERT_EQ(::stat((clone.data() / "postgresql.auto.conf").c_str(), &facts), 0);
    EXPECT_EQ(facts.st_uid, clone.owner().uid);
    EXPECT_EQ(facts.st_mode & 07777U, 0600U);

    // With wal_level=replica a logical slot left behind would be fatal.
    EXPECT_EQ(clone.start_ready().timeline, 2U);
    EXPECT_EQ(clone.sql("SELECT count(*) FROM t"), "1000");
    EXPECT_EQ(clone.sql("SHOW work_mem"), "7MB");
    EXPECT_EQ(clone.sql("SHOW synchronous_standby_names"), "");
    EXPECT_EQ(clone.sql("SELECT count(*) FROM pg_replication_slots"), "0");
    const auto fork = drivers_.run(drivers_.directories.fork_point(clone.data(), 2));
    ASSERT_TRUE(fork);
    EXPECT_GT(fork->value, 0x1000000U);
    EXPECT_FALSE(drivers_.run(drivers_.directories.fork_point(clone.data(), 1)));
    EXPECT_FALSE(drivers_.run(drivers_.directories.fork_point(clone.data(), 9)));
}

TEST_F(DataDirectory, AUsedBranchIsNotCleanedAgainButAnotherIncarnationIs) {
    Instance clone(drivers_);
    prepare(clone);
    clone.start_ready();
    clone.sql("SELECT pg_create_physical_replication_slot('mine', true)");
    clone.stop();
    prepare(clone);
    EXPECT_TRUE(fs::exists(clone.data() / "pg_replslot/mine"));
    EXPECT_FALSE(fs::exists(clone.data() / "recovery.signal"));
    auto spec = clone_spec(clone);
    spec.incarnation_id = new_id();
    prepare(spec);
    EXPECT_FALSE(fs::exists(clone.data() / "pg_replslot/mine"));
    EXPECT_TRUE(fs::exists(clone.data() / "recovery.signal"));
}

TEST_F(DataDirectory, AFreshlyMadeOneIsNoClone) {
    Instance instance(drivers_);
    drivers_.run(drivers_.directories.mark_prepared(clone_spec(instance)));
    prepare(instance);
    EXPECT_FALSE(fs::exists(instance.data() / "recovery.signal"));
    struct stat facts{};
    ASSERT_EQ(::stat((instance.volume() / "betterpg.prepared").c_str(), &facts), 0);
    EXPECT_EQ(facts.st_uid, 0U);
    EXPECT_EQ(facts.st_mode & 07777U, 0600U);
}

TEST_F(DataDirectory, HygieneRepeatedFromTheMiddleEndsTheSame) {
    Instance clone(drivers_);
    prepare(clone);
    // As a crash just before the mark leaves it.
    fs::remove(clone.volume() / "betterpg.prepared");
    prepare(clone);
    EXPECT_TRUE(fs::exists(clone.volume() / "betterpg.prepared"));
    EXPECT_EQ(clone.start_ready().timeline, 2U);
}

TEST_F(DataDirectory, WithoutANewTimelineACleanCopyKeepsItsUnloggedRows) {
    Instance parent(drivers_);
    parent.start_ready();
    EXPECT_FALSE(drivers_.run(drivers_.directories.has_unlogged_relations(parent.data())));
    parent.sql("CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 10) AS i");
    EXPECT_TRUE(drivers_.run(drivers_.directories.has_unlogged_relations(parent.data())));
    parent.stop();
    Instance clone(drivers_, Instance::From::kNothing);
    clone.copy_data(parent.data());
    auto spec = clone_spec(clone);
    spec.new_timeline = false;
    prepare(spec);
    EXPECT_EQ(clone.start_ready().timeline, 1U);
    EXPECT_EQ(clone.sql("SELECT count(*) FROM u"), "10");
}

/// PostgreSQL does not start with fewer places than there are prepared transactions (HYG-3).
TEST_F(DataDirectory, TheNextStartNeedsAPlaceForEachPreparedTransaction) {
    Instance instance(drivers_);
    auto config = instance.config(false);
    const auto places = [&](const std::map<std::string, std::string>& settings = {}) {
        config.settings = settings;
        return drivers_.run(drivers_.directories.start_needs(config)).prepared_transactions;
    };
    const char* const name = "max_prepared_transactions";
    EXPECT_EQ(places(), 0U);
    instance.start_ready({{name, "4"}});
    instance.sql("BEGIN; CREATE TABLE t(i int); PREPARE TRANSACTION 'p'");
    instance.kill();
    EXPECT_EQ(places(), 4U) << "it is in the WAL";
    instance.start_ready({{name, "4"}});
    instance.stop();
    EXPECT_EQ(places(), 4U) << "it is in a file";
    EXPECT_EQ(places({{name, "3"}}), 4U);
    EXPECT_EQ(places({{name, "4"}}), 0U) << "its files say enough";
    instance.start_ready({{name, std::to_string(places())}});
    instance.sql("ALTER SYSTEM SET max_prepared_transactions = 9");
    EXPECT_EQ(places(), 0U);
    instance.sql("ALTER SYSTEM RESET max_prepared_transactions");
    EXPECT_EQ(places(), 4U);
    instance.sql("COMMIT PREPARED 'p'");
    instance.stop();
    EXPECT_EQ(places(), 0U) << "nothing is left of it";
}

TEST_F(DataDirectory, RefusesASymbolicLinkInPlaceOfAFileItWrites) {
    const fs::path target = Place::get().base() / "precious";
    for (const char* name : {"postgresql.auto.conf", "global"}) {
        Instance clone(drivers_);
        std::ofstream(target) << "port = 1\nkeep\n";
        fs::rename(clone.data() / name, clone.volume() / "moved");
        fs::create_symlink(std::string(name) == "global" ? clone.volume() / "moved" : target,
                           clone.data() / name);
        auto spec = clone_spec(clone);
        spec.backup.label = "START WAL LOCATION: 0/0\n";
        const std::string control = content_of(Place::get().seed() / "global/pg_control");
        const ErrorInfo error = drivers_.error_of(drivers_.directories.prepare_clone(spec));
        EXPECT_TRUE(error.code == "symlink_refused" || error.code == "link_outside") << error.code;
        EXPECT_EQ(content_of(target), "port = 1\nkeep\n");
        if (std::string(name) == "global") {
            EXPECT_EQ(content_of(clone.volume() / "moved/pg_control"), control);
        }
        EXPECT_FALSE(fs::exists(clone.volume() / "betterpg.prepared"));
    }
    fs::remove(target);
}

TEST_F(DataDirectory, ALinkPlantedForARemovedFileLosesOnlyItself) {
    const fs::path victim = Place::get().base() / "victim";
    fs::create_directory(victim);
    std::ofstream(victim / "precious") << "x";
    Instance clone(drivers_);
    fs::create_symlink(victim / "precious", clone.data() / "standby.signal");
    fs::create_symlink(victim, clone.data() / "log");
    fs::create_symlink(victim, clone.data() / "pg_replslot/slot");
    prepare(clone);
    EXPECT_EQ(content_of(victim / "precious"), "x");
    EXPECT_FALSE(fs::is_symlink(clone.data() / "standby.signal"));
    EXPECT_FALSE(fs::is_symlink(clone.data() / "log"));
    EXPECT_FALSE(fs::is_symlink(clone.data() / "pg_replslot/slot"));
    fs::remove_all(victim);
}

TEST_F(DataDirectory, AParentWithATablespaceOutsideIsRefused) {
    Instance parent(drivers_);
    const fs::path outside = parent.volume() / "space";
    ensure_directory(outside, 0700, parent.owner());
    parent.start_ready();
    drivers_.run(drivers_.directories.check_source(parent.data(), true));
    parent.sql("CREATE TABLESPACE space LOCATION '" + outside.native() + "'");
    const ErrorInfo error =
        drivers_.error_of(drivers_.directories.check_source(parent.data(), true));
    EXPECT_EQ(error.code, "tablespace_outside");
    EXPECT_EQ(error.kind, ErrorKind::kInvalid);
    EXPECT_NE(error.detail.find("pg_tblspc/"), std::string::npos) << error.detail;
    // A clone that got so far all the same is not prepared either.
    Instance clone(drivers_, Instance::From::kNothing);
    crash_into(parent, clone);
    const auto spec = clone_spec(clone);
    EXPECT_EQ(drivers_.error_of(drivers_.directories.prepare_clone(spec)).code,
              "tablespace_outside");
}

TEST_F(DataDirectory, AParentWhoseWalLiesOutsideIsRefused) {
    Instance parent(drivers_);
    fs::rename(parent.data() / "pg_wal", parent.volume() / "wal");
    fs::create_symlink(parent.volume() / "wal", parent.data() / "pg_wal");
    const ErrorInfo error =
        drivers_.error_of(drivers_.directories.check_source(parent.data(), false));
    EXPECT_EQ(error.code, "wal_outside");
}

TEST_F(DataDirectory, AForeignExclusiveBackupIsRefusedWhereTheVersionHasThem) {
    Instance parent(drivers_);
    std::ofstream(parent.data() / "backup_label") << "x";
    drivers_.run(drivers_.directories.check_source(parent.data(), false));
    std::ofstream(parent.data() / "PG_VERSION") << "14\n";
    const ErrorInfo error =
        drivers_.error_of(drivers_.directories.check_source(parent.data(), true));
    EXPECT_EQ(error.code, "exclusive_backup");
    EXPECT_EQ(error.kind, ErrorKind::kConflict);
    std::ofstream(parent.data() / "PG_VERSION") << "15\n";
    drivers_.run(drivers_.directories.check_source(parent.data(), true));
}

TEST_F(DataDirectory, ACopyInBackupModeHoldsEverythingUpToItsStop) {
    Instance parent(drivers_);
    parent.start_ready();
    parent.sql("CREATE TABLE t(i int)");
    auto backup = drivers_.run(drivers_.postgres.start_backup(parent.endpoint(), "copy", true));
    parent.sql("INSERT INTO t SELECT generate_series(1, 20000)");
    Instance clone(drivers_, Instance::From::kNothing);
    copy_running(parent, clone);
    parent.sql("INSERT INTO t SELECT generate_series(1, 7143)");
    parent.sql("SELECT pg_switch_wal()");
    parent.sql("INSERT INTO t VALUES (0)");
    const auto stop = drivers_.run(backup->stop());
    parent.sql("INSERT INTO t VALUES (-1)");
    const auto start = backup->start();
    drivers_.run(drivers_.directories.copy_wal(parent.data(), clone.data(), start, stop.lsn));
    drivers_.run(drivers_.directories.copy_wal(parent.data(), clone.data(), start, stop.lsn));
    backup.reset();

    auto spec = clone_spec(clone);
    spec.backup = stop;
    prepare(spec);
    EXPECT_EQ(content_of(clone.data() / "backup_label"), stop.label);
    EXPECT_EQ(clone.start_ready().timeline, 2U);
    EXPECT_EQ(clone.sql("SELECT count(*) FROM t"), "27144");
    EXPECT_EQ(parent.sql("SELECT count(*) FROM t"), "27145");
}

/// It is whole by itself; the label would send it to WAL that was written after it (E3).
TEST_F(DataDirectory, ASnapshotInBackupModeStartsWithoutALabelAndNotWithIt) {
    Instance parent(drivers_);
    parent.start_ready();
    parent.sql("CREATE TABLE t(i int)");
    auto backup = drivers_.run(drivers_.postgres.start_backup(parent.endpoint(), "line", false));
    parent.sql("INSERT INTO t SELECT generate_series(1, 1000)");
    Instance clone(drivers_, Instance::From::kNothing);
    freeze_into(parent, clone);
    Instance labelled(drivers_, Instance::From::kNothing);
    labelled.copy_data(clone.data());
    EXPECT_FALSE(fs::exists(clone.data() / "backup_label"));
    parent.sql("INSERT INTO t SELECT generate_series(1, 500)");
    const auto stop = drivers_.run(backup->stop());

    prepare(clone);
    EXPECT_EQ(clone.start_ready().timeline, 2U);
    EXPECT_EQ(clone.sql("SELECT count(*) FROM t"), "1000");
    const auto fork = drivers_.run(drivers_.directories.fork_point(clone.data(), 2));
    ASSERT_TRUE(fork);
    EXPECT_GT(*fork, backup->start().lsn);
    EXPECT_LT(*fork, stop.lsn);

    auto spec = clone_spec(labelled);
    spec.backup = stop;
    prepare(spec);
    labelled.start();
    EXPECT_EQ(drivers_.error_of(labelled.await_ready(20s)).code, "postgres_refused");
    EXPECT_NE(labelled.log_tail().find("WAL ends before end of online backup"), std::string::npos)
        << labelled.log_tail();
}

TEST_F(DataDirectory, ACopyInBackupModeDoesNotStartWithoutItsLabel) {
    Instance parent(drivers_);
    parent.start_ready();
    auto backup = drivers_.run(drivers_.postgres.start_backup(parent.endpoint(), "copy", false));
    Instance clone(drivers_, Instance::From::kNothing);
    copy_running(parent, clone);
    const auto stop = drivers_.run(backup->stop());
    drivers_.run(
        drivers_.directories.copy_wal(parent.data(), clone.data(), backup->start(), stop.lsn));
    auto spec = clone_spec(clone);
    spec.backup = stop;
    prepare(spec);
    fs::remove(clone.data() / "backup_label");
    clone.start();
    const ErrorInfo error = drivers_.error_of(clone.await_ready(20s));
    EXPECT_EQ(error.code, "postgres_refused") << clone.log_tail();
}

TEST_F(DataDirectory, AMissingOrForeignWalSegmentIsNamed) {
    Instance parent(drivers_);
    parent.start_ready();
    auto backup = drivers_.run(drivers_.postgres.start_backup(parent.endpoint(), "copy", true));
    parent.sql("SELECT pg_switch_wal() FROM pg_logical_emit_message(true, 'a', 'b')");
    parent.sql("SELECT pg_logical_emit_message(true, 'a', 'b')");
    const auto stop = drivers_.run(backup->stop());
    const auto start = backup->start();
    backup.reset();
    parent.kill();  // a clean stop would remove the old segments
    const std::string last = postgres::segment_name(
        start.timeline, postgres::Lsn{stop.lsn.value - 1}, start.segment_size);
    const std::string first = postgres::segment_name(start.timeline, start.lsn, start.segment_size);
    ASSERT_NE(first, last);
    Instance target(drivers_);
    const fs::path from = parent.data();
    const fs::path to = target.data();
    // The paths are taken by reference, so they outlive the call.
    const auto copy = [&] { return drivers_.directories.copy_wal(from, to, start, stop.lsn); };
    drivers_.run(copy());
    EXPECT_EQ(fs::file_size(target.data() / "pg_wal" / last), start.segment_size);

    // Recycled: the right size and name, the wrong content.
    fs::copy_file(parent.data() / "pg_wal" / first, parent.data() / "pg_wal" / last,
                  fs::copy_options::overwrite_existing);
    ErrorInfo error = drivers_.error_of(copy());
    EXPECT_EQ(error.code, "wal_missing");
    EXPECT_NE(error.message.find(last), std::string::npos) << error.message;
    fs::resize_file(parent.data() / "pg_wal" / first, 1000);
    EXPECT_NE(drivers_.error_of(copy()).message.find(first), std::string::npos);
    fs::remove(parent.data() / "pg_wal" / first);
    error = drivers_.error_of(copy());
    EXPECT_EQ(error.kind, ErrorKind::kCorrupt);
    EXPECT_NE(error.message.find(first), std::string::npos) << error.message;
}

TEST_F(DataDirectory, OwnedConfigurationIsRootsAndReadableByTheInstanceOnly) {
    Instance instance(drivers_);
    instance.write_config();
    struct stat facts{};
    ASSERT_EQ(::stat((instance.volume() / "conf").c_str(), &facts), 0);
    EXPECT_EQ(facts.st_mode & 07777U, 0750U);
    EXPECT_EQ(facts.st_uid, 0U);
    EXPECT_EQ(facts.st_gid, instance.owner().gid);
    for (const char* file : {"postgresql.conf", "pg_hba.conf", "pg_ident.conf"}) {
        ASSERT_EQ(::stat((instance.volume() / "conf" / file).c_str(), &facts), 0);
        EXPECT_EQ(facts.st_mode & 07777U, 0640U) << file;
        EXPECT_EQ(facts.st_uid, 0U) << file;
        EXPECT_EQ(facts.st_gid, instance.owner().gid) << file;
    }
    auto config = instance.config(false);
    config.settings["port"] = "1";
    EXPECT_EQ(drivers_.error_of(drivers_.directories.write_owned_config(config)).code,
              "setting_owned");
}

/// A server that a bpgd before this one had started reads them at any moment; on zfs-fuse it finds
/// nothing in the place of a file that is just being replaced, and lets nobody in for good.
TEST_F(DataDirectory, OwnedConfigurationThatIsThereAlreadyIsLeftAloneAndAnyOtherIsReplaced) {
    Instance instance(drivers_);
    instance.write_config();
    const std::filesystem::path conf = instance.volume() / "conf";
    const auto inode = [&conf](const std::string& file) {
        struct stat facts{};
        EXPECT_EQ(::stat((conf / file).c_str(), &facts), 0) << file;
        return facts.st_ino;
    };
    const std::vector<std::string> files = {"postgresql.conf", "pg_hba.conf", "pg_ident.conf"};
    std::vector<ino_t> before;
    for (const std::string& file : files)
        before.push_back(inode(file));
    instance.write_config();
    for (std::size_t i = 0; i < files.size(); ++i)
        EXPECT_EQ(inode(files[i]), before[i]) << files[i];

    const auto content = read_file(conf / "pg_ident.conf", 1U << 20U);
    const auto spoil = [&](std::size_t way) {
        const std::filesystem::path path = conf / "pg_ident.conf";
        if (way == 0) std::ofstream(path) << std::string(content->size(), '#');
        if (way == 1) std::ofstream(path, std::ios::app) << "bpg somebody postgres\n";
        if (way == 2) std::filesystem::resize_file(path, 0);
        if (way == 3) ASSERT_EQ(::chmod(path.c_str(), 0666), 0);
        if (way == 4) ASSERT_EQ(::chown(path.c_str(), 1, 1), 0);
        if (way == 5) std::filesystem::remove(path);
        if (way == 6) {
            std::filesystem::rename(path, conf / "elsewhere");
            std::filesystem::create_symlink("elsewhere", path);
        }
    };
    for (std::size_t way = 0; way <= 6; ++way) {
        spoil(way);
        instance.write_config();
        EXPECT_EQ(read_file(conf / "pg_ident.conf", 1U << 20U), content) << way;
        struct stat facts{};
        ASSERT_EQ(::lstat((conf / "pg_ident.conf").c_str(), &facts), 0) << way;
        EXPECT_TRUE(S_ISREG(facts.st_mode)) << way;
        EXPECT_EQ(facts.st_mode & 07777U, 0640U) << way;
        EXPECT_EQ(facts.st_uid, 0U) << way;
        EXPECT_EQ(facts.st_gid, instance.owner().gid) << way;
    }
}

TEST_F(DataDirectory, SettingsComeFromEverywhereInTheirOrder) {
    Instance instance(drivers_);
    std::ofstream(instance.data() / "postgresql.conf", std::ios::app)
        << "work_mem = 1MB\nmaintenance_work_mem = 5MB\ndata_directory = '/nonexistent'\nport = "
           "1\n";
    auto config = instance.config(false);
    config.settings = {{"work_mem", "2MB"}, {"application_name", "it's \\ odd"}};
    drivers_.run(drivers_.directories.write_owned_config(config));
    drivers_.run(drivers_.runtime.start(instance.spec()));
    instance.ready();
    EXPECT_EQ(instance.sql("SHOW work_mem"), "2MB");
    EXPECT_EQ(instance.sql("SHOW maintenance_work_mem"), "5MB");
    EXPECT_EQ(instance.sql("SHOW application_name"), "it's \\ odd");
    EXPECT_EQ(instance.sql("SHOW port"), std::to_string(instance.port()));
    EXPECT_EQ(instance.sql("SHOW data_directory"), instance.data().native());
    instance.sql("ALTER SYSTEM SET work_mem = '3MB'");
    instance.sql("SELECT pg_reload_conf()");
    EXPECT_TRUE(soon([&] { return instance.sql("SHOW work_mem") == "3MB"; }));
}

}  // namespace
}  // namespace bpg::test
