// See http.h.
#include "tests/harness/http.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <cstring>
#include <stdexcept>

#include "orchestrator/base/files.h"

namespace bpg::test {

std::string http_get(std::uint16_t port, const std::string& path) {
    const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) throw std::runtime_error("no socket");
    const timeval limit{.tv_sec = 10, .tv_usec = 0};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    sockaddr generic{};
    std::memcpy(&generic, &address, sizeof generic);
    if (::connect(socket.get(), &generic, sizeof generic) != 0) {
        throw std::runtime_error(fmt::format("nobody listens on 127.0.0.1:{}", port));
    }
    const std::string request = fmt::format(
        "GET {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\r\n", path, port);
    if (::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) {
        throw std::runtime_error("cannot send the request");
    }
    std::string answer;
    std::array<char, 65536> part{};
    for (ssize_t got = 0; (got = ::recv(socket.get(), part.data(), part.size(), 0)) > 0;) {
        answer.append(part.data(), static_cast<std::size_t>(got));
    }
    const auto head_end = answer.find("\r\n\r\n");
    if (!answer.starts_with("HTTP/1.1 200") || head_end == std::string::npos) {
        throw std::runtime_error(fmt::format("GET {}: {}", path, answer.substr(0, 500)));
    }
    return answer.substr(head_end + 4);
}

}  // namespace bpg::test
