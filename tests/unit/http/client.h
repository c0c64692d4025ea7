// A server on a loop thread of its own, and a client that sends raw bytes over a blocking socket.
#pragma once

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "orchestrator/base/files.h"
#include "orchestrator/http/router.h"
#include "orchestrator/http/server.h"

namespace bpg::http::test {

/// One whole answer, its body put together when it was chunked.
struct Answer {
    int status = 0;
    std::map<std::string, std::string> headers;  ///< names in lower case
    std::string body;
    bool is_whole = false;  ///< the body came to its end

    /// "" when there is no such field.
    std::string header(const std::string& name) const {
        const auto found = headers.find(name);
        return found == headers.end() ? "" : found->second;
    }
};

/// Every wait ends after a few seconds, so that a test fails instead of hanging.
class Client {
  public:
    explicit Client(const std::filesystem::path& path) : fd_(::socket(AF_UNIX, SOCK_STREAM, 0)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
        connect(address);
    }
    explicit Client(std::uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        connect(address);
    }

    bool is_connected() const { return is_connected_; }

    /// False when the server has closed.
    bool send(std::string_view bytes) {
        while (!bytes.empty()) {
            const ssize_t count = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (count <= 0) return false;
            bytes.remove_prefix(static_cast<std::size_t>(count));
        }
        return true;
    }

    /// Reads on until `mark` has come; false at the end of the stream or when nothing comes.
    bool read_until(std::string_view mark) {
        while (received_.find(mark) == std::string::npos) {
            if (!read_some()) return false;
        }
        return true;
    }

    /// Whether the server closes the connection without sending more.
    bool is_closed_by_server() {
        char byte = 0;
        return received_.empty() && ::recv(fd_.get(), &byte, 1, 0) == 0;
    }

    Answer answer(bool is_head = false) {
        Answer answer;
        if (!read_until("\r\n\r\n")) return answer;
        read_head(answer);
        if (is_head) {
            answer.is_whole = true;
        } else if (answer.headers.contains("transfer-encoding")) {
            read_chunks(answer);
        } else if (answer.headers.contains("content-length")) {
            const std::size_t size = std::stoul(answer.headers["content-length"]);
            while (received_.size() < size && read_some()) {
            }
            answer.is_whole = received_.size() >= size;
            answer.body = take(std::min(size, received_.size()));
        } else {
            while (read_some()) {
            }
            answer.body = take(received_.size());
            answer.is_whole = true;
        }
        return answer;
    }

    Answer ask(const std::string& method, const std::string& target, const std::string& body = "",
               const std::string& headers = "") {
        std::string request = method + " " + target + " HTTP/1.1\r\nHost: bpg\r\n" + headers;
        if (!body.empty()) request += "Content-Length: " + std::to_string(body.size()) + "\r\n";
        send(request + "\r\n" + body);
        return answer(method == "HEAD");
    }

    /// What has come and was not taken yet.
    const std::string& received() const { return received_; }
    int fd() const { return fd_.get(); }
    void close() { fd_.reset(); }

  private:
    template <class Address>
    void connect(const Address& address) {
        const timeval patience{.tv_sec = 5, .tv_usec = 0};
        ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        const void* raw = &address;
        is_connected_ =
            ::connect(fd_.get(), static_cast<const sockaddr*>(raw), sizeof address) == 0;
    }

    bool read_some() {
        std::string piece(65536, '\0');
        const ssize_t count = ::recv(fd_.get(), piece.data(), piece.size(), 0);
        if (count <= 0) return false;
        received_.append(piece, 0, static_cast<std::size_t>(count));
        return true;
    }

    std::string take(std::size_t count) {
        std::string bytes = received_.substr(0, count);
        received_.erase(0, count);
        return bytes;
    }

    std::string take_line() {
        if (!read_until("\r\n")) return {};
        std::string line = take(received_.find("\r\n"));
        take(2);
        return line;
    }

    void read_head(Answer& answer) {
        const std::string status_line = take_line();
        answer.status = std::stoi(status_line.substr(9, 3));
        for (std::string line = take_line(); !line.empty(); line = take_line()) {
            std::string name = line.substr(0, line.find(':'));
            for (char& c : name)
                c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
            answer.headers[name] = line.substr(line.find(": ") + 2);
        }
    }

    void read_chunks(Answer& answer) {
        while (true) {
            const std::string size_line = take_line();
            if (size_line.empty()) return;
            const std::size_t size = std::stoul(size_line, nullptr, 16);
            while (received_.size() < size + 2) {
                if (!read_some()) return;
            }
            answer.body += take(size);
            take(2);
            if (size == 0) {
                answer.is_whole = true;
                return;
            }
        }
    }

    UniqueFd fd_;
    bool is_connected_ = false;
    std::string received_;
};

/// Tests add routes, then start(); what the loop owns is touched through on_loop() only.
class ServerTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string name = (std::filesystem::temp_directory_path() / "bpg-http-XXXXXX").string();
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        directory_ = name;
        path_ = directory_ / "s.sock";
    }

    void TearDown() override {
        if (thread_.joinable()) {
            if (server_) drain(std::chrono::milliseconds(100));
            guard_.reset();
            loop_.stop();
            thread_.join();
        }
        server_.reset();
        std::filesystem::remove_all(directory_);
    }

    void start(Limits limits = {}) {
        server_ = std::make_unique<Server>(loop_.get_executor(), router_, limits);
        server_->listen_unix(path_);
        run_loop();
    }

    void run_loop() {
        thread_ = std::thread([this] { loop_.run(); });
    }

    void drain(std::chrono::milliseconds patience) {
        asio::co_spawn(loop_, server_->drain(patience), asio::use_future).get();
    }

    template <class Work>
    auto on_loop(Work work) {
        std::packaged_task<std::invoke_result_t<Work>()> task(std::move(work));
        auto result = task.get_future();
        asio::post(loop_, [&task] { task(); });
        return result.get();
    }

    /// Waits until the server knows of exactly `count` connections.
    bool has_connections(std::size_t count) {
        const auto give_up_at = std::chrono::steady_clock::now() + std::chrono::seconds(5);
        while (on_loop([this] { return server_->connections(); }) != count) {
            if (std::chrono::steady_clock::now() > give_up_at) return false;
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
        return true;
    }

    asio::io_context loop_{1};
    asio::executor_work_guard<asio::io_context::executor_type> guard_ =
        asio::make_work_guard(loop_);
    std::thread thread_;
    std::filesystem::path directory_;
    std::filesystem::path path_;
    Router router_;
    std::unique_ptr<Server> server_;
};

}  // namespace bpg::http::test
