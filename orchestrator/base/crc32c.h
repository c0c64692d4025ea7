// CRC-32C (Castagnoli), the checksum of PostgreSQL's control file and WAL records. Uses the
// processor's instruction for it where there is one.
#pragma once

#include <cstdint>
#include <string_view>

namespace bpg {

/// A checksum over bytes that come in pieces.
class Crc32c {
  public:
    void add(std::string_view bytes);
    std::uint32_t value() const { return state_ ^ 0xFFFF'FFFFU; }

  private:
    std::uint32_t state_ = 0xFFFF'FFFFU;
};

std::uint32_t crc32c(std::string_view bytes);

}  // namespace bpg
