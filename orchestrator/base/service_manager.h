// What a service manager that started us is told (sd_notify(3)), by hand: one datagram to the
// socket named in NOTIFY_SOCKET, nothing at all without it.
#pragma once

#include <chrono>
#include <optional>
#include <string>

namespace bpg {

class ServiceManager {
  public:
    /// Reads NOTIFY_SOCKET and WATCHDOG_USEC, and takes them out of the environment, since no child
    /// process may speak for us.
    ServiceManager();

    /// Newline-separated assignments: "READY=1\nSTATUS=3 jobs open". Never blocks, never throws: a
    /// manager that does not listen is none of our trouble.
    void tell(const std::string& state) const;

    /// How often it wants to hear that we live; nothing when it does not.
    std::optional<std::chrono::microseconds> watchdog() const { return watchdog_; }

  private:
    std::string socket_;
    std::optional<std::chrono::microseconds> watchdog_;
};

}  // namespace bpg
