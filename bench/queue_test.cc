// The benchmark of the queue: that it runs, says what it found, and leaves nothing behind.
#include <gtest/gtest.h>

#include <filesystem>

#include "orchestrator/base/id.h"
#include "orchestrator/base/subprocess.h"
#include "tests/harness/host.h"

namespace bpg::bench {
namespace {

CommandResult run_bench(std::vector<std::string> arguments) {
    Command command;
    command.argv = {(test::bin_dir() / "bench_queue").native()};
    command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
    command.deadline = std::chrono::seconds(120);
    return run_command(command);
}

TEST(QueueBench, SaysWhatAJobCostsAndLeavesNothingBehind) {
    const std::filesystem::path place =
        std::filesystem::temp_directory_path() / ("bpg-queue-" + random_hex(8));
    std::filesystem::create_directories(place);
    const CommandResult result = run_bench({"--jobs", "64", "--directory", place.native()});
    EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
    EXPECT_NE(result.out.find("one fdatasync: "), std::string::npos) << result.out;
    EXPECT_NE(result.out.find("64 clients get "), std::string::npos) << result.out;
    EXPECT_TRUE(std::filesystem::is_empty(place));
    std::filesystem::remove(place);
}

TEST(QueueBench, RefusesADirectoryThatIsNotThere) {
    EXPECT_EQ(run_bench({"--directory", "/nowhere"}).exit_code, 2);
}

}  // namespace
}  // namespace bpg::bench
