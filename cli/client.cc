#include "cli/client.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <optional>
#include <string_view>

#include "cli/failure.h"
#include "orchestrator/http/wire.h"

namespace bpg::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace bhttp = boost::beast::http;
using asio::local::stream_protocol;
using boost::system::error_code;
using std::chrono::steady_clock;

/// A daemon that takes a connection but answers nothing for so long is as good as absent.
constexpr std::chrono::seconds kAnswerWithin{30};
constexpr std::size_t kAnswerMax = 64U << 20;
constexpr std::size_t kLineMax = 1U << 20;
constexpr std::size_t kStreamBuffer = 16U << 10;

Failure no_permission(const std::filesystem::path& socket) {
    return {ExitCode::kPermission,
            {ErrorKind::kPermission, "not_permitted",
             fmt::format("not permitted to talk to bpgd on {}", socket.string()),
             "the socket is open to root and to the members of the group betterpg",
             "run it as root, or join the group: usermod -aG betterpg $USER, then log in again"}};
}

/// A connected socket that waits with poll, so that a deadline and Ctrl-C end a read or a write.
/// Models Beast's SyncReadStream and SyncWriteStream; the waits throw, failures are error codes.
class PolledSocket {
  public:
    PolledSocket(const std::filesystem::path& path, Deadline deadline)
        : socket_(context_), deadline_(deadline) {
        error_code failure;
        try {
            socket_.connect(stream_protocol::endpoint(path.string()), failure);
        } catch (const boost::system::system_error& error) {
            failure = error.code();  // a path longer than a socket address holds
        }
        if (failure == boost::system::errc::permission_denied) throw no_permission(path);
        if (failure) throw Unreachable(failure.message(), false);
        socket_.non_blocking(true);
    }

    void set_deadline(Deadline deadline) { deadline_ = deadline; }

    template <class Buffers>
    std::size_t read_some(const Buffers& buffers, error_code& failure) {
        while (true) {
            const std::size_t count = socket_.read_some(buffers, failure);
            if (failure != asio::error::would_block) return count;
            wait_for_fd(socket_.native_handle(), POLLIN, deadline_);
        }
    }
    template <class Buffers>
    std::size_t write_some(const Buffers& buffers, error_code& failure) {
        while (true) {
            const std::size_t count = socket_.write_some(buffers, failure);
            if (failure != asio::error::would_block) return count;
            wait_for_fd(socket_.native_handle(), POLLOUT, deadline_);
        }
    }
    template <class Buffers>
    std::size_t read_some(const Buffers& buffers) {
        error_code failure;
        const std::size_t count = read_some(buffers, failure);
        if (failure) throw boost::system::system_error(failure);
        return count;
    }
    template <class Buffers>
    std::size_t write_some(const Buffers& buffers) {
        error_code failure;
        const std::size_t count = write_some(buffers, failure);
        if (failure) throw boost::system::system_error(failure);
        return count;
    }

  private:
    asio::io_context context_;
    stream_protocol::socket socket_;
    Deadline deadline_;
};

/// The nearer of the caller's deadline and our own patience; tells which of them it was.
class AnswerLimit {
  public:
    explicit AnswerLimit(const Deadline& asked)
        : own_(steady_clock::now() + kAnswerWithin), own_is_nearer_(!asked || own_ < *asked) {
        limit_ = own_is_nearer_ ? Deadline(own_) : asked;
    }
    const Deadline& limit() const { return limit_; }
    [[noreturn]] void passed() const {
        if (!own_is_nearer_) throw DeadlinePassed();
        throw Unreachable(fmt::format("no answer within {} s", kAnswerWithin.count()), true);
    }

  private:
    steady_clock::time_point own_;
    bool own_is_nearer_;
    Deadline limit_;
};

void send(PolledSocket& socket, const Request& request) {
    bhttp::request<bhttp::string_body> message;
    message.method_string(request.method);
    message.target(request.target);
    message.version(11);
    message.set(bhttp::field::host, "localhost");
    message.set(bhttp::field::user_agent, "bpg/" BPG_VERSION);
    message.set(bhttp::field::accept, "application/json, application/problem+json");
    message.set(bhttp::field::connection, "close");
    if (!request.idempotency_key.empty()) {
        message.set(std::string(http::kIdempotencyKeyHeader), request.idempotency_key);
    }
    if (!request.body.is_null()) {
        message.set(bhttp::field::content_type, std::string(http::kJsonContentType));
        message.body() = request.body.dump();
    }
    message.prepare_payload();
    error_code failure;
    bhttp::write(socket, message, failure);
    // A server that refuses early closes while we still write: its answer is there to be read.
    if (failure && failure != boost::system::errc::broken_pipe) {
        throw Unreachable(failure.message(), true);
    }
}

[[noreturn]] void broken(const error_code& failure) {
    const bool closed = failure == bhttp::error::end_of_stream ||
                        failure == bhttp::error::partial_message || failure == asio::error::eof;
    throw Unreachable(closed ? "the connection was closed" : failure.message(), true);
}

[[noreturn]] void throw_problem(int status, const std::string& text) {
    const ErrorInfo info = http::error_from_problem(
        status, nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false));
    throw Failure(http::exit_code(info.kind), info);
}

Response receive(PolledSocket& socket) {
    beast::flat_buffer buffer;
    bhttp::response_parser<bhttp::string_body> parser;
    parser.body_limit(kAnswerMax);
    error_code failure;
    bhttp::read(socket, buffer, parser, failure);
    if (failure) broken(failure);
    const int status = parser.get().result_int();
    const std::string& text = parser.get().body();
    if (status >= 400) throw_problem(status, text);
    if (text.empty()) return {status, nullptr};
    auto body = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (body.is_discarded()) {
        throw Error(ErrorKind::kInternal, "answer_not_json",
                    "bpgd answered something else than JSON",
                    fmt::format("HTTP status {}, {} bytes", status, text.size()),
                    "is it bpgd that listens on this socket?");
    }
    return {status, std::move(body)};
}

/// Cuts a byte stream into lines.
class LineSplitter {
  public:
    explicit LineSplitter(const std::function<void(const std::string&)>& on_line)
        : on_line_(on_line) {}

    void feed(std::string_view bytes) {
        while (!bytes.empty()) {
            const auto end = bytes.find('\n');
            pending_ += bytes.substr(0, end);
            if (pending_.size() > kLineMax) throw Unreachable("an event longer than 1 MiB", true);
            if (end == std::string_view::npos) return;
            if (!pending_.empty()) on_line_(pending_);
            pending_.clear();
            bytes.remove_prefix(end + 1);
        }
    }

  private:
    const std::function<void(const std::string&)>& on_line_;
    std::string pending_;
};

/// Reads what is left of the body, handing over each piece as soon as it is there.
void read_body(PolledSocket& socket, beast::flat_buffer& buffer,
               bhttp::response_parser<bhttp::buffer_body>& parser,
               const std::function<void(std::string_view)>& on_bytes) {
    std::array<char, kStreamBuffer> piece{};
    while (!parser.is_done()) {
        parser.get().body().data = piece.data();
        parser.get().body().size = piece.size();
        error_code failure;
        bhttp::read_some(socket, buffer, parser, failure);
        on_bytes(std::string_view(piece.data(), piece.size() - parser.get().body().size));
        if (failure && failure != bhttp::error::need_buffer) broken(failure);
    }
}

}  // namespace

Response Client::call(const Request& request) const {
    const AnswerLimit limit(deadline_);
    PolledSocket socket(socket_, limit.limit());
    try {
        send(socket, request);
        return receive(socket);
    } catch (const DeadlinePassed&) {
        limit.passed();
    }
}

nlohmann::json Client::get(const std::string& target) const {
    return call({"GET", target, nullptr, ""}).body;
}

void Client::stream(const std::string& target,
                    const std::function<void(const std::string& line)>& on_line) const {
    const AnswerLimit limit(deadline_);
    PolledSocket socket(socket_, limit.limit());
    beast::flat_buffer buffer;
    bhttp::response_parser<bhttp::buffer_body> parser;
    parser.body_limit(boost::none);
    try {
        send(socket, {"GET", target, nullptr, ""});
        error_code failure;
        bhttp::read_header(socket, buffer, parser, failure);
        if (failure) broken(failure);
    } catch (const DeadlinePassed&) {
        limit.passed();
    }
    const int status = static_cast<int>(parser.get().result_int());
    if (status >= 400) {
        std::string text;
        read_body(socket, buffer, parser, [&text](std::string_view bytes) { text += bytes; });
        throw_problem(status, text);
    }
    socket.set_deadline(deadline_);
    LineSplitter lines(on_line);
    read_body(socket, buffer, parser, [&lines](std::string_view bytes) { lines.feed(bytes); });
}

}  // namespace bpg::cli
