// The one RocksDB of the daemon: jobs, events, idempotency keys and the catalog, committed
// together.
//
// A Batch is everything that becomes true at once. commit() makes it durable (sync=true) on a
// writer thread of its own, which takes everything queued meanwhile into one synced write (group
// commit), and resumes the caller on the loop. Commits take effect in the order of the calls.
//
// A full disk stops jobs and loses none: once less than a reserve is free no job is taken
// (shortage()), and where that did not help, commits wait until there is room again.
//
// Limitations: one process (RocksDB's LOCK plus ours); a failed write is fatal, because what the
// loop believes and what is on disk would differ: the process says so and exits, and the next start
// reads the truth. Reads block for microseconds on cached data; scans are for start-up and pools.
#pragma once

#include <algorithm>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "orchestrator/base/error.h"

namespace bpg::metrics {
class Instruments;
}

namespace bpg::jobs {

namespace asio = boost::asio;

/// Two-letter kinds that open every key. A kind is never reused for something else.
namespace kinds {
inline constexpr std::string_view kMeta = "me";
inline constexpr std::string_view kJob = "jb";    ///< + big-endian job number
inline constexpr std::string_view kJobId = "ji";  ///< + job id, value: number
/// + big-endian number of an open job; value: how far its row is, or nothing.
inline constexpr std::string_view kActive = "ac";
inline constexpr std::string_view kCancel = "cn";       ///< + the same, of one to be cancelled
inline constexpr std::string_view kEvent = "ev";        ///< + big-endian number + big-endian seq
inline constexpr std::string_view kIdempotency = "ik";  ///< + caller's key
inline constexpr std::string_view kPause = "pa";        ///< + resource that is paused
inline constexpr std::string_view kDatabase = "db";     ///< + database id
inline constexpr std::string_view kBranch = "br";       ///< + branch id
inline constexpr std::string_view kSnapshot = "sn";     ///< + snapshot id
inline constexpr std::string_view kSchedule = "sc";     ///< + its name
}  // namespace kinds

/// Eight bytes that sort as the number does.
std::string big_endian(std::uint64_t value);
std::uint64_t from_big_endian(std::string_view bytes);

/// Below this nothing is written: RocksDB may have to write out a memtable (8 MiB) and begin a log
/// (as much again), and it aborts the process when it finds no space for them.
inline constexpr std::uint64_t kRoomToWrite = 20U << 20U;
/// Kept free on the store's disk when a job is taken, so that those that are open can end.
inline constexpr std::uint64_t kDiskReserve = 64U << 20U;
/// The same for a job that frees space.
inline constexpr std::uint64_t kDiskReserveOfDeletes = 32U << 20U;

/// Everything that becomes true in one commit.
class Batch {
  public:
    void put(std::string key, std::string value) {
        entries_.emplace_back(std::move(key), std::move(value));
    }
    void remove(std::string key) { entries_.emplace_back(std::move(key), std::nullopt); }
    bool empty() const { return entries_.empty(); }
    void add(Batch other) {
        std::move(other.entries_.begin(), other.entries_.end(), std::back_inserter(entries_));
    }

  private:
    friend class Store;
    std::vector<std::pair<std::string, std::optional<std::string>>> entries_;
};

class Store {
  public:
    /// Makes a new, empty store with the current schema; kConflict `store_exists` if there is one.
    static void create(const std::filesystem::path& directory);

    /// Opens an existing store. kNotFound `store_missing` (never makes an empty one: a mistyped
    /// path must not look like a fresh start), kConflict `store_in_use`, kCorrupt `store_corrupt`,
    /// kInvalid `store_newer` when a later version of bpgd has written it; that one is not touched.
    ///
    /// One of an earlier version is brought to this one, and kept as it was in `backups` beside it.
    /// One whose newest log is damaged, as a power cut can leave it, is kept in the same way, and
    /// opened up to the damage: see cut().
    Store(const std::filesystem::path& directory, asio::any_io_executor loop,
          metrics::Instruments& metrics);
    ~Store();
    Store(const Store&) = delete;
    Store& operator=(const Store&) = delete;

    /// Where the store is kept as it was found, when its newest log was damaged and what lay behind
    /// the damage is lost. Nobody was told of it, unless the disk lied: the caller makes sure that
    /// nothing outside says otherwise, and calls note_cut_is_harmless(). Until then every start is
    /// asked to.
    const std::optional<std::filesystem::path>& cut() const;
    void note_cut_is_harmless();

    /// Returns when the batch is on disk; waits while the disk is full. Loop thread only.
    asio::awaitable<void> commit(Batch batch);

    /// The same without anybody waiting: on disk at the latest when close() returns, unless the
    /// disk is full. Loop thread only.
    void commit_unawaited(Batch batch);

    /// Whether commits wait for room on the disk.
    bool waits_for_room() const;
    /// kExhausted `state_disk_full` when less than `reserve` is free. Blocks: call it on a pool.
    std::optional<ErrorInfo> shortage(std::uint64_t reserve) const;

    std::optional<std::string> get(const std::string& key) const;
    /// Visits keys that begin with `prefix` in order, from `from` if given; stops when `visit` says
    /// false. `reverse` goes from the last one backward.
    void scan(std::string_view prefix,
              const std::function<bool(std::string_view key, std::string_view value)>& visit,
              bool reverse = false, std::string_view from = {}) const;

    /// Writes what is queued, unless the disk is full; nothing is committed after that. A pool may
    /// still be reading.
    void close();

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace bpg::jobs
