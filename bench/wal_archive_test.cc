// The benchmark of the WAL archive: that it runs, says what it found, and leaves nothing behind.
#include <gtest/gtest.h>

#include "orchestrator/base/subprocess.h"
#include "tests/harness/host.h"

namespace bpg::bench {
namespace {

CommandResult run_bench(std::vector<std::string> arguments) {
    Command command;
    command.argv = {(test::bin_dir() / "bench_wal_archive").native()};
    command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
    command.environment = {"BPG_BIN_DIR=" + test::bin_dir().native()};
    command.deadline = std::chrono::seconds(120);
    return run_command(command);
}

TEST(WalArchiveBench, SaysWhatArchivingAndRecoveringCost) {
    const CommandResult result = run_bench(
        {"--scale", "1", "--seconds", "1", "--clients", "2", "--wal", "32", "--rounds", "1"});
    EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
    for (const char* said :
         {"pgbench makes ", "bpg-wal archives ", "recovery over 32 MiB of WAL", "bpg-wal takes "}) {
        EXPECT_NE(result.out.find(said), std::string::npos) << result.out;
    }
}

TEST(WalArchiveBench, RefusesARecoveryOverNoWal) {
    EXPECT_EQ(run_bench({"--wal", "0"}).exit_code, 2);
}

}  // namespace
}  // namespace bpg::bench
