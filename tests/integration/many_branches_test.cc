// What it costs to look at a bpgd that has many branches: lists and the scrape of its metrics stay
// quick, and the loop, which everything else waits for, is hardly used.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

/// The middle one.
std::chrono::milliseconds median_of(std::vector<std::chrono::milliseconds> times) {
    std::sort(times.begin(), times.end());
    return times.at(times.size() / 2);
}

class ManyBranches : public HostSuite<ManyBranches> {
  protected:
    void adapt(HostOptions& options) const override {
        options.trash_keep = "0s";
        options.wide_ports = true;
    }

    static void make(int number, const std::string& kind, const std::vector<std::string>& flags) {
        std::atomic<int> next{0};
        at_once(4, [&](std::size_t) {
            for (int i = next++; i < number; i = next++)
                create(fmt::format("many/{}-{}", kind, i), flags);
        });
        host().wait_until_idle();
    }
    static void remove_all(int branches) {
        EXPECT_EQ(host().compare_world_with_catalog(), "");
        remove_database("many", 15min);  // zfs-fuse destroys two or three things a second
        host().wait_until_idle();
        expect_short_explanation(branches);
    }
    /// Whoever watches the job that destroys them all is told of a few: each is a command or two.
    static void expect_short_explanation(int branches) {
        const Json jobs = host().bpg_json({"job", "list"}).at("items");
        const auto found = std::find_if(jobs.begin(), jobs.end(), [](const Json& job) {
            return job.at("operation") == "db-delete";
        });
        ASSERT_NE(found, jobs.end());
        const Json world = host().bpg_json({"job", "get", found->at("id")})["explanation"]["world"];
        ASSERT_EQ(world.size(), 9U) << world.dump(2);
        EXPECT_EQ(world.back(), fmt::format("and {} more branches", branches - 8));
    }
};

TEST_P(ManyBranches, AreListedFast) {
    const int stopped = long_mode() ? 200 : 20;
    const int running = long_mode() ? 20 : 4;
    database("many");
    make(stopped, "stopped", {"--stopped"});
    make(running, "running", {});
    for (const std::vector<std::string>& words :
         {std::vector<std::string>{"status"}, {"branch", "list"}, {"branch", "list", "--tree"}}) {
        std::vector<std::chrono::milliseconds> times;
        for (int i = 0; i < 5; ++i) {
            const CliResult result = host().bpg(words);
            ASSERT_TRUE(result.ok()) << result.text();
            times.push_back(result.took);
        }
        fmt::print("{}: {} ms with {} branches\n", fmt::join(words, " "), median_of(times).count(),
                   stopped + running + 1);
        EXPECT_LT(median_of(times), kUnderSanitizer ? 1000ms : 100ms);
    }
    remove_all(stopped + running + 1);
}

TEST_P(ManyBranches, AreScrapedInLittleTimeAndLessOfTheLoop) {
    const int stopped = long_mode() ? 500 : 30;
    database("many");
    make(stopped, "stopped", {"--stopped"});
    const MetricsText before(host().metrics());
    std::vector<std::chrono::milliseconds> times;
    for (int i = 0; i < 30; ++i) {
        const auto began = std::chrono::steady_clock::now();
        const std::string text = host().metrics();
        times.push_back(std::chrono::duration_cast<std::chrono::milliseconds>(
            std::chrono::steady_clock::now() - began));
        EXPECT_NE(text.find(fmt::format("branch=\"stopped-{}\"", stopped - 1)), std::string::npos);
        std::this_thread::sleep_for(100ms);
    }
    const HistogramGrowth lag(before, MetricsText(host().metrics()), "bpg_event_loop_lag_seconds");
    fmt::print("a scrape: {} ms with {} branches; event loop lag, seconds: {}\n",
               median_of(times).count(), stopped + 1, lag.text());
    EXPECT_LT(median_of(times), kUnderSanitizer ? 500ms : 50ms);
    // The lag is looked at far more rarely than there is a scrape; the unit test
    // AScrapeWithFiveHundred… measures the part of one scrape that the loop does itself.
    EXPECT_GT(lag.count(), 0);
    EXPECT_LE(lag.above(kUnderSanitizer ? 0.05 : 0.005), long_mode() ? 0 : lag.count() / 20)
        << lag.text();
    remove_all(stopped + 1);
}

INSTANTIATE_TEST_SUITE_P(Btrfs, ManyBranches, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, ManyBranches, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);

}  // namespace
}  // namespace bpg::test
