// Copying a data directory that is in use: what must arrive, what must not, and what may change
// under the copier's hands.
#include "orchestrator/storage/tree_copy.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <random>
#include <thread>

#include "orchestrator/base/files.h"
#include "tests/unit/storage/storage_fixture.h"

namespace bpg::storage {
namespace {

class TreeCopy : public testing::Test {
  protected:
    void SetUp() override {
        fs::create_directory(source());
        fs::create_directory(target());
    }
    fs::path source() const { return scratch_.path() / "source"; }
    fs::path target() const { return scratch_.path() / "target"; }
    void copy(const CopyPlan& plan = {}) {
        copy_tree(open_directory(source()).get(), open_directory(target()).get(), plan);
    }

    ScratchDirectory scratch_;
};

TEST_F(TreeCopy, KeepsContentModeAndOwner) {
    fs::create_directories(source() / "data/base/5");
    const std::string content = noise((3 << 20) + 17, 1);
    put(source() / "data/base/5/1259", content);
    put(source() / "data/empty", "");
    ASSERT_EQ(::chmod((source() / "data").c_str(), 0700), 0);
    ASSERT_EQ(::chmod((source() / "data/base/5/1259").c_str(), 0640), 0);
    if (::geteuid() == 0) {
        ASSERT_EQ(::chown((source() / "data").c_str(), 12345, 23456), 0);
        ASSERT_EQ(::chown((source() / "data/base/5/1259").c_str(), 12345, 23456), 0);
    }
    copy();
    EXPECT_EQ(get(target() / "data/base/5/1259"), content);
    EXPECT_EQ(get(target() / "data/empty"), "");
    for (const char* path : {"data", "data/base/5/1259"}) {
        EXPECT_EQ(facts(target() / path).st_mode, facts(source() / path).st_mode) << path;
        EXPECT_EQ(facts(target() / path).st_uid, facts(source() / path).st_uid) << path;
        EXPECT_EQ(facts(target() / path).st_gid, facts(source() / path).st_gid) << path;
    }
}

TEST_F(TreeCopy, CopiesLinksAsLinksAndReadsNothingThroughThem) {
    put(scratch_.path() / "secret", "secret");
    fs::create_directory(scratch_.path() / "outside");
    put(scratch_.path() / "outside/file", "secret");
    fs::create_symlink(scratch_.path() / "secret", source() / "file");
    fs::create_symlink(scratch_.path() / "outside", source() / "directory");
    fs::create_symlink("nowhere", source() / "dangling");
    copy();
    for (const char* name : {"file", "directory", "dangling"}) {
        ASSERT_TRUE(fs::is_symlink(target() / name)) << name;
        EXPECT_EQ(fs::read_symlink(target() / name), fs::read_symlink(source() / name));
    }
    EXPECT_EQ(facts(scratch_.path() / "outside").st_nlink, 2U);
}

TEST_F(TreeCopy, LeavesOutWhatThePlanNames) {
    fs::create_directories(source() / "data/pg_wal/archive_status");
    fs::create_directories(source() / "data/base/pgsql_tmp");
    fs::create_directories(source() / "conf");
    put(source() / "conf/postgresql.conf", "port = 1");
    put(source() / "data/pg_wal/000000010000000000000001", "wal");
    put(source() / "data/base/pgsql_tmp/x", "tmp");
    put(source() / "data/base/pgsql_tmp12.0", "tmp");
    put(source() / "data/base/pg_internal.init", "cache");
    put(source() / "data/postmaster.pid", "1");
    put(source() / "data/base/kept", "kept");
    CopyPlan plan;
    plan.empty_directories = {"data/pg_wal", "conf"};
    plan.skipped_names = {"postmaster.pid", "pg_internal.init"};
    plan.skipped_prefixes = {"pgsql_tmp"};
    copy(plan);
    EXPECT_TRUE(is_empty_directory(target() / "data/pg_wal"));
    EXPECT_TRUE(is_empty_directory(target() / "conf"));
    EXPECT_FALSE(fs::exists(target() / "data/postmaster.pid"));
    EXPECT_FALSE(fs::exists(target() / "data/base/pg_internal.init"));
    EXPECT_FALSE(fs::exists(target() / "data/base/pgsql_tmp"));
    EXPECT_FALSE(fs::exists(target() / "data/base/pgsql_tmp12.0"));
    EXPECT_EQ(get(target() / "data/base/kept"), "kept");
}

TEST_F(TreeCopy, NeverCopiesTheIdentityOfTheSource) {
    fs::create_directory(source() / "data");
    put(source() / "betterpg.json", "identity");
    put(source() / "data/betterpg.json", "a file of the user");
    copy();
    EXPECT_FALSE(fs::exists(target() / "betterpg.json"));
    EXPECT_EQ(get(target() / "data/betterpg.json"), "a file of the user");
}

TEST_F(TreeCopy, HolesStayHoles) {
    const UniqueFd fd(::open((source() / "sparse").c_str(), O_WRONLY | O_CREAT, 0600));
    ASSERT_EQ(::pwrite(fd.get(), "begin", 5, 0), 5);
    ASSERT_EQ(::pwrite(fd.get(), "end", 3, 512 << 20), 3);
    ASSERT_EQ(::ftruncate(fd.get(), (1 << 30)), 0);
    copy();
    EXPECT_EQ(facts(target() / "sparse").st_size, 1 << 30);
    EXPECT_LT(facts(target() / "sparse").st_blocks * 512, 1 << 20);
    std::string text(3, '\0');
    const UniqueFd copied(::open((target() / "sparse").c_str(), O_RDONLY));
    ASSERT_EQ(::pread(copied.get(), text.data(), 3, 512 << 20), 3);
    EXPECT_EQ(text, "end");
}

TEST_F(TreeCopy, LeavesOutFifosWithoutWaitingForThem) {
    ASSERT_EQ(::mkfifo((source() / "fifo").c_str(), 0600), 0);
    put(source() / "file", "x");
    copy();
    EXPECT_FALSE(fs::exists(target() / "fifo"));
    EXPECT_EQ(get(target() / "file"), "x");
}

TEST_F(TreeCopy, RefusesATreeOfAbsurdDepth) {
    fs::path deep = source();
    for (int i = 0; i < 100; ++i)
        deep /= "d";
    fs::create_directories(deep);
    EXPECT_EQ(error_of([&] { copy(); }).code, "tree_too_deep");
}

TEST_F(TreeCopy, TheLastFileIsCopiedAfterAllOthers) {
    fs::create_directories(source() / "data/global");
    put(source() / "data/global/pg_control", "control");
    for (int i = 0; i < 50; ++i)
        put(source() / "data" / std::to_string(i), "x");
    CopyPlan plan;
    plan.last = "data/global/pg_control";
    std::size_t others = 0;
    bool last_there = true;
    plan.last_is_whole = [&](const std::string& content) {
        others = static_cast<std::size_t>(
            std::distance(fs::directory_iterator(target() / "data"), fs::directory_iterator()));
        last_there = fs::exists(target() / "data/global/pg_control");
        return content == "control";
    };
    copy(plan);
    EXPECT_EQ(others, 51U);
    EXPECT_FALSE(last_there);
    EXPECT_EQ(get(target() / "data/global/pg_control"), "control");
}

TEST_F(TreeCopy, ATornLastFileIsReadAgainUntilItIsWhole) {
    put(source() / "control", "torn");
    CopyPlan plan;
    plan.last = "control";
    int looked = 0;
    plan.last_is_whole = [&](const std::string& content) {
        if (++looked == 3) put(source() / "control", "whole");
        return content == "whole";
    };
    copy(plan);
    EXPECT_EQ(looked, 4);
    EXPECT_EQ(get(target() / "control"), "whole");
}

TEST_F(TreeCopy, ALastFileThatIsNeverWholeEndsTheCopy) {
    put(source() / "control", "torn");
    CopyPlan plan;
    plan.last = "control";
    int looked = 0;
    plan.last_is_whole = [&](const std::string&) { return ++looked < 0; };
    const ErrorInfo error = error_of([&] { copy(plan); });
    EXPECT_EQ(error.code, "file_torn");
    EXPECT_EQ(error.kind, ErrorKind::kCorrupt);
    EXPECT_EQ(looked, 50);
    EXPECT_FALSE(fs::exists(target() / "control"));
}

TEST_F(TreeCopy, AMissingOrLinkedLastFileEndsTheCopy) {
    CopyPlan plan;
    plan.last = "control";
    EXPECT_EQ(error_of([&] { copy(plan); }).code, "file_missing");
    fs::create_symlink("/etc/passwd", source() / "control");
    EXPECT_EQ(error_of([&] { copy(plan); }).code, "symlink_refused");
}

TEST_F(TreeCopy, TheCopyOfAFileThatGrowsWithoutEndEnds) {
    put(source() / "log", noise(1 << 20, 7));
    std::atomic<bool> stop{false};
    std::thread writer([&] {
        std::ofstream log(source() / "log", std::ios::app | std::ios::binary);
        const std::string more = noise(64 << 10, 8);
        for (int i = 0; i < 4000 && !stop; ++i)
            log << more << std::flush;
    });
    copy();
    stop = true;
    writer.join();
    const std::string copied = get(target() / "log");
    EXPECT_GE(copied.size(), 1U << 20U);
    EXPECT_EQ(get(source() / "log").substr(0, copied.size()), copied);
}

TEST_F(TreeCopy, FilesMayVanishAppearAndChangeSizeMeanwhile) {
    const auto seed = std::random_device{}();
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    fs::create_directories(source() / "data/base");
    for (int i = 0; i < 200; ++i)
        put(source() / "data" / ("stable" + std::to_string(i)), "s");
    std::atomic<bool> stop{false};
    std::thread churn([&] {
        std::mt19937 random(seed);
        while (!stop) {
            const fs::path path = source() / "data/base" / std::to_string(random() % 50);
            switch (random() % 4) {
                case 0:
                    ::unlink(path.c_str());
                    ::rmdir(path.c_str());
                    break;
                case 1:
                    std::ofstream(path, std::ios::app) << noise(random() % 100'000, random());
                    break;
                case 2:
                    // A failure (no such file, or a directory) is one of the cases.
                    (void)!::truncate(path.c_str(), static_cast<off_t>(random() % 50'000));
                    break;
                default:
                    ::mkdir(path.c_str(), 0700);
                    break;
            }
        }
    });
    for (int round = 0; round < 20; ++round) {
        fs::remove_all(target());
        fs::create_directory(target());
        EXPECT_NO_THROW(copy()) << "round " << round;
        for (int i = 0; i < 200; ++i) {
            EXPECT_EQ(get(target() / "data" / ("stable" + std::to_string(i))), "s");
        }
    }
    stop = true;
    churn.join();
}

}  // namespace
}  // namespace bpg::storage
