// Series that come and go with what they are about, and counters that are counted elsewhere.
#include "metrics/instruments.h"

#include <gtest/gtest.h>

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
