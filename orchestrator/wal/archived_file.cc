#include "orchestrator/wal/archived_file.h"

#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "orchestrator/base/error.h"
#include "orchestrator/wal/block_ring.h"

namespace bpg::wal {
namespace {

static_assert(std::endian::native == std::endian::little, "fields are written as they lie");

constexpr std::uint32_t kFrameMagic = 0x184D2A5B;
constexpr std::string_view kTag = "bpg-wal\n";
constexpr std::string_view kSuffix = ".zst";

// What all versions have in common.
constexpr std::size_t kFrameSizeAt = 4;
constexpr std::size_t kTagAt = 8;
constexpr std::size_t kVersionAt = 16;
constexpr std::size_t kFrameHead = 8;
constexpr std::size_t kChecksumSize = sizeof(std::uint64_t);
constexpr std::size_t kFrameMin = 20 + kChecksumSize;
constexpr std::size_t kFrameMax = 64U << 10U;

// Version 1.
namespace offset {
constexpr std::size_t kTimeline = 20;
constexpr std::size_t kSystemIdentifier = 24;
constexpr std::size_t kSegmentSize = 32;  // and four bytes of zero
constexpr std::size_t kPlainSize = 40;
constexpr std::size_t kPlainChecksum = 48;
constexpr std::size_t kStoredSize = 64;
constexpr std::size_t kStoredChecksum = 72;
constexpr std::size_t kWalEnd = 88;
constexpr std::size_t kFirstCommit = 96;  // microseconds since 1970 in UTC
constexpr std::size_t kLastCommit = 104;
constexpr std::size_t kName = 112;  // zeros behind it
constexpr std::size_t kChecksum = 160;
}  // namespace offset
constexpr std::size_t kNameMax = offset::kChecksum - offset::kName;
constexpr std::size_t kFrameSize = offset::kChecksum + kChecksumSize;
constexpr std::int64_t kNoTime = std::numeric_limits<std::int64_t>::min();

/// Of what holds no WAL: a history grows by a line a timeline.
constexpr std::uint64_t kSmallFileMax = 16U << 20U;
// WAL is archived while it is written: the fastest level that still halves it.
constexpr int kCompressionLevel = 1;
// 8 MiB; what level 1 writes needs less, and a file that claims more is refused.
constexpr int kWindowLogMax = 23;

template <class T>
T get(std::string_view bytes, std::size_t at) {
    T value{};
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
}

template <class T>
void put(std::string& bytes, std::size_t at, const T& value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
}

std::optional<WallTime> time_at(std::string_view frame, std::size_t at) {
    const auto value = get<std::int64_t>(frame, at);
    if (value == kNoTime) return std::nullopt;
    return WallTime(std::chrono::microseconds(value));
}

std::int64_t microseconds_of(const std::optional<WallTime>& time) {
    return time ? time->time_since_epoch().count() : kNoTime;
}

/// XXH3-128 over bytes that come in pieces.
class Hash {
  public:
    Hash() { XXH3_128bits_reset(&state_); }
    void add(std::string_view bytes) { XXH3_128bits_update(&state_, bytes.data(), bytes.size()); }
    Checksum value() const {
        XXH128_canonical_t canonical;
        XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state_));
        Checksum checksum{};
        std::copy(std::begin(canonical.digest), std::end(canonical.digest), checksum.begin());
        return checksum;
    }

  private:
    XXH3_state_t state_;  // wants an alignment of 64, which the compiler gives it
};

ArchivedMetadata parse_version_1(std::string_view frame) {
    ArchivedMetadata metadata;
    const std::string_view name = frame.substr(offset::kName, kNameMax);
    metadata.name = name.substr(0, name.find('\0'));
    metadata.plain_size = get<std::uint64_t>(frame, offset::kPlainSize);
    metadata.plain_checksum = get<Checksum>(frame, offset::kPlainChecksum);
    metadata.stored_size = get<std::uint64_t>(frame, offset::kStoredSize);
    metadata.stored_checksum = get<Checksum>(frame, offset::kStoredChecksum);
    metadata.system_identifier = get<std::uint64_t>(frame, offset::kSystemIdentifier);
    metadata.timeline = get<std::uint32_t>(frame, offset::kTimeline);
    metadata.segment_size = get<std::uint32_t>(frame, offset::kSegmentSize);
    metadata.wal_end = get<std::uint64_t>(frame, offset::kWalEnd);
    metadata.first_commit_at = time_at(frame, offset::kFirstCommit);
    metadata.last_commit_at = time_at(frame, offset::kLastCommit);
    return metadata;
}

std::string frame_of(const ArchivedMetadata& metadata) {
    std::string frame(kFrameSize, '\0');
    put(frame, 0, kFrameMagic);
    put(frame, kFrameSizeAt, static_cast<std::uint32_t>(kFrameSize - kFrameHead));
    frame.replace(kTagAt, kTag.size(), kTag);
    put(frame, kVersionAt, kFormatVersion);
    put(frame, offset::kTimeline, metadata.timeline);
    put(frame, offset::kSystemIdentifier, metadata.system_identifier);
    put(frame, offset::kSegmentSize, metadata.segment_size);
    put(frame, offset::kPlainSize, metadata.plain_size);
    put(frame, offset::kPlainChecksum, metadata.plain_checksum);
    put(frame, offset::kStoredSize, metadata.stored_size);
    put(frame, offset::kStoredChecksum, metadata.stored_checksum);
    put(frame, offset::kWalEnd, metadata.wal_end);
    put(frame, offset::kFirstCommit, microseconds_of(metadata.first_commit_at));
    put(frame, offset::kLastCommit, microseconds_of(metadata.last_commit_at));
    frame.replace(offset::kName, metadata.name.size(), metadata.name);
    put(frame, offset::kChecksum,
        static_cast<std::uint64_t>(XXH3_64bits(frame.data(), offset::kChecksum)));
    return frame;
}

/// The sentence about what is wrong with a first frame as all versions write it; empty if nothing.
std::string fault_of_frame(std::string_view frame) {
    if (frame.size() < kFrameMin) return "it is too short";
    if (get<std::uint32_t>(frame, 0) != kFrameMagic || frame.substr(kTagAt, kTag.size()) != kTag) {
        return "it does not begin as an archived file does";
    }
    const std::size_t size = kFrameHead + get<std::uint32_t>(frame, kFrameSizeAt);
    if (size < kFrameMin || size > kFrameMax || size > frame.size()) {
        return "the size of its first frame is wrong";
    }
    const std::size_t checksum_at = size - kChecksumSize;
    if (get<std::uint64_t>(frame, checksum_at) != XXH3_64bits(frame.data(), checksum_at)) {
        return "the checksum of its first frame is wrong";
    }
    return {};
}

using Decompressor = std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)>;

Decompressor new_decompressor() {
    Decompressor context(ZSTD_createDCtx(), ZSTD_freeDCtx);
    if (!context) throw std::bad_alloc();
    ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, kWindowLogMax);
    return context;
}

/// Decompresses the second frame into a ring, no more than was promised.
class Decoder {
  public:
    Decoder(const ArchivedMetadata& metadata, const std::string& shown, BlockRing& ring)
        : metadata_(metadata), shown_(shown), ring_(ring) {}

    /// False when nobody takes any more.
    bool take(std::string_view stored) {
        stored_hash_.add(stored);
        ZSTD_inBuffer in{stored.data(), stored.size(), 0};
        while (in.pos < in.size || is_more_) {
            if (has_ended_ && in.pos < in.size) fail("bytes follow its end");
            if (block_ == nullptr) block_ = ring_.free_block();
            if (block_ == nullptr) return false;
            ZSTD_outBuffer out{block_, BlockRing::kBlockSize, filled_};
            const std::size_t result = ZSTD_decompressStream(context_.get(), &out, &in);
            if (ZSTD_isError(result) != 0) fail(ZSTD_getErrorName(result));
            has_ended_ = result == 0;
            // A full block may leave plain bytes inside although all of the input is taken.
            is_more_ = !has_ended_ && out.pos == out.size;
            plain_size_ += out.pos - filled_;
            if (plain_size_ > metadata_.plain_size) fail("more is in it than it says");
            filled_ = out.pos;
            if (filled_ == BlockRing::kBlockSize) publish();
        }
        return true;
    }
    void finish() {
        if (!has_ended_ || plain_size_ != metadata_.plain_size) fail("it is too short");
        if (stored_hash_.value() != metadata_.stored_checksum) fail("its checksum is wrong");
        if (filled_ > 0) publish();
    }

  private:
    void publish() {
        ring_.publish(filled_);
        block_ = nullptr;
        filled_ = 0;
    }
    [[noreturn]] void fail(const std::string& why) const {
        throw wal_damaged(metadata_.name, shown_, why);
    }

    const ArchivedMetadata& metadata_;
    const std::string& shown_;
    BlockRing& ring_;
    Decompressor context_ = new_decompressor();
    char* block_ = nullptr;
    std::size_t filled_ = 0;  ///< of the block
    Hash stored_hash_;
    std::uint64_t plain_size_ = 0;
    bool has_ended_ = false;
    bool is_more_ = false;
};

}  // namespace

Error wal_damaged(std::string_view name, std::string_view shown, std::string why) {
    return {ErrorKind::kCorrupt, "wal_damaged",
            fmt::format("WAL file {} in {} is damaged", name, shown), std::move(why),
            "no time that needs it can be restored, unless the server still has it in its pg_wal"};
}

std::string archived_name(const WalName& name) {
    return name.text + std::string(kSuffix);
}

std::optional<WalName> wal_name_of(std::string_view archived_name) {
    if (!archived_name.ends_with(kSuffix)) return std::nullopt;
    return parse_wal_name(archived_name.substr(0, archived_name.size() - kSuffix.size()));
}

std::optional<ArchivedFile> ArchivedFile::open(int directory_fd, const std::string& shown,
                                               const WalName& name) {
    auto stored = PlainFile::open(directory_fd, shown, archived_name(name));
    if (!stored) return std::nullopt;
    ArchivedFile file(std::move(*stored), shown);
    file.read_metadata(name);
    return file;
}

void ArchivedFile::read_metadata(const WalName& name) {
    std::string frame = file_.read_at(0, kFrameSize);
    if (frame.size() == kFrameSize) {
        // Another version's may be longer.
        const std::size_t whole = kFrameHead + get<std::uint32_t>(frame, kFrameSizeAt);
        if (whole > kFrameSize && whole <= kFrameMax) {
            frame = file_.read_at(0, whole);
        }
    }
    if (const std::string fault = fault_of_frame(frame); !fault.empty()) {
        throw wal_damaged(name.text, shown_, fault);
    }
    const auto version = get<std::uint32_t>(frame, kVersionAt);
    if (version > kFormatVersion) {
        throw Error(
            ErrorKind::kInvalid, "wal_format_newer",
            fmt::format("WAL file {} in {} was archived by a newer BetterPG", name.text, shown_),
            fmt::format("it has format version {}, and {} is the newest known here", version,
                        kFormatVersion),
            "use the bpg-wal of the BetterPG that wrote it, or a newer one");
    }
    const bool is_version_1 =
        version == 1 && kFrameHead + get<std::uint32_t>(frame, kFrameSizeAt) == kFrameSize;
    if (!is_version_1) throw wal_damaged(name.text, shown_, "no version of ours writes such a one");
    metadata_ = parse_version_1(frame);
    check_metadata(name);
}

void ArchivedFile::check_metadata(const WalName& name) const {
    const auto fail = [&](std::string why) {
        throw wal_damaged(name.text, shown_, std::move(why));
    };
    if (metadata_.name != name.text) {
        // It may be anything, and this text ends in logs.
        const auto known = parse_wal_name(metadata_.name);
        fail(fmt::format("it is {}", known ? known->text : "of no WAL file"));
    }
    if (metadata_.timeline != name.timeline) fail("its timeline is not that of its name");
    const bool is_right_size =
        name.holds_wal()
            ? is_segment_size(metadata_.segment_size) &&
                  metadata_.plain_size == metadata_.segment_size &&
                  parse_segment_name(name.segment(), metadata_.segment_size).has_value()
            : metadata_.segment_size == 0 && metadata_.plain_size <= kSmallFileMax;
    if (!is_right_size) fail("its sizes contradict one another");
    // Level 1 never makes anything much longer than it was.
    if (metadata_.stored_size > metadata_.plain_size + metadata_.plain_size / 128 + 4096) {
        fail("it claims to be longer than what is in it");
    }
    if (kFrameSize + metadata_.stored_size != file_.size()) {
        fail(fmt::format("it has {} bytes instead of {}", file_.size(),
                         kFrameSize + metadata_.stored_size));
    }
}

void ArchivedFile::decode_into(BlockRing& ring) const {
    try {
        Decoder decoder(metadata_, shown_, ring);
        bool is_wanted = true;
        file_.read_blocks(kFrameSize, file_.size(), [&](std::string_view stored) {
            is_wanted = decoder.take(stored);
            return is_wanted;
        });
        if (is_wanted) decoder.finish();
        ring.end(nullptr);
    } catch (...) {  // thrown again where the bytes are taken
        ring.end(std::current_exception());
    }
}

void ArchivedFile::read(const Sink& sink) const {
    BlockRing ring;
    const std::jthread decoding([this, &ring] { decode_into(ring); });
    // Before the thread is waited for, whatever the sink throws.
    const struct Abandoning {
        BlockRing& ring;
        ~Abandoning() { ring.abandon(); }
    } abandoning{ring};
    Hash plain_hash;
    while (const auto plain = ring.next()) {
        plain_hash.add(*plain);
        sink(*plain);
    }
    if (plain_hash.value() != metadata_.plain_checksum) {
        throw wal_damaged(metadata_.name, shown_, "its checksum is wrong");
    }
}

std::string ArchivedFile::content(std::size_t max) const {
    if (metadata_.plain_size > max) throw wal_damaged(metadata_.name, shown_, "it is too large");
    std::string plain;
    read([&plain](std::string_view piece) { plain += piece; });
    return plain;
}

struct ArchivedFileWriter::State {
    WriteAt write_at;
    std::uint64_t plain_size = 0;
    std::uint64_t taken = 0;
    std::uint64_t written = 0;
    Hash plain_hash{};
    Hash stored_hash{};
    std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context{ZSTD_createCCtx(), ZSTD_freeCCtx};
    std::vector<char> out = std::vector<char>(ZSTD_CStreamOutSize());

    /// Everything that `plain` lets come out; with kEnd all of it.
    void compress(std::string_view plain, ZSTD_EndDirective directive) {
        ZSTD_inBuffer in{plain.data(), plain.size(), 0};
        bool is_done = false;
        while (!is_done) {
            ZSTD_outBuffer made{out.data(), out.size(), 0};
            const std::size_t left = ZSTD_compressStream2(context.get(), &made, &in, directive);
            if (ZSTD_isError(left) != 0) {
                throw Error(ErrorKind::kInternal, "wal_not_compressed", "cannot compress WAL",
                            ZSTD_getErrorName(left));
            }
            const std::string_view bytes(out.data(), made.pos);
            stored_hash.add(bytes);
            write_at(kFrameSize + written, bytes);
            written += bytes.size();
            is_done = directive == ZSTD_e_end ? left == 0 : in.pos == in.size;
        }
    }
};

ArchivedFileWriter::ArchivedFileWriter(std::uint64_t plain_size, WriteAt write_at)
    : state_(std::make_unique<State>()) {
    state_->write_at = std::move(write_at);
    state_->plain_size = plain_size;
    if (!state_->context) throw std::bad_alloc();
    ZSTD_CCtx_setParameter(state_->context.get(), ZSTD_c_compressionLevel, kCompressionLevel);
    ZSTD_CCtx_setParameter(state_->context.get(), ZSTD_c_checksumFlag, 1);
    ZSTD_CCtx_setPledgedSrcSize(state_->context.get(), plain_size);
}

ArchivedFileWriter::~ArchivedFileWriter() = default;

void ArchivedFileWriter::add(std::string_view bytes) {
    state_->taken += bytes.size();
    state_->plain_hash.add(bytes);
    state_->compress(bytes, ZSTD_e_continue);
}

ArchivedMetadata ArchivedFileWriter::finish(ArchivedMetadata facts) {
    if (state_->taken != state_->plain_size) {
        throw Error(ErrorKind::kInternal, "wal_size_changed",
                    fmt::format("WAL file {} changed while it was archived", facts.name),
                    fmt::format("{} bytes came instead of {}", state_->taken, state_->plain_size));
    }
    state_->compress({}, ZSTD_e_end);
    facts.plain_size = state_->plain_size;
    facts.plain_checksum = state_->plain_hash.value();
    facts.stored_size = state_->written;
    facts.stored_checksum = state_->stored_hash.value();
    state_->write_at(0, frame_of(facts));
    return facts;
}

}  // namespace bpg::wal
