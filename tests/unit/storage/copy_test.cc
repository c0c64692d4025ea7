// The copy driver: refuses what it cannot do, and builds aside what it can. Promises it shares with
// btrfs are tested for both in tests/integration/drivers.
#include "orchestrator/storage/copy.h"

#include <gtest/gtest.h>

#include "tests/unit/storage/storage_fixture.h"

namespace bpg::storage {
namespace {

class CopyDriver : public testing::Test {
  protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "volumes are root's";
        prepare_root(root(), "copy");
    }
    fs::path root() const { return scratch_.path() / "volumes"; }

    ScratchDirectory scratch_;
    BlockingPool pool_{1};
    CopyStorage storage_{scratch_.path() / "volumes", pool_};
};

TEST_F(CopyDriver, SaysThatItIsNotAtomic) {
    EXPECT_EQ(storage_.driver(), "copy");
    EXPECT_FALSE(storage_.atomic());
    EXPECT_EQ(storage_.volume_path("prod-main"), root() / "prod-main");
}

TEST_F(CopyDriver, RefusesSnapshotsAndNamesTheDriversThatHaveThem) {
    const SnapshotRef snapshot{"prod-main", new_id()};
    for (const ErrorInfo& error :
         {error_of([&] { await(storage_.snapshot(snapshot)); }),
          error_of([&] { await(storage_.clone(snapshot, "prod-dev", some_identity())); }),
          error_of([&] { (void)storage_.snapshot_path(snapshot); })}) {
        EXPECT_EQ(error.kind, ErrorKind::kInvalid);
        EXPECT_EQ(error.code, "snapshot_unsupported");
        EXPECT_NE(error.hint.find("btrfs"), std::string::npos);
        EXPECT_NE(error.hint.find("zfs"), std::string::npos);
    }
    EXPECT_FALSE(await(storage_.snapshot_exists(snapshot)));
    EXPECT_NO_THROW(await(storage_.destroy_snapshot(snapshot)));
}

TEST_F(CopyDriver, AFailedCopyLeavesNothing) {
    await(storage_.create_volume("prod-main", some_identity()));
    put(root() / "prod-main/control", "torn");
    CopyPlan plan;
    plan.last = "control";
    plan.last_is_whole = [](const std::string& content) { return content == "whole"; };
    const ErrorInfo error = error_of(
        [&] { await(storage_.begin_copy("prod-main", "prod-dev", some_identity(), plan)); });
    EXPECT_EQ(error.code, "file_torn");
    EXPECT_TRUE(is_empty_directory(root() / ".building"));
    EXPECT_FALSE(fs::exists(root() / "prod-dev"));
}

TEST_F(CopyDriver, AVolumeLeavesItsNameBeforeItIsTakenApart) {
    // A removal that died half way left this: not under the volume's name, and cleaned by the next.
    const Identity identity = some_identity();
    await(storage_.create_volume("prod-main", identity));
    fs::rename(root() / "prod-main", root() / ".building/prod-main");
    EXPECT_EQ(await(storage_.find_volume("prod-main")), std::nullopt);
    await(storage_.destroy_volume("prod-main", identity.id));
    EXPECT_TRUE(is_empty_directory(root() / ".building"));
}

}  // namespace
}  // namespace bpg::storage
