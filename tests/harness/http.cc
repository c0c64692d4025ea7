// See http.h.
#include "tests/harness/http.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <stdexcept>

#include "orchestrator/base/files.h"
#include "tests/harness/ports.h"

namespace bpg::test {

namespace {

const timeval kPatience{.tv_sec = 10, .tv_usec = 0};

std::string read_to_the_end(int socket) {
    std::string answer;
    std::array<char, 65536> part{};
    for (ssize_t got = 0; (got = ::recv(socket, part.data(), part.size(), 0)) > 0;) {
        answer.append(part.data(), static_cast<std::size_t>(got));
    }
    return answer;
}

/// The body of an answer in chunks, put together.
std::string without_chunks(std::string_view body) {
    std::string whole;
    while (!body.empty()) {
        std::size_t size = 0;
        const auto [end, failure] =
            std::from_chars(body.data(), body.data() + body.size(), size, 16);
        const std::size_t begin = static_cast<std::size_t>(end - body.data()) + 2;
        if (failure != std::errc() || begin + size > body.size()) {
            throw std::runtime_error("the answer ends within a chunk");
        }
        if (size == 0) break;
        whole += body.substr(begin, size);
        body.remove_prefix(std::min(begin + size + 2, body.size()));
    }
    return whole;
}

}  // namespace

std::string http_get(std::uint16_t port, const std::string& path) {
    const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) throw std::runtime_error("no socket");
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
    const sockaddr address = loopback(port);
    if (::connect(socket.get(), &address, sizeof address) != 0) {
        throw std::runtime_error(fmt::format("nobody listens on 127.0.0.1:{}", port));
    }
    const std::string request = fmt::format(
        "GET {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\r\n", path, port);
    if (::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) {
        throw std::runtime_error("cannot send the request");
    }
    const std::string answer = read_to_the_end(socket.get());
    const auto head_end = answer.find("\r\n\r\n");
    if (!answer.starts_with("HTTP/1.1 200") || head_end == std::string::npos) {
        throw std::runtime_error(fmt::format("GET {}: {}", path, answer.substr(0, 500)));
    }
    const bool is_chunked =
        answer.substr(0, head_end).find("\r\nTransfer-Encoding: chunked") != std::string::npos;
    const std::string body = answer.substr(head_end + 4);
    return is_chunked ? without_chunks(body) : body;
}

HttpAnswer http_exchange(const std::filesystem::path& socket_path, std::string_view bytes) {
    const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) throw std::runtime_error("no socket");
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
    ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string& path = socket_path.native();
    if (path.size() >= sizeof address.sun_path) throw std::runtime_error(path + " is too long");
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    const void* raw = &address;
    if (::connect(socket.get(), static_cast<const sockaddr*>(raw), sizeof address) != 0) {
        throw std::runtime_error("nobody listens on " + path);
    }
    while (!bytes.empty()) {
        const ssize_t sent = ::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent < 0) break;  // refused early; the answer says why
        bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    ::shutdown(socket.get(), SHUT_WR);
    const std::string text = read_to_the_end(socket.get());
    HttpAnswer answer;
    const auto end = text.find("\r\n\r\n");
    if (!text.starts_with("HTTP/1.1 ") || end == std::string::npos) return answer;
    std::from_chars(text.data() + 9, text.data() + text.size(), answer.status);
    answer.head = text.substr(0, end);
    answer.body = text.substr(end + 4);
    return answer;
}

HttpAnswer http_request(const std::filesystem::path& socket, std::string_view method,
                        std::string_view target, std::string_view body) {
    std::string bytes =
        fmt::format("{} {} HTTP/1.1\r\nHost: bpgd\r\nConnection: close\r\n", method, target);
    if (!body.empty()) bytes += "Content-Type: application/json\r\n";
    bytes += fmt::format("Content-Length: {}\r\n\r\n", body.size());
    bytes += body;
    return http_exchange(socket, bytes);
}

}  // namespace bpg::test
