// A run of TCP ports that no other suite on this machine uses at the same time. Slots lie below the
// ephemeral ports; each is held by a lock file for the life of the object, and every port in it was
// free when it was taken.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <vector>

#include "orchestrator/base/files.h"

namespace bpg::test {

class PortSlot {
  public:
    static constexpr std::uint16_t kSize = 40;       ///< ports in a slot
    static constexpr std::uint16_t kWideSize = 600;  ///< in the one wide slot that there is

    /// Takes a free slot, beginning the search at one chosen by our pid. Throws when there is none.
    explicit PortSlot(bool wide = false);

    std::uint16_t first() const { return first_; }
    /// Given to instances: the first to the last but one of the slot.
    std::uint16_t last_instance() const { return static_cast<std::uint16_t>(first_ + size_ - 2); }
    /// The slot's last port, for /metrics.
    std::uint16_t metrics() const { return static_cast<std::uint16_t>(first_ + size_ - 1); }

    /// Which ports of the slot somebody listens on.
    std::vector<std::uint16_t> taken() const;

  private:
    std::uint16_t first_ = 0;
    std::uint16_t size_ = kSize;
    UniqueFd lock_;
};

/// The address of this port on 127.0.0.1, for bind() and connect().
sockaddr loopback(std::uint16_t port);

/// Whether 127.0.0.1:port can be bound right now.
bool port_is_free(std::uint16_t port);

}  // namespace bpg::test
