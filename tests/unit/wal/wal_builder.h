// Makes WAL as PostgreSQL writes it, byte by byte, for tests that need what a real server writes
// seldom: records over segment boundaries, torn ends, other page sizes and versions. That the real
// one is read right too is shown by tests/integration/drivers/wal_reader_test.cc.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "orchestrator/base/clock.h"
#include "orchestrator/base/crc32c.h"
#include "orchestrator/wal/segment_name.h"

namespace bpg::wal::test {

inline constexpr std::uint32_t kSmallSegment = 1U << 20U;

struct WalShape {
    SegmentId first{1, 1};
    std::uint32_t segment_size = kSmallSegment;
    std::uint32_t page_size = 8192;
    std::uint16_t magic = 0xD110;  // 15
    std::uint64_t system_identifier = 7'300'000'000'000'000'001U;
};

class WalBuilder {
  public:
    explicit WalBuilder(WalShape shape = {})
        : shape_(shape), origin_(begin_of(shape.first, shape.segment_size)) {
        timeline_ = shape.first.timeline;
        page_header(0);
    }

    /// Where the next record begins.
    std::uint64_t at() const { return origin_ + wal_.size(); }
    std::uint64_t last_record() const { return previous_; }
    /// Of the pages that begin from now on.
    void set_timeline(std::uint32_t timeline) { timeline_ = timeline; }
    void set_previous(std::uint64_t previous) { previous_ = previous; }

    /// A record without blocks. Returns the position behind it.
    std::uint64_t record(std::uint8_t manager, std::uint8_t info, std::string_view data,
                         std::uint32_t xid = 0, std::string_view before_data = {}) {
        std::string body(before_data);
        if (data.size() < 256) {
            body += '\xFF';
            body += static_cast<char>(data.size());
        } else {
            body += '\xFE';
            append(body, static_cast<std::uint32_t>(data.size()));
        }
        body += data;
        std::string whole;
        append(whole, static_cast<std::uint32_t>(24 + body.size()));
        append(whole, xid);
        append(whole, previous_);
        whole += static_cast<char>(info);
        whole += static_cast<char>(manager);
        whole += std::string(2, '\0');
        Crc32c crc;
        crc.add(body);
        crc.add(whole);
        append(whole, crc.value());
        whole += body;
        if (wal_.size() % shape_.page_size == 0) page_header(0);
        previous_ = at();
        put(whole);
        return at();
    }
    std::uint64_t commit(WallTime time, std::uint32_t xid = 0, bool prepared = false,
                         std::string_view before_data = {}) {
        std::string data;
        append(data, postgres_time(time));
        data += "rest";
        return record(1, static_cast<std::uint8_t>(0x80 | (prepared ? 0x30 : 0)), data, xid,
                      before_data);
    }
    std::uint64_t restore_point(WallTime time, std::string_view name) {
        std::string data;
        append(data, postgres_time(time));
        data += name;
        data.resize(sizeof(std::int64_t) + 64, '\0');
        return record(0, 0x70, data);
    }
    /// A record that nobody looks into.
    std::uint64_t filler(std::size_t size) {
        return record(10, 0x00, std::string(size, static_cast<char>('a' + fill_++ % 26)));
    }
    /// Fillers, so that the next record begins `before` bytes, less than most of a page,
    /// before the end of its segment.
    void fill_up_to(std::uint64_t before) {
        const std::uint64_t end = (at() / shape_.segment_size + 1) * shape_.segment_size;
        const std::uint64_t target = end - before;
        while (target - at() > 3ULL * shape_.page_size)
            filler(shape_.page_size);
        // Within the last page, where a record is as long as its parts.
        while (target - at() > 280)
            filler(94);
        filler(target - at() - 26);
    }
    std::uint64_t switch_segment() {
        record(0, 0x40, {});
        const std::uint64_t within = wal_.size() % shape_.segment_size;
        if (within != 0) wal_.append(shape_.segment_size - within, '\0');
        return at();
    }
    /// The rest of a record was lost: the server goes on at the next page.
    void lose_rest(std::uint64_t from) {
        wal_.resize(from - origin_);
        wal_.append((shape_.page_size - wal_.size() % shape_.page_size) % shape_.page_size, '\0');
        page_header(0x0008);
    }

    /// The bytes of a segment, zeros behind what was written.
    std::string segment(std::uint64_t index) const {
        const std::uint64_t begin = index * shape_.segment_size;
        std::string bytes =
            begin < wal_.size() ? wal_.substr(begin, shape_.segment_size) : std::string();
        bytes.resize(shape_.segment_size, '\0');
        return bytes;
    }
    std::string name(std::uint64_t index) const {
        return segment_name({shape_.first.timeline, shape_.first.number + index},
                            shape_.segment_size);
    }
    const WalShape& shape() const { return shape_; }

  private:
    template <class T>
    static void append(std::string& bytes, T value) {
        bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
    static std::int64_t postgres_time(WallTime time) {
        return time.time_since_epoch().count() - 946'684'800'000'000LL;
    }

    void page_header(std::uint16_t flags, std::uint32_t rest = 0) {
        const bool begins_segment = wal_.size() % shape_.segment_size == 0;
        if (begins_segment) flags |= 0x0002;
        const std::uint64_t address = at();
        append(wal_, shape_.magic);
        append(wal_, flags);
        append(wal_, timeline_);
        append(wal_, address);
        append(wal_, rest);
        append(wal_, std::uint32_t{0});
        if (!begins_segment) return;
        append(wal_, shape_.system_identifier);
        append(wal_, shape_.segment_size);
        append(wal_, shape_.page_size);
    }
    void put(std::string_view bytes) {
        while (!bytes.empty()) {
            const std::size_t room = shape_.page_size - wal_.size() % shape_.page_size;
            const std::string_view piece = bytes.substr(0, room);
            wal_ += piece;
            bytes.remove_prefix(piece.size());
            if (!bytes.empty()) page_header(0x0001, static_cast<std::uint32_t>(bytes.size()));
        }
        wal_.append((8 - wal_.size() % 8) % 8, '\0');
    }

    WalShape shape_;
    std::uint64_t origin_;
    std::uint64_t previous_ = 0;
    std::uint32_t timeline_ = 1;
    std::string wal_;
    int fill_ = 0;
};

inline WallTime at_second(std::int64_t seconds, std::int64_t microseconds = 0) {
    return WallTime(std::chrono::seconds(1'790'000'000 + seconds) +
                    std::chrono::microseconds(microseconds));
}

}  // namespace bpg::wal::test
