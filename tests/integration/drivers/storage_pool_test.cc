// Pool files on real loop devices: made complete or not at all, mounted once, never over something
// else, and a root whose pool is not mounted stops every verb.
#include <gtest/gtest.h>
#include <sys/mount.h>

#include "orchestrator/storage/btrfs.h"
#include "orchestrator/storage/pool.h"
#include "tests/unit/storage/storage_fixture.h"

namespace bpg::storage {
namespace {

class PoolFile : public testing::Test {
  protected:
    void SetUp() override { fs::create_directory(scratch_.path() / "dir"); }
    void TearDown() override {
        for (const char* name : {"mnt", "mnt2"}) {
            ::umount2((scratch_.path() / name).c_str(), MNT_DETACH);
        }
    }
    fs::path file() const { return scratch_.path() / "dir/pool.btrfs"; }
    fs::path mnt() const { return scratch_.path() / "mnt"; }

    ScratchDirectory scratch_;
};

TEST_F(PoolFile, IsMadeSparseAndPrivateAndLeftAloneTheSecondTime) {
    make_pool_file(file(), kPoolFileMin);
    EXPECT_TRUE(is_pool_file(file()));
    const auto first = facts(file());
    EXPECT_EQ(first.st_mode & 07777U, 0600U);
    EXPECT_EQ(first.st_size, static_cast<off_t>(kPoolFileMin));
    EXPECT_LT(first.st_blocks * 512, 16 << 20);
    make_pool_file(file(), 2 * kPoolFileMin);
    EXPECT_EQ(facts(file()).st_ino, first.st_ino);
    EXPECT_EQ(facts(file()).st_mtim.tv_nsec, first.st_mtim.tv_nsec);
}

TEST_F(PoolFile, RefusesAFileThatIsNotOursAndLeavesItUntouched) {
    put(file(), "precious");
    const ErrorInfo error = error_of([&] { make_pool_file(file(), kPoolFileMin); });
    EXPECT_EQ(error.code, "pool_file_foreign");
    EXPECT_EQ(error.kind, ErrorKind::kConflict);
    EXPECT_EQ(get(file()), "precious");
    fs::remove(file());
    fs::create_symlink("/etc/hostname", file());
    EXPECT_EQ(error_of([&] { make_pool_file(file(), kPoolFileMin); }).code, "pool_file_foreign");
}

TEST_F(PoolFile, RefusesSizesThatCannotWork) {
    EXPECT_EQ(error_of([&] { make_pool_file(file(), 1 << 20); }).code, "pool_too_small");
    const ErrorInfo error = error_of([&] { make_pool_file(file(), 1ULL << 60U); });
    EXPECT_EQ(error.code, "no_space");
    EXPECT_EQ(error.kind, ErrorKind::kExhausted);
    EXPECT_TRUE(is_empty_directory(file().parent_path()));
}

TEST_F(PoolFile, ReplacesWhatADeadMakerLeft) {
    put(file().native() + ".building", "half a file system");
    make_pool_file(file(), kPoolFileMin);
    EXPECT_TRUE(is_pool_file(file()));
    EXPECT_FALSE(fs::exists(file().native() + ".building"));
}

TEST_F(PoolFile, IsMountedOnceAndItsLoopDeviceGoesWithTheMount) {
    make_pool_file(file(), kPoolFileMin);
    EXPECT_FALSE(is_mounted_from(file(), mnt()));
    mount_pool_file(file(), mnt());
    EXPECT_TRUE(is_mounted_from(file(), mnt()));
    const auto device = facts(mnt()).st_dev;
    mount_pool_file(file(), mnt());
    EXPECT_EQ(facts(mnt()).st_dev, device);
    EXPECT_EQ(detect_driver(mnt() / "volumes").driver, "btrfs");
    EXPECT_TRUE(detect_driver(mnt()).reflink);
    EXPECT_TRUE(is_empty_directory(mnt()));

    // Mounted once means one layer: after one unmount the directory is bare.
    unmount_pool_file(mnt());
    EXPECT_FALSE(is_mounted_from(file(), mnt()));
    EXPECT_NE(facts(mnt()).st_dev, device);
    unmount_pool_file(mnt());
    for (const auto& entry : fs::directory_iterator("/sys/block")) {
        const fs::path backing = entry.path() / "loop/backing_file";
        if (fs::exists(backing)) EXPECT_NE(get(backing), file().native() + "\n");
    }
}

TEST_F(PoolFile, MountedWithoutAtimeSetuidAndDevices) {
    make_pool_file(file(), kPoolFileMin);
    mount_pool_file(file(), mnt());
    const std::string table = get("/proc/self/mounts");
    const auto line = table.find(" " + mnt().native() + " btrfs ");
    ASSERT_NE(line, std::string::npos) << table;
    const std::string options = table.substr(line, table.find('\n', line) - line);
    for (const char* option : {"nosuid", "nodev", "noexec", "noatime"}) {
        EXPECT_NE(options.find(option), std::string::npos) << options;
    }
    EXPECT_EQ(options.find("nobarrier"), std::string::npos) << options;
}

TEST_F(PoolFile, IsNeverMountedOverSomethingElse) {
    make_pool_file(file(), kPoolFileMin);
    fs::create_directory(mnt());
    put(mnt() / "kept", "x");
    EXPECT_EQ(error_of([&] { mount_pool_file(file(), mnt()); }).code, "mountpoint_busy");
    EXPECT_EQ(get(mnt() / "kept"), "x");
    fs::remove(mnt() / "kept");
    ASSERT_EQ(::mount("none", mnt().c_str(), "tmpfs", 0, "size=1m"), 0);
    const ErrorInfo error = error_of([&] { mount_pool_file(file(), mnt()); });
    EXPECT_EQ(error.code, "mountpoint_busy");
    EXPECT_EQ(error.kind, ErrorKind::kConflict);
    EXPECT_FALSE(is_mounted_from(file(), mnt()));
}

TEST_F(PoolFile, AMissingOneIsNotFound) {
    EXPECT_EQ(error_of([&] { mount_pool_file(file(), mnt()); }).code, "pool_file_missing");
    EXPECT_FALSE(fs::exists(mnt()));
}

TEST_F(PoolFile, KeepsItsVolumesOverUnmountAndMount) {
    BlockingPool threads(1);
    make_pool_file(file(), kPoolFileMin);
    mount_pool_file(file(), mnt());
    const RootMark mark = prepare_root(mnt(), "btrfs");
    BtrfsStorage storage(mnt(), threads, mark.pool_id);
    const Identity identity = some_identity();
    await(storage.create_volume("prod-main", identity));
    unmount_pool_file(mnt());

    // Not mounted: every verb stops, nothing is made in the bare directory.
    EXPECT_EQ(error_of([&] { await(storage.find_volume("prod-main")); }).code,
              "storage_unavailable");
    EXPECT_EQ(error_of([&] { await(storage.create_volume("prod-main", identity)); }).kind,
              ErrorKind::kUnavailable);
    EXPECT_EQ(error_of([&] { await(storage.destroy_volume("prod-main", identity.id)); }).kind,
              ErrorKind::kUnavailable);
    EXPECT_EQ(error_of([&] { await(storage.list()); }).kind, ErrorKind::kUnavailable);
    EXPECT_EQ(error_of([&] { await(storage.space()); }).kind, ErrorKind::kUnavailable);
    EXPECT_EQ(error_of([&] { prepare_root(mnt(), "btrfs", mark.pool_id); }).kind,
              ErrorKind::kUnavailable);
    EXPECT_TRUE(is_empty_directory(mnt()));

    mount_pool_file(file(), mnt());
    EXPECT_EQ(await(storage.find_volume("prod-main")), identity);
}

TEST_F(PoolFile, ARootOnAnotherFileSystemIsNoBtrfsRoot) {
    BlockingPool threads(1);
    fs::create_directory(mnt());
    ASSERT_EQ(::mount("none", mnt().c_str(), "tmpfs", 0, "size=4m"), 0);
    prepare_root(mnt(), "btrfs");
    BtrfsStorage storage(mnt(), threads);
    EXPECT_EQ(error_of([&] { await(storage.create_volume("prod-main", some_identity())); }).code,
              "storage_unavailable");
    EXPECT_EQ(detect_driver(mnt()).driver, "copy");
    EXPECT_FALSE(detect_driver(mnt()).reflink);
}

}  // namespace
}  // namespace bpg::storage
