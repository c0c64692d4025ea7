// A few blocks of memory through which one thread hands bytes to another, so that a segment is
// decompressed and written at the same time: together they take hardly longer than cp, and neither
// waits for a disk with more than these blocks in hand.
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <optional>
#include <string_view>
#include <vector>

namespace bpg::wal {

class BlockRing {
  public:
    static constexpr std::size_t kBlocks = 4;
    static constexpr std::size_t kBlockSize = 256U << 10U;

    // The thread that fills.

    /// Waits for a free block of kBlockSize; nullptr when nobody takes any more.
    char* free_block();
    /// As much of the block that free_block() gave as was filled.
    void publish(std::size_t size);
    /// Nothing more comes; a failure is thrown where the bytes are taken.
    void end(std::exception_ptr failure);

    // The thread that takes.

    /// Waits for the next bytes, valid until the next call; nothing at the end.
    std::optional<std::string_view> next();
    /// Lets go whoever fills.
    void abandon();

  private:
    struct Block {
        std::vector<char> bytes = std::vector<char>(kBlockSize);
        std::size_t size = 0;
    };
    std::array<Block, kBlocks> blocks_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::size_t filled_ = 0;  // guarded by mutex_: blocks filled and taken so far
    std::size_t taken_ = 0;
    bool is_held_ = false;  ///< the last one taken is still looked at
    bool has_ended_ = false;
    bool is_abandoned_ = false;
    std::exception_ptr failure_;
};

}  // namespace bpg::wal
