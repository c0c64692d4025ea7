// The program bpg-wal as PostgreSQL runs it: exit codes, and that no end of it, at whatever system
// call, leaves anything but whole files behind.
#include <elf.h>
#include <sys/mount.h>

#include <random>

#include "orchestrator/wal/new_file.h"
#include "orchestrator/wal/verify.h"
#include "tests/unit/wal/helper_run.h"

namespace bpg::wal::test {
namespace {

using Words = std::vector<std::string>;

class HelperTest : public WalTest {
  protected:
    HelperRun run(const Words& words) const { return run_with({.directory = data()}, words); }
    HelperRun run_with(const HelperOptions& options, const Words& words) const {
        return Helper(root_, options).run(words);
    }
    Words archive_words(const std::string& name) const {
        return {"archive", "--archive", archive().native(), "pg_wal/" + name, name};
    }
    Words restore_words(const std::string& name, const Words& options = {}) const {
        Words words{"restore", "--archive", archive().native()};
        words.insert(words.end(), options.begin(), options.end());
        words.insert(words.end(), {name, "pg_wal/RECOVERYXLOG"});
        return words;
    }
    void expect_failure(const HelperRun& run, int exit_code, const std::string& code) const {
        EXPECT_EQ(run.exit_code, exit_code) << run.err;
        EXPECT_TRUE(run.err.starts_with("bpg-wal: " + code + ": ")) << run.err;
        EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
    }
    static std::vector<std::string> names_in(const fs::path& path) {
        const UniqueFd directory = open_directory(path);
        auto names = directory_names(directory.get(), path.native());
        std::sort(names.begin(), names.end());
        return names;
    }
};

TEST_F(HelperTest, IsOneSmallStaticFile) {
    const std::string file = bytes_of(BPG_WAL_BINARY);
    EXPECT_LT(file.size(), 4U << 20U);
    Elf64_Ehdr header{};
    std::memcpy(&header, file.data(), sizeof header);
    for (int i = 0; i < header.e_phnum; ++i) {
        Elf64_Phdr part{};
        std::memcpy(&part, file.data() + header.e_phoff + i * sizeof part, sizeof part);
        EXPECT_NE(part.p_type, static_cast<Elf64_Word>(PT_INTERP)) << "it wants a loader";
        EXPECT_NE(part.p_type, static_cast<Elf64_Word>(PT_DYNAMIC)) << "it wants libraries";
    }
}

TEST_F(HelperTest, SaysWhatItIs) {
    EXPECT_EQ(run({"--version"}).out, fmt::format("bpg-wal {} (archive format 1)\n", BPG_VERSION));
    EXPECT_NE(run({"--help"}).out.find("restore --archive DIR"), std::string::npos);
}

TEST_F(HelperTest, ArchivesWithExitCodesThatPostgresCounts) {
    const WalBuilder wal = write_segments(1);
    const std::string name = wal.name(0);
    EXPECT_EQ(run(archive_words(name)).exit_code, 0);
    EXPECT_EQ(run(archive_words(name)).exit_code, 0) << "again";
    EXPECT_EQ(plain_of(name), wal.segment(0));
    expect_failure(run(archive_words("000000010000000000000007")), 1, "wal_source_missing");
    expect_failure(run({"archive", "--archive", "/nowhere", "pg_wal/" + name, name}), 1,
                   "system_call_failed");
    expect_failure(run({"archive", "pg_wal/" + name, name}), 2, "usage");
    expect_failure(run({"archive", "--archive", archive().native(), name}), 2, "usage");
    expect_failure(run({"archive", "--archive"}), 2, "usage");
    expect_failure(run({"archive", "--arhive", "x", "a", "b"}), 2, "usage");
    // Of another cluster: the control file in the directory it runs in decides.
    std::string control = control_file();
    control[0] = '\x7F';
    put(data() / "global/pg_control", control);
    expect_failure(run(archive_words(name)), 1, "wal_source_wrong");
}

TEST_F(HelperTest, RestoresWithExitCodesThatPostgresCannotMistake) {
    const WalBuilder wal = write_segments(3);
    for (const std::uint64_t index : {0, 1, 2})
        archive_it(wal.name(index));
    const Words bounds{"--timelines", "1", "--from=" + wal.name(0), "--until", wal.name(2)};
    EXPECT_EQ(run(restore_words(wal.name(0), bounds)).exit_code, 0);
    EXPECT_EQ(bytes_of(pg_wal() / "RECOVERYXLOG"), wal.segment(0));
    const HelperRun end = run(restore_words("000000010000000000000009", bounds));
    EXPECT_EQ(end.exit_code, 1);
    EXPECT_EQ(end.err, "") << "PostgreSQL asks beyond the end in every recovery";
    EXPECT_EQ(run(restore_words("000000020000000000000002", bounds)).exit_code, 1);
    EXPECT_EQ(run(restore_words("00000002.history", bounds)).exit_code, 1);
    expect_failure(run(restore_words("00000002.history", {"--need-history", "00000002.history"})),
                   255, "wal_history_missing");
    fs::remove(stored(wal.name(1)));
    const HelperRun missing = run(restore_words(wal.name(1), bounds));
    expect_failure(missing, 255, "wal_missing");
    EXPECT_NE(missing.err.find("WAL file " + wal.name(1) + " is missing"), std::string::npos);
    fs::resize_file(stored(wal.name(2)), 400);
    expect_failure(run(restore_words(wal.name(2), bounds)), 255, "wal_damaged");
    EXPECT_EQ(bytes_of(pg_wal() / "RECOVERYXLOG"), wal.segment(0)) << "what was there stays";
    for (const Words& wrong :
         {Words{"restore"}, Words{"restore", "--archive", archive().native(), "a"},
          restore_words(wal.name(0), {"--timelines", "2,1"}),
          restore_words(wal.name(0), {"--timelines", "one"}),
          restore_words(wal.name(0), {"--what", "1"}), Words{"restor", "a", "b"}, Words{}}) {
        expect_failure(run(wrong), 255, "usage");
    }
    fs::remove(data() / "global/pg_control");
    put(data() / "global/pg_control", "torn");
    expect_failure(run(restore_words(wal.name(0))), 255, "not_a_data_directory");
}

TEST_F(HelperTest, VerifiesAndPrints) {
    const WalBuilder wal = write_segments(2);
    archive_it(wal.name(0));
    archive_it(wal.name(1));
    const Words verify{"verify", "--archive", archive().native()};
    EXPECT_EQ(run(verify).exit_code, 0);
    put(archive() / "stray\n\x1b[31m", "x");
    fs::resize_file(stored(wal.name(1)), 1000);
    const HelperRun bad = run(verify);
    EXPECT_EQ(bad.exit_code, 1);
    EXPECT_NE(bad.out.find(wal.name(1) + ".zst: wal_damaged: "), std::string::npos) << bad.out;
    EXPECT_NE(bad.out.find("stray??[31m: wal_foreign_file: "), std::string::npos) << bad.out;
    EXPECT_EQ(run({"cat", "--archive", archive().native(), wal.name(0)}).out, wal.segment(0));
    expect_failure(run({"cat", "--archive", archive().native(), wal.name(1)}), 1, "wal_damaged");
    expect_failure(run({"cat", "--archive", archive().native(), "00000005.history"}), 1,
                   "wal_missing");
}

// ---- killed at every system call ----------------------------------------------------------------

struct KillCase {
    std::string name;
    bool is_bare;     ///< in a chroot without /proc: files are made under temporary names
    bool is_damaged;  ///< a damaged file, or an older destination, is in the way
};

class KilledHelper : public HelperTest, public testing::WithParamInterface<KillCase> {
  protected:
    void SetUp() override {
        HelperTest::SetUp();
        if (GetParam().is_bare) fs::copy_file(BPG_WAL_BINARY, root_ / "bpg-wal");
    }
    HelperOptions options(std::optional<int> kill_at = std::nullopt) const {
        if (GetParam().is_bare) {
            return {.directory = "/data", .chroot = root_, .kill_at = kill_at};
        }
        return {.directory = data(), .kill_at = kill_at};
    }
    std::string place(const fs::path& path) const {
        return GetParam().is_bare ? "/" + path.filename().native() : path.native();
    }
    void empty(const fs::path& directory) const {
        for (const auto& entry : fs::directory_iterator(directory))
            fs::remove(entry.path());
    }
    /// Names that are no temporary ones; those may be left where a file needs a name at once.
    static std::vector<std::string> lasting(const fs::path& path) {
        auto names = names_in(path);
        std::erase_if(names, [](const std::string& name) { return is_temporary_name(name); });
        return names;
    }
};

TEST_P(KilledHelper, LeavesTheArchiveWholeAndTheNextOneSucceeds) {
    const WalBuilder wal = write_segments(1);
    const std::string name = wal.name(0);
    const Words words{"archive", "--archive", place(archive()), "pg_wal/" + name, name};
    int published = 0;
    int stop = 1;
    for (;; ++stop) {
        empty(archive());
        if (GetParam().is_damaged) put(stored(name), "a half copied leftover");
        const HelperRun killed = run_with(options(stop), words);
        if (!killed.was_killed) {
            EXPECT_EQ(killed.exit_code, 0) << killed.err;
            break;
        }
        const auto present = lasting(archive());
        ASSERT_LE(present.size(), 1U) << "stop " << stop;
        ASSERT_TRUE(present.empty() || present[0] == name + ".zst") << present[0];
        const bool is_old = !present.empty() && bytes_of(stored(name)) == "a half copied leftover";
        if (!present.empty() && !is_old) {
            ++published;
            ASSERT_EQ(plain_of(name), wal.segment(0)) << "stop " << stop;
        }
        ASSERT_TRUE(!is_old || GetParam().is_damaged);
        if (!GetParam().is_bare && !GetParam().is_damaged) {
            ASSERT_EQ(names_in(archive()), present) << "not even a temporary file";
        }
        const HelperRun again = run_with(options(), words);
        ASSERT_EQ(again.exit_code, 0) << "stop " << stop << ": " << again.err;
        ASSERT_EQ(plain_of(name), wal.segment(0));
        ASSERT_EQ(lasting(archive()), Words{name + ".zst"});
    }
    EXPECT_GT(stop, 40) << "it makes more system calls than that";
    EXPECT_GT(published, 4) << "the file is there before the last of them";
    // What the dead left goes when somebody needs a temporary name.
    put(stored(name), "damaged");
    ASSERT_EQ(run_with(options(), words).exit_code, 0);
    EXPECT_EQ(names_in(archive()), Words{name + ".zst"});
}

TEST_P(KilledHelper, LeavesADestinationWholeOrAsItWas) {
    const WalBuilder wal = write_segments(2);
    archive_it(wal.name(0));
    empty(pg_wal());
    const fs::path destination = pg_wal() / "RECOVERYXLOG";
    const Words words{"restore", "--archive", place(archive()), wal.name(0), "pg_wal/RECOVERYXLOG"};
    int delivered = 0;
    int stop = 1;
    for (;; ++stop) {
        empty(pg_wal());
        if (GetParam().is_damaged) put(destination, "older");
        const HelperRun killed = run_with(options(stop), words);
        if (!killed.was_killed) {
            EXPECT_EQ(killed.exit_code, 0) << killed.err;
            break;
        }
        if (fs::exists(destination)) {
            const std::string content = bytes_of(destination);
            const bool is_old = GetParam().is_damaged && content == "older";
            ASSERT_TRUE(is_old || content == wal.segment(0)) << "stop " << stop;
            delivered += is_old ? 0 : 1;
        }
        const HelperRun again = run_with(options(), words);
        ASSERT_EQ(again.exit_code, 0) << "stop " << stop << ": " << again.err;
        ASSERT_EQ(bytes_of(destination), wal.segment(0));
        ASSERT_EQ(lasting(pg_wal()), Words{"RECOVERYXLOG"});
    }
    EXPECT_GT(stop, 40);
    EXPECT_GT(delivered, 0);
    ASSERT_EQ(run_with(options(), words).exit_code, 0);
    EXPECT_EQ(names_in(pg_wal()), Words{"RECOVERYXLOG"}) << "nor does what the dead left stay";
    EXPECT_EQ(names_in(archive()), Words{wal.name(0) + ".zst"});
}

INSTANTIATE_TEST_SUITE_P(Everywhere, KilledHelper,
                         testing::Values(KillCase{"native", false, false},
                                         KillCase{"native_over_another", false, true},
                                         KillCase{"bare_chroot", true, false},
                                         KillCase{"bare_chroot_over_another", true, true}),
                         [](const testing::TestParamInfo<KillCase>& info) {
                             return info.param.name;
                         });

// ---- in other surroundings ----------------------------------------------------------------------

TEST_F(HelperTest, WorksAsAnotherUserInAChrootThatHasNothingButIt) {
    const WalBuilder wal = write_segments(2);
    fs::copy_file(BPG_WAL_BINARY, root_ / "bpg-wal");
    const FileOwner nobody = lookup_user("nobody");
    for (const fs::path& path : {root_, data(), data() / "global", pg_wal(), archive()}) {
        ASSERT_EQ(::chown(path.c_str(), nobody.uid, nobody.gid), 0);
        for (const auto& entry : fs::directory_iterator(path))
            ASSERT_EQ(::chown(entry.path().c_str(), nobody.uid, nobody.gid), 0);
    }
    const HelperOptions options{.directory = "/data", .chroot = root_, .user = nobody.uid};
    const std::string name = wal.name(1);
    const Words archive_it_there{"archive", "--archive", "/archive", "pg_wal/" + name, name};
    EXPECT_EQ(run_with(options, archive_it_there).exit_code, 0);
    EXPECT_EQ(run_with(options, archive_it_there).exit_code, 0);
    EXPECT_EQ(archived(), Words{name + ".zst"});
    EXPECT_EQ(open_stored(name)->metadata().first_commit_at, at_second(9));
    const HelperRun restored =
        run_with(options, {"restore", "--archive", "/archive", name, "pg_wal/RECOVERYXLOG"});
    EXPECT_EQ(restored.exit_code, 0) << restored.err;
    EXPECT_EQ(bytes_of(pg_wal() / "RECOVERYXLOG"), wal.segment(1));
    EXPECT_EQ(run_with(options, {"verify", "--archive", "/archive"}).exit_code, 0);
}

TEST_F(HelperTest, OfWhichTwoArchiveTheSameFilesBothSucceed) {
    const WalBuilder wal = write_segments(6);
    put(stored(wal.name(3)), "damaged");
    fs::create_directories(root_ / "other");
    for (std::uint64_t index = 0; index < 6; ++index) {
        const Words words = archive_words(wal.name(index));
        Helper one(root_, {.directory = data()});
        Helper other(root_ / "other", {.directory = data()});
        const pid_t first = one.start(words);
        const pid_t second = other.start(words);
        const HelperRun ended = one.finish(first);
        EXPECT_EQ(ended.exit_code, 0) << ended.err;
        const HelperRun other_ended = other.finish(second);
        EXPECT_EQ(other_ended.exit_code, 0) << other_ended.err;
        EXPECT_EQ(plain_of(wal.name(index)), wal.segment(index));
    }
    EXPECT_EQ(archived().size(), 6U);
}

/// A small file system of its own in the place of a directory.
class SmallDisk {
  public:
    SmallDisk(fs::path place, const std::string& size) : place_(std::move(place)) {
        if (::mount("none", place_.c_str(), "tmpfs", 0, ("size=" + size).c_str()) != 0) {
            throw errno_error("mount a tmpfs", errno);
        }
    }
    ~SmallDisk() { ::umount(place_.c_str()); }
    SmallDisk(const SmallDisk&) = delete;
    SmallDisk& operator=(const SmallDisk&) = delete;
    void grow(const std::string& size) const {
        ASSERT_EQ(::mount("none", place_.c_str(), "tmpfs", MS_REMOUNT, ("size=" + size).c_str()),
                  0);
    }

  private:
    fs::path place_;
};

TEST_F(HelperTest, OnAFullDiskFailsWithACodeThatPostgresCountsAndLeavesNothing) {
    WalBuilder wal;
    std::mt19937_64 random(9);
    while (wal.at() < kSmallSegment + 800'000) {
        std::string noise(20'000, '\0');
        for (char& c : noise)
            c = static_cast<char>(random());
        wal.record(10, 0, noise);
    }
    put(pg_wal() / wal.name(0), wal.segment(0));
    const SmallDisk disk(archive(), "300k");
    for (int attempt = 0; attempt < 3; ++attempt) {
        expect_failure(run(archive_words(wal.name(0))), 1, "no_space");
        EXPECT_TRUE(archived().empty());
    }
    disk.grow("4m");
    EXPECT_EQ(run(archive_words(wal.name(0))).exit_code, 0);
    EXPECT_EQ(plain_of(wal.name(0)), wal.segment(0));
    // A restore onto a full disk must stop the recovery, not end it.
    const SmallDisk small(pg_wal(), "300k");
    expect_failure(run(restore_words(wal.name(0))), 255, "no_space");
    EXPECT_TRUE(names_in(pg_wal()).empty());
}

TEST_F(HelperTest, WithoutTheRightToWriteFailsWithACodeThatPostgresCounts) {
    const WalBuilder wal = write_segments(1);
    ASSERT_EQ(::chmod(root_.c_str(), 0755), 0);
    const FileOwner nobody = lookup_user("nobody");
    ASSERT_EQ(::chmod((pg_wal() / wal.name(0)).c_str(), 0644), 0);
    const HelperRun refused =
        run_with({.directory = data(), .user = nobody.uid}, archive_words(wal.name(0)));
    expect_failure(refused, 1, "not_permitted");
    EXPECT_TRUE(archived().empty());
}

}  // namespace
}  // namespace bpg::wal::test
