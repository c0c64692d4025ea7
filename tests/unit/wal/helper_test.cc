// The program bpg-wal as PostgreSQL runs it: exit codes, and that no end of it, at whatever system
// call, leaves anything but whole files behind.
#include <elf.h>
#include <sys/mount.h>

#include <random>
#include <set>

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

/// What lies where the file is to go.
enum class InTheWay { kNothing, kDamaged, kSame, kAnother };

struct KillCase {
    std::string name;
    bool is_bare;  ///< in a chroot without /proc: files are made under temporary names
    InTheWay there = InTheWay::kNothing;
};

class KilledHelper : public HelperTest, public testing::WithParamInterface<KillCase> {
  protected:
    static constexpr std::string_view kDamaged = "a half copied leftover";

    void SetUp() override {
        HelperTest::SetUp();
        if (GetParam().is_bare) fs::copy_file(BPG_WAL_BINARY, root_ / "bpg-wal");
    }
    static bool is_there(InTheWay what) { return GetParam().there == what; }
    HelperOptions options(std::optional<KillPoint> kill_at = std::nullopt) const {
        if (GetParam().is_bare) {
            return {.directory = "/data", .chroot = root_, .kill_at = kill_at};
        }
        return {.directory = data(), .kill_at = kill_at};
    }
    HelperRun run_there(const Words& words) const { return run_with(options(), words); }
    std::string place(const fs::path& path) const {
        return GetParam().is_bare ? "/" + path.filename().native() : path.native();
    }
    static void empty(const fs::path& directory) {
        for (const auto& entry : fs::directory_iterator(directory))
            fs::remove(entry.path());
    }
    /// Names that are no temporary ones; those may be left where a file needs a name at once.
    static Words lasting(const fs::path& path) {
        auto names = names_in(path);
        std::erase_if(names, [](const std::string& name) { return is_temporary_name(name); });
        return names;
    }

    /// Runs it once for every system call of each of its threads, killed before it and behind it,
    /// and then to its end, which is given back. `check` sees what each of the dead has left.
    template <class Prepare, class Check>
    HelperRun kill_everywhere(const Words& words, Prepare prepare, Check check) {
        HelperRun whole;
        KillPoint point;
        do {
            for (point.stop = 1;; ++point.stop) {
                prepare();
                const HelperRun run = run_with(options(point), words);
                if (!run.was_killed) {
                    whole = run;
                    break;
                }
                killed_in_.emplace(run.killed_in, run.was_killed_behind);
                SCOPED_TRACE(fmt::format("killed {} call {}, stop {} of thread {}",
                                         run.was_killed_behind ? "behind" : "before", run.killed_in,
                                         point.stop, point.thread));
                check();
                if (HasFatalFailure()) return run;
            }
            EXPECT_GT(point.stop, 1) << "thread " << point.thread << " makes no system call";
        } while (++point.thread < whole.threads);
        return whole;
    }
    void expect_killed_around(const std::vector<long>& calls) const {
        for (const long call : calls) {
            for (const bool behind : {false, true}) {
                EXPECT_TRUE(killed_in_.contains({static_cast<std::uint64_t>(call), behind}))
                    << call << (behind ? " behind" : " before");
            }
        }
    }

    std::set<std::pair<std::uint64_t, bool>> killed_in_;
};

class KilledArchiving : public KilledHelper {
  protected:
    void SetUp() override {
        KilledHelper::SetUp();
        const WalBuilder wal = write_segments(2);
        name_ = wal.name(0);
        next_ = wal.name(1);
        content_ = wal.segment(0);
        if (is_there(InTheWay::kSame)) {
            archive_it(name_);
        } else if (is_there(InTheWay::kAnother)) {
            write_segments(2, {.magic = 0xD10D});
            archive_it(name_);
            write_segments(2);
        } else if (is_there(InTheWay::kDamaged)) {
            put(stored(name_), kDamaged);
        }
        before_ = bytes_of(stored(name_));
    }
    void prepare() const {
        empty(archive());
        if (!before_.empty()) put(stored(name_), before_);
    }
    Words words(const std::string& name) const {
        return {"archive", "--archive", place(archive()), "pg_wal/" + name, name};
    }
    bool is_kept() const { return is_there(InTheWay::kSame) || is_there(InTheWay::kAnother); }

    void check_what_the_dead_left() {
        const Words present = lasting(archive());
        const std::string now = bytes_of(stored(name_));
        if (is_kept()) {
            ASSERT_EQ(now, before_) << "a good file was touched";
            ASSERT_EQ(names_in(archive()), Words{name_ + ".zst"});
        } else if (now == before_) {  // nothing yet
            ASSERT_EQ(present.size(), before_.empty() ? 0U : 1U);
        } else {
            ++published_;
            ASSERT_EQ(present, Words{name_ + ".zst"});
            ASSERT_TRUE(verify_archive(archive()).empty());
            ASSERT_EQ(plain_of(name_), content_);
        }
        if (!GetParam().is_bare && before_.empty()) {
            ASSERT_EQ(names_in(archive()), present) << "not even a temporary file";
        }
    }
    void check_that_the_next_one_succeeds() const {
        const HelperRun again = run_there(words(name_));
        if (is_there(InTheWay::kAnother)) {
            expect_failure(again, 1, "wal_differs");
            ASSERT_EQ(bytes_of(stored(name_)), before_);
            return;
        }
        ASSERT_EQ(again.exit_code, 0) << again.err;
        ASSERT_EQ(plain_of(name_), content_);
        ASSERT_EQ(lasting(archive()), Words{name_ + ".zst"});
        if (names_in(archive()).size() == 1) return;
        // Where temporary names are needed, the next segment removes what the dead left.
        ASSERT_EQ(run_there(words(next_)).exit_code, 0);
        ASSERT_EQ(names_in(archive()), (Words{name_ + ".zst", next_ + ".zst"}));
    }

    std::string name_;
    std::string next_;
    std::string content_;
    std::string before_;  ///< what lies in the archive under this name
    int published_ = 0;
};

TEST_P(KilledArchiving, LeavesTheArchiveWholeAndTheNextOneSucceeds) {
    const HelperRun whole = kill_everywhere(
        words(name_), [this] { prepare(); },
        [this] {
            check_what_the_dead_left();
            if (!HasFatalFailure()) check_that_the_next_one_succeeds();
        });
    ASSERT_FALSE(HasFatalFailure());
    if (is_there(InTheWay::kAnother)) {
        expect_failure(whole, 1, "wal_differs");
    } else {
        EXPECT_EQ(whole.exit_code, 0) << whole.err;
        EXPECT_EQ(plain_of(name_), content_);
    }
    EXPECT_EQ(names_in(archive()), Words{name_ + ".zst"});
    if (is_kept()) {
        EXPECT_EQ(whole.threads, 2U) << "what is there is read by two";
        return;
    }
    const bool replaces = is_there(InTheWay::kDamaged);
    expect_killed_around({SYS_openat, SYS_pwrite64, SYS_fsync});
    if (replaces) expect_killed_around({SYS_renameat});
    if (!replaces || !GetParam().is_bare) expect_killed_around({SYS_linkat});
    EXPECT_GT(published_, 4) << "the file is there before the last of its system calls";
}

class KilledRestoring : public KilledHelper {};

TEST_P(KilledRestoring, LeavesADestinationWholeOrAsItWas) {
    const WalBuilder wal = write_segments(2);
    archive_it(wal.name(0));
    const fs::path destination = pg_wal() / "RECOVERYXLOG";
    const Words words{"restore", "--archive", place(archive()), wal.name(0), "pg_wal/RECOVERYXLOG"};
    const std::string before = is_there(InTheWay::kNothing) ? "" : "older";
    int delivered = 0;
    const auto prepare = [&] {
        empty(pg_wal());
        if (!before.empty()) put(destination, before);
    };
    const auto check = [&] {
        const std::string content = bytes_of(destination);
        if (content != before) {
            ASSERT_EQ(content, wal.segment(0));
            ++delivered;
        }
        ASSERT_EQ(fs::exists(destination), !content.empty());
        const HelperRun again = run_there(words);
        ASSERT_EQ(again.exit_code, 0) << again.err;
        ASSERT_EQ(bytes_of(destination), wal.segment(0));
        ASSERT_EQ(lasting(pg_wal()), Words{"RECOVERYXLOG"});
        if (names_in(pg_wal()).size() == 1) return;
        // What the dead left goes when a file needs a temporary name: over another one it does.
        ASSERT_EQ(run_there(words).exit_code, 0);
        ASSERT_EQ(names_in(pg_wal()), Words{"RECOVERYXLOG"});
    };
    const HelperRun whole = kill_everywhere(words, prepare, check);
    ASSERT_FALSE(HasFatalFailure());
    EXPECT_EQ(whole.exit_code, 0) << whole.err;
    EXPECT_EQ(whole.threads, 2U) << "one decompresses, one writes";
    expect_killed_around({SYS_openat, SYS_pwrite64, SYS_linkat});
    if (!before.empty()) expect_killed_around({SYS_renameat});
    EXPECT_GT(delivered, 0);
    EXPECT_EQ(names_in(archive()), Words{wal.name(0) + ".zst"});
}

std::string name_of_case(const testing::TestParamInfo<KillCase>& info) {
    return info.param.name;
}

// Where a good file is in the way none is made, so that /proc does not matter.
INSTANTIATE_TEST_SUITE_P(Everywhere, KilledArchiving,
                         testing::Values(KillCase{"native", false},
                                         KillCase{"native_damaged", false, InTheWay::kDamaged},
                                         KillCase{"native_again", false, InTheWay::kSame},
                                         KillCase{"native_another", false, InTheWay::kAnother},
                                         KillCase{"bare_chroot", true},
                                         KillCase{"bare_chroot_damaged", true, InTheWay::kDamaged}),
                         name_of_case);

INSTANTIATE_TEST_SUITE_P(Everywhere, KilledRestoring,
                         testing::Values(KillCase{"native", false},
                                         KillCase{"native_over_another", false, InTheWay::kAnother},
                                         KillCase{"bare_chroot", true},
                                         KillCase{"bare_chroot_over_another", true,
                                                  InTheWay::kAnother}),
                         name_of_case);

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
