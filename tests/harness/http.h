// The smallest HTTP client: reads /metrics, and sends bpgd whatever a test makes up.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace bpg::test {

/// The body of `GET path` from 127.0.0.1:port; throws unless the answer is 200. Blocks up to 10 s.
std::string http_get(std::uint16_t port, const std::string& path);

struct HttpAnswer {
    int status = 0;  ///< 0: the connection was closed without an answer
    std::string head;
    std::string body;
};

/// Sends these very bytes over a unix socket and reads until the server closes. Blocks up to 10 s.
HttpAnswer http_exchange(const std::filesystem::path& socket, std::string_view bytes);

/// A well-formed request on a connection of its own; the target is sent as it is.
HttpAnswer http_request(const std::filesystem::path& socket, std::string_view method,
                        std::string_view target, std::string_view body = "");

}  // namespace bpg::test
