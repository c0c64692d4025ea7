// Child processes: what they get, what comes back, and that none is left behind.
#include "orchestrator/base/subprocess.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/id.h"

namespace bpg {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

Command command(std::vector<std::string> argv) {
    Command result;
    result.argv = std::move(argv);
    return result;
}

/// Polls until the condition holds; false after five seconds.
template <class Condition>
bool eventually(Condition condition) {
    const auto deadline = steady_clock::now() + std::chrono::seconds(5);
    while (!condition()) {
        if (steady_clock::now() > deadline) return false;
        std::this_thread::sleep_for(milliseconds(10));
    }
    return true;
}

TEST(RunCommand, ReturnsBothOutputsAndTheExitCode) {
    const auto run = command({"sh", "-c", "echo out; echo first >&2; echo last >&2; exit 3"});
    const CommandResult result = run_command(run);
    EXPECT_EQ(result.out, "out\n");
    EXPECT_EQ(result.err, "first\nlast\n");
    EXPECT_EQ(result.exit_code, 3);
    EXPECT_FALSE(result.ok());
    EXPECT_EQ(result.explain(run), "exit code 3: last");
}

TEST(RunCommand, ArgumentsAreNotInterpreted) {
    const CommandResult result =
        run_command(command({"printf", "%s|", "a b", "$HOME", "; ls", ""}));
    EXPECT_TRUE(result.ok());
    EXPECT_EQ(result.out, "a b|$HOME|; ls||");
}

TEST(RunCommand, GivesTheInputAndThenEndOfFile) {
    Command cat = command({"cat"});
    cat.input = std::string(3 << 20, 'x');
    cat.output_max = 4 << 20;
    EXPECT_EQ(run_command(cat).out, cat.input);
    EXPECT_EQ(run_command(command({"cat"})).out, "");
}

TEST(RunCommand, InputThatIsNotReadHarmsNobody) {
    Command run = command({"true"});
    run.input = std::string(3 << 20, 'x');
    EXPECT_TRUE(run_command(run).ok());
}

TEST(RunCommand, TheEnvironmentIsCleanPlusWhatWasAsked) {
    ASSERT_EQ(::setenv("BPG_TEST_LEAK", "secret", 1), 0);
    Command run = command({"env"});
    run.environment = {"OWN=1", "LC_ALL=C.UTF-8"};
    const std::string out = run_command(run).out;
    ::unsetenv("BPG_TEST_LEAK");
    EXPECT_EQ(out.find("BPG_TEST_LEAK"), std::string::npos) << out;
    EXPECT_NE(out.find("OWN=1\n"), std::string::npos) << out;
    EXPECT_NE(out.find("LC_ALL=C.UTF-8\n"), std::string::npos) << out;
    EXPECT_EQ(out.find("LC_ALL=C\n"), std::string::npos) << out;
    EXPECT_NE(out.find("PATH=/"), std::string::npos) << out;
}

TEST(RunCommand, NoDescriptorLeaksIntoTheChild) {
    const UniqueFd leak(::open("/etc/hostname", O_RDONLY));  // without O_CLOEXEC, on purpose
    ASSERT_TRUE(leak);
    const CommandResult result = run_command(command({"sh", "-c", "ls /proc/$$/fd"}));
    EXPECT_EQ(result.out, "0\n1\n2\n");
}

TEST(RunCommand, SignalsAreUnblockedAndNotIgnored) {
    sigset_t block;
    sigset_t before;
    sigemptyset(&block);
    sigaddset(&block, SIGTERM);
    ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &block, &before), 0);
    auto* const old_handler = ::signal(SIGPIPE, SIG_IGN);
    const auto run = command({"grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"});
    const std::string out = run_command(run).out;
    ::signal(SIGPIPE, old_handler);
    ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, &before, nullptr), 0);
    // glibc itself leaves its two private signals (32 and 33) ignored in a child.
    EXPECT_EQ(out, "SigBlk:\t0000000000000000\nSigIgn:\t0000000180000000\n");
}

TEST(RunCommand, ADeadlineKillsTheWholeGroup) {
    const std::string mark = "600." + std::to_string(::getpid());
    Command run = command({"sh", "-c", "sleep " + mark + " & sleep " + mark});
    run.deadline = milliseconds(300);
    const auto start = steady_clock::now();
    const CommandResult result = run_command(run);
    EXPECT_LT(steady_clock::now() - start, std::chrono::seconds(5));
    EXPECT_TRUE(result.timed_out);
    EXPECT_FALSE(result.ok());
    EXPECT_EQ(result.signal, SIGKILL);
    EXPECT_EQ(result.explain(run), "no answer within 300 ms");
    EXPECT_TRUE(eventually([&] { return find_processes_with_argument(mark).empty(); }));
}

TEST(RunCommand, AGrandchildThatKeepsTheOutputOpenDoesNotHoldUs) {
    const auto start = steady_clock::now();
    const CommandResult result = run_command(command({"sh", "-c", "sleep 5 & echo done"}));
    EXPECT_LT(steady_clock::now() - start, std::chrono::seconds(4));
    EXPECT_TRUE(result.ok());
    EXPECT_EQ(result.out, "done\n");
}

TEST(RunCommand, ReportsDeathBySignal) {
    const auto run = command({"sh", "-c", "kill -9 $$"});
    const CommandResult result = run_command(run);
    EXPECT_EQ(result.exit_code, -1);
    EXPECT_EQ(result.signal, 9);
    EXPECT_EQ(result.explain(run), "killed by signal 9");
}

TEST(RunCommand, KeepsTheBeginningOfStdoutAndTheEndOfStderr) {
    Command run = command({"sh", "-c",
                           "printf begin; head -c 300000 /dev/zero; "
                           "head -c 300000 /dev/zero >&2; printf end >&2"});
    run.output_max = 1000;
    const CommandResult result = run_command(run);
    EXPECT_TRUE(result.ok());
    EXPECT_EQ(result.out.size(), 1000U);
    EXPECT_EQ(result.out.substr(0, 5), "begin");
    EXPECT_EQ(result.err.size(), 1000U);
    EXPECT_EQ(result.err.substr(997), "end");
}

TEST(RunCommand, AMissingProgramIsNotFound) {
    for (const char* name : {"bpg-no-such-program", "/usr/bin/bpg-no-such-program"}) {
        try {
            run_command(command({name}));
            FAIL() << name;
        } catch (const Error& error) {
            EXPECT_EQ(error.kind(), ErrorKind::kNotFound);
            EXPECT_EQ(error.code(), "command_not_found");
        }
    }
}

TEST(RunCommand, LeavesNoZombie) {
    for (int i = 0; i < 5; ++i)
        run_command(command({"true"}));
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
    EXPECT_EQ(errno, ECHILD);
}

class SpawnDetached : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern =
            (std::filesystem::temp_directory_path() / "bpg-spawn-XXXXXX").native();
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        root_ = pattern;
    }
    void TearDown() override { std::filesystem::remove_all(root_); }
    std::filesystem::path root_;
};

TEST_F(SpawnDetached, AppendsBothOutputsToTheLogInASessionOfItsOwn) {
    write_file_durably(root_ / "log", "before\n", 0640);
    const DetachedCommand detached{
        {"sh", "-c", "echo out; echo err >&2; cat; ps -o sid= -p $$"}, {}, root_ / "log"};
    const pid_t pid = spawn_detached(detached);
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
    const std::string log = read_file(root_ / "log").value();
    EXPECT_EQ(log.find("before\nout\nerr\n"), 0U) << log;
    EXPECT_NE(log.find(std::to_string(pid)), std::string::npos) << log;
}

TEST_F(SpawnDetached, RefusesALogThatIsALink) {
    std::filesystem::create_symlink(root_ / "elsewhere", root_ / "log");
    EXPECT_THROW(spawn_detached({{"true"}, {}, root_ / "log"}), Error);
    EXPECT_FALSE(std::filesystem::exists(root_ / "elsewhere"));
}

TEST_F(SpawnDetached, IsFoundAgainByItsArgumentAndStartTime) {
    const std::string mark = new_id();
    const pid_t pid = spawn_detached({{"sh", "-c", "sleep 60; true", mark}, {}, root_ / "log"});
    std::vector<ProcessFacts> found;
    EXPECT_TRUE(eventually([&] {
        found = find_processes_with_argument(mark);
        return found.size() == 1;
    }));
    const auto facts = process_facts(pid);
    ::kill(-pid, SIGKILL);
    ASSERT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0].pid, pid);
    ASSERT_TRUE(facts);
    EXPECT_EQ(facts->start_time, found[0].start_time);
    EXPECT_GT(facts->start_time, 0U);
    EXPECT_FALSE(facts->zombie);
    EXPECT_EQ(facts->argv.back(), mark);

    // Dead but not yet reaped: known to be a zombie, and no longer found.
    EXPECT_TRUE(eventually([&] {
        const auto now = process_facts(pid);
        return now && now->zombie;
    }));
    EXPECT_TRUE(find_processes_with_argument(mark).empty());
    ASSERT_EQ(::waitpid(pid, nullptr, 0), pid);
    EXPECT_FALSE(process_facts(pid));
}

TEST(ProcessFacts, SurvivesANameFullOfParentheses) {
    std::string pattern = (std::filesystem::temp_directory_path() / "bpg-name-XXXXXX").native();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    const std::filesystem::path program = std::filesystem::path(pattern) / ") Z 1 (x";
    std::filesystem::copy_file("/usr/bin/sleep", program);
    const pid_t pid =
        spawn_detached({{program.native(), "60"}, {}, std::filesystem::path(pattern) / "log"});
    EXPECT_TRUE(eventually([&] {
        const auto facts = process_facts(pid);
        return facts && facts->argv.size() == 2 && facts->argv[0] == program.native();
    }));
    const auto facts = process_facts(pid);
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    std::filesystem::remove_all(pattern);
    ASSERT_TRUE(facts);
    EXPECT_FALSE(facts->zombie);
    EXPECT_GT(facts->start_time, 0U);
}

}  // namespace
}  // namespace bpg
