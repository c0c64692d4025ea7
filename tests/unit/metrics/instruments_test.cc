// Series that come and go with what they are about, and counters that are counted elsewhere.
#include "metrics/instruments.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

namespace bpg::metrics {
namespace {

bool shows(Instruments& metrics, const std::string& line) {
    return metrics.exposition().find("\n" + line + "\n") != std::string::npos;
}

TEST(Instruments, ASeriesVanishesWithWhatItIsAbout) {
    Instruments metrics;
    const std::vector<std::string> dev{"prod", "dev"};
    metrics.set_gauge("bpg_instance_up", {{{"prod", "main"}, 1}, {dev, 0}});
    EXPECT_TRUE(shows(metrics, "bpg_instance_up{branch=\"dev\",database=\"prod\"} 0"));
    metrics.set_gauge("bpg_instance_up", {{{"prod", "main"}, 1}});
    EXPECT_TRUE(shows(metrics, "bpg_instance_up{branch=\"main\",database=\"prod\"} 1"));
    EXPECT_EQ(metrics.exposition().find("dev"), std::string::npos);
    metrics.set_gauge("bpg_instance_up", {{dev, 1}});
    EXPECT_TRUE(shows(metrics, "bpg_instance_up{branch=\"dev\",database=\"prod\"} 1"));
}

TEST(Instruments, ACounterCountedElsewhereGrowsAndBeginsAnew) {
    Instruments metrics;
    const auto set = [&metrics](double value) {
        metrics.set_counter("bpg_schedule_missed_total", {{{"nightly"}, value}});
    };
    set(0);
    EXPECT_TRUE(shows(metrics, "bpg_schedule_missed_total{schedule=\"nightly\"} 0"));
    set(5);
    set(7);
    EXPECT_TRUE(shows(metrics, "bpg_schedule_missed_total{schedule=\"nightly\"} 7"));
    set(1);
    EXPECT_TRUE(shows(metrics, "bpg_schedule_missed_total{schedule=\"nightly\"} 1"))
        << "made again under the same name";
    metrics.set_counter("bpg_schedule_missed_total", {});
    EXPECT_EQ(metrics.exposition().find("schedule=\"nightly\""), std::string::npos);
}

TEST(Instruments, CountersOfAnOperationExistBeforeItRuns) {
    Instruments metrics;
    metrics.declare_operation("prune", {""}, {"check_plan"});
    EXPECT_TRUE(shows(metrics, "bpg_job_resumes_total{operation=\"prune\"} 0"));
    EXPECT_TRUE(
        shows(metrics, "bpg_job_attempts_total{operation=\"prune\",outcome=\"succeeded\"} 0"));
}

/// The cap of series a branch; what the loop is held up by, and the whole of a scrape.
TEST(Instruments, AScrapeWithFiveHundredBranchesIsShortAndHardlyHoldsUpTheLoop) {
    Instruments metrics;
    std::vector<Sample> samples;
    metrics.before_scrape([&] {
        for (const char* name :
             {"bpg_instance_up", "bpg_instance_expected", "bpg_branch_used_bytes",
              "bpg_branch_referenced_bytes", "bpg_wal_archive_bytes", "bpg_wal_pending_segments",
              "bpg_wal_gaps", "bpg_wal_last_archived_timestamp_seconds",
              "bpg_restorable_from_timestamp_seconds", "bpg_restorable_to_timestamp_seconds",
              "bpg_snapshot_last_success_timestamp_seconds"}) {
            metrics.set_gauge(name, samples);
        }
        metrics.set_counter("bpg_wal_archived_segments_total", samples);
    });
    using Ms = std::chrono::duration<double, std::milli>;
    Ms best_loop = Ms::max();
    Ms best_whole = Ms::max();
    std::size_t lines = 0;
    for (int round = 0; round < 20; ++round) {
        samples.clear();
        for (int branch = 0; branch < 500; ++branch) {
            // Some come and go.
            const std::string name = "branch-" + std::to_string(branch + round % 3);
            samples.push_back({{"production", name}, static_cast<double>(branch + round)});
        }
        const auto begun = std::chrono::steady_clock::now();
        metrics.refresh();
        const Ms loop = std::chrono::steady_clock::now() - begun;
        const std::string text = metrics.text();
        const Ms whole = std::chrono::steady_clock::now() - begun;
        best_loop = std::min(best_loop, loop);
        best_whole = std::min(best_whole, whole);
        lines = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
    }
    std::printf("%zu lines: %.1f ms of the loop, %.1f ms in all\n", lines, best_loop.count(),
                best_whole.count());
    EXPECT_GT(lines, 12U * 500U);
    EXPECT_LT(best_loop.count(), 5);
    EXPECT_LT(best_whole.count(), 50);
}

TEST(Instruments, ProcessorTimeGrowsWithWhatIsDone) {
    Instruments metrics;
    const auto used = [&metrics] {
        const std::string text = metrics.exposition();
        const std::string name = "\nprocess_cpu_seconds_total ";
        return std::stod(text.substr(text.find(name) + name.size()));
    };
    const double before = used();
    double after = before;
    for (int scrapes = 0; scrapes < 100'000 && after == before; ++scrapes)
        after = used();
    EXPECT_GT(after, before);
    EXPECT_LT(after, 60);
}

}  // namespace
}  // namespace bpg::metrics
