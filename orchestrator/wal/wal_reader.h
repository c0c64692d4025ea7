// Reads WAL records, without PostgreSQL, as far as it needs to: where the valid WAL ends, when
// transactions committed, where restore points are. Knows PostgreSQL 13 to 18 on little-endian
// machines. Every record's checksum and its link to the one before are verified, so that the end of
// a half-filled segment is exact, and what a recycled segment still holds of its former life is not
// taken for WAL. Blocks; no state beyond the objects.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "orchestrator/base/clock.h"
#include "orchestrator/base/crc32c.h"
#include "orchestrator/wal/segment_name.h"

namespace bpg::wal {

/// What the first page of a segment says of it.
struct SegmentHeader {
    static constexpr std::size_t kSize = 40;

    std::uint16_t magic = 0;
    int version_major = 0;
    std::uint32_t timeline = 0;  ///< of its first page: the older one where a timeline begins
    std::uint64_t begin = 0;     ///< position of its first byte
    std::uint64_t system_identifier = 0;
    std::uint32_t segment_size = 0;
    std::uint32_t page_size = 0;
};

/// From the first kSize bytes of a segment or more; nothing when they begin none of 13 to 18.
std::optional<SegmentHeader> parse_segment_header(std::string_view bytes);

/// Why this segment is not the one of that name; empty when it is. `file_size` in bytes.
std::string fault_of_segment(const std::optional<SegmentHeader>& header, const WalName& name,
                             std::uint64_t file_size,
                             std::optional<std::uint64_t> system_identifier);

struct Commit {
    std::uint64_t begin = 0;  ///< of its record
    std::uint64_t end = 0;    ///< behind it: recovery to this position includes it
    std::uint32_t xid = 0;    ///< of a prepared transaction: 0
    WallTime at{};            ///< what a recovery to a time compares
};

struct RestorePoint {
    std::uint64_t end = 0;
    WallTime at{};
    std::string name;
};

/// Called for what is found, in the order of the WAL. Either may be empty.
struct WalVisitor {
    std::function<void(const Commit&)> on_commit;
    std::function<void(const RestorePoint&)> on_restore_point;
};

/// What a scan has found so far.
struct WalFacts {
    std::optional<std::uint64_t> first_record;  ///< where the first that begins in it begins
    /// Behind the last whole record; where the scan began when there is none. A record that ends
    /// with a segment switch reaches to the end of its segment.
    std::uint64_t end = 0;
    std::optional<WallTime> first_commit;  ///< the earliest and the latest: they need not be in
    std::optional<WallTime> last_commit;   ///< the order of the WAL
    std::uint64_t commits = 0;
    std::uint64_t records = 0;
};

/// A record that is being put together.
struct OpenRecord {
    std::uint64_t begin = 0;
    std::uint32_t size = 0;
    std::uint32_t taken = 0;
    std::string head;  ///< as much of it as matters here
    Crc32c crc;        ///< of what follows its header
};

/// Takes WAL in order, from the beginning of a segment on, in pieces of any size. What of a record
/// precedes the first segment is passed over.
class WalScanner {
  public:
    explicit WalScanner(WalVisitor visitor = {}) : visitor_(std::move(visitor)) {}

    /// The segment that is fed next. It must follow the one before.
    void begin_segment(SegmentId segment, std::uint32_t segment_size);
    /// False once the valid WAL has ended: nothing more is looked at.
    bool feed(std::string_view bytes);
    bool has_ended() const { return has_ended_; }

    const WalFacts& facts() const { return facts_; }
    /// Where the whole records end, seen from the segment fed last: its end when WAL goes on there.
    std::uint64_t end_in_segment() const;

  private:
    static constexpr std::size_t kHeadMax = 128;

    bool take_whole_pages(std::string_view& bytes);
    bool learn_from_first_page(std::string_view page);
    bool take_page(std::string_view page);
    bool accept_header(std::string_view page);
    bool accept_continuation(std::uint16_t flags, std::uint32_t rest);
    std::size_t pass_over(std::string_view page, std::size_t at);
    bool take_record_piece(std::string_view page, std::size_t& at);
    bool is_linked() const;
    bool finish_record(std::uint64_t end);
    void look_at_record();
    void found_commit(std::string_view data);
    void found_restore_point(std::string_view data);

    WalVisitor visitor_;
    WalFacts facts_;
    SegmentId segment_;
    std::uint32_t segment_size_ = 0;
    std::uint32_t page_size_ = 0;
    std::uint16_t magic_ = 0;
    std::uint64_t system_identifier_ = 0;
    std::uint32_t page_timeline_ = 0;
    std::uint64_t at_ = 0;          ///< position of the next page
    std::string rest_;              ///< of a page whose end has not come yet
    std::uint64_t skip_until_ = 0;  ///< the rest of the segment is no WAL: it was switched
    std::uint32_t passing_ = 0;     ///< bytes left of the record that precedes the first segment
    std::optional<std::uint64_t> previous_;  ///< where the last whole record begins
    std::optional<OpenRecord> record_;
    bool is_first_page_ = true;
    bool has_ended_ = false;
};

/// Scans the segments of pg_wal from `first` on, as long as they follow one another, and returns
/// what they hold. No link is followed; `shown` stands for the directory in errors. A segment that
/// is missing, too short or another's is where the WAL ends.
WalFacts scan_segments(int directory_fd, const std::string& shown, SegmentId first,
                       std::uint32_t segment_size, const WalVisitor& visitor = {});

}  // namespace bpg::wal
