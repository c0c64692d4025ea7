// The docker runtime with a real dockerd and real PostgreSQL.
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <atomic>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstring>

#include "tests/integration/drivers/docker_fixture.h"

namespace bpg::test {
namespace {

using runtime::Engine;
using runtime::StopMode;
using std::chrono::steady_clock;

class RuntimeDocker : public DockerTest {};
class RuntimeDockerImages : public DockerTest, public ::testing::WithParamInterface<Image> {};

INSTANTIATE_TEST_SUITE_P(Uids, RuntimeDockerImages,
                         ::testing::Values(Image::kDebian, Image::kUid70), [](const auto& info) {
                             return info.param == Image::kDebian ? "Debian" : "Uid70WithVolume";
                         });

/// Listens on every address of this machine until its end.
class Listener {
  public:
    Listener() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_ANY);
        socklen_t size = sizeof address;
        void* raw = &address;
        if (::bind(fd_.get(), static_cast<sockaddr*>(raw), size) != 0 ||
            ::listen(fd_.get(), 16) != 0 ||
            ::getsockname(fd_.get(), static_cast<sockaddr*>(raw), &size) != 0) {
            throw std::runtime_error("cannot listen");
        }
        port_ = ntohs(address.sin_port);
    }
    int port() const { return port_; }

  private:
    UniqueFd fd_;
    int port_ = 0;
};

/// Accepts connections and says nothing, as a dockerd that hangs.
class SilentServer {
  public:
    explicit SilentServer(const fs::path& path)
        : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strncpy(&address.sun_path[0], path.c_str(), sizeof address.sun_path - 1);
        void* raw = &address;
        if (::bind(fd_.get(), static_cast<sockaddr*>(raw), sizeof address) != 0 ||
            ::listen(fd_.get(), 16) != 0) {
            throw std::runtime_error("cannot listen on " + path.native());
        }
    }

  private:
    UniqueFd fd_;
};

TEST_P(RuntimeDockerImages, InitStartAndQueryOverThePortAndTheSocket) {
    Boxed branch(drivers_, GetParam(), Boxed::From::kNothing);
    EXPECT_EQ(branch.engine().version.substr(0, 3), "15.");
    if (GetParam() == Image::kUid70) EXPECT_EQ(branch.engine().user.uid, 70U);
    drivers_.run(drivers_.runtime.init_data_directory(branch.init_spec()));
    EXPECT_FALSE(fs::exists(branch.volume() / "data.init"));
    branch.start_ready();
    EXPECT_EQ(branch.sql("SHOW data_checksums"), "on");
    EXPECT_EQ(branch.sql("SHOW server_encoding"), "UTF8");
    EXPECT_EQ(branch.sql("SELECT current_user"), "postgres") << "root is postgres by peer";

    const std::string password = "a-password-of-this-branch";
    drivers_.run(branch.await_ready(10s, postgres::scram_verifier(Secret(password))));
    const auto login = [&](const std::string& word) {
        return drivers_.postgres.verify_login("127.0.0.1", branch.port(), Secret(word),
                                              branch.id());
    };
    EXPECT_EQ(drivers_.error_of(login(password)).code, "postgres_unreachable") << "not open yet";
    branch.write_config(/*open=*/true);
    drivers_.run(drivers_.runtime.reload(branch.ref()));
    EXPECT_TRUE(soon([&] {
        try {
            drivers_.run(login(password));
            return true;
        } catch (const Error&) {
            return false;
        }
    }));
    EXPECT_EQ(drivers_.error_of(login("another")).code, "postgres_unreachable");
}

std::string id_of(const Boxed& branch) {
    return branch.inspected().at("Id").get<std::string>();
}

TEST_F(RuntimeDocker, WhatWasMadeReadyIsStartedUnlessAnotherIsWantedByThen) {
    Boxed branch(drivers_);
    branch.write_config();
    drivers_.run(drivers_.runtime.make_ready(branch.spec()));
    drivers_.run(drivers_.runtime.make_ready(branch.spec()));
    EXPECT_EQ(branch.inspected().at("State").at("Status"), "created");
    EXPECT_EQ(branch.pid(), 0) << "it does not run yet";
    const std::string ready = id_of(branch);
    branch.start_ready();
    EXPECT_EQ(id_of(branch), ready);
    EXPECT_EQ(branch.sql("SELECT 1"), "1");

    drivers_.run(drivers_.runtime.stop(branch.ref(), StopMode::kFast, 30s));
    drivers_.run(drivers_.runtime.remove(branch.ref()));
    drivers_.run(drivers_.runtime.make_ready(branch.spec()));
    const std::string other = id_of(branch);
    branch.start_ready({{"work_mem", "1MB"}});
    EXPECT_NE(id_of(branch), other);
    EXPECT_EQ(branch.sql("SHOW work_mem"), "1MB");
}

TEST_F(RuntimeDocker, AnotherDataDirectoryIsMadeReadyWhileTheBranchRunsOnItsPort) {
    Boxed branch(drivers_);
    branch.start_ready();
    // As in a sync: of the same branch, port and sockets, with data of its own.
    Boxed data(drivers_);
    runtime::InstanceSpec next = branch.spec();
    next.name = data.name();
    next.volume = data.volume();
    next.data_directory = data.data();
    next.settings = postgres::owned_settings(data.volume(), branch.endpoint(), "0.0.0.0",
                                             data.name(), std::stoi(branch.engine().version));
    data.write_config();
    drivers_.run(drivers_.runtime.make_ready(next));
    EXPECT_EQ(branch.sql("SELECT 1"), "1");
    const std::string ready = id_of(data);

    drivers_.run(drivers_.runtime.stop(branch.ref(), StopMode::kFast, 30s));
    drivers_.run(drivers_.runtime.start(next));
    EXPECT_EQ(id_of(data), ready);
    runtime::InstanceRef old = branch.ref();
    old.socket_directory.clear();
    drivers_.run(drivers_.runtime.remove(old));
    runtime::InstanceRef place = branch.ref();
    place.name = data.name();
    place.data_directory = data.data();
    EXPECT_TRUE(soon([&] {
        try {
            return branch.sql("SHOW data_directory") == data.data().native();
        } catch (const std::exception&) {
            return false;
        }
    })) << "the sockets are left to the one that runs now";
    drivers_.run(drivers_.runtime.stop(place, StopMode::kFast, 30s));
    drivers_.run(drivers_.runtime.remove(place));
}

TEST_F(RuntimeDocker, WhatAKilledBpgdMadeReadyIsMadeAnew) {
    Boxed branch(drivers_);
    branch.write_config();
    {
        DockerDrivers killed(prefix());
        killed.run(killed.runtime.make_ready(branch.spec()));
    }
    const std::string left = id_of(branch);
    branch.start_ready();
    EXPECT_NE(id_of(branch), left);
}

TEST_F(RuntimeDocker, RemoveTakesBackWhatWasMadeReady) {
    Boxed branch(drivers_);
    branch.write_config();
    drivers_.run(drivers_.runtime.make_ready(branch.spec()));
    drivers_.run(drivers_.runtime.remove(branch.ref()));
    EXPECT_NE(host().try_docker({"inspect", branch.container()}).find("No such object"),
              std::string::npos);
    branch.start_ready();
}

TEST_P(RuntimeDockerImages, NoAnonymousVolumeIsMade) {
    Boxed branch(drivers_, GetParam());
    branch.start_ready();
    EXPECT_EQ(host().docker({"volume", "ls", "-q"}), "");
    const auto container = branch.inspected();
    EXPECT_FALSE(container.at("Mounts").empty());
    for (const auto& mount : container.at("Mounts")) {
        EXPECT_NE(mount.at("Type"), "volume") << mount.dump();
    }
}

TEST_F(RuntimeDocker, InitWithAnUnknownLocaleSaysSo) {
    Boxed branch(drivers_, Image::kDebian, Boxed::From::kNothing);
    const ErrorInfo error =
        drivers_.error_of(drivers_.runtime.init_data_directory(branch.init_spec("xx_YY.UTF-8")));
    EXPECT_EQ(error.code, "locale_invalid") << error.detail;
    EXPECT_FALSE(fs::exists(branch.data()));
}

TEST_F(RuntimeDocker, AnInterruptedInitIsRepeatedAndAFinishedOneIsLeftAlone) {
    Boxed branch(drivers_, Image::kDebian, Boxed::From::kNothing);
    fs::create_directories(branch.data() / "base/1");
    std::ofstream(branch.data() / "PG_VERSION") << "15\n";
    fs::create_directories(branch.volume() / "data.init/base");
    // The container of a bpgd that was killed meanwhile; it still runs.
    const std::string left = branch.container() + ".init";
    host().docker({"run", "-d", "--name", left, "--network", "none", "--label",
                   "betterpg.role=init", "--label", "betterpg.branch_id=" + branch.id(), "--label",
                   "betterpg.data_directory=" + branch.data().native(), "-v",
                   branch.volume().native() + ":" + branch.volume().native(),
                   host().image(Image::kDebian), "sleep", "1000"});
    drivers_.run(drivers_.runtime.init_data_directory(branch.init_spec()));
    EXPECT_NE(host().try_docker({"inspect", left}).find("No such object"), std::string::npos);
    const auto made = fs::last_write_time(branch.data() / "PG_VERSION");
    drivers_.run(drivers_.runtime.init_data_directory(branch.init_spec()));
    EXPECT_EQ(fs::last_write_time(branch.data() / "PG_VERSION"), made);
    branch.start_ready();
}

/// Begins initdb as a bpgd that is killed while it runs; the id of its container.
std::string begin_init_and_die(const Boxed& branch, const std::string& locale) {
    DockerDrivers killed(DockerPlace::get().prefix());
    const runtime::InitSpec spec = branch.init_spec(locale);
    asio::co_spawn(killed.io, killed.runtime.init_data_directory(spec),
                   [](const std::exception_ptr&, const std::string&) {});
    std::string id;
    EXPECT_TRUE(soon([&] {
        killed.io.run_for(1ms);
        id = DockerHost::get().docker({"ps", "-q", "--no-trunc", "--filter", "status=running",
                                       "--filter", "name=^" + branch.container() + ".init$"});
        return !id.empty();
    }));
    id.erase(id.find_last_not_of('\n') + 1);
    return id;
}

TEST_F(RuntimeDocker, AnInitWhoseBpgdWasKilledIsAdoptedWhileItRunsAndAfterItHasEnded) {
    for (const bool has_ended : {false, true}) {
        Boxed branch(drivers_, Image::kDebian, Boxed::From::kNothing);
        const std::string id = begin_init_and_die(branch, "C.UTF-8");
        if (has_ended) EXPECT_EQ(host().docker({"wait", id}), "0\n");
        const std::string since = fmt::format("{}", std::time(nullptr) - 1);
        const std::string said =
            drivers_.run(drivers_.runtime.init_data_directory(branch.init_spec()));
        EXPECT_NE(said.find("Success."), std::string::npos) << said;
        const std::string until = fmt::format("{}", std::time(nullptr) + 1);
        const std::string gone = host().docker(
            {"events", "--since", since, "--until", until, "--filter", "event=destroy", "--filter",
             "label=betterpg.branch_id=" + branch.id(), "--format", "{{.ID}}"});
        EXPECT_EQ(gone, id + "\n") << "it was this container that was waited for, and no other";
        branch.start_ready();
    }
}

TEST_F(RuntimeDocker, AnInitThatWasAnotherAttemptCountsForNothing) {
    Boxed branch(drivers_, Image::kDebian, Boxed::From::kNothing);
    const std::string other = begin_init_and_die(branch, "C");
    host().docker({"wait", other});
    drivers_.run(drivers_.runtime.init_data_directory(branch.init_spec()));
    branch.start_ready();
    EXPECT_EQ(branch.sql("SELECT datcollate FROM pg_database WHERE datname = 'postgres'"),
              "C.UTF-8");

    // One of an earlier boot, complete at first sight: a power cut took what was in its files.
    Boxed rebooted(drivers_, Image::kDebian, Boxed::From::kNothing);
    const std::string ours = begin_init_and_die(rebooted, "C.UTF-8");
    const std::string said =
        host().docker({"inspect", "-f", "{{index .Config.Labels \"betterpg.attempt\"}}", ours});
    host().docker({"rm", "-f", ours});
    const fs::path aside = rebooted.volume() / "data.init";
    fs::create_directories(aside / "global");
    std::ofstream(aside / "PG_VERSION") << "";
    std::ofstream(aside / "global/pg_control") << "";
    constexpr std::size_t kUuidSize = 36;
    host().docker({"run", "--name", rebooted.container() + ".init", "--network", "none", "--label",
                   "betterpg.role=init", "--label", "betterpg.branch_id=" + rebooted.id(),
                   "--label", "betterpg.data_directory=" + rebooted.data().native(), "--label",
                   "betterpg.attempt=8c1b9a1e-0f3a-4f0e-9a53-3b3f0f6d2c11" + said.substr(kUuidSize),
                   "--entrypoint", "true", rebooted.engine().image_id});
    drivers_.run(drivers_.runtime.init_data_directory(rebooted.init_spec()));
    rebooted.start_ready();
}

TEST_F(RuntimeDocker, ASuperuserOfABranchIsNobodyInItsContainer) {
    Boxed branch(drivers_);
    branch.start_ready();
    const auto facts = branch.inspected();
    const auto& limits = facts["HostConfig"];
    EXPECT_EQ(facts["Config"]["User"],
              fmt::format("{}:{}", branch.engine().user.uid, branch.engine().user.gid));
    EXPECT_EQ(facts["Config"]["Image"], branch.engine().image_id);
    EXPECT_EQ(limits["CapDrop"], nlohmann::json({"ALL"}));
    EXPECT_EQ(limits["SecurityOpt"], nlohmann::json({"no-new-privileges"}));
    EXPECT_EQ(limits["ReadonlyRootfs"], true);
    EXPECT_EQ(limits["PidsLimit"], 4096);
    EXPECT_EQ(limits["RestartPolicy"]["Name"], "no");
    EXPECT_EQ(limits["IpcMode"], "private");
    EXPECT_GT(limits["OomScoreAdj"], 0);
    EXPECT_EQ(facts["Config"]["StopSignal"], "SIGINT");
    EXPECT_EQ(facts["Config"]["Labels"]["betterpg.ref"], "test/" + branch.id());
    const std::string port = fmt::format("{}/tcp", branch.port());
    EXPECT_EQ(limits["PortBindings"][port][0]["HostIp"], "127.0.0.1");
    EXPECT_EQ(limits["PortBindings"].size(), 1U);
    EXPECT_EQ(facts["Mounts"].size(), 2U) << facts["Mounts"].dump(1);

    const std::string status = branch.program("cat /proc/self/status");
    EXPECT_NE(status.find("CapEff:\t0000000000000000"), std::string::npos) << status;
    EXPECT_NE(status.find("CapBnd:\t0000000000000000"), std::string::npos) << status;
    EXPECT_NE(status.find("NoNewPrivs:\t1"), std::string::npos) << status;
    EXPECT_NE(status.find("Seccomp:\t2"), std::string::npos) << status;
    EXPECT_NE(branch.program("touch /etc/x").find("Read-only file system"), std::string::npos);
    EXPECT_NE(branch.program("su -c id root </dev/null").find("su:"), std::string::npos);
    EXPECT_EQ(branch.program("ls " + branch.volume().parent_path().native()), branch.id() + "\n");
    EXPECT_EQ(
        branch.program("ls -d /var/run/docker.sock /sys/fs/cgroup/x; id -u").find("docker.sock\n"),
        std::string::npos);
}

TEST_F(RuntimeDocker, ABranchReachesNothingThoughItsPortIsReached) {
    Boxed other(drivers_);
    other.start_ready();
    Boxed branch(drivers_);
    branch.start_ready();
    const Listener listener;
    const std::string network = prefix() + "net";
    const auto address_of = [&](const Boxed& one) {
        return one.inspected()["NetworkSettings"]["Networks"][network]["IPAddress"]
            .get<std::string>();
    };
    const std::string gateway =
        branch.inspected()["NetworkSettings"]["Networks"][network]["Gateway"];
    // Tried all at once: silence takes its time.
    const auto reached = [&](const Boxed& from, const std::vector<std::string>& places) {
        std::string shell = "for place in";
        for (const std::string& place : places)
            shell += " " + place;
        return from.program(shell +
                            "; do { timeout 2 bash -c \"exec 3<>/dev/tcp/$place\" 2>/dev/null && "
                            "echo $place; } & done; wait");
    };
    const std::string service = "/" + std::to_string(listener.port());
    const std::string other_port = "/" + std::to_string(other.port());
    std::vector<std::string> places = {gateway + service, gateway + other_port,
                                       address_of(other) + other_port};
    std::stringstream list(output_of({"hostname", "-I"}));
    for (std::string one; list >> one;) {
        if (one.find(':') == std::string::npos) places.push_back(one + service);
    }
    EXPECT_EQ(reached(branch, places), "");
    const std::string itself = "127.0.0.1/" + std::to_string(branch.port());
    EXPECT_EQ(reached(branch, {itself}), itself + "\n") << "the test is wrong";
    EXPECT_EQ(branch.program("grep -v lo /proc/net/if_inet6"), "");
    // Nor do questions for names leave.
    EXPECT_NE(branch.program("timeout 5 getent hosts example.com || echo unknown").find("unknown"),
              std::string::npos);

    // The same from a branch that may, so that the test is known to see a difference.
    Boxed free(drivers_);
    free.write_config();
    auto spec = free.spec();
    spec.may_reach_out = true;
    drivers_.run(drivers_.runtime.start(spec));
    free.ready();
    const std::string found = reached(free, places);
    EXPECT_NE(found.find(gateway + service), std::string::npos) << found;
    EXPECT_EQ(found.find(address_of(other)), std::string::npos)
        << "branches see one another: " << found;
}

/// Another machine on a network of this one, that sends packets for containers here.
class Neighbour {
  public:
    Neighbour() {
        output_of({"ip", "netns", "add", kName});
        output_of(
            {"ip", "link", "add", kLink, "type", "veth", "peer", "name", "eth0", "netns", kName});
        output_of({"ip", "address", "add", "198.18.77.1/30", "dev", kLink});
        output_of({"ip", "link", "set", kLink, "up"});
        output_of({"ip", "-n", kName, "address", "add", "198.18.77.2/30", "dev", "eth0"});
        output_of({"ip", "-n", kName, "link", "set", "eth0", "up"});
        output_of({"ip", "-n", kName, "route", "add", "default", "via", "198.18.77.1"});
    }
    ~Neighbour() { output_of({"ip", "netns", "delete", kName}); }
    Neighbour(const Neighbour&) = delete;
    Neighbour& operator=(const Neighbour&) = delete;

    bool reaches(const std::string& address, int port) const {
        const std::string words = fmt::format(
            "timeout 2 bash -c 'exec 3<>/dev/tcp/{}/{}' 2>/dev/null && echo yes || "
            "echo no",
            address, port);
        return output_of({"ip", "netns", "exec", kName, "bash", "-c", words}) == "yes\n";
    }

  private:
    static constexpr const char* kName = "bpgneighbour";
    static constexpr const char* kLink = "bpgneigh0";
};

TEST_F(RuntimeDocker, ANeighbourOnTheNetworkDoesNotReachAContainerPastItsPublishedPort) {
    Boxed branch(drivers_);
    branch.start_ready();
    const auto network = runtime::network_of(prefix(), /*open=*/false);
    const std::string address =
        branch.inspected()["NetworkSettings"]["Networks"][network.name]["IPAddress"];
    const Neighbour neighbour;
    EXPECT_FALSE(neighbour.reaches(address, branch.port()));
    // Without our rule Docker lets it in, so the test can fail.
    runtime::forget_rules(network);
    EXPECT_TRUE(neighbour.reaches(address, branch.port()));
}

TEST_F(RuntimeDocker, ANetworkThatSomebodyOpenedIsClosedAtTheNextStart) {
    Boxed first(drivers_);
    first.start_ready();
    const auto network = runtime::network_of(prefix(), /*open=*/false);
    runtime::forget_rules(network);
    host().docker({"rm", "-f", "-v", first.container()});
    host().docker({"network", "rm", network.name});
    first.start_ready();
    const auto rules = output_of({"iptables", "-t", "mangle", "-S", "PREROUTING"});
    EXPECT_NE(rules.find(network.bridge), std::string::npos) << rules;
}

TEST_F(RuntimeDocker, AForeignContainerOfOurNameIsNeverTouched) {
    Boxed branch(drivers_);
    branch.write_config();
    host().docker({"run", "-d", "--name", branch.container(), "--network", "none",
                   host().image(Image::kDebian), "sleep", "1000"});
    const ErrorInfo error = drivers_.error_of(drivers_.runtime.start(branch.spec()));
    EXPECT_EQ(error.code, "container_foreign");
    EXPECT_EQ(error.kind, ErrorKind::kConflict);
    EXPECT_NE(error.message.find(branch.container()), std::string::npos) << error.message;
    EXPECT_FALSE(error.hint.empty());
    drivers_.run(drivers_.runtime.stop(branch.ref(), StopMode::kImmediate, 1s));
    drivers_.run(drivers_.runtime.remove(branch.ref()));
    EXPECT_EQ(branch.pid(), 0);
    EXPECT_EQ(branch.inspected()["State"]["Status"], "running");
    host().docker({"rm", "-f", "-v", branch.container()});
}

TEST_F(RuntimeDocker, AnotherContainerOnTheDataDirectoryIsRefusedByName) {
    Boxed branch(drivers_);
    branch.write_config();
    const std::string stranger = prefix() + "by-hand";
    for (const fs::path& mounted : {branch.data(), branch.volume()}) {
        host().docker({"create", "--name", stranger, "--network", "none", "-v",
                       mounted.native() + ":/var/lib/postgresql/data", host().image(Image::kDebian),
                       "sleep", "1000"});
        const ErrorInfo error = drivers_.error_of(drivers_.runtime.start(branch.spec()));
        EXPECT_EQ(error.code, "data_directory_in_use");
        EXPECT_NE(error.detail.find(stranger), std::string::npos) << error.detail;
        host().docker({"rm", "-f", "-v", stranger});
    }
    branch.start_ready();
}

TEST_F(RuntimeDocker, AnotherDaemonAdoptsWhatRunsAndTwoStartsAreOne) {
    Boxed branch(drivers_);
    branch.write_config();
    DockerDrivers other(prefix());
    const auto failure_of = [&](DockerDrivers& daemon) -> ErrorInfo {
        try {
            daemon.run(daemon.runtime.start(branch.spec()));
            return {};
        } catch (const Error& error) {
            return error.info();
        }
    };
    ErrorInfo theirs;
    std::thread rival([&] { theirs = failure_of(other); });
    const ErrorInfo ours = failure_of(drivers_);
    rival.join();
    EXPECT_EQ(theirs.code, "") << theirs.detail;
    EXPECT_EQ(ours.code, "") << ours.detail;
    branch.ready();
    const pid_t pid = branch.pid();
    ASSERT_GT(pid, 0);
    drivers_.run(drivers_.runtime.start(branch.spec()));
    EXPECT_EQ(branch.pid(), pid);
    EXPECT_EQ(other.run(other.runtime.inspect(branch.ref())).pid, pid);
    EXPECT_EQ(branch.sql("SELECT 1"), "1");
}

TEST_F(RuntimeDocker, AFastStopIsACleanOneAndLeavesTheLog) {
    Boxed branch(drivers_);
    branch.start_ready();
    EXPECT_EQ(drivers_.error_of(drivers_.runtime.remove(branch.ref())).code, "still_running");
    drivers_.run(drivers_.runtime.stop(branch.ref(), StopMode::kFast, 30s));
    EXPECT_EQ(branch.pid(), 0);
    EXPECT_TRUE(drivers_.run(drivers_.directories.control_file(branch.data())).cleanly_shut_down);
    EXPECT_NE(branch.log().find("database system is shut down"), std::string::npos) << branch.log();
    drivers_.run(drivers_.runtime.stop(branch.ref(), StopMode::kFast, 30s));
    drivers_.run(drivers_.runtime.remove(branch.ref()));
    EXPECT_FALSE(fs::exists(branch.endpoint().socket_directory));
    EXPECT_EQ(branch.log(), "");
    drivers_.run(drivers_.runtime.remove(branch.ref()));
    branch.start_ready();
    EXPECT_EQ(branch.log().find("is shut down"), std::string::npos) << "of an earlier start";
}

TEST_F(RuntimeDocker, AFastStopThatTakesTooLongFailsAndAnImmediateOneEnds) {
    Boxed branch(drivers_);
    branch.start_ready();
    const pid_t pid = branch.pid();
    ASSERT_EQ(::kill(pid, SIGSTOP), 0);
    const ErrorInfo error =
        drivers_.error_of(drivers_.runtime.stop(branch.ref(), StopMode::kFast, 200ms));
    EXPECT_EQ(error.code, "stop_timed_out");
    EXPECT_EQ(error.kind, ErrorKind::kTimeout);
    EXPECT_EQ(branch.pid(), pid);
    drivers_.run(drivers_.runtime.stop(branch.ref(), StopMode::kImmediate, 200ms));
    EXPECT_EQ(branch.pid(), 0);
    // A crash leaves its pid file; a new start is not misled by it.
    EXPECT_TRUE(fs::exists(branch.data() / "postmaster.pid"));
    branch.start_ready();
}

TEST_F(RuntimeDocker, APausedInstanceCanBeStopped) {
    Boxed branch(drivers_);
    branch.start_ready();
    host().docker({"pause", branch.container()});
    EXPECT_GT(branch.pid(), 0);
    drivers_.run(drivers_.runtime.stop(branch.ref(), StopMode::kFast, 30s));
    EXPECT_EQ(branch.pid(), 0);
}

TEST_F(RuntimeDocker, APortInUseIsRefusedBeforeAnythingIsMade) {
    Boxed branch(drivers_);
    branch.write_config();
    const Listener listener;
    auto spec = branch.spec({{"port", std::to_string(listener.port())}});
    spec.port = listener.port();
    const ErrorInfo error = drivers_.error_of(drivers_.runtime.start(spec));
    EXPECT_EQ(error.code, "port_taken");
    EXPECT_NE(error.detail.find(std::to_string(::getpid())), std::string::npos) << error.detail;
}

TEST_F(RuntimeDocker, AnInstanceThatRefusesEndsAndItsLogSaysWhy) {
    Boxed branch(drivers_, Image::kRefusing, Boxed::From::kNothing);
    shell_free({"cp", "-a", DockerPlace::get().seed(drivers_, Image::kDebian).native(),
                branch.data().native()});
    branch.start();
    const auto begin = steady_clock::now();
    const ErrorInfo error = drivers_.error_of(branch.await_ready(20s));
    EXPECT_EQ(error.code, "postgres_refused");
    EXPECT_LT(steady_clock::now() - begin, 3s);
    EXPECT_EQ(branch.log(), "FATAL:  this server never starts\n");
}

TEST_F(RuntimeDocker, WaitingEndsWhenTheInstanceEndsAndTenWaitersAreOneStream) {
    Boxed branch(drivers_);
    branch.start_ready();
    const pid_t pid = branch.pid();
    int ended = 0;
    int streams = 0;
    const auto ref = branch.ref();
    auto wait = [&]() -> asio::awaitable<void> {
        co_await drivers_.runtime.wait_until_gone(ref);
        ++ended;
    };
    drivers_.io.restart();
    for (int one = 0; one < 10; ++one)
        asio::co_spawn(drivers_.io, wait(), asio::detached);
    asio::steady_timer timer(drivers_.io, 500ms);
    timer.async_wait([&](auto) {
        streams = drivers_.runtime.events().streams();
        EXPECT_EQ(ended, 0);
        ::kill(pid, SIGKILL);
    });
    const auto begin = steady_clock::now();
    drivers_.io.run();
    EXPECT_EQ(ended, 10);
    EXPECT_EQ(streams, 1);
    EXPECT_LT(steady_clock::now() - begin, 3s);
    drivers_.run(drivers_.runtime.wait_until_gone(ref));
}

TEST_F(RuntimeDocker, WaitingCanBeCancelled) {
    Boxed branch(drivers_);
    branch.start_ready();
    asio::cancellation_signal cancel;
    asio::steady_timer timer(drivers_.io, 300ms);
    timer.async_wait([&](auto) { cancel.emit(asio::cancellation_type::terminal); });
    std::exception_ptr failure;
    const auto ref = branch.ref();
    drivers_.io.restart();
    asio::co_spawn(drivers_.io, drivers_.runtime.wait_until_gone(ref),
                   asio::bind_cancellation_slot(
                       cancel.slot(), [&](std::exception_ptr thrown) { failure = thrown; }));
    drivers_.io.run();
    EXPECT_THROW(std::rethrow_exception(failure), boost::system::system_error);
    EXPECT_EQ(drivers_.runtime.events().streams(), 0);
    EXPECT_EQ(branch.sql("SELECT 1"), "1");
}

TEST_F(RuntimeDocker, ADockerdThatWasKilledIsUnavailableUntilItIsBack) {
    Boxed branch(drivers_);
    branch.start_ready();
    bool is_over = false;
    const auto ref = branch.ref();
    auto wait = [&]() -> asio::awaitable<void> {
        co_await drivers_.runtime.wait_until_gone(ref);
        is_over = true;
    };
    drivers_.io.restart();
    asio::co_spawn(drivers_.io, wait(), asio::detached);
    drivers_.io.run_for(300ms);
    host().kill_daemon();
    drivers_.io.run_for(500ms);
    EXPECT_FALSE(is_over) << "nobody can tell while dockerd is away";

    DockerDrivers other(prefix());
    for (const ErrorInfo& error : {other.error_of(other.runtime.inspect(ref)),
                                   other.error_of(other.runtime.start(branch.spec())),
                                   other.error_of(other.runtime.wait_until_gone(ref))}) {
        EXPECT_EQ(error.code, "runtime_unavailable");
        EXPECT_EQ(error.kind, ErrorKind::kUnavailable);
        EXPECT_NE(error.detail.find(host().socket().native()), std::string::npos);
        EXPECT_NE(error.hint.find("is dockerd running?"), std::string::npos);
    }
    EXPECT_EQ(other.run(other.runtime.version()), "");

    host().start_daemon();
    // A dockerd that starts again ends what ran before.
    drivers_.io.restart();
    drivers_.io.run_for(10s);
    EXPECT_TRUE(is_over);
    branch.start_ready();
    EXPECT_EQ(branch.sql("SELECT 1"), "1");
}

TEST_F(RuntimeDocker, ADockerdThatHangsCostsADeadline) {
    const fs::path path = DockerPlace::get().base() / "silent.sock";
    const SilentServer server(path);
    const Boxed branch(drivers_);
    DockerDrivers other(prefix(), path, 300ms);
    const auto begin = steady_clock::now();
    const ErrorInfo error = other.error_of(other.runtime.inspect(branch.ref()));
    EXPECT_EQ(error.code, "runtime_unavailable");
    EXPECT_NE(error.detail.find("no answer within"), std::string::npos) << error.detail;
    EXPECT_LT(steady_clock::now() - begin, 7s);
    const auto presence = runtime::detect_docker(path);
    ASSERT_TRUE(presence.why);
    EXPECT_EQ(presence.why->code, "runtime_unavailable");
}

TEST_F(RuntimeDocker, DetectSaysWhetherDockerCanBeUsed) {
    const auto found = runtime::detect_docker(host().socket());
    EXPECT_FALSE(found.why) << found.why->message << ": " << found.why->detail;
    EXPECT_FALSE(found.version.empty());
    EXPECT_EQ(drivers_.run(drivers_.runtime.version()), found.version);
    const auto missing = runtime::detect_docker("/nonexistent/docker.sock");
    ASSERT_TRUE(missing.why);
    EXPECT_EQ(missing.why->code, "runtime_unavailable");
    EXPECT_NE(missing.why->detail.find("No such file"), std::string::npos) << missing.why->detail;
}

TEST_F(RuntimeDocker, FindEngineTakesImagesOnly) {
    const auto find = [&](std::string version, std::string image) {
        return drivers_.runtime.find_engine({std::move(version), std::move(image)});
    };
    EXPECT_EQ(drivers_.error_of(find("16", "")).code, "version_unsupported");
    EXPECT_EQ(drivers_.error_of(find("", "--privileged")).code, "image_invalid");
    EXPECT_EQ(drivers_.error_of(find("", "a/../../etc")).code, "image_invalid");
    const Engine standard = drivers_.run(find("", ""));
    EXPECT_EQ(standard.image, host().image(Image::kDebian));
    EXPECT_TRUE(standard.image_id.starts_with("sha256:"));
    const Engine unknown = drivers_.run(find("", "127.0.0.1:1/none:1"));
    EXPECT_EQ(unknown.image, "127.0.0.1:1/none:1");
    EXPECT_EQ(unknown.image_id, "");
}

TEST_F(RuntimeDocker, PreparingTellsVersionAndUser) {
    DockerDrivers other(prefix());
    Engine wanted;
    wanted.image = host().image(Image::kUid70);
    const Engine made = other.run(other.runtime.prepare_engine(wanted, {}));
    EXPECT_EQ(made.user.uid, 70U);
    EXPECT_EQ(made.user.gid, 70U);
    EXPECT_EQ(made.version.substr(0, 3), "15.");
    EXPECT_EQ(other.run(other.runtime.prepare_engine(made, {})), made);
    EXPECT_EQ(other.run(other.runtime.find_engine({"", wanted.image})), made);
}

TEST_F(RuntimeDocker, WhatAKilledOneLookedAtAnImageWithGoesWithTheNextThatIsRemoved) {
    host().docker({"create", "--name", prefix() + "probe-0000", "--network", "none", "--label",
                   "betterpg.role=probe", "--label", "betterpg.prefix=" + prefix(),
                   host().image(Image::kDebian), "sleep", "1"});
    const Boxed branch(drivers_);
    drivers_.run(drivers_.runtime.remove(branch.ref()));
    EXPECT_EQ(host().docker({"ps", "-aq", "--filter", "name=" + prefix() + "probe"}), "");
}

TEST_F(RuntimeDocker, AMissingImageIsNotFoundBeforeAnythingIsMade) {
    Boxed branch(drivers_);
    branch.write_config();
    auto spec = branch.spec();
    spec.engine.image_id = "sha256:" + std::string(64, '0');
    ErrorInfo error = drivers_.error_of(drivers_.runtime.start(spec));
    EXPECT_EQ(error.code, "image_not_found");
    EXPECT_EQ(error.kind, ErrorKind::kNotFound);
    EXPECT_FALSE(fs::exists(branch.endpoint().socket_directory));
    // A local one that is gone cannot be had again; another would not be the same.
    error = drivers_.error_of(drivers_.runtime.prepare_engine(spec.engine, {}));
    EXPECT_EQ(error.code, "image_not_found");

    Engine wanted;
    wanted.image = host().registry() + "/nobody/has-this:1";
    error = drivers_.error_of(drivers_.runtime.prepare_engine(wanted, {}));
    EXPECT_EQ(error.code, "image_not_found") << error.detail;
    EXPECT_FALSE(error.hint.empty());
    wanted.image = "127.0.0.1:1/tiny:1";
    error = drivers_.error_of(drivers_.runtime.prepare_engine(wanted, {}));
    // Whether the registry does not have it or does not answer: it is not to be had.
    EXPECT_EQ(error.code, "image_not_found") << error.detail;
    EXPECT_NE(error.message.find("does not answer"), std::string::npos) << error.message;
}

TEST_F(RuntimeDocker, PullingReportsProgressAndThePinnedImageIsFetchedAgain) {
    Engine wanted;
    wanted.image = host().registry() + "/tiny:1";
    // Otherwise every layer would be here already.
    host().docker({"rmi", host().image(Image::kTiny)});
    std::vector<std::pair<std::uint64_t, std::uint64_t>> reports;
    const auto report = [&](std::uint64_t done, std::uint64_t total) {
        reports.emplace_back(done, total);
    };
    const Engine made = drivers_.run(drivers_.runtime.prepare_engine(wanted, report));
    EXPECT_EQ(made.version, "15.99");
    EXPECT_EQ(made.user, (FileOwner{71, 72}));
    EXPECT_TRUE(made.digest.starts_with(host().registry() + "/tiny@sha256:")) << made.digest;
    ASSERT_FALSE(reports.empty());
    EXPECT_EQ(reports.back().first, reports.back().second);

    host().docker({"rmi", wanted.image});
    EXPECT_EQ(drivers_.run(drivers_.runtime.prepare_engine(made, report)), made);
    host().docker({"rmi", made.digest});
    host().restore_images();
}

}  // namespace
}  // namespace bpg::test
