// The process runtime with real PostgreSQL.
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>

#include "orchestrator/runtime/cluster_files.h"
#include "orchestrator/runtime/installations.h"
#include "orchestrator/runtime/instance_process.h"
#include "tests/integration/drivers/instance_fixture.h"

namespace bpg::test {
namespace {

using RuntimeProcess = InstanceTest;
using runtime::StopMode;

std::string status_line(pid_t pid, const std::string& name) {
    std::ifstream file(fmt::format("/proc/{}/status", pid));
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with(name + ":")) return line;
    }
    return "";
}

TEST_F(RuntimeProcess, ResolvesAMajorVersionToARelease) {
    const std::string version = Place::get().version();
    for (const std::string& wanted : {std::to_string(Place::get().major()), version}) {
        runtime::EngineRequest request{wanted, ""};
        const runtime::Engine found = drivers_.run(drivers_.runtime.find_engine(request));
        EXPECT_EQ(found, Place::get().engine());
        const runtime::FetchReport report = [](std::uint64_t, std::uint64_t) {};
        EXPECT_EQ(drivers_.run(drivers_.runtime.prepare_engine(found, report)), found);
    }
    runtime::EngineRequest unknown{"99", ""};
    const ErrorInfo error = drivers_.error_of(drivers_.runtime.find_engine(unknown));
    EXPECT_EQ(error.code, "postgres_not_found");
    EXPECT_EQ(error.kind, ErrorKind::kNotFound);
    EXPECT_NE(error.detail.find(version), std::string::npos) << error.detail;
}

TEST_F(RuntimeProcess, InitMakesAClusterWithChecksumsAndLeavesAFinishedOneAlone) {
    Instance instance(drivers_, Instance::From::kNothing);
    const runtime::InitSpec spec = instance.init_spec();
    // What a killed initdb leaves behind.
    fs::create_directories(instance.data() / "base/1");
    std::ofstream(instance.data() / "PG_VERSION") << "15\n";
    fs::create_directories(instance.volume() / "data.init/base");
    drivers_.run(drivers_.runtime.init_data_directory(spec));

    EXPECT_EQ(fs::status(instance.data()).permissions(), fs::perms::owner_all);
    EXPECT_FALSE(fs::exists(instance.volume() / "data.init"));
    const auto made = fs::last_write_time(instance.data() / "PG_VERSION");
    instance.start_ready();
    EXPECT_EQ(instance.sql("SHOW data_checksums"), "on");
    EXPECT_EQ(instance.sql("SHOW server_encoding"), "UTF8");
    EXPECT_EQ(instance.sql("SELECT datcollate FROM pg_database WHERE datname = 'postgres'"),
              "C.UTF-8");
    EXPECT_EQ(instance.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'postgres'"), "t");

    drivers_.run(drivers_.runtime.init_data_directory(spec));
    EXPECT_EQ(fs::last_write_time(instance.data() / "PG_VERSION"), made);
    EXPECT_EQ(instance.sql("SELECT 1"), "1");
}

/// An initdb that a bpgd began which was killed since, of this boot unless another is given.
class OrphanedInit {
  public:
    OrphanedInit(const runtime::InitSpec& spec, const std::string& boot = runtime::boot_id())
        : data_(spec.data_directory) {
        runtime::begin_cluster(data_, spec.engine.user);
        runtime::Installations installations(Drivers::bin_dir());
        const auto installed = installations.find();
        const auto* chosen = runtime::choose_for_data(installed, spec.engine.version);
        std::vector<std::string> argv = runtime::initdb_arguments(data_, spec.locale);
        argv.insert(argv.begin(), (chosen->bin_dir / "initdb").native());
        DetachedCommand command;
        command.argv = runtime::as_user(spec.engine.user, std::move(argv));
        command.log_path = runtime::init_log(data_);
        std::ofstream(command.log_path) << boot << "\n";
        pid_ = spawn_detached(command);
        EXPECT_TRUE(soon([&] { return fs::exists(control_file()); }));
    }
    fs::path control_file() const {
        return runtime::unfinished_cluster(data_) / "global" / "pg_control";
    }
    pid_t pid() const { return pid_; }
    void wait() const { EXPECT_EQ(::waitpid(pid_, nullptr, 0), pid_); }

  private:
    fs::path data_;
    pid_t pid_ = 0;
};

ino_t number_of(const fs::path& file) {
    struct stat facts{};
    EXPECT_EQ(::stat(file.c_str(), &facts), 0) << file;
    return facts.st_ino;
}

TEST_F(RuntimeProcess, AnInitWhoseBpgdWasKilledGoesOnAndCounts) {
    for (const bool is_through : {false, true}) {
        Instance instance(drivers_, Instance::From::kNothing);
        const runtime::InitSpec spec = instance.init_spec();
        const OrphanedInit orphan(spec);
        const ino_t version =
            number_of(orphan.control_file().parent_path().parent_path() / "PG_VERSION");
        if (is_through) orphan.wait();
        const std::string said = drivers_.run(drivers_.runtime.init_data_directory(spec));
        EXPECT_NE(said.find("Success."), std::string::npos) << said;
        EXPECT_FALSE(process_life(orphan.pid())) << "it runs still";
        EXPECT_EQ(number_of(instance.data() / "PG_VERSION"), version) << "it began anew";
        EXPECT_FALSE(fs::exists(runtime::init_log(instance.data())));
        instance.start_ready();
        EXPECT_EQ(instance.sql("SELECT count(*) FROM pg_database"), "3");
    }
}

TEST_F(RuntimeProcess, AnInitThatDiedOrIsOfAnEarlierBootIsBegunAnew) {
    for (const bool has_died : {false, true}) {
        Instance instance(drivers_, Instance::From::kNothing);
        const runtime::InitSpec spec = instance.init_spec();
        const OrphanedInit orphan(spec, has_died ? runtime::boot_id() : "another");
        if (has_died) ::kill(orphan.pid(), SIGKILL);
        orphan.wait();
        const fs::path left = runtime::unfinished_cluster(instance.data()) / "left";
        std::ofstream(left) << "of the one before";
        drivers_.run(drivers_.runtime.init_data_directory(spec));
        EXPECT_FALSE(fs::exists(instance.data() / "left"));
        EXPECT_FALSE(fs::exists(runtime::init_log(instance.data())));
        instance.start_ready();
        EXPECT_EQ(instance.sql("SELECT count(*) FROM pg_database"), "3");
    }
}

TEST_F(RuntimeProcess, RemovingEndsAnInitAtWork) {
    Instance instance(drivers_, Instance::From::kNothing);
    const OrphanedInit orphan(instance.init_spec());
    drivers_.run(drivers_.runtime.remove(instance.ref()));
    EXPECT_FALSE(process_life(orphan.pid())) << "it runs still";
    EXPECT_EQ(runtime::processes_in(runtime::unfinished_cluster(instance.data())),
              std::vector<pid_t>{});
}

TEST_F(RuntimeProcess, InitWithAnUnknownLocaleSaysSo) {
    Instance instance(drivers_, Instance::From::kNothing);
    const runtime::InitSpec spec = instance.init_spec("xx_YY.UTF-8");
    const ErrorInfo error = drivers_.error_of(drivers_.runtime.init_data_directory(spec));
    EXPECT_EQ(error.code, "locale_invalid") << error.detail;
    EXPECT_FALSE(fs::exists(instance.data()));
}

TEST_F(RuntimeProcess, StartingTwiceIsOneInstanceAndAnotherDaemonAdoptsIt) {
    Instance instance(drivers_);
    instance.start_ready();
    const pid_t pid = instance.pid();
    ASSERT_GT(pid, 0);
    drivers_.run(drivers_.runtime.start(instance.spec()));
    EXPECT_EQ(instance.pid(), pid);

    // Nothing is remembered by this one: it finds the instance as bpgd does after it was killed.
    Drivers other;
    EXPECT_EQ(other.run(other.runtime.inspect(instance.ref())).pid, pid);
    other.run(other.runtime.start(instance.spec()));
    EXPECT_EQ(other.run(other.runtime.inspect(instance.ref())).pid, pid);
    EXPECT_EQ(instance.sql("SELECT 1"), "1");
}

TEST_F(RuntimeProcess, ADirectoryThatServesAnotherBranchIsInUse) {
    Instance instance(drivers_);
    instance.start_ready();
    auto stranger = instance.spec();
    stranger.branch_id = new_id();
    const ErrorInfo error = drivers_.error_of(drivers_.runtime.start(stranger));
    EXPECT_EQ(error.code, "data_directory_in_use");
    EXPECT_NE(error.detail.find(instance.data().native()), std::string::npos) << error.detail;
    EXPECT_EQ(instance.sql("SELECT 1"), "1");
}

TEST_F(RuntimeProcess, AnInstanceThatWasKilledIsNotRunningAndLeavesNoZombie) {
    Instance instance(drivers_);
    instance.start_ready();
    const pid_t pid = instance.pid();
    ASSERT_EQ(::kill(pid, SIGKILL), 0);
    ASSERT_TRUE(soon([&] { return instance.pid() == 0; }));
    EXPECT_FALSE(process_facts(pid)) << "the process was not reaped";
    // Its children notice, and a new start is not hindered by what it left.
    instance.start_ready();
    EXPECT_NE(instance.pid(), pid);
    EXPECT_EQ(instance.sql("SELECT 1"), "1");
}

TEST_F(RuntimeProcess, RunsAsItsUserWithoutAnyRights) {
    Instance instance(drivers_);
    instance.start_ready();
    const pid_t pid = instance.pid();
    const std::string uid = std::to_string(instance.owner().uid);
    EXPECT_EQ(status_line(pid, "Uid"), fmt::format("Uid:\t{0}\t{0}\t{0}\t{0}", uid));
    EXPECT_EQ(status_line(pid, "CapBnd"), "CapBnd:\t0000000000000000");
    EXPECT_EQ(status_line(pid, "CapInh"), "CapInh:\t0000000000000000");
    EXPECT_EQ(status_line(pid, "NoNewPrivs"), "NoNewPrivs:\t1");
    EXPECT_EQ(fs::status(instance.endpoint().socket_directory).permissions(), fs::perms::owner_all);
}

TEST_F(RuntimeProcess, AFastStopThatTakesTooLongFailsAndTheInstanceStillRuns) {
    Instance instance(drivers_);
    instance.start_ready();
    const pid_t pid = instance.pid();
    ASSERT_EQ(::kill(pid, SIGSTOP), 0);
    const ErrorInfo error =
        drivers_.error_of(drivers_.runtime.stop(instance.ref(), StopMode::kFast, 200ms));
    EXPECT_EQ(error.code, "stop_timed_out");
    EXPECT_EQ(error.kind, ErrorKind::kTimeout);
    EXPECT_EQ(instance.pid(), pid);
    ASSERT_EQ(::kill(pid, SIGCONT), 0);
    // The signal was only waiting.
    ASSERT_TRUE(soon([&] { return instance.pid() == 0; }));
    instance.stop();
}

TEST_F(RuntimeProcess, AnImmediateStopEndsEvenAnInstanceThatDoesNotAnswer) {
    Instance instance(drivers_);
    instance.start_ready();
    const pid_t pid = instance.pid();
    ASSERT_EQ(::kill(pid, SIGSTOP), 0);
    instance.kill();
    EXPECT_EQ(instance.pid(), 0);
    EXPECT_FALSE(process_facts(pid));
}

/// As a startup process in its restore_command: PostgreSQL itself needs 5 s to get over one.
TEST_F(RuntimeProcess, AnImmediateStopLeavesNoChildBehindThatDoesNotListen) {
    Instance instance(drivers_);
    instance.start_ready();
    const std::vector<ProcessFacts> children = child_processes(instance.pid());
    ASSERT_FALSE(children.empty());
    for (const ProcessFacts& child : children)
        ASSERT_EQ(::kill(child.pid, SIGSTOP), 0);
    const auto began = std::chrono::steady_clock::now();
    instance.kill();
    EXPECT_LT(std::chrono::steady_clock::now() - began, 4s);
    EXPECT_EQ(instance.pid(), 0);
    for (const ProcessFacts& child : children) {
        const auto left = process_life(child.pid);
        EXPECT_FALSE(left && left->start_time == child.start_time && !left->zombie) << child.pid;
    }
}

TEST_F(RuntimeProcess, AFastStopIsACleanOne) {
    Instance instance(drivers_);
    instance.start_ready();
    EXPECT_FALSE(
        drivers_.run(drivers_.directories.control_file(instance.data())).cleanly_shut_down);
    instance.stop();
    EXPECT_TRUE(drivers_.run(drivers_.directories.control_file(instance.data())).cleanly_shut_down);
    instance.stop();
    drivers_.run(drivers_.runtime.reload(instance.ref()));
    drivers_.run(drivers_.runtime.remove(instance.ref()));
    EXPECT_FALSE(fs::exists(instance.endpoint().socket_directory));
    drivers_.run(drivers_.runtime.remove(instance.ref()));
}

TEST_F(RuntimeProcess, ARunningInstanceIsNotRemoved) {
    Instance instance(drivers_);
    instance.start_ready();
    EXPECT_EQ(drivers_.error_of(drivers_.runtime.remove(instance.ref())).code, "still_running");
    EXPECT_EQ(instance.sql("SELECT 1"), "1");
}

TEST_F(RuntimeProcess, APortInUseIsRefusedBeforeAnythingStarts) {
    Instance first(drivers_);
    first.start_ready();
    Instance second(drivers_);
    second.write_config();
    const auto spec = second.spec({{"port", std::to_string(first.port())}});
    const ErrorInfo error = drivers_.error_of(drivers_.runtime.start(spec));
    EXPECT_EQ(error.code, "port_taken");
    EXPECT_EQ(error.kind, ErrorKind::kConflict);
    EXPECT_NE(error.detail.find(std::to_string(first.pid())), std::string::npos) << error.detail;
    EXPECT_EQ(second.pid(), 0);
}

TEST_F(RuntimeProcess, WaitingEndsWhenTheInstanceEnds) {
    Instance instance(drivers_);
    instance.start_ready();
    const pid_t pid = instance.pid();
    std::thread killer([pid] {
        std::this_thread::sleep_for(200ms);
        ::kill(pid, SIGKILL);
    });
    const auto begin = std::chrono::steady_clock::now();
    drivers_.run(drivers_.runtime.wait_until_gone(instance.ref()));
    EXPECT_GE(std::chrono::steady_clock::now() - begin, 190ms);
    killer.join();
    EXPECT_FALSE(process_facts(pid));
    drivers_.run(drivers_.runtime.wait_until_gone(instance.ref()));
}

TEST_F(RuntimeProcess, WaitingCanBeCancelled) {
    Instance instance(drivers_);
    instance.start_ready();
    asio::cancellation_signal cancel;
    asio::steady_timer timer(drivers_.io, 200ms);
    timer.async_wait([&](auto) { cancel.emit(asio::cancellation_type::terminal); });
    std::exception_ptr failure;
    const auto ref = instance.ref();
    drivers_.io.restart();
    asio::co_spawn(drivers_.io, drivers_.runtime.wait_until_gone(ref),
                   asio::bind_cancellation_slot(
                       cancel.slot(), [&](std::exception_ptr thrown) { failure = thrown; }));
    drivers_.io.run();
    EXPECT_THROW(std::rethrow_exception(failure), boost::system::system_error);
    EXPECT_EQ(instance.sql("SELECT 1"), "1");
}

TEST_F(RuntimeProcess, StartsThoughAnOldPidFileNamesAnotherLiveProcess) {
    Instance instance(drivers_);
    Instance other(drivers_);
    other.start_ready();
    // The pid of a process of the same user: PostgreSQL alone would refuse to start.
    std::ofstream(instance.data() / "postmaster.pid")
        << other.pid() << "\n"
        << instance.data().native() << "\n1\n5432\n\n\n\nready\n";
    instance.start_ready();
    EXPECT_EQ(instance.sql("SELECT 1"), "1");
}

TEST_F(RuntimeProcess, TheLogSaysWhyAnInstanceDidNotStart) {
    Instance instance(drivers_);
    instance.start({{"shared_preload_libraries", "no_such_library"}});
    const ErrorInfo error = drivers_.error_of(instance.await_ready(20s));
    EXPECT_EQ(error.code, "postgres_refused");
    EXPECT_NE(instance.log_tail().find("no_such_library"), std::string::npos);
    instance.start_ready();
    EXPECT_EQ(instance.log_tail().find("no_such_library"), std::string::npos)
        << "the log of an earlier start is shown";
}

}  // namespace
}  // namespace bpg::test
