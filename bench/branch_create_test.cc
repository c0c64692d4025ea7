// The benchmark itself: that it runs, leaves nothing behind, and that its figures hang together.
// How long anything takes is not looked at.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "bench/sample.h"
#include "orchestrator/base/id.h"
#include "orchestrator/base/subprocess.h"
#include "tests/harness/host.h"

namespace bpg::bench {
namespace {

namespace fs = std::filesystem;

class Report {
  public:
    Report() : file_(fs::temp_directory_path() / ("bpg-bench-" + random_hex(8) + ".json")) {}
    ~Report() {
        std::error_code ignored;  // it may never have been written
        fs::remove(file_, ignored);
    }
    Report(const Report&) = delete;
    Report& operator=(const Report&) = delete;

    CommandResult run(std::vector<std::string> arguments) const {
        Command command;
        command.argv = {(test::bin_dir() / "bench_branch_create").native(), "--json",
                        file_.native()};
        command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
        command.environment = {"BPG_BIN_DIR=" + test::bin_dir().native()};
        command.deadline = std::chrono::seconds(120);
        return run_command(command);
    }
    test::Json read() const {
        std::ifstream file(file_);
        return test::Json::parse(file);
    }

  private:
    fs::path file_;
};

/// Rounds that take so many milliseconds by hand and with bpg.
PairResult rounds_of(std::string baseline, const std::vector<std::pair<double, double>>& times) {
    PairResult result;
    result.baseline = std::move(baseline);
    for (const auto& [by_hand, ours] : times) {
        result.rounds.push_back(
            {{result.baseline, Sample{by_hand, {}}}, {"ours", Sample{ours, {}}}});
    }
    return result;
}

TEST(BranchCreateBench, PartsOfEveryVariantAddUpToItsTotal) {
    const Report report;
    // Nothing is that fast, so that it must complain.
    const CommandResult result =
        report.run({"--pair", "btrfs+process", "--rounds", "1", "--warm-up", "0", "--scale", "1",
                    "--seed", "1", "--max-ratio", "0.001", "--scrape", "--branches", "1"});
    ASSERT_EQ(result.exit_code, 1) << result.out << result.err;
    EXPECT_NE(result.out.find("TOO SLOW"), std::string::npos) << result.out;
    const test::Json pairs = report.read().at("pairs");
    ASSERT_EQ(pairs.size(), 1U);
    const test::Json& rounds = pairs.at(0).at("rounds");
    ASSERT_EQ(rounds.size(), 1U);
    std::set<std::string> variants;
    for (const auto& [variant, sample] : rounds.at(0).items()) {
        variants.insert(variant);
        double sum = 0;
        for (const test::Json& part : sample.at("parts")) {
            const auto ms = part.at("ms").get<double>();
            EXPECT_GT(ms, 0) << variant << ": " << part.at("name");
            sum += ms;
        }
        EXPECT_NEAR(sum, sample.at("total_ms").get<double>(), 0.001) << variant;
        EXPECT_GE(sample.at("parts").size(), 7U) << variant;
    }
    const std::set<std::string> expected = {
        "ours", "ours_fast", "ours_scraped", "raw", "raw_backup", "raw_backup_beside", "raw_same"};
    EXPECT_EQ(variants, expected);
    const test::Json& summary = pairs.at(0).at("summary");
    EXPECT_DOUBLE_EQ(summary.at("raw").at("ratio").at("median").get<double>(), 1.0);
    EXPECT_DOUBLE_EQ(summary.at("ours").at("ratio").at("median").get<double>(),
                     rounds.at(0).at("ours").at("total_ms").get<double>() /
                         rounds.at(0).at("raw").at("total_ms").get<double>());
    EXPECT_DOUBLE_EQ(summary.at("ours_scraped").at("ratio_to_ours").at("median").get<double>(),
                     rounds.at(0).at("ours_scraped").at("total_ms").get<double>() /
                         rounds.at(0).at("ours").at("total_ms").get<double>());
    EXPECT_DOUBLE_EQ(summary.at("ours").at("ratio_to_same").at("median").get<double>(),
                     rounds.at(0).at("ours").at("total_ms").get<double>() /
                         rounds.at(0).at("raw_same").at("total_ms").get<double>());
}

TEST(BranchCreateBench, RefusesAPairItDoesNotKnow) {
    const Report report;
    EXPECT_EQ(report.run({"--pair", "ext4+lxc"}).exit_code, 2);
}

TEST(BranchCreateBench, ComparesWithinARoundBeforeItTakesTheMedian) {
    // The machine was slower in the last round: the medians alone would say 250 to 120.
    const PairResult result = rounds_of("raw", {{100, 200}, {120, 250}, {300, 600}});
    EXPECT_DOUBLE_EQ(result.ratios("ours").median, 2.0);
    EXPECT_DOUBLE_EQ(result.ratios("ours").max, 250.0 / 120);
    EXPECT_DOUBLE_EQ(result.totals("ours").median, 250);
}

TEST(BranchCreateBench, HoldsItsLimitAgainstTheSameWorkByHand) {
    PairResult result = rounds_of("raw", {{100, 200}, {100, 300}});
    for (Round& round : result.rounds)
        round["raw_same"] = round.at("ours");
    EXPECT_TRUE(result.is_slower_than(0.9));
    EXPECT_FALSE(result.is_slower_than(1.0));
    EXPECT_FALSE(result.is_slower_than(0)) << "0 is no limit";
    EXPECT_FALSE(rounds_of("raw_backup", {{1, 100}}).is_slower_than(1.5)) << "no target for copies";
}

TEST(BranchCreateBench, QuartilesLieBetweenTheValues) {
    const Spread spread = spread_of({4, 1, 3, 2});
    EXPECT_DOUBLE_EQ(spread.median, 2.5);
    EXPECT_DOUBLE_EQ(spread.q1, 1.75);
    EXPECT_DOUBLE_EQ(spread.q3, 3.25);
    EXPECT_DOUBLE_EQ(spread.min, 1);
    EXPECT_DOUBLE_EQ(spread.max, 4);
    EXPECT_DOUBLE_EQ(spread_of({7}).q3, 7);
}

}  // namespace
}  // namespace bpg::bench
