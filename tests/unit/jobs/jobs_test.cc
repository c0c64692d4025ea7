// Promises of the queue's parts: records survive a round trip, back-off stays within its bounds,
// and the store refuses what it must not open.
#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include <boost/asio/io_context.hpp>
#include <fstream>

#include "jobs/backoff.h"
#include "jobs/crashpoint.h"
#include "jobs/job.h"
#include "jobs/store.h"
#include "metrics/instruments.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/id.h"
#include "orchestrator/base/json.h"

namespace bpg::jobs {
namespace {

TEST(Backoff, GrowsToAMinuteAndNeverBelowFiftyMilliseconds) {
    EXPECT_EQ(backoff(1, 0.0), std::chrono::milliseconds(50));
    EXPECT_EQ(backoff(1, 0.999).count(), 499);
    EXPECT_EQ(backoff(3, 0.5), std::chrono::milliseconds(1000));
    EXPECT_LE(backoff(1000, 0.999), std::chrono::milliseconds(60'000));
    EXPECT_GE(backoff(1000, 0.999), std::chrono::milliseconds(59'000));
}

TEST(JobRecord, SurvivesARoundTrip) {
    Job job;
    job.id = new_id();
    job.number = 7;
    job.operation = "branch-create";
    job.target = "prod/dev";
    job.state = JobState::kUndoing;
    job.direction = Direction::kRewind;
    job.rewind_to = "take_snapshot";
    job.created_at = SystemClock().now();
    job.step = "await_ready";
    job.steps = {{"await_ready", "answer a query", "running", job.created_at, 1.5}};
    job.error = ErrorInfo{ErrorKind::kConflict, "busy", "it is busy", "why", "fix"};
    job.locks = {{.resource = "branch/x",
                  .above = {"pool", "database/d"},
                  .mode = LockMode::kShared,
                  .shown_as = "prod/dev",
                  .from_step = "await_ready",
                  .until_step = "await_ready",
                  .held = true}};
    job.last_seq = 12;
    EXPECT_EQ(to_record(from_record(to_record(job))), to_record(job));
}

TEST(JobRecord, KeepsWhatALaterVersionWroteIntoIt) {
    Job written;
    written.id = new_id();
    nlohmann::json record = to_record(written);
    record["mood"] = "good";
    record["error"] = nullptr;
    record["data"] = {{"branch_id", "x"}};
    record["params"] = {{"colour", "red"}};
    const Job job = from_record(record);
    EXPECT_EQ(job.unknown, nlohmann::json({{"mood", "good"}}));
    EXPECT_EQ(to_record(job), record);
}

TEST(JobRecord, KeepsAnErrorWithBytesThatAreNoText) {
    Job job;
    job.error =
        ErrorInfo{ErrorKind::kInternal, "postgres_refused", "it ended", "FATAL: \xff\xc3", ""};
    const std::string stored = json_text(to_record(job));
    const Job read = from_record(nlohmann::json::parse(stored));
    EXPECT_EQ(read.error->detail, "FATAL: \xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST(JobState, NamesAreReadBackAndStrangersAreNot) {
    for (const JobState state : {JobState::kQueued, JobState::kWaiting, JobState::kRetrying,
                                 JobState::kCancelled, JobState::kStuck}) {
        EXPECT_EQ(job_state_from_string(to_string(state)), state);
    }
    EXPECT_FALSE(job_state_from_string("done"));
}

TEST(BigEndian, SortsAsTheNumbersDo) {
    EXPECT_LT(big_endian(255), big_endian(256));
    EXPECT_EQ(from_big_endian(big_endian(0x0102030405060708ULL)), 0x0102030405060708ULL);
}

TEST(CrashPoints, RefuseAPointWithAWrongCount) {
    CrashPoints points;
    EXPECT_THROW(points.arm_crash("a.b.before_run:0"), Error);
    EXPECT_THROW(points.arm_crash("a.b.before_run:x"), Error);
}

class StoreTest : public ::testing::Test {
  protected:
    void SetUp() override { std::filesystem::create_directories(directory_); }
    void TearDown() override { remove_tree(directory_); }
    std::string code_of_opening() {
        try {
            const Store store(directory_, loop_.get_executor(), metrics_);
            return "opened";
        } catch (const Error& error) {
            return error.code();
        }
    }
    const std::filesystem::path directory_ =
        std::filesystem::temp_directory_path() / ("bpg-store-" + new_id());
    boost::asio::io_context loop_;
    metrics::Instruments metrics_;
};

TEST_F(StoreTest, NeverMakesAnEmptyStoreByItself) {
    EXPECT_EQ(code_of_opening(), "store_missing");
    EXPECT_TRUE(std::filesystem::is_empty(directory_));
}

TEST_F(StoreTest, OpensWhatCreateMadeAndRefusesToMakeItTwice) {
    Store::create(directory_);
    EXPECT_EQ(code_of_opening(), "opened");
    EXPECT_THROW(Store::create(directory_), Error);
}

TEST_F(StoreTest, KeepsAStoreOfAnEarlierSchemaBeforeItBringsItUpToDate) {
    const std::filesystem::path store = directory_ / "state";
    std::filesystem::create_directories(store);
    Store::create(store);
    {
        rocksdb::DB* raw = nullptr;
        ASSERT_TRUE(rocksdb::DB::Open({}, store.string(), &raw).ok());
        const std::unique_ptr<rocksdb::DB> db(raw);
        ASSERT_TRUE(db->Put({}, "meschema", "1").ok());
        ASSERT_TRUE(db->Put({}, "xxkept", "yes").ok());
    }
    {
        const Store opened(store, loop_.get_executor(), metrics_);
        EXPECT_EQ(opened.get("xxkept"), "yes");
        EXPECT_EQ(opened.get("meschema"), "2");
        EXPECT_FALSE(opened.cut());
    }
    std::vector<std::filesystem::path> kept;
    for (const auto& entry : std::filesystem::directory_iterator(directory_ / "backups"))
        kept.push_back(entry.path());
    ASSERT_EQ(kept.size(), 1U);
    EXPECT_TRUE(kept.front().filename().string().starts_with("state-schema-1-"));
    rocksdb::DB* raw = nullptr;
    ASSERT_TRUE(rocksdb::DB::OpenForReadOnly({}, kept.front().string(), &raw).ok());
    const std::unique_ptr<rocksdb::DB> db(raw);
    std::string value;
    ASSERT_TRUE(db->Get({}, "meschema", &value).ok());
    EXPECT_EQ(value, "1");
}

/// A store with three commits in its log, none of them in a table; returns the log.
std::filesystem::path write_three(const std::filesystem::path& directory) {
    Store::create(directory);
    rocksdb::DB* raw = nullptr;
    EXPECT_TRUE(rocksdb::DB::Open({}, directory.string(), &raw).ok());
    const std::unique_ptr<rocksdb::DB> db(raw);
    for (const char* key : {"xx1", "xx2", "xx3"})
        EXPECT_TRUE(db->Put({}, key, std::string(1000, 'v')).ok());
    std::filesystem::path newest;
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
        if (entry.path().extension() == ".log" && entry.path() > newest) newest = entry.path();
    }
    return newest;
}

void damage(const std::filesystem::path& log, std::streamoff where) {
    std::fstream file(log, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(where);
    file.write("damage", 6);
}

TEST_F(StoreTest, WithADamagedNewestLogIsKeptAndOpenedUpToTheDamage) {
    const auto store = directory_ / "state";
    std::filesystem::create_directories(store);
    damage(write_three(store), 1500);
    std::filesystem::path kept;
    {
        Store opened(store, loop_.get_executor(), metrics_);
        EXPECT_TRUE(opened.get("xx1"));
        EXPECT_FALSE(opened.get("xx2"));
        ASSERT_TRUE(opened.cut());
        kept = *opened.cut();
    }
    EXPECT_TRUE(kept.filename().string().starts_with("state-damaged-")) << kept;
    {
        // Until somebody made sure that nothing is missing, every start is asked to.
        Store again(store, loop_.get_executor(), metrics_);
        EXPECT_EQ(again.cut(), kept);
        again.note_cut_is_harmless();
    }
    const Store later(store, loop_.get_executor(), metrics_);
    EXPECT_FALSE(later.cut());
    EXPECT_TRUE(later.get("xx1"));
    EXPECT_TRUE(std::filesystem::exists(kept / "CURRENT"));
}

TEST_F(StoreTest, ATornTailOfTheLogIsNoDamage) {
    const auto store = directory_ / "state";
    std::filesystem::create_directories(store);
    const auto log = write_three(store);
    std::filesystem::resize_file(log, std::filesystem::file_size(log) - 500);
    const Store opened(store, loop_.get_executor(), metrics_);
    EXPECT_FALSE(opened.cut());
    EXPECT_TRUE(opened.get("xx2"));
    EXPECT_FALSE(opened.get("xx3"));
}

TEST_F(StoreTest, WithADamagedTableIsRefusedAndLeftAsItIs) {
    const auto store = directory_ / "state";
    std::filesystem::create_directories(store);
    write_three(store);
    {
        const Store opened(store, loop_.get_executor(), metrics_);
    }
    for (const auto& entry : std::filesystem::directory_iterator(store)) {
        if (entry.path().extension() != ".sst") continue;
        std::filesystem::resize_file(entry.path(), 10);
    }
    const std::string code = [&] {
        try {
            const Store opened(store, loop_.get_executor(), metrics_);
            return std::string("opened");
        } catch (const Error& error) {
            return error.code();
        }
    }();
    EXPECT_EQ(code, "store_corrupt");
    EXPECT_FALSE(std::filesystem::exists(directory_ / "backups" / "cut"));
}

TEST_F(StoreTest, IsOpenedByOneAtATime) {
    Store::create(directory_);
    const Store first(directory_, loop_.get_executor(), metrics_);
    EXPECT_EQ(code_of_opening(), "store_in_use");
}

}  // namespace
}  // namespace bpg::jobs
