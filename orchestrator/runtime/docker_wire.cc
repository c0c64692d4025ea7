// The only file of the runtimes that knows Beast, and of it only the parser of answers.
#include "orchestrator/runtime/docker_wire.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <charconv>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "orchestrator/base/error.h"

namespace bpg::runtime {
namespace {

namespace beast = boost::beast;
using ErrorCode = boost::system::error_code;
using Parser = beast::http::response_parser<beast::http::buffer_body>;
using Protocol = asio::local::stream_protocol;
using std::chrono::milliseconds;

constexpr auto kNoThrow = asio::as_tuple(asio::use_awaitable);
/// Docker 20.10 to 28: what is asked for here has meant the same since the oldest of them.
constexpr int kOldestMinor = 41;
constexpr int kNewestMinor = 47;
constexpr milliseconds kPingDeadline{5'000};
constexpr std::size_t kHeaderMax = 64 << 10;
constexpr std::size_t kRefusalMax = 64 << 10;
constexpr std::size_t kPieceSize = 16 << 10;
constexpr std::size_t kSocketPathMax = 107;

Error unavailable(const std::filesystem::path& socket, std::string why) {
    return {ErrorKind::kUnavailable, "runtime_unavailable", "the Docker daemon does not answer",
            fmt::format("{}: {}", socket.native(), std::move(why)),
            "is dockerd running? Start it (systemctl start docker), or set runtime.docker.socket"};
}

/// A connection that closes itself when it is late. The timer's callback keeps it alive.
class Connection : public std::enable_shared_from_this<Connection> {
  public:
    explicit Connection(const asio::any_io_executor& executor)
        : socket(executor), timer_(executor) {}

    /// Counts from now; zero: never.
    void expire_after(milliseconds time) {
        timer_.cancel();
        if (time == milliseconds::zero()) return;
        timer_.expires_after(time);
        timer_.async_wait([self = shared_from_this()](const ErrorCode& failure) {
            // One that has just been renewed is told to end with success now and then.
            if (failure || self->timer_.expiry() > std::chrono::steady_clock::now()) return;
            self->is_late = true;
            self->close();
        });
    }

    void close() {
        ErrorCode ignored;  // closing what is closed already is fine
        socket.close(ignored);
        timer_.cancel();
    }

    Protocol::socket socket;
    bool is_late = false;

  private:
    asio::steady_timer timer_;
};

struct Closing {
    std::shared_ptr<Connection> connection;
    ~Closing() { connection->close(); }
};

std::string text_of(const DockerRequest& request, std::optional<int> minor) {
    std::string text = request.method + " ";
    if (minor) text += fmt::format("/v1.{}", *minor);
    text +=
        request.target + " HTTP/1.1\r\nHost: docker\r\nUser-Agent: bpgd\r\nConnection: close\r\n";
    if (!request.body.empty()) text += "Content-Type: application/json\r\n";
    if (!request.body.empty() || request.method == "POST") {
        text += fmt::format("Content-Length: {}\r\n", request.body.size());
    }
    return text + "\r\n" + request.body;
}

/// Turns the failure of one step of an exchange into what its caller sees.
[[noreturn]] void fail(const Connection& connection, const std::filesystem::path& socket,
                       const ErrorCode& error, milliseconds deadline) {
    if (connection.is_late) {
        throw unavailable(socket, fmt::format("no answer within {} ms", deadline.count()));
    }
    if (error == asio::error::operation_aborted) throw boost::system::system_error(error);
    throw unavailable(socket, error.message());
}

Error answer_too_large(const std::string& target, std::size_t max) {
    return {ErrorKind::kInternal, "docker_answer_too_large",
            "an answer of the Docker daemon is too large",
            fmt::format("{}: more than {} bytes", target, max)};
}

struct Head {
    int status = 0;
    std::string api_version;
};

/// One exchange with dockerd, step by step.
class Exchange {
  public:
    Exchange(std::shared_ptr<Connection> connection, const std::filesystem::path& socket,
             const DockerRequest& request)
        : connection_(std::move(connection)), socket_(socket), request_(request) {
        parser_.header_limit(kHeaderMax);
        parser_.body_limit(boost::none);  // counted by whoever keeps it
    }

    asio::awaitable<void> send(std::string text) {
        const Protocol::endpoint place(socket_.native());
        const auto [refused] = co_await connection_->socket.async_connect(place, kNoThrow);
        check(refused);
        const auto bytes = asio::buffer(text);
        const auto [broken, count] =
            co_await asio::async_write(connection_->socket, bytes, kNoThrow);
        check(broken);
    }

    asio::awaitable<Head> receive_head() {
        const auto [error, count] = co_await beast::http::async_read_header(
            connection_->socket, buffer_, parser_, kNoThrow);
        check(error);
        Head head;
        head.status = static_cast<int>(parser_.get().result_int());
        head.api_version = std::string(parser_.get()["Api-Version"]);
        co_return head;
    }

    bool is_done() const { return parser_.is_done(); }

    /// The next bytes of the body; none at its end.
    asio::awaitable<std::string_view> receive_piece() {
        while (!parser_.is_done()) {
            auto& body = parser_.get().body();
            body.data = piece_.data();
            body.size = piece_.size();
            const auto [error, count] = co_await beast::http::async_read_some(
                connection_->socket, buffer_, parser_, kNoThrow);
            if (error != beast::http::error::need_buffer) check(error);
            const std::size_t got = piece_.size() - parser_.get().body().size;
            if (got > 0) co_return std::string_view(piece_.data(), got);
        }
        co_return std::string_view();
    }

  private:
    void check(const ErrorCode& error) const {
        if (error) fail(*connection_, socket_, error, request_.deadline);
    }

    std::shared_ptr<Connection> connection_;
    const std::filesystem::path& socket_;
    const DockerRequest& request_;
    beast::flat_buffer buffer_{kHeaderMax};
    Parser parser_;
    std::vector<char> piece_ = std::vector<char>(kPieceSize);
};

}  // namespace

std::string DockerAnswer::message() const {
    const auto parsed = nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
    if (parsed.is_object() && parsed.contains("message") && parsed["message"].is_string()) {
        return parsed["message"].get<std::string>();
    }
    return fmt::format("HTTP status {}", status);
}

std::string url_escape(std::string_view text) {
    std::string out;
    for (const char c : text) {
        const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                           (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.' || c == '~';
        if (plain) {
            out += c;
        } else {
            out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
        }
    }
    return out;
}

std::optional<int> negotiated_minor(std::string_view api_version) {
    if (!api_version.starts_with("1.")) return std::nullopt;
    const std::string_view digits = api_version.substr(2);
    int minor = 0;
    const auto [end, failure] =
        std::from_chars(digits.data(), digits.data() + digits.size(), minor);
    if (failure != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
    if (minor < kOldestMinor) return std::nullopt;
    return std::min(minor, kNewestMinor);
}

asio::awaitable<DockerAnswer> DockerWire::call(DockerRequest request) {
    co_return co_await exchange(std::move(request), nullptr);
}

asio::awaitable<DockerAnswer> DockerWire::stream(DockerRequest request, DockerSink sink) {
    co_return co_await exchange(std::move(request), &sink);
}

asio::awaitable<DockerAnswer> DockerWire::exchange(DockerRequest request, const DockerSink* sink) {
    const int minor = co_await negotiate();
    const auto executor = co_await asio::this_coro::executor;
    const auto connection = std::make_shared<Connection>(executor);
    const Closing closing{connection};
    connection->expire_after(request.deadline);
    try {
        Exchange step(connection, socket_, request);
        std::string text = text_of(request, minor);
        co_await step.send(std::move(text));
        const Head head = co_await step.receive_head();
        DockerAnswer answer{head.status, ""};
        const bool is_streamed = sink != nullptr && answer.ok();
        const std::size_t kept_max = answer.ok() ? request.body_max : kRefusalMax;
        if (is_streamed && sink->opened) sink->opened();
        while (!step.is_done()) {
            if (is_streamed) connection->expire_after(request.deadline);
            const std::string_view piece = co_await step.receive_piece();
            if (is_streamed) {
                if (!piece.empty()) sink->received(piece);
            } else if (answer.body.size() + piece.size() > kept_max) {
                throw answer_too_large(request.target, kept_max);
            } else {
                answer.body += piece;
            }
        }
        co_return answer;
    } catch (const Error&) {
        minor_.reset();  // a dockerd that comes back may be another one
        throw;
    }
}

asio::awaitable<int> DockerWire::negotiate() {
    if (minor_) co_return *minor_;
    if (socket_.native().empty() || socket_.native().size() > kSocketPathMax) {
        throw unavailable(socket_, "this is no path of a socket");
    }
    const auto executor = co_await asio::this_coro::executor;
    const auto connection = std::make_shared<Connection>(executor);
    const Closing closing{connection};
    DockerRequest ping;
    ping.target = "/_ping";
    ping.deadline = kPingDeadline;
    connection->expire_after(ping.deadline);
    Exchange step(connection, socket_, ping);
    std::string text = text_of(ping, std::nullopt);
    co_await step.send(std::move(text));
    const Head head = co_await step.receive_head();
    if (head.status != 200 || head.api_version.empty()) {
        throw unavailable(socket_, fmt::format("status {} to a ping", head.status));
    }
    const auto minor = negotiated_minor(head.api_version);
    if (!minor) {
        throw Error(
            ErrorKind::kInvalid, "docker_too_old", "this version of Docker cannot be used",
            fmt::format("it speaks API {}, and 1.{} is the least", head.api_version, kOldestMinor),
            "install Docker Engine 20.10 or later");
    }
    minor_ = minor;
    co_return *minor;
}

}  // namespace bpg::runtime
