// What an earlier process left running is waited for.
#include "orchestrator/base/command_lock.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <thread>

#include "orchestrator/base/error.h"
#include "orchestrator/base/subprocess.h"
#include "tests/harness/scratch_directory.h"

namespace bpg {
namespace {

using namespace std::chrono_literals;

class CommandLockTest : public testing::Test {
  protected:
    void TearDown() override {
        if (left_.joinable()) left_.join();
    }
    /// A command that runs on for that long after its lock was let go of, as by a kill.
    void leave_running(const std::string& seconds) {
        auto lock = std::make_unique<CommandLock>(path_);
        Command command;
        command.argv = {"sh", "-c", "echo > \"$0\"; sleep " + seconds, begun_.native()};
        command.inherited = lock->hold(1s);
        left_ = std::thread([command] { run_command(command); });
        while (!std::filesystem::exists(begun_))
            std::this_thread::sleep_for(1ms);
    }

    test::ScratchDirectory scratch_;
    const std::filesystem::path path_ = scratch_.path() / "lock";
    const std::filesystem::path begun_ = scratch_.path() / "begun";
    std::thread left_;
};

TEST_F(CommandLockTest, IsFreeOnceTheLastCommandOfAnEarlierLifeHasEnded) {
    leave_running("0.4");
    CommandLock next(path_);
    const auto began = std::chrono::steady_clock::now();
    EXPECT_GE(next.hold(10s), 0);
    EXPECT_GE(std::chrono::steady_clock::now() - began, 200ms);
    EXPECT_GE(next.hold(0ms), 0) << "it is held now";
}

TEST_F(CommandLockTest, SaysWhatItWaitsForAndMayBeAskedAgain) {
    leave_running("0.4");
    CommandLock next(path_);
    try {
        next.hold(30ms);
        FAIL() << "it did not wait";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kUnavailable);
        EXPECT_EQ(error.code(), "earlier_command_runs");
        EXPECT_EQ(error.info().message, "a command that an earlier bpgd began has not ended");
        EXPECT_EQ(error.info().detail, path_.string() + " is locked by it");
        EXPECT_EQ(error.info().hint,
                  "it is waited for; if it hangs, see why: fuser -v " + path_.string());
    }
    EXPECT_GE(next.hold(10s), 0);
}

TEST_F(CommandLockTest, OthersCannotOpenItsFile) {
    CommandLock lock(path_);
    lock.hold(1s);
    struct stat facts{};
    ASSERT_EQ(::stat(path_.c_str(), &facts), 0);
    EXPECT_EQ(facts.st_mode & 07777U, 0600U);
}

TEST_F(CommandLockTest, ACommandGetsNoOtherDescriptorWithIt) {
    CommandLock lock(path_);
    Command command;
    command.argv = {"ls", "/proc/self/fd"};
    command.inherited = lock.hold(1s);
    // 4 is the directory that ls reads.
    EXPECT_EQ(run_command(command).out, "0\n1\n2\n3\n4\n");
    command.inherited = -1;
    EXPECT_EQ(run_command(command).out, "0\n1\n2\n3\n");
}

}  // namespace
}  // namespace bpg
