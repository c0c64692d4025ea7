// The format of archived files: that it comes back as it was, that every damage is noticed, that
// nothing hostile in it does harm, and that files of old are read for ever.
#include "orchestrator/wal/archived_file.h"

#include <sys/resource.h>
#include <zstd.h>

#include <random>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "tests/unit/wal/wal_fixture.h"

namespace bpg::wal::test {
namespace {

constexpr std::size_t kFrame = 168;

class ArchivedFiles : public WalTest {
  protected:
    static constexpr const char* kName = "00000002.history";

    /// Archives these bytes as a history.
    ArchivedMetadata archive_bytes(const std::string& content) const {
        put(pg_wal() / kName, content);
        fs::remove(stored(kName));
        return archive_it(kName).metadata;
    }
    /// The first frame of a file, with its checksum made right again.
    static void sign(std::string& file, std::size_t frame = kFrame) {
        const XXH64_hash_t checksum = XXH3_64bits(file.data(), frame - 8);
        std::memcpy(file.data() + frame - 8, &checksum, 8);
    }
    template <class T>
    static void set(std::string& file, std::size_t at, T value) {
        std::memcpy(file.data() + at, &value, sizeof value);
    }
    /// Puts another second frame behind the first, with checksum and size made right again.
    static std::string with_frame(std::string file, const std::string& frame) {
        file.resize(kFrame);
        file += frame;
        set(file, 64, std::uint64_t{frame.size()});
        XXH128_canonical_t checksum;
        XXH128_canonicalFromHash(&checksum, XXH3_128bits(frame.data(), frame.size()));
        set(file, 72, checksum);
        sign(file);
        return file;
    }
    ErrorInfo fault(const char* name = kName) const {
        return error_of([&] { plain_of(name); });
    }
};

std::string random_bytes(std::mt19937_64& random, std::size_t size) {
    std::string bytes(size, '\0');
    // Text of few letters, so that some of it compresses.
    for (char& c : bytes)
        c = static_cast<char>(random() % 2 == 0 ? 'a' + random() % 4 : random());
    return bytes;
}

TEST_F(ArchivedFiles, ComeBackAsTheyWereWhateverTheirSize) {
    std::mt19937_64 random(20'261'126);
    for (const std::size_t size : {1UL, 2UL, 167UL, 4096UL, 131'071UL, 131'072UL, 131'073UL,
                                   262'144UL, 262'145UL, 1'000'000UL, 5'000'000UL}) {
        const std::string content = random_bytes(random, size);
        const ArchivedMetadata made = archive_bytes(content);
        EXPECT_EQ(plain_of(kName), content) << size;
        EXPECT_EQ(open_stored(kName)->metadata(), made);
        EXPECT_EQ(made.plain_size, size);
        EXPECT_EQ(fs::file_size(stored(kName)), kFrame + made.stored_size);
    }
}

TEST_F(ArchivedFiles, KeepWhatIsKnownOfASegment) {
    const WalBuilder wal = write_segments(2);
    archive_it(wal.name(0));
    archive_it(wal.name(1));
    const ArchivedMetadata metadata = open_stored(wal.name(1))->metadata();
    EXPECT_EQ(metadata.name, "000000010000000000000002");
    EXPECT_EQ(metadata.timeline, 1U);
    EXPECT_EQ(metadata.segment_size, kSmallSegment);
    EXPECT_EQ(metadata.plain_size, kSmallSegment);
    EXPECT_EQ(metadata.system_identifier, kSystem);
    EXPECT_EQ(metadata.first_commit_at, at_second(9)) << "it ends in this segment";
    EXPECT_EQ(metadata.last_commit_at, at_second(10));
    EXPECT_EQ(metadata.wal_end, 3ULL * kSmallSegment);
    EXPECT_EQ(open_stored(wal.name(0))->metadata().first_commit_at, at_second(0));
}

TEST_F(ArchivedFiles, AreDecompressedByAnyZstdWithoutUs) {
    const std::string content = "1\t0/3000158\tno recovery target specified\n";
    archive_bytes(content);
    const std::string file = bytes_of(stored(kName));
    std::string plain(1000, '\0');
    const std::size_t size = ZSTD_decompress(plain.data(), plain.size(), file.data(), file.size());
    ASSERT_FALSE(ZSTD_isError(size)) << ZSTD_getErrorName(size);
    EXPECT_EQ(plain.substr(0, size), content);
}

TEST_F(ArchivedFiles, AreDamagedBySingleFlippedByteAnywhere) {
    std::mt19937_64 random(42);
    archive_bytes(random_bytes(random, 1500));
    const std::string good = bytes_of(stored(kName));
    for (std::size_t at = 0; at < good.size(); ++at) {
        std::string bad = good;
        bad[at] = static_cast<char>(bad[at] ^ (1 + random() % 255));
        put(stored(kName), bad);
        const ErrorInfo error = fault();
        ASSERT_EQ(error.code, "wal_damaged") << "byte " << at << ": " << error.message;
        ASSERT_NE(error.message.find(kName), std::string::npos) << error.message;
    }
}

TEST_F(ArchivedFiles, AreDamagedByEveryTruncationAndExtension) {
    std::mt19937_64 random(43);
    archive_bytes(random_bytes(random, 1500));
    const std::string good = bytes_of(stored(kName));
    for (std::size_t size = 0; size < good.size(); ++size) {
        put(stored(kName), good.substr(0, size));
        ASSERT_EQ(fault().code, "wal_damaged") << size << " bytes";
    }
    for (const std::string& more : {std::string(1, '\0'), good}) {
        put(stored(kName), good + more);
        EXPECT_EQ(fault().code, "wal_damaged");
    }
}

TEST_F(ArchivedFiles, OfASegmentAreDamagedByFlipsZerosAndHolesInIt) {
    const std::uint64_t seed = std::random_device{}();
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937_64 random(seed);
    const WalBuilder wal = write_segments(1);
    archive_it(wal.name(0));
    const fs::path path = stored(wal.name(0));
    const std::string good = bytes_of(path);
    for (int round = 0; round < 300; ++round) {
        std::string bad = good;
        const std::size_t at = random() % good.size();
        const std::size_t length = 1 + random() % std::min<std::size_t>(4096, good.size() - at);
        switch (random() % 3) {
            case 0:
                bad[at] = static_cast<char>(bad[at] ^ (1 << random() % 8));
                break;
            case 1:
                bad.replace(at, length, length, '\0');
                break;
            default:
                bad.erase(at, length);
        }
        if (bad == good) continue;
        put(path, bad);
        ASSERT_EQ(fault(wal.name(0).c_str()).code, "wal_damaged") << "at " << at << ", " << length;
    }
}

TEST_F(ArchivedFiles, UnderAnothersNameAreDamaged) {
    archive_bytes("1\t0/3000158\tx\n");
    fs::copy_file(stored(kName), stored("00000003.history"));
    const ErrorInfo error = fault("00000003.history");
    EXPECT_EQ(error.code, "wal_damaged");
    EXPECT_EQ(error.detail, "it is 00000002.history");
}

TEST_F(ArchivedFiles, OfANewerVersionAreRefusedAndNotTakenForDamaged) {
    archive_bytes("1\t0/3000158\tx\n");
    const std::string good = bytes_of(stored(kName));
    // As long as ours; and with a first frame that is longer and says other things.
    std::string same = good;
    set(same, 16, std::uint32_t{2});
    sign(same);
    std::string longer = good.substr(0, 20) + std::string(1000, 'x') + std::string(8, '\0');
    set(longer, 4, static_cast<std::uint32_t>(longer.size() - 8));
    set(longer, 16, std::uint32_t{77});
    sign(longer, longer.size());
    for (const std::string& file : {same, longer + good.substr(kFrame)}) {
        put(stored(kName), file);
        const ErrorInfo error = fault();
        EXPECT_EQ(error.code, "wal_format_newer");
        EXPECT_EQ(error.message,
                  "WAL file 00000002.history in archive was archived by a newer BetterPG");
        EXPECT_NE(error.detail.find("and 1 is the newest known here"), std::string::npos);
    }
    set(same, 16, std::uint32_t{0});
    sign(same);
    put(stored(kName), same);
    EXPECT_EQ(fault().code, "wal_damaged");
}

TEST_F(ArchivedFiles, ThatAreLinksOrNoRegularFilesAreNotRead) {
    archive_bytes("1\t0/3000158\tx\n");
    fs::rename(stored(kName), root_ / "elsewhere");
    fs::create_symlink(root_ / "elsewhere", stored(kName));
    EXPECT_EQ(fault().code, "symlink_refused");
    fs::remove(stored(kName));
    ASSERT_EQ(::mkfifo(stored(kName).c_str(), 0600), 0);
    EXPECT_EQ(fault().code, "not_a_regular_file");
    fs::remove(stored(kName));
    fs::create_directory(stored(kName));
    EXPECT_EQ(fault().code, "not_a_regular_file");
    fs::remove(stored(kName));
    EXPECT_FALSE(open_stored(kName));
}

std::string compressed(const std::string& plain, int window_log = 0) {
    std::string frame(ZSTD_compressBound(plain.size()), '\0');
    ZSTD_CCtx* context = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
    if (window_log > 0) {
        ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
        ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
    }
    frame.resize(ZSTD_compress2(context, frame.data(), frame.size(), plain.data(), plain.size()));
    ZSTD_freeCCtx(context);
    return frame;
}

long peak_kilobytes() {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

TEST_F(ArchivedFiles, ThatUnpackToMoreThanTheySayAreRefusedBeforeItIsWritten) {
    archive_bytes(std::string(100'000, 'x'));
    const std::string good = bytes_of(stored(kName));
    const std::string bomb = compressed(std::string(100U << 20U, '\0'));
    put(stored(kName), with_frame(good, bomb));
    std::uint64_t came = 0;
    const long before = peak_kilobytes();
    const ErrorInfo error = error_of(
        [&] { open_stored(kName)->read([&](std::string_view piece) { came += piece.size(); }); });
    EXPECT_EQ(error.code, "wal_damaged");
    EXPECT_EQ(error.detail, "more is in it than it says");
    EXPECT_LE(came, 100'000U);
    EXPECT_LT(peak_kilobytes() - before, 16 * 1024);
}

TEST_F(ArchivedFiles, ThatWantMuchMemoryOrClaimSizesThatCannotBeAreRefused) {
    archive_bytes(std::string(100'000, 'x'));
    const std::string good = bytes_of(stored(kName));
    // A window of 128 MiB.
    put(stored(kName), with_frame(good, compressed(std::string(200U << 20U, 'y'), 27)));
    EXPECT_EQ(fault().detail, "Frame requires too much memory for decoding");
    // A history of 1 GiB.
    std::string huge = good;
    set(huge, 40, std::uint64_t{1} << 30U);
    sign(huge);
    put(stored(kName), huge);
    EXPECT_EQ(fault().detail, "its sizes contradict one another");
    // Two frames where one should be.
    put(stored(kName), with_frame(good, compressed("a") + compressed("b")));
    EXPECT_EQ(fault().detail, "bytes follow its end");
    // No frame at all, in a file that is consistent otherwise.
    put(stored(kName), with_frame(good, "no zstd at all"));
    EXPECT_EQ(fault().code, "wal_damaged");
    put(stored(kName), with_frame(good, ""));
    EXPECT_EQ(fault().code, "wal_damaged");
}

TEST_F(ArchivedFiles, OfVersionOneAreReadForEver) {
    const fs::path corpus = BPG_WAL_CORPUS;
    fs::copy_file(corpus / "v1/00000002.history.zst", stored("00000002.history"));
    EXPECT_EQ(plain_of("00000002.history"), "1\t0/3000158\tno recovery target specified\n");
    EXPECT_EQ(open_stored("00000002.history")->metadata().system_identifier, kSystem);

    const std::string segment = "000000010000000000000003";
    fs::copy_file(corpus / "v1" / (segment + ".zst"), stored(segment));
    WalBuilder wal({.first = {1, 3}});
    wal.commit(at_second(1, 1));
    wal.filler(20'000);
    wal.commit(at_second(2, 999'999));
    wal.switch_segment();
    EXPECT_EQ(plain_of(segment), wal.segment(0));
    const ArchivedMetadata metadata = open_stored(segment)->metadata();
    EXPECT_EQ(metadata.first_commit_at, at_second(1, 1));
    EXPECT_EQ(metadata.last_commit_at, at_second(2, 999'999));
    EXPECT_EQ(metadata.wal_end, 4ULL * kSmallSegment);
    EXPECT_EQ(metadata.segment_size, kSmallSegment);
}

TEST_F(ArchivedFiles, AreStillWrittenAsVersionOne) {
    // Byte for byte but for what zstd makes of it: a change of the layout needs a new version.
    put(pg_wal() / kName, "1\t0/3000158\tno recovery target specified\n");
    archive_it(kName);
    const std::string made = bytes_of(stored(kName)).substr(0, 64);
    const std::string old =
        bytes_of(fs::path(BPG_WAL_CORPUS) / "v1/00000002.history.zst").substr(0, 64);
    EXPECT_EQ(made, old);
}

}  // namespace
}  // namespace bpg::wal::test
