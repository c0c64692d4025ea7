// `bpg init --storage zfs --pool NAME --pool-file PATH`: a pool of its own that bpgd imports at
// every start, whatever became of it in between.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

HostOptions with_pool_file() {
    HostOptions options;
    options.drivers = {"zfs", "process"};
    options.pool_by_init = true;
    options.pool_size = "2G";
    return options;
}

TEST(ZfsPoolFile, IsImportedAgainByTheNextStartWithEveryBranchInIt) {
    TestHost host(with_pool_file());
    host.start_daemon();
    host.bpg_json({"db", "create", "prod"});
    execute_alone(host.url("prod/main"), "CREATE TABLE t AS SELECT 3 AS n");
    host.bpg_json({"branch", "create", "prod/dev"});
    for (const char* ref : {"prod/dev", "prod/main"})
        host.bpg_json({"stop", ref});
    ASSERT_EQ(host.stop_daemon(), 0);
    run_zfs({"zpool", "export", host.pool_name()});

    host.start_daemon();
    for (const char* ref : {"prod/main", "prod/dev"}) {
        host.bpg_json({"start", ref});
        EXPECT_EQ(query_number(host.url(ref), "SELECT n FROM t"), 3) << ref;
    }
    EXPECT_EQ(host.compare_world_with_catalog(), "");
    EXPECT_EQ(host.finish(), std::vector<std::string>{});
}

TEST(ZfsPoolFile, ThatIsMissingStopsTheStartAndNothingIsMadeInItsPlace) {
    TestHost host(with_pool_file());
    run_zfs({"zpool", "export", host.pool_name()});
    const auto pool_file = host.base() / "pool.zfs";
    std::filesystem::rename(pool_file, host.base() / "elsewhere");
    host.spawn_daemon();
    const auto status = host.wait_for_daemon_end(30s);
    ASSERT_TRUE(status.has_value()) << "bpgd runs without its pool";
    EXPECT_NE(*status, 0);
    EXPECT_TRUE(std::filesystem::is_empty(host.volumes()));
    std::filesystem::rename(host.base() / "elsewhere", pool_file);
    host.start_daemon();
    EXPECT_EQ(host.finish(), std::vector<std::string>{});
}

TEST(ZfsPoolFile, InitRepeatedChangesNothing) {
    TestHost host(with_pool_file());
    const auto again = host.bpg({"init", "--no-start", "--storage", "zfs"});
    EXPECT_TRUE(again.ok()) << again.text();
    const auto other = host.bpg_error({"init", "--no-start", "--pool", "another"});
    expect_error(other, 5, "config_contradicts");
    EXPECT_EQ(host.finish(), std::vector<std::string>{});
}

}  // namespace
}  // namespace bpg::test
