// Promises of the store of passwords: one a branch, for root alone, and nothing left of it.
#include "orchestrator/base/secret_store.h"

#include <gtest/gtest.h>

#include <fstream>

#include "orchestrator/base/files.h"
#include "orchestrator/base/id.h"

namespace bpg {
namespace {

class SecretStoreTest : public ::testing::Test {
  protected:
    void TearDown() override { remove_tree(directory_); }
    /// As a bpgd that was killed while it wrote the password leaves it.
    void leave_unfinished(const std::string& branch_id) {
        std::filesystem::create_directories(directory_);
        std::ofstream(directory_ / ("." + branch_id + "." + new_id() + ".tmp")) << "half";
    }
    std::set<std::string> names() const {
        std::set<std::string> names;
        for (const auto& entry : std::filesystem::directory_iterator(directory_))
            names.insert(entry.path().filename());
        return names;
    }

    const std::filesystem::path directory_ =
        std::filesystem::temp_directory_path() / ("bpg-secrets-" + new_id());
    const SecretStore secrets_{directory_};
};

TEST_F(SecretStoreTest, APasswordIsMadeOnceAndForRootAlone) {
    const std::string id = new_id();
    EXPECT_FALSE(secrets_.find_password(id));
    const Secret password = secrets_.ensure_password(id);
    EXPECT_EQ(password.reveal().size(), 48U);
    const Secret again = secrets_.ensure_password(id);
    EXPECT_EQ(again.reveal(), password.reveal());
    const Secret other = secrets_.ensure_password(new_id());
    EXPECT_NE(other.reveal(), password.reveal());
    using std::filesystem::perms;
    EXPECT_EQ(std::filesystem::status(directory_ / id).permissions(),
              perms::owner_read | perms::owner_write);
    EXPECT_EQ(std::filesystem::status(directory_).permissions(), perms::owner_all);
}

TEST_F(SecretStoreTest, WhatAKilledProcessLeftGoesWithTheNextOneAndWithTheRemoval) {
    const std::string id = new_id();
    const std::string other = new_id();
    leave_unfinished(id);
    leave_unfinished(other);
    secrets_.ensure_password(id);
    EXPECT_EQ(names().size(), 2U);
    EXPECT_TRUE(names().contains(id));
    leave_unfinished(id);
    secrets_.remove_password(id);
    secrets_.remove_password(id);
    ASSERT_EQ(names().size(), 1U);
    EXPECT_TRUE(names().begin()->starts_with("." + other));
}

}  // namespace
}  // namespace bpg
