// The storage port on real ZFS (zfs-fuse where there is no other). Each test has a base dataset of
// its own in one pool. Faults of the commands come from scripts that stand in front of the real
// ones; everything else is the real thing.
#include "orchestrator/storage/zfs.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <functional>
#include <stop_token>
#include <thread>

#include "orchestrator/base/files.h"
#include "orchestrator/base/subprocess.h"
#include "orchestrator/storage/zfs_mount.h"
#include "orchestrator/storage/zfs_mount_turn.h"
#include "orchestrator/storage/zfs_pool.h"
#include "orchestrator/storage/zfs_volumes.h"
#include "tests/harness/zfs_fuse.h"
#include "tests/unit/storage/storage_fixture.h"

namespace bpg::storage {
namespace {

using namespace std::chrono_literals;
using test::run_zfs;
using test::TestPool;

constexpr std::uint64_t kMiB = 1ULL << 20U;

class Zfs : public testing::Test {
  protected:
    static void SetUpTestSuite() { pool_ = std::make_unique<TestPool>(); }
    static void TearDownTestSuite() {
        if (!pool_) return;
        for (const std::string& left : pool_->finish())
            ADD_FAILURE() << "left behind: " << left;
        pool_.reset();
    }

    void SetUp() override {
        const std::string base = "t-" + new_id() + "/databases";
        use_base(*pool_, base);
        main_ = create("prod-main");
    }
    void use_base(const TestPool& pool, const std::string& base) {
        base_ = prepare_zfs_base(pool.name(), base, pool.directory() / base);
        settings_ = {pool.name(), base, base_.mountpoint, base_.pool_id, {}, 10s};
        storage_ = std::make_unique<ZfsStorage>(settings_, threads_);
    }
    void TearDown() override {
        // A test that passes leaves nothing that keeps the pool from going.
        storage_.reset();
    }

    Identity create(const std::string& volume, const std::string& ref = "prod/main") {
        const Identity identity = some_identity(ref);
        await(storage_->create_volume(volume, identity));
        return identity;
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
    fs::path path(const std::string& volume) const { return storage_->volume_path(volume); }
    std::string dataset(const std::string& volume) const { return base_.dataset + "/" + volume; }
    std::string property(const std::string& name, const std::string& dataset_name,
                         const std::string& field = "value") const {
        std::string text = run_zfs({"zfs", "get", "-Hp", "-o", field, name, dataset_name});
        text.pop_back();
        return text;
    }
    std::string all_names() const {
        return run_zfs(
            {"zfs", "list", "-H", "-r", "-t", "filesystem,snapshot", "-o", "name", base_.dataset});
    }
    bool exists(const std::string& name) const {
        return ("\n" + all_names()).find("\n" + name + "\n") != std::string::npos;
    }

    static inline std::unique_ptr<TestPool> pool_;
    ScratchDirectory scratch_;
    BlockingPool threads_{3};
    ZfsBase base_;
    ZfsSettings settings_;
    std::unique_ptr<Storage> storage_;
    Identity main_;
};

/// Space is counted when a transaction group is written, every five seconds or at a snapshot.
void settle(Storage& storage, const std::string& volume) {
    const SnapshotRef ref{volume, new_id()};
    await(storage.snapshot(ref));
    await(storage.destroy_snapshot(ref));
}

// ---- create -------------------------------------------------------------------------------------

TEST_F(Zfs, AVolumeIsThereMountedWithItsIdentityOnceCreated) {
    EXPECT_EQ(storage_->driver(), "zfs");
    EXPECT_TRUE(storage_->atomic());
    EXPECT_EQ(await(storage_->find_volume("prod-dev")), std::nullopt);
    EXPECT_EQ(await(storage_->find_volume("prod-main")), main_);
    EXPECT_EQ(path("prod-main"), base_.mountpoint / "prod-main");
    EXPECT_EQ(zfs_mounted_on(path("prod-main")), dataset("prod-main"));
    EXPECT_EQ(facts(path("prod-main")).st_mode & 07777U, 0711U);
    EXPECT_EQ(facts(path("prod-main")).st_uid, 0U);
    EXPECT_EQ(property("recordsize", dataset("prod-main")), "8192");
    EXPECT_EQ(property("atime", dataset("prod-main")), "off");
    EXPECT_EQ(property("compression", dataset("prod-main")), "on");
    for (const char* name : {"exec", "setuid", "devices"})
        EXPECT_EQ(property(name, dataset("prod-main")), "off") << name;
    for (const char* name : {kZfsId, kZfsRef, kZfsIncarnation, kZfsJob}) {
        EXPECT_EQ(property(name, dataset("prod-main"), "source"), "local") << name;
    }
}

TEST_F(Zfs, CreatingAgainIsSuccessAndTouchesNothing) {
    put(path("prod-main") / "file", "x");
    await(storage_->create_volume("prod-main", main_));
    EXPECT_EQ(get(path("prod-main") / "file"), "x");
}

TEST_F(Zfs, CreatingAgainFinishesWhatADeadCreatorLeft) {
    // Dead between `zfs create` and the mode; dead, and unmounted by a reboot.
    fs::permissions(path("prod-main"), fs::perms(0755));
    await(storage_->create_volume("prod-main", main_));
    EXPECT_EQ(facts(path("prod-main")).st_mode & 07777U, 0711U);
    fs::permissions(path("prod-main"), fs::perms(0755));
    run_zfs({"zfs", "unmount", dataset("prod-main")});
    await(storage_->create_volume("prod-main", main_));
    EXPECT_EQ(zfs_mounted_on(path("prod-main")), dataset("prod-main"));
    EXPECT_EQ(facts(path("prod-main")).st_mode & 07777U, 0711U);
}

TEST_F(Zfs, CreatingUnderTheNameOfAnotherBranchIsRefused) {
    const ErrorInfo error =
        error_of([&] { await(storage_->create_volume("prod-main", some_identity())); });
    EXPECT_EQ(error.code, "volume_foreign");
    EXPECT_EQ(error.kind, ErrorKind::kConflict);
    EXPECT_EQ(await(storage_->find_volume("prod-main")), main_);
}

TEST_F(Zfs, AForeignThingIsRefusedByEveryVerbAndLeftUntouched) {
    run_zfs({"zfs", "create", dataset("prod-a")});
    put(path("prod-a") / "precious", "x");
    fs::create_directory(path("prod-b"));
    put(path("prod-b") / "precious", "x");
    put(path("prod-c"), "a file");
    // A half identity, and one inherited from above, are none.
    run_zfs({"zfs", "create", "-o", "betterpg:id=" + new_id(), dataset("prod-d")});
    const SnapshotRef ref = snapshot();
    const Identity identity = some_identity();
    for (const char* name : {"prod-a", "prod-b", "prod-c", "prod-d"}) {
        SCOPED_TRACE(name);
        for (const std::string& code :
             {error_of([&] { await(storage_->find_volume(name)); }).code,
              error_of([&] { await(storage_->create_volume(name, identity)); }).code,
              error_of([&] { await(storage_->clone(ref, name, identity)); }).code,
              error_of([&] { await(storage_->snapshot({name, new_id()})); }).code,
              error_of([&] { await(storage_->destroy_volume(name, identity.id)); }).code,
              error_of([&] { await(storage_->usage(name)); }).code}) {
            EXPECT_EQ(code, "volume_foreign");
        }
    }
    EXPECT_EQ(get(path("prod-a") / "precious"), "x");
    EXPECT_EQ(get(path("prod-b") / "precious"), "x");
    EXPECT_EQ(get(path("prod-c")), "a file");
    EXPECT_TRUE(exists(dataset("prod-d")));
}

TEST_F(Zfs, AnIdentitySetAboveIsNotTheVolumes) {
    for (const char* name : {kZfsId, kZfsRef, kZfsIncarnation, kZfsJob}) {
        run_zfs({"zfs", "set", std::string(name) + "=inherited", base_.dataset});
    }
    run_zfs({"zfs", "create", dataset("prod-a")});
    EXPECT_EQ(property(kZfsId, dataset("prod-a")), "inherited");
    EXPECT_EQ(error_of([&] { await(storage_->find_volume("prod-a")); }).code, "volume_foreign");
    EXPECT_EQ(error_of([&] { await(storage_->destroy_volume("prod-a", "inherited")); }).code,
              "volume_foreign");
    EXPECT_TRUE(exists(dataset("prod-a")));
}

TEST_F(Zfs, ABadNameIsRefusedBeforeAnythingIsDone) {
    const Identity identity = some_identity();
    const std::string before = all_names();
    for (const char* name : {"", "..", "../etc", "a/b", "-x", "a@b", "a b", "x-"}) {
        SCOPED_TRACE(name);
        for (const std::string& code :
             {error_of([&] { await(storage_->find_volume(name)); }).code,
              error_of([&] { await(storage_->create_volume(name, identity)); }).code,
              error_of([&] {
                  await(storage_->clone({"prod-main", new_id()}, name, identity));
              }).code,
              error_of([&] { await(storage_->snapshot({name, new_id()})); }).code,
              error_of([&] { await(storage_->destroy_volume(name, identity.id)); }).code,
              error_of([&] { await(storage_->destroy_snapshot({name, new_id()})); }).code,
              error_of([&] { await(storage_->usage(name)); }).code,
              error_of([&] { storage_->volume_path(name); }).code}) {
            EXPECT_EQ(code, "volume_name_invalid");
        }
    }
    for (const char* id : {"", "..", "-r", "a,b", "%"}) {
        EXPECT_EQ(error_of([&] { await(storage_->snapshot({"prod-main", id})); }).code,
                  "snapshot_id_invalid");
        EXPECT_EQ(error_of([&] { await(storage_->destroy_snapshot({"prod-main", id})); }).code,
                  "snapshot_id_invalid");
    }
    EXPECT_EQ(error_of([&] {
                  await(storage_->create_volume("prod-x", {new_id(), "a\tb", "i", "j"}));
              }).code,
              "identity_invalid");
    EXPECT_EQ(all_names(), before);
}

TEST_F(Zfs, ADottedNameIsAVolumeLikeAnyOther) {
    const Identity identity = create("prod-main.2");
    EXPECT_EQ(await(storage_->find_volume("prod-main.2")), identity);
    await(storage_->destroy_volume("prod-main.2", identity.id));
    EXPECT_FALSE(fs::exists(path("prod-main.2")));
}

// ---- snapshot and clone -------------------------------------------------------------------------

TEST_F(Zfs, ASnapshotHoldsEverythingWrittenBeforeAndNothingAfter) {
    // Written by system calls, synced by nobody, while a writer goes on.
    std::vector<std::string> contents;
    for (std::uint64_t i = 0; i < 20; ++i) {
        contents.push_back(noise(100'000 + i, i));
        put(path("prod-main") / std::to_string(i), contents.back());
    }
    const SnapshotRef ref = snapshot();
    for (std::uint64_t i = 0; i < 20; ++i)
        put(path("prod-main") / std::to_string(i), "changed");
    put(path("prod-main") / "later", "x");
    clone(ref, "prod-dev");
    for (std::uint64_t i = 0; i < 20; ++i)
        EXPECT_EQ(get(path("prod-dev") / std::to_string(i)), contents[i]) << i;
    EXPECT_FALSE(fs::exists(path("prod-dev") / "later"));
}

TEST_F(Zfs, ASnapshotIsOneInstantOfAllFiles) {
    // Two files are written in turn: at no instant is the second ahead of the first.
    const fs::path first_file = path("prod-main") / "first";
    const fs::path second_file = path("prod-main") / "second";
    put(first_file, "x");
    put(second_file, "x");
    const std::jthread writer([&](const std::stop_token& stop) {
        const UniqueFd a(::open(first_file.c_str(), O_WRONLY | O_APPEND));
        const UniqueFd b(::open(second_file.c_str(), O_WRONLY | O_APPEND));
        while (!stop.stop_requested() && ::write(a.get(), "x", 1) == 1 &&
               ::write(b.get(), "x", 1) == 1)
            continue;
    });
    for (int round = 0; round < 5; ++round) {
        std::this_thread::sleep_for(30ms);
        const SnapshotRef ref = snapshot();
        const std::string name = "prod-r" + std::to_string(round);
        clone(ref, name);
        const auto first = facts(path(name) / "first").st_size;
        const auto second = facts(path(name) / "second").st_size;
        EXPECT_TRUE(first == second || first == second + 1) << first << " " << second;
    }
}

TEST_F(Zfs, ASnapshotIdIsTakenOnce) {
    EXPECT_FALSE(await(storage_->snapshot_exists({"prod-main", new_id()})));
    const SnapshotRef ref = snapshot();
    EXPECT_TRUE(await(storage_->snapshot_exists(ref)));
    const ErrorInfo error = error_of([&] { await(storage_->snapshot(ref)); });
    EXPECT_EQ(error.code, "snapshot_exists");
    EXPECT_EQ(error.kind, ErrorKind::kConflict);
    EXPECT_TRUE(await(storage_->snapshot_exists(ref)));
    EXPECT_EQ(storage_->snapshot_path(ref), path("prod-main") / ".zfs/snapshot" / ref.id);
    EXPECT_EQ(error_of([&] { snapshot("prod-none"); }).code, "volume_not_found");
}

TEST_F(Zfs, ACloneSharesBlocksAndIsWritableOnItsOwn) {
    put(path("prod-main") / "table", noise(24 * kMiB, 9));
    const SnapshotRef ref = snapshot();
    const Identity identity = clone(ref, "prod-dev");
    EXPECT_EQ(await(storage_->find_volume("prod-dev")), identity);
    EXPECT_EQ(await(storage_->find_volume("prod-main")), main_);
    EXPECT_EQ(facts(path("prod-dev")).st_mode & 07777U, 0711U);
    const Usage usage = await(storage_->usage("prod-dev"));
    EXPECT_GE(usage.referenced, 24 * kMiB);
    EXPECT_GE(usage.logical, 24 * kMiB);
    EXPECT_LT(usage.used, kMiB);

    put(path("prod-dev") / "own", noise(4 * kMiB, 10));
    put(path("prod-main") / "table", "changed");
    settle(*storage_, "prod-dev");
    const Usage grown = await(storage_->usage("prod-dev"));
    EXPECT_GE(grown.used, 4 * kMiB);
    EXPECT_LT(grown.used, 6 * kMiB);
    EXPECT_EQ(get(path("prod-dev") / "table"), noise(24 * kMiB, 9));
    EXPECT_FALSE(fs::exists(path("prod-main") / "own"));
}

TEST_F(Zfs, ACloneHasThePropertiesOfItsParentAndAnIdentityOfItsOwn) {
    const std::string parent = dataset("prod-main");
    for (const char* setting : {"recordsize=16K", "compression=gzip-1", "atime=on",
                                "primarycache=metadata", "logbias=throughput", "other:owner=ops"}) {
        run_zfs({"zfs", "set", setting, parent});
    }
    const SnapshotRef ref = snapshot();
    clone(ref, "prod-dev");
    for (const char* name : {"recordsize", "compression", "atime", "primarycache", "logbias"}) {
        EXPECT_EQ(property(name, dataset("prod-dev")), property(name, parent)) << name;
        EXPECT_EQ(property(name, dataset("prod-dev"), "source"), "local") << name;
    }
    // What nobody set on the parent is left to the base.
    for (const char* name : {"mountpoint", "canmount"}) {
        EXPECT_NE(property(name, dataset("prod-dev"), "source"), "local") << name;
    }
    EXPECT_EQ(property("recordsize", dataset("prod-dev")), "16384");
    EXPECT_EQ(property(kZfsSnapshot, dataset("prod-dev"), "source"), "-");
    // A clone of the clone goes by the clone.
    clone(snapshot("prod-dev"), "prod-qa");
    EXPECT_EQ(property("recordsize", dataset("prod-qa")), "16384");
}

TEST_F(Zfs, CloningAgainIsSuccessAndTouchesNothing) {
    const SnapshotRef ref = snapshot();
    const Identity identity = clone(ref, "prod-dev");
    put(path("prod-dev") / "used", "x");
    await(storage_->clone(ref, "prod-dev", identity));
    EXPECT_EQ(get(path("prod-dev") / "used"), "x");
    EXPECT_EQ(error_of([&] { await(storage_->clone(ref, "prod-dev", some_identity())); }).code,
              "volume_foreign");
    const SnapshotRef missing{"prod-main", new_id()};
    const ErrorInfo error =
        error_of([&] { await(storage_->clone(missing, "prod-qa", some_identity())); });
    EXPECT_EQ(error.code, "snapshot_not_found");
    EXPECT_EQ(error.kind, ErrorKind::kNotFound);
    EXPECT_FALSE(fs::exists(path("prod-qa")));
}

TEST_F(Zfs, AVolumeThatIsNotMountedIsFoundAndMountedOnlyWhenThatIsAsked) {
    put(path("prod-main") / "file", "x");
    run_zfs({"zfs", "unmount", dataset("prod-main")});
    EXPECT_EQ(await(storage_->find_volume("prod-main")), main_);
    EXPECT_NE(zfs_mounted_on(path("prod-main")), dataset("prod-main"))
        << "who destroys it just then would find it busy";
    await(storage_->mount_volume("prod-main"));
    EXPECT_EQ(get(path("prod-main") / "file"), "x");
    await(storage_->mount_volume("prod-main"));
    await(storage_->mount_volume("prod-none"));
    EXPECT_FALSE(fs::exists(path("prod-none")));
}

TEST_F(Zfs, AVolumeThatCannotBeMountedIsNeverTakenForAnEmptyOne) {
    run_zfs({"zfs", "unmount", dataset("prod-main")});
    run_zfs({"zfs", "set", "mountpoint=none", dataset("prod-main")});
    const ErrorInfo error = error_of([&] { await(storage_->mount_volume("prod-main")); });
    EXPECT_EQ(error.code, "storage_unavailable");
    EXPECT_FALSE(error.hint.empty());
    await(storage_->destroy_volume("prod-main", main_.id));
    EXPECT_FALSE(exists(dataset("prod-main")));
}

TEST_F(Zfs, VerbsOnDifferentVolumesRunAtOnce) {
    const SnapshotRef ref = snapshot();
    asio::io_context loop;
    std::vector<std::string> failures;
    const auto note = [&](const std::exception_ptr& failure) {
        if (failure) failures.push_back(describe(failure).message);
    };
    const auto come_and_go = [&ref](Storage& storage, std::string name) -> asio::awaitable<void> {
        for (int i = 0; i < 3; ++i) {
            const Identity identity = some_identity();
            co_await storage.clone(ref, name, identity);
            co_await storage.destroy_volume(name, identity.id);
        }
    };
    for (int i = 0; i < 4; ++i)
        asio::co_spawn(loop, come_and_go(*storage_, "prod-p" + std::to_string(i)), note);
    loop.run();
    EXPECT_TRUE(failures.empty()) << failures.front();
    EXPECT_EQ(await(storage_->list()).size(), 2U);
}

TEST_F(Zfs, ACopyIsRefused) {
    const ErrorInfo error = error_of(
        [&] { await(storage_->begin_copy("prod-main", "prod-dev", some_identity(), {})); });
    EXPECT_EQ(error.code, "copy_unsupported");
    EXPECT_EQ(error.kind, ErrorKind::kInvalid);
    EXPECT_EQ(error_of([&] { await(storage_->finish_copy("prod-dev", main_)); }).code,
              "copy_unsupported");
}

// ---- destroy ------------------------------------------------------------------------------------

TEST_F(Zfs, DestroyingTakesEverythingAndCanBeRepeated) {
    fs::create_directories(path("prod-main") / "data/base");
    put(path("prod-main") / "data/base/1", "x");
    await(storage_->destroy_volume("prod-main", main_.id));
    EXPECT_FALSE(exists(dataset("prod-main")));
    EXPECT_FALSE(fs::exists(path("prod-main")));
    await(storage_->destroy_volume("prod-main", main_.id));
    // An empty directory is what a destroyer that died left.
    fs::create_directory(path("prod-main"));
    await(storage_->destroy_volume("prod-main", main_.id));
    EXPECT_FALSE(fs::exists(path("prod-main")));
}

TEST_F(Zfs, DestroyingIsRefusedToEverybodyButTheOwner) {
    for (const std::string& who : {new_id(), std::string()}) {
        EXPECT_EQ(error_of([&] { await(storage_->destroy_volume("prod-main", who)); }).code,
                  "volume_foreign");
    }
    EXPECT_EQ(await(storage_->find_volume("prod-main")), main_);
}

TEST_F(Zfs, AVolumeWithSnapshotsThatNobodyCanTakeOverIsKeptAndTheyAreNamed) {
    const SnapshotRef first = snapshot();
    clone(first, "prod-dev");
    const SnapshotRef second = snapshot();
    const ErrorInfo error =
        error_of([&] { await(storage_->destroy_volume("prod-main", main_.id)); });
    EXPECT_EQ(error.code, "volume_has_snapshots");
    EXPECT_EQ(error.kind, ErrorKind::kConflict);
    EXPECT_NE(error.detail.find(second.id), std::string::npos) << error.detail;
    EXPECT_EQ(error.detail.find(first.id), std::string::npos) << error.detail;
    EXPECT_TRUE(await(storage_->snapshot_exists(second)));
    EXPECT_EQ(property("origin", dataset("prod-dev")), dataset("prod-main") + "@" + first.id);
    await(storage_->destroy_snapshot(second));
    await(storage_->destroy_volume("prod-main", main_.id));
    EXPECT_FALSE(exists(dataset("prod-main")));
}

TEST_F(Zfs, ASnapshotOutlivesItsVolumeWithAHeirAndIsFoundByItsId) {
    put(path("prod-main") / "file", "old");
    const SnapshotRef plain = snapshot();
    put(path("prod-main") / "file", "x");
    const SnapshotRef ref = snapshot();
    const Identity dev = clone(ref, "prod-dev");
    const Identity qa = clone(ref, "prod-qa");
    await(storage_->destroy_volume("prod-main", main_.id));
    EXPECT_FALSE(exists(dataset("prod-main")));
    EXPECT_FALSE(fs::exists(path("prod-main")));
    // Both went to a clone, the one that nobody hangs on too, and still are what they were.
    EXPECT_TRUE(await(storage_->snapshot_exists(ref)));
    EXPECT_TRUE(await(storage_->snapshot_exists(plain)));
    clone(plain, "prod-old");
    EXPECT_EQ(get(path("prod-old") / "file"), "old");
    EXPECT_EQ(property("recordsize", dataset("prod-old")), "8192");
    EXPECT_EQ(await(storage_->find_volume("prod-dev")), dev);
    EXPECT_EQ(await(storage_->find_volume("prod-qa")), qa);
    EXPECT_EQ(get(path("prod-qa") / "file"), "x");
    for (const Found& found : await(storage_->list())) {
        if (!found.snapshot) continue;
        EXPECT_EQ(found.volume, "prod-main");
        EXPECT_EQ(found.identity, main_);
    }
    // It goes with the last that hangs on it.
    const ErrorInfo error = error_of([&] { await(storage_->destroy_snapshot(ref)); });
    EXPECT_EQ(error.code, "snapshot_has_clones");
    await(storage_->destroy_volume("prod-qa", qa.id));
    await(storage_->destroy_snapshot(ref));
    EXPECT_FALSE(await(storage_->snapshot_exists(ref)));
    EXPECT_EQ(await(storage_->find_volume("prod-dev")), dev);
}

TEST_F(Zfs, AForeignCloneIsNotPromotedAndAChildIsNotDestroyed) {
    const SnapshotRef ref = snapshot();
    run_zfs({"zfs", "clone", dataset("prod-main") + "@" + ref.id, dataset("prod-hand")});
    ErrorInfo error = error_of([&] { await(storage_->destroy_volume("prod-main", main_.id)); });
    EXPECT_EQ(error.code, "volume_has_clones");
    EXPECT_NE(error.detail.find("prod-hand"), std::string::npos) << error.detail;
    run_zfs({"zfs", "create", dataset("prod-main") + "/child"});
    error = error_of([&] { await(storage_->destroy_volume("prod-main", main_.id)); });
    EXPECT_EQ(error.code, "volume_has_children");
    EXPECT_NE(error.detail.find("prod-main/child"), std::string::npos) << error.detail;
    EXPECT_EQ(property("origin", dataset("prod-hand")), dataset("prod-main") + "@" + ref.id);
    EXPECT_EQ(await(storage_->find_volume("prod-main")), main_);
}

TEST_F(Zfs, DestroyingASnapshotCanBeRepeatedAndIsRefusedWhileClonesHangOnIt) {
    const SnapshotRef ref = snapshot();
    const Identity dev = clone(ref, "prod-dev");
    const ErrorInfo error = error_of([&] { await(storage_->destroy_snapshot(ref)); });
    EXPECT_EQ(error.code, "snapshot_has_clones");
    EXPECT_EQ(error.kind, ErrorKind::kConflict);
    EXPECT_NE(error.detail.find("prod-dev"), std::string::npos) << error.detail;
    EXPECT_TRUE(await(storage_->snapshot_exists(ref)));
    await(storage_->destroy_volume("prod-dev", dev.id));
    await(storage_->destroy_snapshot(ref));
    await(storage_->destroy_snapshot(ref));
    EXPECT_FALSE(await(storage_->snapshot_exists(ref)));
    await(storage_->destroy_snapshot({"never-there", new_id()}));
}

TEST_F(Zfs, ASnapshotThatIsNotOursIsLeftAlone) {
    const SnapshotRef ref{"prod-main", new_id()};
    run_zfs({"zfs", "snapshot", dataset("prod-main") + "@" + ref.id});
    EXPECT_FALSE(await(storage_->snapshot_exists(ref)));
    const ErrorInfo error = error_of([&] { await(storage_->destroy_snapshot(ref)); });
    EXPECT_EQ(error.code, "snapshot_foreign");
    EXPECT_EQ(error_of([&] { await(storage_->clone(ref, "prod-x", some_identity())); }).code,
              "snapshot_not_found");
    EXPECT_TRUE(exists(dataset("prod-main") + "@" + ref.id));
}

/// A process whose working directory keeps a mount busy, for so many seconds.
class Holder {
  public:
    Holder(const fs::path& directory, const std::string& seconds) {
        posix_spawn_file_actions_t actions;
        ::posix_spawn_file_actions_init(&actions);
        ::posix_spawn_file_actions_addchdir_np(&actions, directory.c_str());
        std::string program = "/bin/sleep";
        std::string argument = seconds;
        char* argv[] = {program.data(), argument.data(), nullptr};
        const int failure = ::posix_spawn(&pid_, program.c_str(), &actions, nullptr, argv, environ);
        ::posix_spawn_file_actions_destroy(&actions);
        if (failure != 0) throw errno_error("start sleep", failure);
    }
    ~Holder() {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    Holder(const Holder&) = delete;
    Holder& operator=(const Holder&) = delete;

  private:
    pid_t pid_ = -1;
};

TEST_F(Zfs, DestroyingWaitsForWhoeverStillUsesTheVolume) {
    const auto began = std::chrono::steady_clock::now();
    const Holder holder(path("prod-main"), "0.3");
    await(storage_->destroy_volume("prod-main", main_.id));
    EXPECT_GE(std::chrono::steady_clock::now() - began, 300ms);
    EXPECT_FALSE(exists(dataset("prod-main")));
    EXPECT_FALSE(fs::exists(path("prod-main")));
}

TEST_F(Zfs, AVolumeThatStaysBusyIsSaidToBeAndCanBeDestroyedLater) {
    settings_.busy_patience = 200ms;
    ZfsStorage storage(settings_, threads_);
    {
        const Holder holder(path("prod-main"), "30");
        const ErrorInfo error =
            error_of([&] { await(storage.destroy_volume("prod-main", main_.id)); });
        EXPECT_EQ(error.code, "volume_busy");
        EXPECT_EQ(error.kind, ErrorKind::kUnavailable);
        EXPECT_FALSE(error.hint.empty());
    }
    EXPECT_EQ(await(storage_->find_volume("prod-main")), main_);
    await(storage_->destroy_volume("prod-main", main_.id));
    EXPECT_FALSE(exists(dataset("prod-main")));
}

// ---- measuring, listing -------------------------------------------------------------------------

TEST_F(Zfs, ListShowsOursAndForeignThings) {
    const SnapshotRef ref = snapshot();
    const Identity dev = clone(ref, "prod-dev");
    run_zfs({"zfs", "create", dataset("Hand.made")});
    run_zfs({"zfs", "create", dataset("prod-dev") + "/child"});
    run_zfs({"zfs", "snapshot", dataset("prod-dev") + "@daily"});
    run_zfs({"zfs", "snapshot", base_.dataset + "@daily"});
    fs::create_directory(base_.mountpoint / "plain");
    put(base_.mountpoint / "file", "x");
    const auto found = await(storage_->list());
    ASSERT_EQ(found.size(), 8U);
    const auto expect = [&](std::size_t i, const std::string& volume,
                            const std::optional<std::string>& id,
                            const std::optional<Identity>& identity) {
        EXPECT_EQ(found[i].volume, volume);
        EXPECT_EQ(found[i].snapshot, id) << volume;
        EXPECT_EQ(found[i].identity, identity) << volume;
    };
    expect(0, "Hand.made", {}, {});
    expect(1, "file", {}, {});
    expect(2, "plain", {}, {});
    expect(3, "prod-dev", {}, dev);
    expect(4, "prod-dev/child", {}, {});
    expect(5, "prod-main", {}, main_);
    expect(6, "prod-dev", "daily", {});
    expect(7, "prod-main", ref.id, main_);
}

TEST_F(Zfs, UsageIsWhatWouldComeBackWithoutTheSnapshots) {
    put(path("prod-main") / "table", noise(8 * kMiB, 4));
    settle(*storage_, "prod-main");
    const Usage alone = await(storage_->usage("prod-main"));
    EXPECT_GE(alone.used, 8 * kMiB);
    EXPECT_LT(alone.used, 10 * kMiB);
    snapshot();
    const Usage shared = await(storage_->usage("prod-main"));
    EXPECT_LE(shared.used, alone.used);
    // Pool version 23 does not tell what snapshots share with their volume.
    if (ZfsCommand().known_properties(base_.dataset).contains("written")) {
        EXPECT_LT(shared.used, kMiB);
    }
    EXPECT_GE(shared.referenced, 8 * kMiB);
    EXPECT_EQ(error_of([&] { await(storage_->usage("prod-none")); }).code, "volume_not_found");
    const Space space = await(storage_->space());
    EXPECT_GT(space.free, 100 * kMiB);
    EXPECT_GT(space.size, space.free);
    EXPECT_LT(space.size, 1100 * kMiB);
}

// ---- many at once -------------------------------------------------------------------------------

TEST_F(Zfs, ClonesMadeAtOnceByTwoDaemonsAreAllMountedAndZfsGoesOn) {
    // zfs-fuse that is told of two mounts at the same moment hangs for good.
    constexpr std::size_t kThreads = 8;
    constexpr int kRounds = 6;
    const SnapshotRef ref = snapshot();
    const std::array<ZfsVolumes, 2> daemons = {ZfsVolumes(settings_), ZfsVolumes(settings_)};
    std::vector<std::jthread> threads;
    for (std::size_t thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&, thread] {
            const ZfsVolumes& volumes = daemons.at(thread % daemons.size());
            for (int round = 0; round < kRounds; ++round) {
                const std::string volume = fmt::format("prod-of-{}-{}", thread, round);
                const Identity identity = some_identity();
                volumes.clone(ref, volume, identity);
                EXPECT_EQ(zfs_mounted_on(path(volume)), dataset(volume));
                EXPECT_EQ(volumes.find(volume), identity);
            }
        });
    }
    threads.clear();
    EXPECT_EQ(await(storage_->list()).size(), 2 + kThreads * kRounds);
}

TEST_F(Zfs, AMountWaitsForItsTurnAndKeepsNobodyElseWaiting) {
    const bool one_at_a_time = !fs::exists("/dev/zfs");  // ZFS of the kernel mounts many at once
    const SnapshotRef ref = snapshot();
    const ZfsVolumes volumes(settings_);
    const Identity identity = some_identity();
    auto turn = std::make_optional<ZfsMountTurn>(1s);
    std::jthread waits([&] { volumes.clone(ref, "prod-dev", identity); });
    std::this_thread::sleep_for(500ms);
    EXPECT_EQ(volumes.find("prod-dev").has_value(), !one_at_a_time);
    snapshot();
    turn.reset();
    waits.join();
    EXPECT_EQ(volumes.find("prod-dev"), identity);
    if (!one_at_a_time) return;

    turn.emplace(1s);
    settings_.tools.deadline = 50ms;
    const ErrorInfo refused = error_of([&] { ZfsVolumes(settings_).create("prod-x", identity); });
    EXPECT_EQ(refused.code, "storage_unavailable");
    EXPECT_NE(refused.detail.find("another command has been mounting"), std::string::npos)
        << refused.detail;
}

// ---- what an earlier life left running ----------------------------------------------------------

TEST_F(Zfs, LooksOnlyOnceTheCommandsOfAKilledBpgdHaveTakenEffect) {
    const fs::path path = scratch_.path() / "lock";
    const fs::path begun = scratch_.path() / "begun";
    const std::string late = dataset("prod-main") + "@" + new_id();
    auto earlier = std::make_unique<CommandLock>(path);
    Command command;
    command.argv = {"sh", "-c", R"(echo > "$0"; sleep 0.5; exec zfs snapshot "$1")", begun, late};
    command.inherited = earlier->hold(1s);
    std::thread left([command] { run_command(command); });
    while (!fs::exists(begun))
        std::this_thread::sleep_for(1ms);
    earlier.reset();

    ZfsSettings settings = settings_;
    settings.tools.lock = std::make_shared<CommandLock>(path);
    ZfsStorage storage(settings, threads_);
    EXPECT_EQ(await(storage.find_volume("prod-main")), main_);
    EXPECT_TRUE(exists(late));
    left.join();
}

// ---- what is not there --------------------------------------------------------------------------

class ZfsFault : public Zfs {
  protected:
    /// A directory with a `zfs` in it: a shell script, in which `real` is the real one.
    ZfsStorage behind(const std::string& script) {
        const fs::path file = scratch_.path() / "zfs";
        put(file, "#!/bin/sh\nreal() { zfs \"$@\"; }\n" + script + "\n");
        fs::permissions(file, fs::perms(0755));
        ZfsSettings settings = settings_;
        settings.tools.command_dir = scratch_.path();
        settings.tools.deadline = 1500ms;
        settings.busy_patience = 1s;
        return {settings, threads_};
    }
    void expect_refused(Storage& storage, const std::string& code) {
        const Identity identity = some_identity();
        const SnapshotRef ref{"prod-main", new_id()};
        const std::vector<std::function<void()>> verbs = {
            [&] { await(storage.find_volume("prod-main")); },
            [&] { await(storage.snapshot_exists(ref)); },
            [&] { await(storage.create_volume("prod-x", identity)); },
            [&] { await(storage.snapshot(ref)); },
            [&] { await(storage.clone(ref, "prod-x", identity)); },
            [&] { await(storage.destroy_volume("prod-main", main_.id)); },
            [&] { await(storage.destroy_snapshot(ref)); },
            [&] { await(storage.usage("prod-main")); },
            [&] { await(storage.space()); },
            [&] { await(storage.list()); }};
        for (std::size_t i = 0; i < verbs.size(); ++i) {
            SCOPED_TRACE("verb " + std::to_string(i));
            EXPECT_EQ(error_of(verbs[i]).code, code);
        }
    }
};

TEST_F(ZfsFault, APoolThatIsExportedStopsEveryVerbAndNothingIsMadeInTheBareDirectory) {
    TestPool pool(kZfsPoolFileMin);
    use_base(pool, "databases");
    main_ = create("prod-main");
    put(path("prod-main") / "file", "x");
    pool.export_pool();
    expect_refused(*storage_, "storage_unavailable");
    EXPECT_TRUE(!fs::exists(base_.mountpoint) || is_empty_directory(base_.mountpoint));
    const ErrorInfo error = error_of([&] { await(storage_->list()); });
    EXPECT_EQ(error.kind, ErrorKind::kUnavailable);
    pool.import_pool();
    EXPECT_EQ(await(storage_->find_volume("prod-main")), main_);
    EXPECT_EQ(get(path("prod-main") / "file"), "x");
}

TEST_F(ZfsFault, ABaseThatIsNotMountedOrNotTheOneStopsEveryVerb) {
    ZfsSettings other = settings_;
    other.pool_id = new_id();
    ZfsStorage stranger(other, threads_);
    expect_refused(stranger, "storage_unavailable");
    run_zfs({"zfs", "inherit", kZfsPoolId, base_.dataset});
    expect_refused(*storage_, "storage_unavailable");
    run_zfs({"zfs", "set", std::string(kZfsPoolId) + "=" + base_.pool_id, base_.dataset});
    EXPECT_EQ(await(storage_->find_volume("prod-main")), main_);

    run_zfs({"zfs", "unmount", dataset("prod-main")});
    run_zfs({"zfs", "unmount", base_.dataset});
    expect_refused(*storage_, "storage_unavailable");
    EXPECT_TRUE(is_empty_directory(base_.mountpoint));
    EXPECT_TRUE(exists(dataset("prod-main")));
}

TEST_F(ZfsFault, AFullPoolIsSaidToBeFullAndDestroyingStillWorks) {
    TestPool pool(kZfsPoolFileMin);
    use_base(pool, "databases");
    main_ = create("prod-main");
    // A record a write: zfs-fuse aborts on a write that finds room for a part only.
    const std::string record = noise(8192, 12);
    const fs::path fill = path("prod-main") / "fill";
    {
        const UniqueFd fd(::open(fill.c_str(), O_WRONLY | O_CREAT, 0600));
        off_t at = 0;
        while (::pwrite(fd.get(), record.data(), record.size(), at) > 0)
            at += static_cast<off_t>(record.size());
        EXPECT_EQ(errno, ENOSPC);
        ::fsync(fd.get());
    }
    const ErrorInfo error = error_of([&] {
        for (int i = 0; i < 50; ++i)
            create("prod-x" + std::to_string(i));
    });
    EXPECT_EQ(error.code, "no_space") << error.message << ": " << error.detail;
    EXPECT_EQ(error.kind, ErrorKind::kExhausted);
    for (const Found& found : await(storage_->list()))
        EXPECT_TRUE(found.identity) << found.volume;
    await(storage_->destroy_volume("prod-main", main_.id));
    EXPECT_FALSE(exists(dataset("prod-main")));
}

TEST_F(ZfsFault, WithoutTheCommandEveryVerbIsRefused) {
    ZfsSettings settings = settings_;
    settings.tools.command_dir = scratch_.path() / "nowhere";
    ZfsStorage storage(settings, threads_);
    expect_refused(storage, "storage_unavailable");
    EXPECT_FALSE(detect_zfs(settings.tools).works);
    EXPECT_NE(detect_zfs(settings.tools).reason.find("not installed"), std::string::npos);
}

TEST_F(ZfsFault, ACommandThatHangsIsKilledAndSaidToBeUnavailable) {
    ZfsStorage storage = behind("exec sleep 60");
    const auto began = std::chrono::steady_clock::now();
    const ErrorInfo error = error_of([&] { await(storage.find_volume("prod-main")); });
    EXPECT_LT(std::chrono::steady_clock::now() - began, 30s);
    EXPECT_EQ(error.code, "storage_unavailable");
    EXPECT_EQ(error.kind, ErrorKind::kUnavailable);
    EXPECT_NE(error.detail.find("1500 ms"), std::string::npos) << error.detail;
}

TEST_F(ZfsFault, ACommandThatWorkedAndThenHungHasWorked) {
    // After a deadline the driver looks again: what counts is what is there.
    ZfsStorage storage = behind(
        "real \"$@\"; code=$?\n"
        "case $1 in create|clone|snapshot|destroy) exec sleep 60;; esac\nexit $code");
    const Identity identity = some_identity();
    await(storage.create_volume("prod-x", identity));
    EXPECT_EQ(facts(path("prod-x")).st_mode & 07777U, 0711U);
    const SnapshotRef ref{"prod-main", new_id()};
    await(storage.snapshot(ref));
    await(storage.clone(ref, "prod-y", identity));
    EXPECT_EQ(await(storage_->find_volume("prod-y")), identity);
    run_zfs({"zfs", "unmount", dataset("prod-y")});
    std::this_thread::sleep_for(300ms);
    await(storage.destroy_volume("prod-y", identity.id));
    EXPECT_FALSE(fs::exists(path("prod-y")));
    await(storage.destroy_snapshot(ref));
    EXPECT_FALSE(await(storage_->snapshot_exists(ref)));
}

TEST_F(ZfsFault, WhatIsNotUnderstoodIsNeverTakenForNothing) {
    const std::string base = base_.dataset;
    for (const std::string& script :
         {std::string("exit 0"),                                        // no answer at all
          std::string("echo hello"),                                    // no fields
          std::string("real \"$@\" | head -c 100"),                     // torn
          std::string("real \"$@\" | sed 's/\\t/ /g'"),                 // other separators
          std::string("real \"$@\" | sed '1d'"),                        // a row missing
          std::string("real \"$@\"; echo '" + base + "\ttype\tx\t-'"),  // a row twice
          std::string("echo 'what is this' >&2; exit 3")}) {
        SCOPED_TRACE(script);
        ZfsStorage storage = behind("[ \"$5\" = all ] && { real \"$@\"; exit; }\n" + script);
        for (const std::string& code :
             {error_of([&] { await(storage.find_volume("prod-main")); }).code,
              error_of([&] { await(storage.create_volume("prod-x", main_)); }).code,
              error_of([&] { await(storage.destroy_volume("prod-main", main_.id)); }).code,
              error_of([&] { await(storage.list()); }).code}) {
            EXPECT_TRUE(code == "zfs_answer_invalid" || code == "zfs_failed") << code;
        }
    }
    // "Does not exist" beside another complaint is no answer either.
    ZfsStorage storage = behind(
        "[ \"$5\" = all ] && { real \"$@\"; exit; }\n"
        "echo \"cannot open '" +
        dataset("prod-main") +
        "': dataset does not exist\" >&2\n"
        "echo 'and something else' >&2; exit 1");
    EXPECT_EQ(error_of([&] { await(storage.find_volume("prod-main")); }).code,
              "storage_unavailable");
    EXPECT_EQ(await(storage_->find_volume("prod-main")), main_);
    EXPECT_FALSE(exists(dataset("prod-x")));
}

TEST_F(ZfsFault, WhatIsBusyForAMomentIsTriedAgain) {
    ZfsStorage storage = behind(
        "case $1 in snapshot|clone|create)\n"
        "  if mkdir \"$0.$1\" 2>/dev/null; then\n"
        "    echo \"cannot $1: dataset is busy\" >&2; exit 1\n"
        "  fi;; esac\nreal \"$@\"");
    const Identity identity = some_identity();
    await(storage.create_volume("prod-x", identity));
    const SnapshotRef ref{"prod-x", new_id()};
    await(storage.snapshot(ref));
    await(storage.clone(ref, "prod-y", identity));
    EXPECT_EQ(await(storage_->find_volume("prod-y")), identity);
    for (const char* verb : {"create", "snapshot", "clone"}) {
        EXPECT_TRUE(fs::exists(scratch_.path() / (std::string("zfs.") + verb)));
    }
}

// ---- pool and base ------------------------------------------------------------------------------

class ZfsPool : public testing::Test {
  protected:
    void SetUp() override {
        test::require_zfs();
        fs::create_directory(scratch_.path() / "dir");
    }
    void TearDown() override {
        while (zfs_pool_health(name_))
            run_zfs({"zpool", "destroy", "-f", name_});
    }
    fs::path file() const { return scratch_.path() / "dir/pool.zfs"; }
    fs::path root() const { return scratch_.path() / "volumes"; }

    ScratchDirectory scratch_;
    std::string name_ = "bpgtest" + std::to_string(::getpid()) + "file";
};

TEST_F(ZfsPool, AFileIsMadeSparseAndPrivateAndLeftAloneTheSecondTime) {
    EXPECT_TRUE(detect_zfs().works) << detect_zfs().reason;
    make_zfs_pool_file(file(), kZfsPoolFileMin, name_);
    EXPECT_EQ(zfs_pool_in_file(file()), name_);
    EXPECT_EQ(zfs_pool_health(name_), std::nullopt);
    const auto first = facts(file());
    EXPECT_EQ(first.st_mode & 07777U, 0600U);
    EXPECT_EQ(first.st_size, static_cast<off_t>(kZfsPoolFileMin));
    EXPECT_LT(first.st_blocks * 512, 16 << 20);
    make_zfs_pool_file(file(), 2 * kZfsPoolFileMin, name_);
    EXPECT_EQ(facts(file()).st_mtim.tv_nsec, first.st_mtim.tv_nsec);

    import_zfs_pool(file(), name_);
    import_zfs_pool(file(), name_);
    EXPECT_EQ(zfs_pool_health(name_), "ONLINE");
    export_zfs_pool(name_);
    export_zfs_pool(name_);
    EXPECT_EQ(zfs_pool_health(name_), std::nullopt);
    EXPECT_EQ(zfs_pool_in_file(file()), name_);

    // A destroyed pool is none, though its name is still in the file.
    import_zfs_pool(file(), name_);
    run_zfs({"zpool", "destroy", name_});
    EXPECT_EQ(zfs_pool_in_file(file()), std::nullopt);
    EXPECT_EQ(error_of([&] { make_zfs_pool_file(file(), kZfsPoolFileMin, name_); }).code,
              "pool_file_foreign");
}

TEST_F(ZfsPool, AFileThatIsNotOursIsRefusedAndUntouched) {
    put(file(), "precious");
    EXPECT_EQ(error_of([&] { make_zfs_pool_file(file(), kZfsPoolFileMin, name_); }).code,
              "pool_file_foreign");
    EXPECT_EQ(error_of([&] { import_zfs_pool(file(), name_); }).code, "storage_unavailable");
    EXPECT_EQ(get(file()), "precious");
    fs::remove(file());
    EXPECT_EQ(error_of([&] { import_zfs_pool(file(), name_); }).code, "pool_file_missing");
    EXPECT_EQ(error_of([&] { make_zfs_pool_file(file(), 1 << 20, name_); }).code, "pool_too_small");
    EXPECT_EQ(error_of([&] { make_zfs_pool_file(file(), 1ULL << 60U, name_); }).code, "no_space");
    EXPECT_EQ(error_of([&] { make_zfs_pool_file(file(), kZfsPoolFileMin, "-f"); }).code,
              "dataset_name_invalid");
    EXPECT_TRUE(is_empty_directory(file().parent_path()));
}

TEST_F(ZfsPool, WhatADeadMakerLeftIsReplaced) {
    // Dead before the pool was made; dead while it was imported from its build place.
    const std::string building = file().native() + ".building";
    put(building, "half a pool");
    make_zfs_pool_file(file(), kZfsPoolFileMin, name_);
    EXPECT_FALSE(fs::exists(building));
    fs::remove(file());

    put(building, "");
    fs::resize_file(building, kZfsPoolFileMin);
    run_zfs({"zpool", "create", "-o", "cachefile=none", "-m", "none", name_, building});
    make_zfs_pool_file(file(), kZfsPoolFileMin, name_);
    EXPECT_FALSE(fs::exists(building));
    EXPECT_EQ(zfs_pool_health(name_), std::nullopt);
    EXPECT_EQ(zfs_pool_in_file(file()), name_);

    import_zfs_pool(file(), name_);
    EXPECT_EQ(error_of([&] {
                  make_zfs_pool_file(scratch_.path() / "dir/other", kZfsPoolFileMin, name_);
              }).code,
              "pool_exists");
    EXPECT_EQ(zfs_pool_health(name_), "ONLINE");
}

TEST_F(ZfsPool, ABaseIsMadeOnceAndFoundAgainWithItsVolumesAfterAnImport) {
    make_zfs_pool_file(file(), kZfsPoolFileMin, name_);
    EXPECT_EQ(error_of([&] { prepare_zfs_base(name_, "a/b", root()); }).code,
              "storage_unavailable");
    import_zfs_pool(file(), name_);
    const ZfsBase made = prepare_zfs_base(name_, "a/b", root());
    EXPECT_TRUE(made.made);
    EXPECT_EQ(made.dataset, name_ + "/a/b");
    EXPECT_EQ(zfs_mounted_on(root()), made.dataset);
    const ZfsBase again = prepare_zfs_base(name_, "a/b", scratch_.path() / "other");
    EXPECT_FALSE(again.made);
    EXPECT_EQ(again.pool_id, made.pool_id);
    EXPECT_EQ(again.mountpoint, root());

    BlockingPool threads(1);
    ZfsStorage storage({name_, "a/b", made.mountpoint, made.pool_id, {}, 10s}, threads);
    const Identity identity = some_identity();
    await(storage.create_volume("prod-main", identity));
    export_zfs_pool(name_);
    import_zfs_pool(file().parent_path(), name_);
    // As after a restart of zfs-fuse: imported, and nothing mounted.
    run_zfs({"zfs", "unmount", made.dataset + "/prod-main"});
    run_zfs({"zfs", "unmount", made.dataset});
    const ZfsBase opened = prepare_zfs_base(name_, "a/b", root(), made.pool_id);
    EXPECT_EQ(mount_zfs_volumes(opened), std::vector<std::string>());
    EXPECT_EQ(zfs_mounted_on(root() / "prod-main"), made.dataset + "/prod-main");
    EXPECT_EQ(await(storage.find_volume("prod-main")), identity);

    EXPECT_EQ(error_of([&] { prepare_zfs_base(name_, "a/b", root(), new_id()); }).code,
              "storage_unavailable");
    EXPECT_EQ(error_of([&] { prepare_zfs_base(name_, "a/c", root(), made.pool_id); }).code,
              "storage_unavailable");
}

TEST_F(ZfsPool, ABaseThatIsThereKeepsItsMountpointAndProperties) {
    make_zfs_pool_file(file(), kZfsPoolFileMin, name_);
    import_zfs_pool(file(), name_);
    const fs::path own = scratch_.path() / "own";
    run_zfs({"zfs", "create", "-o", "mountpoint=" + own.native(), "-o", "recordsize=32K",
             name_ + "/old"});
    const ZfsBase base = prepare_zfs_base(name_, "old", root());
    EXPECT_EQ(base.mountpoint, own);
    EXPECT_FALSE(base.made);
    EXPECT_FALSE(fs::exists(root()));
    EXPECT_EQ(run_zfs({"zfs", "get", "-Hp", "-o", "value", "recordsize,atime", base.dataset}),
              "32768\non\n");
    run_zfs({"zfs", "set", "mountpoint=none", name_ + "/old"});
    EXPECT_EQ(error_of([&] { prepare_zfs_base(name_, "old", root()); }).code, "base_not_mountable");
    fs::create_directory(root());
    put(root() / "kept", "x");
    EXPECT_EQ(error_of([&] { prepare_zfs_base(name_, "new", root()); }).code, "mountpoint_busy");
    EXPECT_EQ(get(root() / "kept"), "x");
}

}  // namespace
}  // namespace bpg::storage
