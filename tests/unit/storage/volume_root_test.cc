// The volume root and its mark: a root that is not mounted is never taken for an empty one.
#include "orchestrator/storage/volume_root.h"

#include <gtest/gtest.h>

#include "orchestrator/storage/pool.h"
#include "tests/unit/storage/storage_fixture.h"

namespace bpg::storage {
namespace {

class VolumeRootTest : public testing::Test {
  protected:
    fs::path path() const { return scratch_.path() / "a/volumes"; }
    ScratchDirectory scratch_;
};

TEST_F(VolumeRootTest, IsPreparedOnceAndKeepsItsMark) {
    const RootMark mark = prepare_root(path(), "copy");
    EXPECT_TRUE(is_valid_id(mark.pool_id));
    EXPECT_EQ(prepare_root(path(), "copy"), mark);
    EXPECT_EQ(prepare_root(path(), "copy", mark.pool_id), mark);
    EXPECT_EQ(read_root_mark(path()), mark);
    EXPECT_EQ(facts(path()).st_mode & 07777U, 0711U);
    EXPECT_EQ(facts(path() / ".building").st_mode & 07777U, 0700U);
    EXPECT_EQ(facts(path() / ".snapshots").st_mode & 07777U, 0700U);
    EXPECT_EQ(facts(path() / "betterpg-root.json").st_mode & 07777U, 0600U);
}

TEST_F(VolumeRootTest, IsNotPreparedAgainWhereTheKnownPoolIsMissing) {
    fs::create_directories(path());
    const ErrorInfo error = error_of([&] { prepare_root(path(), "copy", new_id()); });
    EXPECT_EQ(error.code, "storage_unavailable");
    EXPECT_EQ(error.kind, ErrorKind::kUnavailable);
    EXPECT_TRUE(is_empty_directory(path()));
    prepare_root(path(), "copy");
    EXPECT_EQ(error_of([&] { prepare_root(path(), "copy", new_id()); }).code,
              "storage_unavailable");
}

TEST_F(VolumeRootTest, BelongsToOneDriver) {
    prepare_root(path(), "copy");
    EXPECT_EQ(error_of([&] { prepare_root(path(), "btrfs"); }).code, "root_of_another_driver");
    EXPECT_EQ(error_of([&] { VolumeRoot(path(), "btrfs", "").open(); }).code,
              "storage_unavailable");
}

TEST_F(VolumeRootTest, OpensOnlyWithTheRightMark) {
    EXPECT_EQ(read_root_mark(path()), std::nullopt);
    EXPECT_EQ(error_of([&] { VolumeRoot(path(), "copy", "").open(); }).kind,
              ErrorKind::kUnavailable);
    fs::create_directories(path());
    EXPECT_EQ(error_of([&] { VolumeRoot(path(), "copy", "").open(); }).kind,
              ErrorKind::kUnavailable);
    const RootMark mark = prepare_root(path(), "copy");
    EXPECT_TRUE(VolumeRoot(path(), "copy", "").open());
    EXPECT_TRUE(VolumeRoot(path(), "copy", mark.pool_id).open());
    EXPECT_EQ(error_of([&] { VolumeRoot(path(), "copy", new_id()).open(); }).kind,
              ErrorKind::kUnavailable);
}

TEST_F(VolumeRootTest, ADamagedMarkIsCorruptAndNotReplaced) {
    prepare_root(path(), "copy");
    put(path() / kRootMark, "{");
    EXPECT_EQ(error_of([&] { prepare_root(path(), "copy"); }).code, "root_mark_invalid");
    EXPECT_EQ(get(path() / kRootMark), "{");
}

TEST_F(VolumeRootTest, NamesThatCouldLeadElsewhereAreRefused) {
    const VolumeRoot root(path(), "copy", "");
    for (const char* name : {"", "..", "../x", "a/b", "/etc", ".building", ".snapshots"}) {
        EXPECT_EQ(error_of([&] { (void)root.volume_path(name); }).code, "volume_name_invalid");
        EXPECT_EQ(error_of([&] { (void)root.building_path(name); }).code, "volume_name_invalid");
        EXPECT_EQ(error_of([&] { (void)root.snapshot_path({name, new_id()}); }).code,
                  "volume_name_invalid");
    }
    for (const char* id : {"", "..", "../../../../etc1", "0123456789abcde/"}) {
        EXPECT_EQ(error_of([&] { (void)root.snapshot_path({"prod-main", id}); }).code,
                  "snapshot_id_invalid");
    }
    const std::string id = new_id();
    EXPECT_EQ(root.snapshot_path({"prod-main", id}), path() / ".snapshots/prod-main" / id);
}

TEST_F(VolumeRootTest, DetectionLeavesNothingBehindAndSaysWhy) {
    const DriverChoice choice = detect_driver(path());
    EXPECT_TRUE(choice.driver == "copy" || choice.driver == "btrfs") << choice.driver;
    EXPECT_NE(choice.reason.find(path().native()), std::string::npos) << choice.reason;
    EXPECT_TRUE(is_empty_directory(scratch_.path()));
}

}  // namespace
}  // namespace bpg::storage
