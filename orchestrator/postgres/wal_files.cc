// Copying WAL from one pg_wal to another.
#include "orchestrator/postgres/wal_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "orchestrator/base/error.h"

namespace bpg::postgres {

namespace {

constexpr std::size_t kLongHeaderSize = 40;  // XLogLongPageHeaderData
constexpr std::uint16_t kLongHeader = 0x0002;
constexpr std::uint8_t kMagicHigh = 0xD1;  // XLOG_PAGE_MAGIC has been 0xD1xx for twenty years
constexpr std::uint64_t kSegmentsMax = 1'000'000;
constexpr std::size_t kHistoryMax = 4U << 20U;

template <class T>
T field(std::string_view bytes, std::size_t at) {
    T value{};
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
}

Error wal_missing(const std::string& name, std::string detail) {
    return {
        ErrorKind::kCorrupt, "wal_missing",
        fmt::format("WAL segment {} of the parent is missing", name), std::move(detail),
        "without it the copy is not consistent; create the branch again, and raise wal_keep_size "
        "on the parent if it happens twice"};
}

/// A system call's count of bytes, once it is known to be no failure.
std::size_t checked(ssize_t count, const std::string& action) {
    if (count < 0) throw errno_error(action, errno);
    return static_cast<std::size_t>(count);
}

void copy_bytes(int from, int to, const std::string& shown) {
    // Shares the blocks where the file system can; a full copy where it cannot.
    if (::ioctl(to, FICLONE, from) == 0) return;
    std::array<char, 256 * 1024> block{};
    while (true) {
        const std::size_t got = checked(::read(from, block.data(), block.size()), "read " + shown);
        if (got == 0) return;
        write_fully(to, {block.data(), got}, shown);
    }
}

void copy_segment(const Tree& source, const Tree& target, const BackupStart& start, Lsn begin) {
    const std::string name = segment_name(start.timeline, begin, start.segment_size);
    const UniqueFd from = source.open_file(name);
    if (!from) throw wal_missing(name, "it is not in " + source.shown());

    struct stat facts{};
    if (::fstat(from.get(), &facts) != 0) throw errno_error("look at " + name, errno);
    if (facts.st_size != static_cast<off_t>(start.segment_size)) {
        throw wal_missing(name, fmt::format("the file has {} bytes instead of {}", facts.st_size,
                                            start.segment_size));
    }
    target.remove(name);
    const UniqueFd to = open_beneath(target.fd(), name, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (!to) throw errno_error("create " + name, ENOENT);
    copy_bytes(from.get(), to.get(), name);

    // The copy is looked at, not the source: that may have been recycled meanwhile.
    std::array<char, kLongHeaderSize> header{};
    const std::size_t got =
        checked(::pread(to.get(), header.data(), header.size(), 0), "read " + name);
    if (!segment_header_matches({header.data(), got}, start.timeline, begin, start.segment_size)) {
        throw wal_missing(name, "the file of that name holds other WAL");
    }
    struct stat directory{};
    if (::fstat(target.fd(), &directory) != 0) throw errno_error("look at pg_wal", errno);
    if (::fchown(to.get(), directory.st_uid, directory.st_gid) != 0) {
        throw errno_error("change the owner of " + name, errno);
    }
    if (::fsync(to.get()) != 0) throw errno_error("sync " + name, errno);
}

/// Without them the clone would know neither where its timeline began nor which numbers are taken.
void copy_histories(const Tree& source, const Tree& target, std::uint32_t timeline) {
    struct stat directory{};
    if (::fstat(target.fd(), &directory) != 0) throw errno_error("look at pg_wal", errno);
    for (const Entry& entry : source.list()) {
        if (entry.name.size() != 16 || !entry.name.ends_with(".history")) continue;
        const auto parsed = parse_lsn("0/" + entry.name.substr(0, 8));
        if (!parsed || parsed->value > timeline) continue;
        const auto content = source.read(entry.name, kHistoryMax);
        if (!content) continue;
        target.replace(entry.name, *content, 0600, {directory.st_uid, directory.st_gid});
    }
}

}  // namespace

bool segment_header_matches(std::string_view header, std::uint32_t timeline, Lsn begin,
                            std::uint32_t segment_size) {
    if (header.size() < kLongHeaderSize) return false;
    return field<std::uint8_t>(header, 1) == kMagicHigh &&
           (field<std::uint16_t>(header, 2) & kLongHeader) != 0 &&
           field<std::uint32_t>(header, 4) <= timeline &&
           field<std::uint64_t>(header, 8) == begin.value &&
           field<std::uint32_t>(header, 32) == segment_size;
}

void copy_wal_files(const Tree& source, const Tree& target, const BackupStart& start, Lsn stop) {
    const std::uint64_t size = start.segment_size;
    if (size == 0 || stop <= start.lsn) {
        throw Error(ErrorKind::kInternal, "wal_range_invalid", "cannot copy the WAL of a backup",
                    fmt::format("from {} to {}", to_string(start.lsn), to_string(stop)));
    }
    const auto from = source.sub("pg_wal");
    const auto to = target.sub("pg_wal");
    if (!from || !to) {
        throw Error(ErrorKind::kCorrupt, "not_a_data_directory", "cannot copy the WAL of a backup",
                    (from ? target : source).shown() + " has no pg_wal");
    }
    const std::uint64_t first = start.lsn.value / size;
    // `stop` is the first byte no longer needed.
    const std::uint64_t last = (stop.value - 1) / size;
    if (last - first >= kSegmentsMax) {
        throw Error(ErrorKind::kInternal, "wal_range_invalid", "cannot copy the WAL of a backup",
                    fmt::format("{} segments", last - first + 1));
    }
    for (std::uint64_t segment = first; segment <= last; ++segment) {
        copy_segment(*from, *to, start, Lsn{segment * size});
    }
    copy_histories(*from, *to, start.timeline);
    to->sync();
}

std::optional<Lsn> last_switch_point(std::string_view history) {
    std::optional<Lsn> found;
    while (!history.empty()) {
        const auto length = std::min(history.find('\n'), history.size());
        std::string_view line = history.substr(0, length);
        history.remove_prefix(std::min(length + 1, history.size()));
        // "<parent timeline> <switch point> <reason>", apart by blanks.
        const auto begin = line.find_first_not_of(" \t");
        if (begin == std::string_view::npos || line[begin] == '#') continue;
        line.remove_prefix(begin);
        const auto blank = line.find_first_of(" \t");
        if (blank == std::string_view::npos) continue;
        line.remove_prefix(blank);
        line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
        const auto point = parse_lsn(line.substr(0, line.find_first_of(" \t")));
        if (point) found = point;
    }
    return found;
}

}  // namespace bpg::postgres
