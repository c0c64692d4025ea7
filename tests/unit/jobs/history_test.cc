// Jobs that ended are listed for as long as their outcome says, and then go whole: record, events,
// keys and log.
#include "jobs/history.h"

#include "tests/unit/jobs/engine_fixture.h"

namespace bpg::jobs::test {
namespace {

using std::chrono::days;

struct Ending {
    JobState state;
    days ago;
    bool is_expired;
};

class HistoryTest : public ::testing::Test {
  protected:
    void SetUp() override {
        std::filesystem::create_directories(directory_ / "logs");
        Store::create(directory_ / "store");
        store_.emplace(directory_ / "store", loop_.get_executor(), metrics_);
    }
    void TearDown() override {
        store_->close();
        store_.reset();
        remove_tree(directory_);
    }

    template <class Work>
    void run(Work work) {
        asio::co_spawn(loop_, std::move(work), [](std::exception_ptr) {});
        loop_.restart();
        loop_.run();
    }

    Job add(const Ending& ending, std::uint64_t number) {
        Job job;
        job.id = new_id();
        job.number = number;
        job.operation = "play";
        job.state = ending.state;
        job.created_at = clock_.now() - ending.ago;
        if (ending.state != JobState::kRunning && ending.state != JobState::kStuck) {
            job.finished_at = job.created_at;
        }
        Batch batch;
        batch.put(std::string(kinds::kJob) + big_endian(number), to_record(job).dump());
        batch.put(std::string(kinds::kJobId) + job.id, big_endian(number));
        batch.put(std::string(kinds::kEvent) + big_endian(number) + big_endian(1), "{}");
        batch.put(std::string(kinds::kIdempotency) + job.id,
                  nlohmann::json{{"number", number}}.dump());
        run(store_->commit(std::move(batch)));
        logs_.append(job.id, "it was played\n");
        run(logs_.written());
        return job;
    }

    std::size_t count(std::string_view kind) {
        std::size_t found = 0;
        store_->scan(kind, [&found](std::string_view, std::string_view) { return ++found > 0; });
        return found;
    }

    const std::filesystem::path directory_ =
        std::filesystem::temp_directory_path() / ("bpg-history-" + new_id());
    TestClock clock_;
    asio::io_context loop_{1};
    metrics::Instruments metrics_;
    std::optional<Store> store_;
    JobLogs logs_{directory_ / "logs", 1U << 20U};
};

TEST_F(HistoryTest, EveryOutcomeIsKeptForItsTimeAndOpenJobsForEver) {
    const std::vector<Ending> endings{
        {JobState::kSucceeded, days(6), false}, {JobState::kSucceeded, days(8), true},
        {JobState::kFailed, days(89), false},   {JobState::kFailed, days(91), true},
        {JobState::kCancelled, days(6), false}, {JobState::kCancelled, days(8), true},
        {JobState::kRunning, days(500), false}, {JobState::kStuck, days(500), false},
    };
    std::vector<std::string> expected;
    for (std::size_t i = 0; i < endings.size(); ++i) {
        const Job job = add(endings[i], i + 1);
        if (endings[i].is_expired) expected.push_back(job.id);
    }
    const History history(*store_, logs_, {});
    EXPECT_EQ(history.expired(clock_.now(), 100).job_ids, expected);
    EXPECT_EQ(history.expired(clock_.now(), 2).job_ids.size(), 2U);
}

TEST_F(HistoryTest, WhatGoesGoesWhole) {
    const Job old = add({JobState::kSucceeded, days(8), true}, 1);
    const Job fresh = add({JobState::kSucceeded, days(1), false}, 2);
    const History history(*store_, logs_, {});
    const History::Expired expired = history.expired(clock_.now(), 100);
    history.remove_logs(expired.job_ids);
    Batch batch;
    for (const std::string& key : expired.keys)
        batch.remove(key);
    run(store_->commit(std::move(batch)));
    for (const auto kind : {kinds::kJob, kinds::kJobId, kinds::kEvent, kinds::kIdempotency})
        EXPECT_EQ(count(kind), 1U) << kind;
    EXPECT_FALSE(std::filesystem::exists(logs_.path(old.id)));
    EXPECT_TRUE(std::filesystem::exists(logs_.path(fresh.id)));
}

}  // namespace
}  // namespace bpg::jobs::test
