// The smallest HTTP client that can read /metrics.
#pragma once

#include <cstdint>
#include <string>

namespace bpg::test {

/// The body of `GET path` from 127.0.0.1:port; throws unless the answer is 200. Blocks up to 10 s.
std::string http_get(std::uint16_t port, const std::string& path);

}  // namespace bpg::test
