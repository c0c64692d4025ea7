// A PostgreSQL on a volume by hand: what bpgd gave to an instance of its own is read from that
// instance, and given to this one with other paths and another port.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "bench/sample.h"
#include "tests/harness/host.h"

namespace bpg::bench {

struct RawPlace {
    std::filesystem::path volume;
    std::filesystem::path sockets;
    std::uint16_t port = 0;
};

class RawRuntime {
  public:
    virtual ~RawRuntime() = default;
    RawRuntime() = default;
    RawRuntime(const RawRuntime&) = delete;
    RawRuntime& operator=(const RawRuntime&) = delete;

    /// Returns when the process or container was started; its parts are noted.
    virtual void start(const RawPlace& place, Laps& laps) = 0;
    virtual bool runs() = 0;
    /// Ends and removes it. None is fine.
    virtual void stop() = 0;

    /// For the runtime of a host. `model` is a branch that runs now.
    static std::unique_ptr<RawRuntime> make(const test::TestHost& host, const std::string& model);
};

/// Every occurrence of a text replaced by another.
std::string replaced(std::string text, std::string_view from, std::string_view to);

}  // namespace bpg::bench
