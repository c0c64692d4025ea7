// An archived WAL file: a zstd *skippable* frame with what must be known of it, then an ordinary
// zstd frame with the bytes, so that `zstd -d` of any machine gives them back without us. Its name
// is the WAL file's with ".zst" behind it.
//
// The first frame, little-endian:
//
//      0  u32  0x184D2A5B, the magic number of skippable frames
//      4  u32  size of what follows
//      8  8    "bpg-wal\n"
//     16  u32  format version
//     20  …    what that version says; version 1 is in archived_file.cc
//   last  u64  XXH3-64 of all bytes before it
//
// Every version begins and ends like this, so that damage is never taken for a newer version, nor a
// newer version for damage. Version 1 has checksums of the plain and of the stored bytes (XXH3-128;
// they tell accidents, not malice: whoever can write to an archive can write valid files too).
//
// An archive belongs to the instance whose WAL it is, so reading takes nothing for granted: no link
// is followed, only regular files are read, memory is bounded whatever a file claims, and nothing
// is given out as good before its last byte was verified.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "orchestrator/base/clock.h"
#include "orchestrator/base/error.h"
#include "orchestrator/wal/plain_file.h"
#include "orchestrator/wal/segment_name.h"

namespace bpg::wal {

/// What this program writes, and the newest that it reads.
inline constexpr std::uint32_t kFormatVersion = 1;

class BlockRing;

using Checksum = std::array<unsigned char, 16>;

struct ArchivedMetadata {
    std::string name;              ///< of the WAL file
    std::uint64_t plain_size = 0;  ///< of the WAL file, bytes
    Checksum plain_checksum{};
    std::uint64_t stored_size = 0;  ///< of the second frame, bytes
    Checksum stored_checksum{};
    std::uint64_t system_identifier = 0;  ///< 0 where neither the server nor the file says it
    std::uint32_t timeline = 0;
    std::uint32_t segment_size = 0;  ///< 0 unless it holds WAL
    /// Behind the last whole record; the end of the segment when WAL goes on there. 0 unless it
    /// holds WAL. Less than the end of the segment: the rest is no WAL.
    std::uint64_t wal_end = 0;
    /// Earliest and latest of the commits whose records end in it, where it holds WAL.
    std::optional<WallTime> first_commit_at;
    std::optional<WallTime> last_commit_at;

    bool operator==(const ArchivedMetadata&) const = default;
};

/// "000000010000000000000003.zst"
std::string archived_name(const WalName& name);
/// The WAL file that an archived file of that name is of; nothing when it is none of ours.
std::optional<WalName> wal_name_of(std::string_view archived_name);

/// One archived file, open. Not for several threads at once.
class ArchivedFile {
  public:
    using Sink = std::function<void(std::string_view)>;

    /// Reads its first frame and looks at its size: some 20 microseconds. Nothing when there is no
    /// such file. Throws kCorrupt `wal_damaged`, `symlink_refused` or `not_a_regular_file`,
    /// kInvalid `wal_format_newer`, all with the name in their text. `shown` stands for the
    /// directory.
    static std::optional<ArchivedFile> open(int directory_fd, const std::string& shown,
                                            const WalName& name);

    const ArchivedMetadata& metadata() const { return metadata_; }
    /// The file as it lies there.
    const PlainFile& stored() const { return file_; }

    /// The plain bytes, piece by piece; what came is known to be good only when this returns. The
    /// sink is called on the calling thread while another one decompresses what comes next.
    /// Throws kCorrupt `wal_damaged`, and whatever the sink throws.
    void read(const Sink& sink) const;
    /// For small ones: a history, a backup label. Throws `wal_damaged` beyond `max` bytes too.
    std::string content(std::size_t max) const;

  private:
    ArchivedFile(PlainFile file, std::string shown)
        : file_(std::move(file)), shown_(std::move(shown)) {}
    void read_metadata(const WalName& name);
    void check_metadata(const WalName& name) const;
    void decode_into(BlockRing& ring) const;

    PlainFile file_;
    std::string shown_;
    ArchivedMetadata metadata_;
};

/// Writes one. The bytes go in by add(), in order; finish() writes the first frame last.
class ArchivedFileWriter {
  public:
    using WriteAt = std::function<void(std::uint64_t offset, std::string_view bytes)>;

    /// `write_at` writes to the file, from its beginning on.
    ArchivedFileWriter(std::uint64_t plain_size, WriteAt write_at);
    ~ArchivedFileWriter();
    ArchivedFileWriter(const ArchivedFileWriter&) = delete;
    ArchivedFileWriter& operator=(const ArchivedFileWriter&) = delete;

    void add(std::string_view bytes);
    /// `facts` without sizes and checksums; returns them with. Throws kInternal when other bytes
    /// came than announced.
    ArchivedMetadata finish(ArchivedMetadata facts);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

/// kCorrupt `wal_damaged`: "WAL file <name> in <shown> is damaged: <why>".
Error wal_damaged(std::string_view name, std::string_view shown, std::string why);

}  // namespace bpg::wal
