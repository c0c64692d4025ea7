// Promises of the catalog: names, on-disk names, and what may be deleted.
#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <thread>

#include "metrics/instruments.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/id.h"
#include "orchestrator/catalog/catalog.h"

namespace bpg::catalog {
namespace {

class CatalogTest : public ::testing::Test {
  protected:
    Database add_database(const std::string& name) {
        Database database;
        database.id = new_id();
        database.name = name;
        catalog_.put(database, batch_);
        return database;
    }
    Branch add_branch(const Database& database, const std::string& name,
                      const std::string& parent_id = "") {
        Branch branch;
        branch.id = new_id();
        branch.database_id = database.id;
        branch.name = name;
        branch.parent_id = parent_id;
        branch.state = BranchState::kRunning;
        branch.volume = catalog_.choose_volume(database.name, name);
        catalog_.put(branch, batch_);
        return branch;
    }
    Catalog catalog_;
    jobs::Batch batch_;
};

TEST_F(CatalogTest, GivesPairsThatReadTheSameDifferentVolumes) {
    EXPECT_EQ(add_branch(add_database("a"), "b-c").volume, "a-b-c");
    EXPECT_EQ(add_branch(add_database("a-b"), "c").volume, "a-b-c.2");
}

TEST_F(CatalogTest, ListsMainFirstThenByName) {
    const Database database = add_database("prod");
    add_branch(database, "zebra");
    add_branch(database, "main");
    add_branch(database, "ant");
    std::vector<std::string> refs;
    for (const Branch* branch : catalog_.branches())
        refs.push_back(catalog_.ref_of(*branch));
    EXPECT_EQ(refs, (std::vector<std::string>{"prod/main", "prod/ant", "prod/zebra"}));
}

TEST_F(CatalogTest, RefusesToDeleteMainAndParents) {
    const Database database = add_database("prod");
    const Branch main = add_branch(database, "main");
    const Branch dev = add_branch(database, "dev", main.id);
    const Branch child = add_branch(database, "child", dev.id);
    EXPECT_EQ(catalog_.can_delete_branch(main, true)->code, "branch_is_main");
    EXPECT_EQ(catalog_.can_delete_branch(dev, true)->code, "branch_has_children");
    EXPECT_EQ(catalog_.can_delete_branch(dev, true)->detail, "cut from it: prod/child");
    EXPECT_FALSE(catalog_.can_delete_branch(child, false));
    EXPECT_EQ(catalog_.can_delete_database(database, false)->code, "database_has_branches");
    EXPECT_FALSE(catalog_.can_delete_database(database, true));
}

TEST_F(CatalogTest, KeepsWhatALaterVersionWroteIntoItsRecords) {
    const auto directory = std::filesystem::temp_directory_path() / ("bpg-catalog-" + new_id());
    std::filesystem::create_directories(directory);
    jobs::Store::create(directory);
    boost::asio::io_context loop;
    metrics::Instruments metrics;
    std::optional<jobs::Store> store;
    store.emplace(directory, loop.get_executor(), metrics);
    const std::string key = std::string(jobs::kinds::kBranch) + "b1";
    jobs::Batch batch;
    batch.put(key, R"({"id": "b1", "name": "dev", "mood": "good", "created_from": {"moon": 7}})");
    store->commit_unawaited(std::move(batch));
    while (!store->get(key))
        std::this_thread::yield();
    Catalog catalog;
    catalog.load(*store);
    Branch branch = *catalog.branch_by_id("b1");
    branch.name = "renamed";
    jobs::Batch rewritten;
    catalog.put(branch, rewritten);
    store->commit_unawaited(std::move(rewritten));
    store->close();
    store.emplace(directory, loop.get_executor(), metrics);
    const auto record = nlohmann::json::parse(store->get(key).value());
    EXPECT_EQ(record.at("mood"), "good");
    EXPECT_EQ(record.at("created_from").at("moon"), 7);
    EXPECT_EQ(record.at("name"), "renamed");
    store.reset();
    remove_tree(directory);
}

TEST_F(CatalogTest, ReadsOnlyRefsOfTwoValidNames) {
    EXPECT_EQ(split_ref("prod/dev"), (std::pair<std::string, std::string>{"prod", "dev"}));
    for (const char* text : {"prod", "prod/", "/dev", "prod/a/b", "Prod/dev", "prod/../x"}) {
        EXPECT_THROW(split_ref(text), Error) << text;
    }
}

}  // namespace
}  // namespace bpg::catalog
