// The storage port against real file systems. What both drivers promise is tested on both: btrfs on
// a loop device, copy in a plain directory. What only btrfs can follows below.
#include "orchestrator/storage/btrfs.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "orchestrator/base/files.h"
#include "orchestrator/storage/btrfs_ioctl.h"
#include "orchestrator/storage/copy.h"
#include "orchestrator/storage/pool.h"
#include "tests/unit/storage/storage_fixture.h"

namespace bpg::storage {
namespace {

constexpr std::uint64_t kMiB = 1ULL << 20U;

/// A mounted btrfs pool that goes away with the object.
class MountedPool {
  public:
    explicit MountedPool(std::uint64_t size) {
        make_pool_file(scratch_.path() / "pool.btrfs", size);
        mount_pool_file(scratch_.path() / "pool.btrfs", path());
    }
    ~MountedPool() { ::umount2(path().c_str(), MNT_DETACH); }
    MountedPool(const MountedPool&) = delete;
    MountedPool& operator=(const MountedPool&) = delete;
    fs::path path() const { return scratch_.path() / "mnt"; }

  private:
    ScratchDirectory scratch_;
};

/// A tmpfs that is small enough to fill.
class SmallTmpfs {
  public:
    explicit SmallTmpfs(const fs::path& path) : path_(path) {
        fs::create_directory(path_);
        if (::mount("none", path_.c_str(), "tmpfs", 0, "size=16m") != 0) {
            throw errno_error("mount a tmpfs", errno);
        }
    }
    ~SmallTmpfs() { ::umount2(path_.c_str(), MNT_DETACH); }
    SmallTmpfs(const SmallTmpfs&) = delete;
    SmallTmpfs& operator=(const SmallTmpfs&) = delete;

  private:
    fs::path path_;
};

class StorageTest : public testing::Test {
  protected:
    // One pool for all tests, each with a root of its own in it: mkfs and mount take a second.
    static void SetUpTestSuite() { pool_ = std::make_unique<MountedPool>(1024 * kMiB); }
    static void TearDownTestSuite() { pool_.reset(); }

    void use_btrfs() {
        root_ = pool_->path() / new_id();
        prepare_root(root_, "btrfs");
        storage_ = std::make_unique<BtrfsStorage>(root_, threads_);
    }
    void use_copy(const fs::path& root) {
        root_ = root;
        prepare_root(root_, "copy");
        storage_ = std::make_unique<CopyStorage>(root_, threads_);
    }

    Identity create(const std::string& volume, const std::string& ref = "prod/main") {
        const Identity identity = some_identity(ref);
        await(storage_->create_volume(volume, identity));
        return identity;
    }
    Identity copy(const std::string& source, const std::string& volume) {
        const Identity identity = some_identity("prod/dev");
        await(storage_->begin_copy(source, volume, identity, {}));
        await(storage_->finish_copy(volume, identity));
        return identity;
    }
    fs::path path(const std::string& volume) const { return storage_->volume_path(volume); }
    void expect_nothing_building() const { EXPECT_TRUE(is_empty_directory(root_ / ".building")); }

    static inline std::unique_ptr<MountedPool> pool_;
    ScratchDirectory scratch_;
    fs::path root_;
    BlockingPool threads_{2};
    std::unique_ptr<Storage> storage_;
};

class EveryDriver : public StorageTest, public testing::WithParamInterface<const char*> {
  protected:
    void SetUp() override {
        if (std::string(GetParam()) == "btrfs") {
            use_btrfs();
        } else {
            use_copy(scratch_.path() / "volumes");
        }
    }
};

INSTANTIATE_TEST_SUITE_P(Drivers, EveryDriver, testing::Values("btrfs", "copy"),
                         [](const auto& tested) { return std::string(tested.param); });

TEST_P(EveryDriver, AVolumeIsThereWithItsIdentityOnceCreated) {
    EXPECT_EQ(storage_->driver(), GetParam());
    EXPECT_EQ(await(storage_->find_volume("prod-main")), std::nullopt);
    const Identity identity = create("prod-main");
    EXPECT_EQ(await(storage_->find_volume("prod-main")), identity);
    EXPECT_EQ(facts(path("prod-main")).st_mode & 07777U, 0711U);
    EXPECT_EQ(facts(path("prod-main")).st_uid, 0U);
    EXPECT_EQ(facts(path("prod-main") / "betterpg.json").st_mode & 07777U, 0600U);
    expect_nothing_building();
}

TEST_P(EveryDriver, CreatingAgainIsSuccessAndTouchesNothing) {
    const Identity identity = create("prod-main");
    put(path("prod-main") / "file", "x");
    await(storage_->create_volume("prod-main", identity));
    EXPECT_EQ(get(path("prod-main") / "file"), "x");
}

TEST_P(EveryDriver, CreatingUnderTheNameOfAnotherBranchIsRefused) {
    const Identity theirs = create("prod-main");
    const ErrorInfo error =
        error_of([&] { await(storage_->create_volume("prod-main", some_identity())); });
    EXPECT_EQ(error.code, "volume_foreign");
    EXPECT_EQ(error.kind, ErrorKind::kConflict);
    EXPECT_EQ(await(storage_->find_volume("prod-main")), theirs);
    expect_nothing_building();
}

TEST_P(EveryDriver, AForeignThingIsRefusedByEveryVerbAndLeftUntouched) {
    fs::create_directory(root_ / "prod-a");
    put(root_ / "prod-a/precious", "x");
    put(root_ / "prod-b", "a file");
    fs::create_directory_symlink("/etc", root_ / "prod-c");
    fs::create_directory(root_ / "prod-d");
    put(root_ / "prod-d/betterpg.json", "{\"id\": 7}");
    fs::create_directory(root_ / "prod-e");
    fs::create_symlink("/etc/hostname", root_ / "prod-e/betterpg.json");
    create("prod-main");
    for (const char* name : {"prod-a", "prod-b", "prod-c", "prod-d", "prod-e"}) {
        SCOPED_TRACE(name);
        const Identity identity = some_identity();
        for (const std::string& code :
             {error_of([&] { await(storage_->find_volume(name)); }).code,
              error_of([&] { await(storage_->create_volume(name, identity)); }).code,
              error_of([&] { await(storage_->begin_copy("prod-main", name, identity, {})); }).code,
              error_of([&] { await(storage_->begin_copy(name, "prod-x", identity, {})); }).code,
              error_of([&] { await(storage_->finish_copy(name, identity)); }).code,
              error_of([&] { await(storage_->destroy_volume(name, identity.id)); }).code,
              error_of([&] { await(storage_->usage(name)); }).code}) {
            EXPECT_EQ(code, "volume_foreign");
        }
    }
    EXPECT_EQ(get(root_ / "prod-a/precious"), "x");
    EXPECT_EQ(get(root_ / "prod-b"), "a file");
    EXPECT_TRUE(fs::is_symlink(root_ / "prod-c"));
    expect_nothing_building();
}

TEST_P(EveryDriver, DestroyingTakesEverythingAndCanBeRepeated) {
    const Identity identity = create("prod-main");
    fs::create_directories(path("prod-main") / "data/base/5");
    put(path("prod-main") / "data/base/5/1", "x");
    put(scratch_.path() / "kept", "x");
    fs::create_symlink(scratch_.path() / "kept", path("prod-main") / "data/link");
    await(storage_->destroy_volume("prod-main", identity.id));
    EXPECT_FALSE(fs::exists(path("prod-main")));
    await(storage_->destroy_volume("prod-main", identity.id));
    EXPECT_EQ(get(scratch_.path() / "kept"), "x");
    expect_nothing_building();
}

TEST_P(EveryDriver, DestroyingIsRefusedToEverybodyButTheOwner) {
    const Identity identity = create("prod-main");
    EXPECT_EQ(error_of([&] { await(storage_->destroy_volume("prod-main", new_id())); }).code,
              "volume_foreign");
    EXPECT_EQ(error_of([&] { await(storage_->destroy_volume("prod-main", "")); }).code,
              "volume_foreign");
    EXPECT_EQ(await(storage_->find_volume("prod-main")), identity);
}

TEST_P(EveryDriver, WhatADeadBuilderLeftIsReplacedByTheNextAndRemovedByDestroy) {
    fs::create_directories(root_ / ".building/prod-main/data");
    put(root_ / ".building/prod-main/data/half", "x");
    const Identity identity = create("prod-main");
    EXPECT_FALSE(fs::exists(path("prod-main") / "data"));
    expect_nothing_building();
    fs::create_directories(root_ / ".building/prod-dev/data");
    put(root_ / ".building/prod-dev/data/half", "x");
    await(storage_->destroy_volume("prod-dev", new_id()));
    expect_nothing_building();
    EXPECT_EQ(await(storage_->find_volume("prod-main")), identity);
}

TEST_P(EveryDriver, ACopyAppearsOnlyWhenItIsFinished) {
    create("prod-main");
    fs::create_directory(path("prod-main") / "data");
    const std::string content = noise(2 * kMiB, 3);
    put(path("prod-main") / "data/table", content);
    const Identity identity = some_identity("prod/dev");
    const fs::path place = await(storage_->begin_copy("prod-main", "prod-dev", identity, {}));
    EXPECT_EQ(await(storage_->find_volume("prod-dev")), std::nullopt);
    put(place / "data/backup_label", "START");
    await(storage_->finish_copy("prod-dev", identity));
    EXPECT_EQ(await(storage_->find_volume("prod-dev")), identity);
    EXPECT_EQ(get(path("prod-dev") / "data/table"), content);
    EXPECT_EQ(get(path("prod-dev") / "data/backup_label"), "START");
    EXPECT_EQ(facts(path("prod-dev")).st_mode & 07777U, 0711U);
    expect_nothing_building();

    await(storage_->finish_copy("prod-dev", identity));
    EXPECT_EQ(
        error_of([&] { await(storage_->begin_copy("prod-main", "prod-dev", identity, {})); }).code,
        "volume_exists");

    put(path("prod-dev") / "data/table", "changed");
    EXPECT_EQ(get(path("prod-main") / "data/table"), content);
}

TEST_P(EveryDriver, ACopyBeginsFromNothingEachTime) {
    create("prod-main");
    put(path("prod-main") / "first", "x");
    const Identity identity = some_identity();
    await(storage_->begin_copy("prod-main", "prod-dev", identity, {}));
    fs::remove(path("prod-main") / "first");
    put(path("prod-main") / "second", "x");
    await(storage_->begin_copy("prod-main", "prod-dev", identity, {}));
    await(storage_->finish_copy("prod-dev", identity));
    EXPECT_FALSE(fs::exists(path("prod-dev") / "first"));
    EXPECT_TRUE(fs::exists(path("prod-dev") / "second"));
}

TEST_P(EveryDriver, WhatIsNotThereCannotBeCopiedFinishedOrMeasured) {
    const Identity identity = some_identity();
    EXPECT_EQ(error_of([&] { await(storage_->begin_copy("no-a", "no-b", identity, {})); }).code,
              "volume_not_found");
    EXPECT_EQ(error_of([&] { await(storage_->finish_copy("no-b", identity)); }).code,
              "copy_not_begun");
    EXPECT_EQ(error_of([&] { await(storage_->usage("no-b")); }).code, "volume_not_found");
    expect_nothing_building();
}

TEST_P(EveryDriver, ABadNameIsRefusedBeforeAnythingIsDone) {
    const Identity identity = some_identity();
    create("prod-main");
    for (const char* name : {"", "..", "../etc", "a/b", ".building", "-x"}) {
        SCOPED_TRACE(name);
        for (const std::string& code :
             {error_of([&] { await(storage_->find_volume(name)); }).code,
              error_of([&] { await(storage_->create_volume(name, identity)); }).code,
              error_of([&] { await(storage_->begin_copy("prod-main", name, identity, {})); }).code,
              error_of([&] { await(storage_->begin_copy(name, "prod-dev", identity, {})); }).code,
              error_of([&] { await(storage_->finish_copy(name, identity)); }).code,
              error_of([&] { await(storage_->destroy_volume(name, identity.id)); }).code,
              error_of([&] { await(storage_->usage(name)); }).code}) {
            EXPECT_EQ(code, "volume_name_invalid");
        }
    }
}

TEST_P(EveryDriver, UsageCountsDataAndFollowsNoLink) {
    create("prod-main");
    fs::create_directory(path("prod-main") / "data");
    const Usage before = await(storage_->usage("prod-main"));
    put(path("prod-main") / "data/table", noise(8 * kMiB, 4));
    put(scratch_.path() / "large", noise(8 * kMiB, 5));
    fs::create_symlink(scratch_.path() / "large", path("prod-main") / "data/link");
    fs::create_directory_symlink(scratch_.path(), path("prod-main") / "data/dirlink");
    const Usage after = await(storage_->usage("prod-main"));
    EXPECT_EQ(after.logical - before.logical, 8 * kMiB);
    EXPECT_GE(after.used - before.used, 8 * kMiB);
    EXPECT_LT(after.used - before.used, 9 * kMiB);
    EXPECT_GE(after.referenced, after.used);
    put(path("prod-main") / "data/sparse", "");
    ASSERT_EQ(::truncate((path("prod-main") / "data/sparse").c_str(), 1 << 30), 0);
    const Usage sparse = await(storage_->usage("prod-main"));
    EXPECT_EQ(sparse.logical - after.logical, 1024 * kMiB);
    EXPECT_EQ(sparse.used, after.used);
}

TEST_P(EveryDriver, SpaceIsThatOfTheFileSystem) {
    const Space space = await(storage_->space());
    EXPECT_GT(space.size, 0U);
    EXPECT_LE(space.free, space.size);
}

TEST_P(EveryDriver, ListShowsOursAndForeignThings) {
    const Identity main = create("prod-main");
    const Identity dev = copy("prod-main", "prod-dev");
    fs::create_directory(root_ / "Not Ours");
    put(root_ / "file", "x");
    const auto found = await(storage_->list());
    ASSERT_EQ(found.size(), 4U);
    EXPECT_EQ(found[0].volume, "Not Ours");
    EXPECT_EQ(found[0].identity, std::nullopt);
    EXPECT_EQ(found[1].volume, "file");
    EXPECT_EQ(found[1].identity, std::nullopt);
    EXPECT_EQ(found[2].volume, "prod-dev");
    EXPECT_EQ(found[2].identity, dev);
    EXPECT_EQ(found[3].volume, "prod-main");
    EXPECT_EQ(found[3].identity, main);
    for (const Found& one : found)
        EXPECT_EQ(one.snapshot, std::nullopt);
}

TEST_F(StorageTest, ACopyThatFillsTheDiskIsRefusedAndLeavesNothing) {
    const SmallTmpfs small(scratch_.path() / "small");
    use_copy(scratch_.path() / "small/volumes");
    create("prod-main");
    put(path("prod-main") / "table", noise(10 * kMiB, 6));
    const Identity identity = some_identity();
    const ErrorInfo error =
        error_of([&] { await(storage_->begin_copy("prod-main", "prod-dev", identity, {})); });
    EXPECT_EQ(error.code, "no_space");
    EXPECT_EQ(error.kind, ErrorKind::kExhausted);
    expect_nothing_building();
    EXPECT_FALSE(fs::exists(path("prod-dev")));
}

class Btrfs : public StorageTest {
  protected:
    void SetUp() override {
        use_btrfs();
        main_ = create("prod-main");
        fs::create_directory(path("prod-main") / "data");
    }
    SnapshotRef snapshot(const std::string& volume = "prod-main") {
        const SnapshotRef ref{volume, new_id()};
        await(storage_->snapshot(ref));
        return ref;
    }
    Identity clone(const SnapshotRef& ref, const std::string& volume) {
        const Identity identity = some_identity("prod/dev");
        await(storage_->clone(ref, volume, identity));
        return identity;
    }
    Identity main_;
};

TEST_F(Btrfs, ASnapshotIsReadOnlyAndHoldsEverythingWrittenBefore) {
    EXPECT_TRUE(storage_->atomic());
    // Written by system calls, synced by nobody.
    std::vector<std::string> contents;
    for (std::uint64_t i = 0; i < 50; ++i) {
        contents.push_back(noise(100'000 + i, i));
        const UniqueFd fd(::open((path("prod-main") / "data" / std::to_string(i)).c_str(),
                                 O_WRONLY | O_CREAT, 0600));
        ASSERT_EQ(::write(fd.get(), contents.back().data(), contents.back().size()),
                  static_cast<ssize_t>(contents.back().size()));
    }
    const SnapshotRef ref = snapshot();
    EXPECT_TRUE(await(storage_->snapshot_exists(ref)));
    for (std::size_t i = 0; i < contents.size(); ++i) {
        put(path("prod-main") / "data" / std::to_string(i), "later");
    }
    const fs::path taken = storage_->snapshot_path(ref);
    for (std::size_t i = 0; i < contents.size(); ++i) {
        EXPECT_EQ(get(taken / "data" / std::to_string(i)), contents[i]) << i;
    }
    EXPECT_EQ(::open((taken / "data/0").c_str(), O_WRONLY), -1);
    EXPECT_EQ(errno, EROFS);
    EXPECT_EQ(::open((taken / "new").c_str(), O_WRONLY | O_CREAT, 0600), -1);
    EXPECT_EQ(errno, EROFS);
}

TEST_F(Btrfs, ASnapshotUnderAWriterHoldsEveryRecordWrittenBeforeTheCall) {
    // One writer appends numbered records. Of those written while the call runs some may be
    // missing, and read as zeros where the file had grown already: what PostgreSQL expects after a
    // power cut.
    const fs::path log = path("prod-main") / "data/log";
    put(log, "");
    std::atomic<std::uint64_t> written{0};
    std::jthread writer([&](const std::stop_token& stop) {
        const UniqueFd fd(::open(log.c_str(), O_WRONLY | O_APPEND));
        for (std::uint64_t i = 0; !stop.stop_requested() && i < 2'000'000; ++i) {
            if (::write(fd.get(), &i, sizeof i) != sizeof i) break;
            written = i + 1;
        }
    });
    for (int round = 0; round < 20; ++round) {
        const std::uint64_t before = written;
        const SnapshotRef ref = snapshot();
        const std::uint64_t after = written + 1;
        const std::string content = get(storage_->snapshot_path(ref) / "data/log");
        std::vector<std::uint64_t> records(content.size() / sizeof(std::uint64_t));
        if (!records.empty()) {
            std::memcpy(records.data(), content.data(), records.size() * sizeof(std::uint64_t));
        }
        ASSERT_GE(records.size(), before) << "round " << round;
        ASSERT_LE(records.size(), after) << "round " << round;
        for (std::uint64_t i = 0; i < records.size(); ++i) {
            ASSERT_TRUE(records[i] == i || (i >= before && records[i] == 0))
                << "round " << round << ", record " << i << " of " << records.size() << " is "
                << records[i] << ", " << before << " were written before";
        }
        await(storage_->destroy_snapshot(ref));
    }
    EXPECT_GT(written, 0U);
}

TEST_F(Btrfs, ASnapshotIdIsTakenOnce) {
    const SnapshotRef ref = snapshot();
    const ErrorInfo error = error_of([&] { await(storage_->snapshot(ref)); });
    EXPECT_EQ(error.code, "snapshot_exists");
    EXPECT_EQ(error.kind, ErrorKind::kConflict);
    EXPECT_TRUE(await(storage_->snapshot_exists(ref)));
}

TEST_F(Btrfs, DestroyingASnapshotCanBeRepeatedAndLeavesNoDirectory) {
    const SnapshotRef first = snapshot();
    const SnapshotRef second = snapshot();
    await(storage_->destroy_snapshot(first));
    await(storage_->destroy_snapshot(first));
    EXPECT_FALSE(await(storage_->snapshot_exists(first)));
    EXPECT_TRUE(await(storage_->snapshot_exists(second)));
    await(storage_->destroy_snapshot(second));
    EXPECT_TRUE(is_empty_directory(root_ / ".snapshots"));
    await(storage_->destroy_snapshot({"never-there", new_id()}));
}

TEST_F(Btrfs, SnapshotsOutliveTheirVolumeAndCanStillBeCloned) {
    put(path("prod-main") / "data/table", "x");
    const SnapshotRef ref = snapshot();
    await(storage_->destroy_volume("prod-main", main_.id));
    EXPECT_TRUE(await(storage_->snapshot_exists(ref)));
    clone(ref, "prod-dev");
    EXPECT_EQ(get(path("prod-dev") / "data/table"), "x");
}

TEST_F(Btrfs, ClonesOutliveTheirSnapshot) {
    put(path("prod-main") / "data/table", "x");
    const SnapshotRef ref = snapshot();
    const Identity identity = clone(ref, "prod-dev");
    await(storage_->destroy_snapshot(ref));
    EXPECT_EQ(get(path("prod-dev") / "data/table"), "x");
    EXPECT_EQ(await(storage_->find_volume("prod-dev")), identity);
}

TEST_F(Btrfs, ACloneSharesBlocksAndIsWritableOnItsOwn) {
    put(path("prod-main") / "data/table", noise(64 * kMiB, 9));
    const SnapshotRef ref = snapshot();
    const Identity identity = clone(ref, "prod-dev");
    EXPECT_EQ(await(storage_->find_volume("prod-dev")), identity);
    EXPECT_EQ(await(storage_->find_volume("prod-main")), main_);
    const Usage usage = await(storage_->usage("prod-dev"));
    EXPECT_GE(usage.referenced, 64 * kMiB);
    EXPECT_GE(usage.logical, 64 * kMiB);
    EXPECT_LT(usage.used, kMiB / 4);

    const UniqueFd fd(::open((path("prod-dev") / "data/table").c_str(), O_WRONLY));
    const std::string changed = noise(4 * kMiB, 10);
    ASSERT_EQ(::pwrite(fd.get(), changed.data(), changed.size(), 0),
              static_cast<ssize_t>(changed.size()));
    EXPECT_NE(get(path("prod-main") / "data/table").substr(0, 4096), changed.substr(0, 4096));
    ASSERT_EQ(::fsync(fd.get()), 0);
    const Usage grown = await(storage_->usage("prod-dev"));
    EXPECT_GE(grown.used, 4 * kMiB);
    EXPECT_LT(grown.used, 5 * kMiB);
    put(path("prod-main") / "data/new", "parent");
    EXPECT_FALSE(fs::exists(path("prod-dev") / "data/new"));
    expect_nothing_building();
}

TEST_F(Btrfs, CloningAgainIsSuccessAndTouchesNothing) {
    const SnapshotRef ref = snapshot();
    const Identity identity = clone(ref, "prod-dev");
    put(path("prod-dev") / "data/used", "x");
    await(storage_->clone(ref, "prod-dev", identity));
    EXPECT_EQ(get(path("prod-dev") / "data/used"), "x");
    EXPECT_EQ(error_of([&] { await(storage_->clone(ref, "prod-dev", some_identity())); }).code,
              "volume_foreign");
}

TEST_F(Btrfs, ACloneReplacesWhatADeadBuilderLeft) {
    const SnapshotRef ref = snapshot();
    const UniqueFd building = open_directory(root_ / ".building");
    create_subvolume(building.get(), "prod-dev");
    put(root_ / ".building/prod-dev/half", "x");
    clone(ref, "prod-dev");
    EXPECT_FALSE(fs::exists(path("prod-dev") / "half"));
    expect_nothing_building();
}

TEST_F(Btrfs, CloningAForeignNameOrAMissingSnapshotIsRefused) {
    const SnapshotRef ref = snapshot();
    fs::create_directory(root_ / "prod-dev");
    EXPECT_EQ(error_of([&] { await(storage_->clone(ref, "prod-dev", some_identity())); }).code,
              "volume_foreign");
    const SnapshotRef missing{"prod-main", new_id()};
    const ErrorInfo error =
        error_of([&] { await(storage_->clone(missing, "prod-qa", some_identity())); });
    EXPECT_EQ(error.code, "snapshot_not_found");
    EXPECT_EQ(error.kind, ErrorKind::kNotFound);
    expect_nothing_building();
}

TEST_F(Btrfs, ANestedSubvolumeStopsASnapshotAtAnyDepth) {
    fs::create_directories(path("prod-main") / "data/pg_tblspc");
    const UniqueFd inside = open_directory(path("prod-main") / "data/pg_tblspc");
    create_subvolume(inside.get(), "pg_wal");
    const SnapshotRef ref{"prod-main", new_id()};
    const ErrorInfo error = error_of([&] { await(storage_->snapshot(ref)); });
    EXPECT_EQ(error.code, "nested_subvolume");
    EXPECT_EQ(error.kind, ErrorKind::kInvalid);
    EXPECT_FALSE(await(storage_->snapshot_exists(ref)));
    EXPECT_TRUE(is_empty_directory(root_ / ".snapshots"));
    destroy_subvolume(inside.get(), "pg_wal");
    EXPECT_NO_THROW(await(storage_->snapshot(ref)));
}

TEST_F(Btrfs, AVolumeIsDestroyedWithWhatIsNestedInIt) {
    const UniqueFd data = open_directory(path("prod-main") / "data");
    create_subvolume(data.get(), "one");
    const UniqueFd one = open_directory(path("prod-main") / "data/one");
    create_subvolume(one.get(), "two");
    create_subvolume(data.get(), "three");
    put(path("prod-main") / "data/one/two/file", "x");
    const Identity other = create("prod-other");
    await(storage_->destroy_volume("prod-main", main_.id));
    EXPECT_FALSE(fs::exists(path("prod-main")));
    EXPECT_EQ(await(storage_->find_volume("prod-other")), other);
}

TEST_F(Btrfs, ACopyOnBtrfsSharesBlocksToo) {
    put(path("prod-main") / "data/table", noise(16 * kMiB, 11));
    copy("prod-main", "prod-dev");
    EXPECT_EQ(get(path("prod-dev") / "data/table"), get(path("prod-main") / "data/table"));
    EXPECT_LT(await(storage_->usage("prod-dev")).used, kMiB);
    EXPECT_NO_THROW(snapshot("prod-dev"));
}

TEST_F(Btrfs, ListShowsSnapshotsWithTheVolumeTheyWereTakenOf) {
    const SnapshotRef ref = snapshot();
    await(storage_->destroy_volume("prod-main", main_.id));
    const auto found = await(storage_->list());
    ASSERT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0].volume, "prod-main");
    EXPECT_EQ(found[0].snapshot, ref.id);
    EXPECT_EQ(found[0].identity, main_);
}

TEST_F(Btrfs, SnapshotsOfOneVolumeComeAndGoAtOnce) {
    asio::io_context loop;
    std::vector<std::string> failures;
    const auto note = [&](const std::exception_ptr& failure) {
        if (failure) failures.push_back(describe(failure).message);
    };
    const auto come_and_go = [](Storage& storage) -> asio::awaitable<void> {
        for (int i = 0; i < 10; ++i) {
            const SnapshotRef ref{"prod-main", new_id()};
            co_await storage.snapshot(ref);
            co_await storage.destroy_snapshot(ref);
        }
    };
    for (int i = 0; i < 4; ++i)
        asio::co_spawn(loop, come_and_go(*storage_), note);
    loop.run();
    EXPECT_TRUE(failures.empty()) << failures.front();
    EXPECT_TRUE(is_empty_directory(root_ / ".snapshots"));
}

TEST_F(Btrfs, SnapshotNamesAreCheckedAtTheBorder) {
    for (const SnapshotRef& ref : {SnapshotRef{"..", new_id()}, SnapshotRef{"prod-main", ".."},
                                   SnapshotRef{"a/b", new_id()}, SnapshotRef{"prod-main", ""}}) {
        EXPECT_EQ(error_of([&] { await(storage_->snapshot(ref)); }).kind, ErrorKind::kInvalid);
        EXPECT_EQ(error_of([&] { await(storage_->snapshot_exists(ref)); }).kind,
                  ErrorKind::kInvalid);
        EXPECT_EQ(error_of([&] { await(storage_->destroy_snapshot(ref)); }).kind,
                  ErrorKind::kInvalid);
        EXPECT_EQ(error_of([&] { await(storage_->clone(ref, "prod-x", main_)); }).kind,
                  ErrorKind::kInvalid);
    }
    EXPECT_EQ(error_of([&] { snapshot("prod-none"); }).code, "volume_not_found");
}

TEST_F(Btrfs, AFullPoolIsSaidToBeFullAndNothingHalfMadeIsLeft) {
    const MountedPool small(kPoolFileMin);
    root_ = small.path() / "volumes";
    prepare_root(root_, "btrfs");
    BtrfsStorage storage(root_, threads_);
    await(storage.create_volume("prod-main", some_identity()));
    // Data first; new volumes then take what metadata has left.
    const std::string block = noise(kMiB, 12);
    const fs::path fill = root_ / "prod-main/fill";
    const UniqueFd fd(::open(fill.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600));
    while (::write(fd.get(), block.data(), block.size()) > 0)
        continue;
    EXPECT_EQ(errno, ENOSPC);
    ::fsync(fd.get());
    const ErrorInfo error = error_of([&] {
        for (int i = 0; i < 100'000; ++i) {
            const std::string name = "prod-x" + std::to_string(i);
            await(storage.create_volume(name, some_identity()));
        }
    });
    EXPECT_EQ(error.code, "no_space") << error.message << ": " << error.detail;
    EXPECT_EQ(error.kind, ErrorKind::kExhausted);
    EXPECT_TRUE(is_empty_directory(root_ / ".building"));
    for (const Found& found : await(storage.list()))
        EXPECT_TRUE(found.identity) << found.volume;
}

}  // namespace
}  // namespace bpg::storage
