// A small HTTP server on a unix socket for tests of the built binary: one thread, one connection at
// a time, raw bytes, so that it can break off where a proper server would not.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/subprocess.h"

namespace bpg::cli::test {

/// A directory that goes with the test.
class TemporaryDirectory {
  public:
    TemporaryDirectory() {
        std::string name = (std::filesystem::temp_directory_path() / "bpg-cli-XXXXXX").string();
        if (mkdtemp(name.data()) == nullptr) throw errno_error("make a directory", errno);
        path_ = name;
    }
    ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

  private:
    std::filesystem::path path_;
};

struct PeerRequest {
    std::string method;
    std::string target;
    std::string head;  ///< request line and header lines
    std::string body;

    std::string header(const std::string& name) const {
        const auto begin = head.find("\r\n" + name + ": ");
        if (begin == std::string::npos) return {};
        const auto value = begin + name.size() + 4;
        return head.substr(value, head.find("\r\n", value) - value);
    }
};

/// What the handler does with a connection: send bytes as they are; it is closed when it returns.
class Connection {
  public:
    explicit Connection(int fd) : fd_(fd) {}

    void send(std::string_view bytes) const {
        while (!bytes.empty()) {
            const ssize_t count = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (count <= 0) return;  // the client went away, which some tests make it do
            bytes.remove_prefix(static_cast<std::size_t>(count));
        }
    }
    void answer(int status, const nlohmann::json& body) const {
        const std::string text = body.dump();
        send(
            fmt::format("HTTP/1.1 {} X\r\nContent-Type: application/json\r\n"
                        "Content-Length: {}\r\n\r\n{}",
                        status, text.size(), text));
    }
    void begin_stream() const {
        send(
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
            "Transfer-Encoding: chunked\r\n\r\n");
    }
    void chunk(const std::string& bytes) const {
        send(fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes));
    }
    void event(int seq, const std::string& type, const std::string& step,
               const std::string& message = "") const {
        chunk(nlohmann::json{{"seq", seq},
                             {"at", "2026-11-23T09:22:03.123456Z"},
                             {"type", type},
                             {"step", step},
                             {"message", message},
                             {"data", {{"duration_ms", 10 * seq}}}}
                  .dump() +
              "\n");
    }
    void end_stream() const { send("0\r\n\r\n"); }
    /// Blocks until the client closes.
    void wait_for_close() const {
        pollfd entry{fd_, POLLRDHUP, 0};
        poll(&entry, 1, 30'000);
    }

  private:
    int fd_;
};

class Peer {
  public:
    using Handler = std::function<void(const PeerRequest&, const Connection&)>;

    Peer(std::filesystem::path socket, Handler handler)
        : socket_(std::move(socket)), handler_(std::move(handler)) {
        listener_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        socket_.string().copy(address.sun_path, sizeof address.sun_path - 1);
        ::unlink(socket_.c_str());
        // bind takes any address as a sockaddr; there is no other way to call it.
        const auto* name = reinterpret_cast<const sockaddr*>(&address);
        if (::bind(listener_.get(), name, sizeof address) != 0 ||
            ::listen(listener_.get(), 16) != 0) {
            throw errno_error("listen", errno);
        }
        thread_ = std::thread([this] { serve(); });
    }
    ~Peer() {
        stop_ = true;
        ::shutdown(listener_.get(), SHUT_RDWR);
        thread_.join();
        ::unlink(socket_.c_str());
    }
    Peer(const Peer&) = delete;
    Peer& operator=(const Peer&) = delete;

    std::vector<PeerRequest> requests() const {
        const std::lock_guard lock(mutex_);
        return requests_;
    }
    /// Returns when so many requests have come; false after 10 s.
    bool saw_requests(std::size_t count) const {
        for (int i = 0; i < 1000; ++i) {
            if (requests().size() >= count) return true;
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
        return false;
    }

  private:
    void serve() {
        while (!stop_) {
            const UniqueFd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
            if (!client) return;
            const PeerRequest request = read_request(client.get());
            {
                const std::lock_guard lock(mutex_);
                requests_.push_back(request);
            }
            handler_(request, Connection(client.get()));
        }
    }

    static PeerRequest read_request(int fd) {
        std::string bytes;
        std::size_t needed = std::string::npos;
        char piece[4096];
        while (bytes.size() < needed) {
            const ssize_t count = ::recv(fd, piece, sizeof piece, 0);
            if (count <= 0) break;
            bytes.append(piece, static_cast<std::size_t>(count));
            const auto end = bytes.find("\r\n\r\n");
            if (end == std::string::npos) continue;
            PeerRequest head{{}, {}, bytes.substr(0, end + 2), {}};
            const std::string length = head.header("Content-Length");
            needed = end + 4 + (length.empty() ? 0 : std::stoul(length));
        }
        PeerRequest request;
        const auto end = bytes.find("\r\n\r\n");
        if (end == std::string::npos) return request;
        request.head = bytes.substr(0, end + 2);
        request.body = bytes.substr(end + 4);
        const auto first = bytes.find(' ');
        request.method = bytes.substr(0, first);
        request.target = bytes.substr(first + 1, bytes.find(' ', first + 1) - first - 1);
        return request;
    }

    std::filesystem::path socket_;
    Handler handler_;
    UniqueFd listener_;
    std::atomic<bool> stop_ = false;
    mutable std::mutex mutex_;
    std::vector<PeerRequest> requests_;
    std::thread thread_;
};

inline CommandResult run_words(std::vector<std::string> argv) {
    Command command;
    command.argv = std::move(argv);
    command.deadline = std::chrono::seconds(40);
    return run_command(command);
}

/// Runs the built bpg to its end, its three streams not terminals.
inline CommandResult run_bpg(const std::filesystem::path& socket, std::vector<std::string> words) {
    words.insert(words.begin(), {BPG_BINARY, "--socket", socket.string()});
    return run_words(std::move(words));
}

}  // namespace bpg::cli::test
