// Stores that earlier versions wrote are read, and what was open in them goes on. Every file of
// records/ is a whole store: lines of a key in hexadecimal digits, and behind it the value, as text
// behind "=" or in hexadecimal digits behind "x".
#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include <boost/asio/io_context.hpp>
#include <fstream>

#include "jobs/queue.h"
#include "metrics/instruments.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/id.h"
#include "orchestrator/catalog/catalog.h"

namespace bpg::operations {
namespace {

std::string from_hex(std::string_view digits) {
    std::string bytes;
    for (std::size_t i = 0; i + 1 < digits.size(); i += 2)
        bytes += static_cast<char>(std::stoi(std::string(digits.substr(i, 2)), nullptr, 16));
    return bytes;
}

void restore(const std::string& name, const std::filesystem::path& store) {
    jobs::Store::create(store);
    rocksdb::DB* raw = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open({}, store.string(), &raw).ok());
    const std::unique_ptr<rocksdb::DB> db(raw);
    std::ifstream records(std::filesystem::path(__FILE__).parent_path() / "records" / name);
    int lines = 0;
    for (std::string line; std::getline(records, line); ++lines) {
        const auto space = line.find(' ');
        const std::string value = line.substr(space + 2);
        ASSERT_TRUE(db->Put({}, from_hex(line.substr(0, space)),
                            line[space + 1] == 'x' ? from_hex(value) : value)
                        .ok());
    }
    ASSERT_GT(lines, 0) << name;
}

TEST(OldRecords, OfSchemaOneAreReadAndTheirOpenJobIsThere) {
    const auto directory = std::filesystem::temp_directory_path() / ("bpg-records-" + new_id());
    std::filesystem::create_directories(directory / "state");
    restore("schema-1.txt", directory / "state");
    boost::asio::io_context loop;
    metrics::Instruments metrics;
    jobs::Store store(directory / "state", loop.get_executor(), metrics);
    const jobs::OperationRegistry registry;
    const SystemClock clock;
    jobs::Queue queue(store, registry, clock, {});
    queue.load();
    catalog::Catalog catalog;
    catalog.load(store);
    const catalog::Branch half = catalog.branch("prod/half");
    EXPECT_EQ(half.state, catalog::BranchState::kCreating);
    EXPECT_EQ(catalog.branch("prod/dev").state, catalog::BranchState::kStopped);
    EXPECT_EQ(catalog.branch("prod/dev").created_from.lsn, "0/3000000");
    ASSERT_EQ(queue.open_jobs().size(), 1U);
    const jobs::Job open = *queue.open_jobs().begin()->second;
    EXPECT_EQ(open.operation, "branch-create");
    EXPECT_EQ(open.target, "prod/half");
    EXPECT_EQ(open.step, "await_ready");
    EXPECT_EQ(open.data.at("branch_id"), half.id);
    EXPECT_TRUE(queue.predecessor_died());
    const std::vector<jobs::Job> all =
        queue.finish_list(queue.begin_list({.state = {}, .database = "prod"}));
    EXPECT_EQ(all.size(), 6U);
    for (const jobs::Job& job : all) {
        std::uint64_t expected = 1;
        for (const jobs::Event& event : queue.events(job, 0, 100))
            EXPECT_EQ(event.seq, expected++);
        EXPECT_EQ(expected, job.last_seq + 1);
    }
    store.close();
    remove_tree(directory);
}

}  // namespace
}  // namespace bpg::operations
