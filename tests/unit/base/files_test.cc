// Small files as root in directories that others can write to: durable, bounded, no link followed.
#include "orchestrator/base/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "orchestrator/base/error.h"

namespace bpg {
namespace {

namespace fs = std::filesystem;

class Files : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = (fs::temp_directory_path() / "bpg-files-XXXXXX").native();
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        root_ = pattern;
    }
    void TearDown() override { fs::remove_all(root_); }

    static void put(const fs::path& path, const std::string& content) {
        std::ofstream(path, std::ios::binary) << content;
    }
    static struct stat facts(const fs::path& path) {
        struct stat result{};
        EXPECT_EQ(::lstat(path.c_str(), &result), 0) << path;
        return result;
    }
    static std::size_t entries(const fs::path& path) {
        return static_cast<std::size_t>(
            std::distance(fs::directory_iterator(path), fs::directory_iterator()));
    }
    template <class Action>
    static std::string code_of(Action action) {
        try {
            action();
        } catch (const Error& error) {
            return error.code();
        }
        return "nothing thrown";
    }

    fs::path root_;
};

TEST_F(Files, ReadsBackWhatWasWrittenWithItsMode) {
    write_file_durably(root_ / "a", std::string("x\0y", 3), 0640);
    EXPECT_EQ(read_file(root_ / "a"), std::string("x\0y", 3));
    EXPECT_EQ(facts(root_ / "a").st_mode & 07777U, 0640U);
}

TEST_F(Files, ReplacesAtOnceAndLeavesNoTemporaryFile) {
    write_file_durably(root_ / "a", "old", 0600);
    const auto before = facts(root_ / "a").st_ino;
    write_file_durably(root_ / "a", "new", 0600);
    EXPECT_EQ(read_file(root_ / "a"), "new");
    EXPECT_NE(facts(root_ / "a").st_ino, before);
    EXPECT_EQ(entries(root_), 1U);
}

TEST_F(Files, AFailedReplacementLeavesTheOldContentAndNothingElse) {
    fs::create_directory(root_ / "taken");
    put(root_ / "taken/inside", "kept");
    EXPECT_THROW(write_file_durably(root_ / "taken", "new", 0600), Error);
    EXPECT_EQ(read_file(root_ / "taken/inside"), "kept");
    EXPECT_EQ(entries(root_), 1U);
}

TEST_F(Files, ReplacesALinkInsteadOfWritingThroughIt) {
    put(root_ / "victim", "untouched");
    fs::create_symlink(root_ / "victim", root_ / "a");
    write_file_durably(root_ / "a", "own", 0600);
    EXPECT_EQ(read_file(root_ / "victim"), "untouched");
    EXPECT_EQ(read_file(root_ / "a"), "own");
}

TEST_F(Files, GivesTheFileToItsOwner) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
    write_file_durably(root_ / "a", "x", 0400, FileOwner{12345, 54321});
    EXPECT_EQ(facts(root_ / "a").st_uid, 12345U);
    EXPECT_EQ(facts(root_ / "a").st_gid, 54321U);
}

TEST_F(Files, AnAbsentFileIsNothingAndAnEmptyOneIsEmpty) {
    EXPECT_EQ(read_file(root_ / "none"), std::nullopt);
    put(root_ / "empty", "");
    EXPECT_EQ(read_file(root_ / "empty"), "");
}

TEST_F(Files, ReadsUpToTheLimitAndRefusesMore) {
    put(root_ / "a", std::string(1000, 'x'));
    EXPECT_EQ(read_file(root_ / "a", 1000)->size(), 1000U);
    EXPECT_EQ(code_of([&] { read_file(root_ / "a", 999); }), "file_too_large");
}

TEST_F(Files, RefusesToReadThroughASymbolicLink) {
    put(root_ / "secret", "s");
    fs::create_symlink(root_ / "secret", root_ / "link");
    EXPECT_EQ(code_of([&] { read_file(root_ / "link"); }), "symlink_refused");
}

TEST_F(Files, RefusesAFifoInPlaceOfAFileWithoutWaiting) {
    ASSERT_EQ(::mkfifo((root_ / "fifo").c_str(), 0600), 0);
    EXPECT_EQ(code_of([&] { read_file(root_ / "fifo"); }), "not_a_regular_file");
    EXPECT_EQ(code_of([&] { read_file(root_); }), "not_a_regular_file");
}

TEST_F(Files, OpensBeneathADirectoryAndNowhereElse) {
    fs::create_directories(root_ / "in/deep");
    put(root_ / "in/deep/file", "x");
    put(root_ / "outside", "s");
    fs::create_symlink("..", root_ / "in/up");
    const UniqueFd in = open_directory(root_ / "in");
    EXPECT_TRUE(open_beneath(in.get(), "deep/file", O_RDONLY));
    EXPECT_FALSE(open_beneath(in.get(), "deep/none", O_RDONLY));
    EXPECT_EQ(code_of([&] { open_beneath(in.get(), "up/outside", O_RDONLY); }), "symlink_refused");
    EXPECT_THROW(open_beneath(in.get(), "../outside", O_RDONLY), Error);
    EXPECT_THROW(open_beneath(in.get(), "/etc/passwd", O_RDONLY), Error);
    const UniqueFd made = open_beneath(in.get(), "made", O_WRONLY | O_CREAT | O_EXCL, 0640);
    EXPECT_TRUE(made);
    EXPECT_EQ(::fcntl(made.get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

TEST_F(Files, OpenDirectoryRefusesALink) {
    fs::create_directory_symlink("/etc", root_ / "link");
    EXPECT_EQ(code_of([&] { open_directory(root_ / "link"); }), "symlink_refused");
    EXPECT_EQ(code_of([&] { open_directory(root_ / "none"); }), "system_call_failed");
}

TEST_F(Files, EnsureDirectoryMakesAndRepairs) {
    ensure_directory(root_ / "d", 0711, {::getuid(), ::getgid()});
    EXPECT_EQ(facts(root_ / "d").st_mode & 07777U, 0711U);
    ASSERT_EQ(::chmod((root_ / "d").c_str(), 0777), 0);
    ensure_directory(root_ / "d", 0700, {::getuid(), ::getgid()});
    EXPECT_EQ(facts(root_ / "d").st_mode & 07777U, 0700U);
}

TEST_F(Files, EnsureDirectoryRefusesALinkInItsPlace) {
    fs::create_directory(root_ / "elsewhere");
    fs::permissions(root_ / "elsewhere", fs::perms(0755));
    fs::create_directory_symlink(root_ / "elsewhere", root_ / "d");
    EXPECT_EQ(code_of([&] { ensure_directory(root_ / "d", 0700); }), "symlink_refused");
    EXPECT_EQ(facts(root_ / "elsewhere").st_mode & 07777U, 0755U);
}

TEST_F(Files, RemovesATreeButNotWhatItsLinksName) {
    fs::create_directories(root_ / "tree/a/b");
    fs::create_directories(root_ / "kept");
    put(root_ / "kept/file", "x");
    put(root_ / "tree/a/b/file", "x");
    fs::create_directory_symlink(root_ / "kept", root_ / "tree/a/link");
    fs::create_symlink(root_ / "kept/file", root_ / "tree/filelink");
    remove_tree(root_ / "tree");
    EXPECT_FALSE(fs::exists(root_ / "tree"));
    EXPECT_EQ(read_file(root_ / "kept/file"), "x");
}

TEST_F(Files, RemovingALinkRemovesTheLinkOnly) {
    fs::create_directory(root_ / "kept");
    fs::create_directory_symlink(root_ / "kept", root_ / "link");
    remove_tree(root_ / "link");
    EXPECT_TRUE(fs::exists(root_ / "kept"));
    EXPECT_FALSE(fs::is_symlink(root_ / "link"));
}

TEST_F(Files, RemovingWhatIsAbsentIsFine) {
    EXPECT_NO_THROW(remove_tree(root_ / "none"));
}

TEST_F(Files, RemovesATreeOfAnyDepth) {
    fs::create_directory(root_ / "tree");
    UniqueFd at = open_directory(root_ / "tree");
    for (int depth = 0; depth < 5000; ++depth) {
        ASSERT_EQ(::mkdirat(at.get(), "d", 0700), 0);
        at.reset(::openat(at.get(), "d", O_RDONLY | O_DIRECTORY));
        ASSERT_TRUE(at);
    }
    at.reset();
    remove_tree(root_ / "tree");
    EXPECT_FALSE(fs::exists(root_ / "tree"));
}

TEST_F(Files, ADescriptorIsClosedOnceWhenMoved) {
    UniqueFd first = open_directory(root_);
    const int number = first.get();
    UniqueFd second = std::move(first);
    EXPECT_EQ(second.get(), number);
    second.reset();
    EXPECT_EQ(::fcntl(number, F_GETFD), -1);
}

TEST_F(Files, LooksUpUsersAndRefusesUnknownOnes) {
    EXPECT_EQ(lookup_user("root").uid, 0U);
    EXPECT_EQ(code_of([] { lookup_user("nobody-has-this-name"); }), "user_not_found");
}

}  // namespace
}  // namespace bpg
