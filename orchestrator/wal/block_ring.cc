#include "orchestrator/wal/block_ring.h"

namespace bpg::wal {

char* BlockRing::free_block() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return is_abandoned_ || filled_ - taken_ < kBlocks; });
    return is_abandoned_ ? nullptr : blocks_[filled_ % kBlocks].bytes.data();
}

void BlockRing::publish(std::size_t size) {
    const std::lock_guard lock(mutex_);
    blocks_[filled_ % kBlocks].size = size;
    ++filled_;
    changed_.notify_all();
}

void BlockRing::end(std::exception_ptr failure) {
    const std::lock_guard lock(mutex_);
    has_ended_ = true;
    failure_ = std::move(failure);
    changed_.notify_all();
}

std::optional<std::string_view> BlockRing::next() {
    std::unique_lock lock(mutex_);
    if (is_held_) {
        ++taken_;
        is_held_ = false;
        changed_.notify_all();
    }
    changed_.wait(lock, [this] { return has_ended_ || taken_ < filled_; });
    if (taken_ < filled_) {
        is_held_ = true;
        const Block& block = blocks_[taken_ % kBlocks];
        return std::string_view(block.bytes.data(), block.size);
    }
    if (failure_) std::rethrow_exception(failure_);
    return std::nullopt;
}

void BlockRing::abandon() {
    const std::lock_guard lock(mutex_);
    is_abandoned_ = true;
    changed_.notify_all();
}

}  // namespace bpg::wal
