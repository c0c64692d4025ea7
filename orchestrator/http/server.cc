// The only file that knows Beast, and of it only the parser: answers are put together here. There
// are no timers a connection; each has one deadline, and one sweeper looks at all of them.
#include "orchestrator/http/server.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <exception>
#include <list>
#include <utility>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/id.h"
#include "orchestrator/base/log.h"
#include "orchestrator/base/signal.h"
#include "orchestrator/http/problem.h"

namespace bpg::http {
namespace {

namespace beast = boost::beast;
using Clock = std::chrono::steady_clock;
using ErrorCode = boost::system::error_code;
using Socket = asio::generic::stream_protocol::socket;
using Parser = beast::http::request_parser<beast::http::string_body>;
using std::chrono::milliseconds;

constexpr auto kNoThrow = asio::as_tuple(asio::use_awaitable);
constexpr milliseconds kSweepInterval{250};
constexpr milliseconds kAcceptPause{100};   // after EMFILE and the like
constexpr milliseconds kLingerTime{2'000};  // for a refused client to read why
constexpr milliseconds kCancelledPatience{1'000};
constexpr std::size_t kRefusalsMax = 64;     // connections over the limit that are told so
constexpr std::size_t kSocketPathMax = 106;  // sun_path, less the "~" of the temporary name
constexpr std::size_t kBufferMax = 65'536;
constexpr int kBacklog = 256;

void close_on_exec(int fd) {
    const int flags = ::fcntl(fd, F_GETFD);
    if (flags < 0 || ::fcntl(fd, F_SETFD, flags | FD_CLOEXEC) < 0) {
        throw errno_error("keep a socket from child processes", errno);
    }
}

bool is_request_id(std::string_view text) {
    constexpr std::size_t kMax = 64;
    return !text.empty() && text.size() <= kMax &&
           std::all_of(text.begin(), text.end(), [](char c) {
               return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                      c == '-' || c == '_' || c == '.';
           });
}

/// A line break in a value would start a header of somebody else's choice.
std::string header_text(std::string text) {
    std::replace_if(
        text.begin(), text.end(),
        [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, ' ');
    return text;
}

std::string reason(int status) {
    return beast::http::obsolete_reason(beast::http::int_to_status(static_cast<unsigned>(status)));
}

/// How an answer leaves: what of it depends on the request and on the connection.
struct Framing {
    bool keep_alive = false;
    bool is_head = false;
    bool is_http_1_0 = false;
    std::string request_id;
};

bool may_have_body(int status) {
    return status >= 200 && status != 204 && status != 304;
}

std::string head_of(const Response& response, const Framing& framing) {
    std::string head =
        fmt::format("HTTP/1.1 {} {}\r\nDate: {:%a, %d %b %Y %H:%M:%S} GMT\r\n", response.status,
                    reason(response.status), fmt::gmtime(std::time(nullptr)));
    head += fmt::format("X-Request-Id: {}\r\n", framing.request_id);
    for (const auto& [name, value] : response.headers) {
        head += fmt::format("{}: {}\r\n", header_text(name), header_text(value));
    }
    if (may_have_body(response.status)) {
        head += fmt::format("Content-Type: {}\r\n", header_text(response.content_type));
        if (!response.stream) head += fmt::format("Content-Length: {}\r\n", response.body.size());
        if (response.stream && !framing.is_http_1_0) head += "Transfer-Encoding: chunked\r\n";
    }
    head += framing.keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
    return head;
}

Response refused(int status, std::string code, std::string message, std::string detail,
                 std::string hint, const std::string& request_id) {
    return problem_response({ErrorKind::kInvalid, std::move(code), std::move(message),
                             std::move(detail), std::move(hint)},
                            request_id, status);
}

/// The answer to what the parser did not take; nothing when there is nobody to answer.
std::optional<Response> refusal_of(const ErrorCode& error, const Limits& limits,
                                   const std::string& request_id) {
    using beast::http::error;
    if (error == error::end_of_stream || error == error::partial_message) return {};
    if (error == error::header_limit || error == error::buffer_overflow) {
        return refused(431, "header_too_large", "the header of the request is too large",
                       fmt::format("{} bytes are the most", limits.header_bytes),
                       "send fewer and shorter header fields", request_id);
    }
    if (error == error::body_limit) {
        return refused(413, "body_too_large", "the body of the request is too large",
                       fmt::format("{} bytes are the most", limits.body_bytes),
                       "send less in one request", request_id);
    }
    if (error.category() != make_error_code(error::bad_method).category()) return {};
    return malformed_request(error.message(), request_id);
}

bool peer_has_left(int fd) {
    pollfd watched{.fd = fd, .events = 0, .revents = 0};
    return ::poll(&watched, 1, 0) > 0 && (watched.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
}

std::optional<PeerCredentials> credentials_of(int fd) {
    ucred credentials{};
    socklen_t size = sizeof credentials;
    if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return {};
    return PeerCredentials{.pid = credentials.pid, .uid = credentials.uid, .gid = credentials.gid};
}

/// Our socket file: who made it, so that only ours is removed, and the lock that says it is in use.
struct SocketFile {
    std::filesystem::path path;
    UniqueFd lock;
    dev_t device = 0;
    ino_t inode = 0;

    void remove() const {
        struct stat found{};
        if (::lstat(path.c_str(), &found) != 0) return;
        if (found.st_dev == device && found.st_ino == inode) ::unlink(path.c_str());
    }
};

Error socket_in_use(const std::filesystem::path& path) {
    return {ErrorKind::kConflict, "socket_in_use", fmt::format("{} is in use", path.native()),
            "another server answers on this socket",
            "stop the other bpgd, or give this one another api.socket"};
}

UniqueFd lock_socket(const std::filesystem::path& path) {
    const std::string name = path.native() + ".lock";
    UniqueFd lock(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock) throw errno_error(fmt::format("open {}", name), errno);
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) == 0) return lock;
    if (errno == EWOULDBLOCK) throw socket_in_use(path);
    throw errno_error(fmt::format("lock {}", name), errno);
}

/// Refuses a path that is something else, or a socket that some server without our lock answers on.
void check_replaceable(const asio::any_io_executor& executor, const std::filesystem::path& path) {
    struct stat found{};
    if (::lstat(path.c_str(), &found) != 0) {
        if (errno == ENOENT) return;
        throw errno_error(fmt::format("look at {}", path.native()), errno);
    }
    if (!S_ISSOCK(found.st_mode)) {
        throw Error(ErrorKind::kConflict, "socket_path_taken",
                    fmt::format("{} is no socket", path.native()),
                    "something else is in the place of the API's socket",
                    "move it away, or choose another api.socket");
    }
    asio::local::stream_protocol::socket probe(executor);
    probe.open();
    probe.non_blocking(true);  // a live server with a full backlog must not hold us up
    ErrorCode error;
    probe.connect(path.native(), error);
    if (error != asio::error::connection_refused) throw socket_in_use(path);
}

/// One connection as the server's registry knows it.
struct Session {
    enum class Phase { kIdle, kReading, kHandling, kStreaming, kWriting };

    Session(Socket accepted, std::optional<PeerCredentials> credentials)
        : socket(std::move(accepted)), peer(credentials) {}

    Socket socket;
    std::optional<PeerCredentials> peer;
    beast::flat_buffer buffer{kBufferMax};
    asio::cancellation_signal cancel;
    Phase phase = Phase::kIdle;
    std::optional<Clock::time_point> deadline;
    bool timed_out = false;
    bool is_over_limit = false;
    bool is_streaming = false;

    void enter(Phase next, std::optional<milliseconds> time) {
        phase = next;
        timed_out = false;
        deadline.reset();
        if (time) deadline = Clock::now() + *time;
    }

    void close() {
        ErrorCode ignored;  // closing what is already closed is fine
        socket.shutdown(Socket::shutdown_both, ignored);
        socket.close(ignored);
    }
};

using SessionPtr = std::shared_ptr<Session>;

/// Sends all of it; each byte taken renews the deadline. False: the client is gone or too slow.
asio::awaitable<bool> send(SessionPtr session, std::string bytes, milliseconds write_time) {
    for (std::size_t sent = 0; sent < bytes.size();) {
        session->enter(Session::Phase::kWriting, write_time);
        const auto rest = asio::buffer(bytes.data() + sent, bytes.size() - sent);
        const auto [error, count] = co_await session->socket.async_write_some(rest, kNoThrow);
        if (error) co_return false;
        sent += count;
    }
    co_return true;
}

class ChunkWriter final : public StreamWriter {
  public:
    ChunkWriter(SessionPtr session, milliseconds write_time, bool is_chunked)
        : session_(std::move(session)), write_time_(write_time), is_chunked_(is_chunked) {}

    asio::awaitable<bool> write(std::string piece) override {
        if (is_broken_) co_return false;
        if (piece.empty()) co_return true;  // an empty chunk would be the end mark
        if (is_chunked_) piece = fmt::format("{:x}\r\n{}\r\n", piece.size(), piece);
        is_broken_ = !co_await send(session_, std::move(piece), write_time_);
        session_->enter(Session::Phase::kStreaming, std::nullopt);
        co_return !is_broken_;
    }

    asio::awaitable<bool> finish() {
        if (is_broken_) co_return false;
        if (!is_chunked_) co_return true;
        std::string end_mark = "0\r\n\r\n";
        co_return co_await send(session_, std::move(end_mark), write_time_);
    }

  private:
    SessionPtr session_;
    milliseconds write_time_;
    bool is_chunked_;
    bool is_broken_ = false;
};

}  // namespace

/// Everything the coroutines need; they keep it alive, not the Server.
class Server::State : public std::enable_shared_from_this<Server::State> {
  public:
    State(asio::any_io_executor executor, const Router& router, Limits limits)
        : executor_(std::move(executor)),
          router_(router),
          limits_(limits),
          sweep_timer_(executor_) {}

    void listen_unix(const std::filesystem::path& path, mode_t mode, std::optional<gid_t> group);
    std::uint16_t listen_tcp(const std::string& host, std::uint16_t port);
    asio::awaitable<void> drain(milliseconds patience);
    void close();
    std::size_t connections() const { return sessions_.size(); }

  private:
    using UnixAcceptor = asio::local::stream_protocol::acceptor;
    using TcpAcceptor = asio::ip::tcp::acceptor;
    /// What a request became: itself, an answer already, or neither (the client is gone).
    struct Received {
        std::optional<Request> request;
        std::optional<Response> refusal;
        Framing framing;
    };

    template <class Acceptor>
    static asio::awaitable<void> accept_all(std::shared_ptr<State> self,
                                            std::shared_ptr<Acceptor> acceptor);
    static asio::awaitable<void> sweep_always(std::shared_ptr<State> self);
    static asio::awaitable<void> serve(std::shared_ptr<State> self, SessionPtr session);

    void start(asio::awaitable<void> work, std::string what);
    void start_sweeping();
    void stop_accepting();
    void sweep();
    void begin_session(Socket socket, std::optional<PeerCredentials> peer);
    void end_session(const SessionPtr& session, const std::exception_ptr& failure);

    asio::awaitable<bool> serve_one(SessionPtr session);
    asio::awaitable<void> refuse_connection(SessionPtr session);
    asio::awaitable<bool> wait_for_request(SessionPtr session);
    asio::awaitable<Received> receive(SessionPtr session);
    asio::awaitable<ErrorCode> read_body(SessionPtr session, Parser& parser);
    void refuse(Received& received, const ErrorCode& error, bool timed_out) const;
    Request request_of(Parser& parser, const SessionPtr& session, std::string id) const;
    asio::awaitable<bool> respond(SessionPtr session, Response response, Framing framing);
    asio::awaitable<bool> stream(SessionPtr session, StreamBody body, Framing framing);
    asio::awaitable<void> linger(SessionPtr session);

    asio::any_io_executor executor_;
    const Router& router_;
    const Limits limits_;
    asio::steady_timer sweep_timer_;
    bool is_sweeping_ = false;
    bool is_draining_ = false;
    std::list<std::shared_ptr<UnixAcceptor>> unix_acceptors_;
    std::list<std::shared_ptr<TcpAcceptor>> tcp_acceptors_;
    std::list<SocketFile> socket_files_;
    std::list<SessionPtr> sessions_;
    Signal session_ended_;
};

void Server::State::listen_unix(const std::filesystem::path& path, mode_t mode,
                                std::optional<gid_t> group) {
    if (path.native().size() > kSocketPathMax || !path.is_absolute()) {
        throw Error(
            ErrorKind::kInvalid, "socket_path_too_long",
            fmt::format("cannot listen on {}", path.native()),
            fmt::format("a unix socket needs an absolute path of at most {} bytes", kSocketPathMax),
            "choose a shorter api.socket");
    }
    SocketFile file{.path = path, .lock = lock_socket(path)};
    check_replaceable(executor_, path);
    // Made aside and renamed: at every instant the path is the old socket or the new, ready one.
    const std::string aside = path.native() + "~";
    if (::unlink(aside.c_str()) != 0 && errno != ENOENT) {
        throw errno_error(fmt::format("remove {}", aside), errno);
    }
    auto acceptor = std::make_shared<UnixAcceptor>(executor_);
    acceptor->open();
    close_on_exec(acceptor->native_handle());
    ErrorCode error;
    acceptor->bind(aside, error);
    if (error) throw errno_error(fmt::format("bind {}", aside), error.value());
    struct stat made{};
    if (::chmod(aside.c_str(), mode) != 0 ||
        (group && ::chown(aside.c_str(), static_cast<uid_t>(-1), *group) != 0) ||
        ::lstat(aside.c_str(), &made) != 0) {
        throw errno_error(fmt::format("set the owner and mode of {}", aside), errno);
    }
    acceptor->listen(kBacklog);
    if (::rename(aside.c_str(), path.c_str()) != 0) {
        throw errno_error(fmt::format("rename {} to {}", aside, path.native()), errno);
    }
    file.device = made.st_dev;
    file.inode = made.st_ino;
    socket_files_.push_back(std::move(file));
    unix_acceptors_.push_back(acceptor);
    start(accept_all(shared_from_this(), acceptor), "accepting connections");
    start_sweeping();
}

std::uint16_t Server::State::listen_tcp(const std::string& host, std::uint16_t port) {
    ErrorCode error;
    const auto address = asio::ip::make_address(host, error);
    if (error) {
        throw Error(ErrorKind::kInvalid, "address_invalid",
                    fmt::format("cannot listen on {}", host), "it is no IP address",
                    "write an address like 127.0.0.1");
    }
    const asio::ip::tcp::endpoint endpoint(address, port);
    auto acceptor = std::make_shared<TcpAcceptor>(executor_);
    acceptor->open(endpoint.protocol());
    close_on_exec(acceptor->native_handle());
    acceptor->set_option(asio::socket_base::reuse_address(true));
    acceptor->bind(endpoint, error);
    if (!error) acceptor->listen(kBacklog, error);
    if (error == asio::error::address_in_use) {
        throw Error(ErrorKind::kConflict, "port_in_use", fmt::format("port {} is in use", port),
                    fmt::format("another program listens on {}:{}", host, port),
                    "stop it, or choose another metrics.listen");
    }
    if (error) throw errno_error(fmt::format("listen on {}:{}", host, port), error.value());
    tcp_acceptors_.push_back(acceptor);
    start(accept_all(shared_from_this(), acceptor), "accepting connections");
    start_sweeping();
    return acceptor->local_endpoint().port();
}

template <class Acceptor>
asio::awaitable<void> Server::State::accept_all(std::shared_ptr<State> self,
                                                std::shared_ptr<Acceptor> acceptor) {
    constexpr bool is_unix = std::is_same_v<Acceptor, UnixAcceptor>;
    while (acceptor->is_open()) {
        auto [error, socket] = co_await acceptor->async_accept(kNoThrow);
        if (!acceptor->is_open()) co_return;
        if (error) {
            // Out of descriptors, or a client gone before its turn: neither ends the server.
            log::warning("cannot accept a connection", {{"why", error.message()}});
            co_await pause_for(kAcceptPause);
            continue;
        }
        close_on_exec(socket.native_handle());
        std::optional<PeerCredentials> peer;
        if constexpr (is_unix) {
            peer = credentials_of(socket.native_handle());
        } else {
            ErrorCode ignored;  // only a matter of speed
            socket.set_option(asio::ip::tcp::no_delay(true), ignored);
        }
        self->begin_session(Socket(std::move(socket)), peer);
    }
}

void Server::State::begin_session(Socket socket, std::optional<PeerCredentials> peer) {
    if (sessions_.size() >= limits_.connections + kRefusalsMax) return;  // closed by its destructor
    auto session = std::make_shared<Session>(std::move(socket), peer);
    session->is_over_limit = sessions_.size() >= limits_.connections;
    sessions_.push_back(session);
    auto ended = [self = shared_from_this(), session](const std::exception_ptr& failure) {
        self->end_session(session, failure);
    };
    asio::co_spawn(executor_, serve(shared_from_this(), session),
                   asio::bind_cancellation_slot(session->cancel.slot(), std::move(ended)));
}

void Server::State::end_session(const SessionPtr& session, const std::exception_ptr& failure) {
    if (failure) {
        try {
            std::rethrow_exception(failure);
        } catch (const boost::system::system_error& error) {
            if (error.code() != asio::error::operation_aborted) {
                log::warning("a connection ended", {{"why", error.what()}});
            }
        } catch (const std::exception& error) {
            log::error("a connection failed", {{"why", error.what()}});
        }
    }
    session->close();
    sessions_.remove(session);
    session_ended_.notify();
}

/// Work that ends only with the server; what ends it otherwise is a bug that the log must show.
void Server::State::start(asio::awaitable<void> work, std::string what) {
    auto ended = [what = std::move(what)](const std::exception_ptr& failure) {
        if (failure) log::error("the server stopped " + what, {{"why", describe(failure).detail}});
    };
    asio::co_spawn(executor_, std::move(work), std::move(ended));
}

void Server::State::start_sweeping() {
    if (std::exchange(is_sweeping_, true)) return;
    start(sweep_always(shared_from_this()), "looking at deadlines");
}

asio::awaitable<void> Server::State::sweep_always(std::shared_ptr<State> self) {
    while (self->is_sweeping_) {
        self->sweep_timer_.expires_after(kSweepInterval);
        co_await self->sweep_timer_.async_wait(kNoThrow);
        self->sweep();
    }
}

void Server::State::sweep() {
    const Clock::time_point now = Clock::now();
    // A copy: ending a session takes it off the list.
    const std::list<SessionPtr> sessions = sessions_;
    for (const SessionPtr& session : sessions) {
        if (!session->socket.is_open()) continue;
        if (session->deadline && *session->deadline <= now) {
            session->deadline.reset();
            session->timed_out = true;
            session->socket.cancel();
        } else if (session->is_streaming && peer_has_left(session->socket.native_handle())) {
            session->cancel.emit(asio::cancellation_type::terminal);
        }
    }
}

void Server::State::stop_accepting() {
    is_draining_ = true;
    ErrorCode ignored;  // closing what is already closed is fine
    for (const auto& acceptor : unix_acceptors_)
        acceptor->close(ignored);
    for (const auto& acceptor : tcp_acceptors_)
        acceptor->close(ignored);
    for (const SocketFile& file : socket_files_)
        file.remove();
    unix_acceptors_.clear();
    tcp_acceptors_.clear();
    socket_files_.clear();
}

void Server::State::close() {
    stop_accepting();
    is_sweeping_ = false;
    sweep_timer_.cancel();
    for (const SessionPtr& session : sessions_)
        session->close();
}

asio::awaitable<void> Server::State::drain(milliseconds patience) {
    stop_accepting();
    const std::list<SessionPtr> at_start = sessions_;
    for (const SessionPtr& session : at_start) {
        if (session->phase == Session::Phase::kIdle) session->close();
        if (session->is_streaming) session->cancel.emit(asio::cancellation_type::terminal);
    }
    const auto patient_until = Clock::now() + patience;
    while (!sessions_.empty() && Clock::now() < patient_until) {
        co_await session_ended_.wait_until(patient_until);
    }
    const std::list<SessionPtr> left = sessions_;
    for (const SessionPtr& session : left) {
        session->close();
        session->cancel.emit(asio::cancellation_type::terminal);
    }
    const auto give_up_at = Clock::now() + kCancelledPatience;
    while (!sessions_.empty() && Clock::now() < give_up_at) {
        co_await session_ended_.wait_until(give_up_at);
    }
    if (!sessions_.empty()) {
        log::warning("requests did not end in time", {{"count", std::to_string(sessions_.size())}});
    }
    close();
}

asio::awaitable<void> Server::State::serve(std::shared_ptr<State> self, SessionPtr session) {
    if (session->is_over_limit) {
        co_await self->refuse_connection(session);
        co_return;
    }
    bool goes_on = true;
    while (goes_on)
        goes_on = co_await self->serve_one(session);
}

asio::awaitable<bool> Server::State::serve_one(SessionPtr session) {
    if (!co_await wait_for_request(session)) co_return false;
    const Clock::time_point start = Clock::now();
    Received received = co_await receive(session);
    if (received.refusal) {
        router_.request_done("", "other", received.refusal->status, 0);
        co_await respond(session, std::move(*received.refusal), received.framing);
        co_await linger(session);
        co_return false;
    }
    if (!received.request) co_return false;
    const std::string method = received.request->method;
    session->enter(Session::Phase::kHandling, std::nullopt);
    const bool only_reads = method == "GET" || method == "HEAD";
    const PeerCredentials peer = session->peer.value_or(PeerCredentials{});
    log::write(only_reads ? log::Level::kDebug : log::Level::kInfo, "request",
               {{"id", received.framing.request_id},
                {"method", method},
                {"path", received.request->path},
                {"uid", std::to_string(peer.uid)},
                {"pid", std::to_string(peer.pid)}});
    Router::Answer answer = co_await router_.answer(std::move(*received.request));
    const std::chrono::duration<double> taken = Clock::now() - start;
    router_.request_done(answer.route, method, answer.response.status, taken.count());
    if (is_draining_) received.framing.keep_alive = false;
    co_return co_await respond(session, std::move(answer.response), received.framing);
}

asio::awaitable<void> Server::State::refuse_connection(SessionPtr session) {
    const Framing framing{.request_id = new_id()};
    Response response = problem_response(
        {ErrorKind::kUnavailable, "too_many_connections", "bpgd has too many connections",
         fmt::format("{} are the most", limits_.connections), "close some, or try again later"},
        framing.request_id);
    router_.request_done("", "other", response.status, 0);
    co_await respond(session, std::move(response), framing);
    co_await linger(session);
}

/// Until the first byte of a request; false when none comes in time or the server stops.
asio::awaitable<bool> Server::State::wait_for_request(SessionPtr session) {
    if (is_draining_) co_return false;
    if (session->buffer.size() > 0) co_return true;  // pipelined behind the one before
    session->enter(Session::Phase::kIdle, limits_.idle_time);
    const auto [error] = co_await session->socket.async_wait(Socket::wait_read, kNoThrow);
    co_return !error;
}

asio::awaitable<Server::State::Received> Server::State::receive(SessionPtr session) {
    Received received;
    received.framing.request_id = new_id();
    Parser parser;
    parser.header_limit(static_cast<std::uint32_t>(limits_.header_bytes));
    parser.body_limit(limits_.body_bytes);
    session->enter(Session::Phase::kReading, limits_.header_time);
    auto [error, count] =
        co_await beast::http::async_read_header(session->socket, session->buffer, parser, kNoThrow);
    if (!error) {
        const auto& sent_id = parser.get()["X-Request-Id"];
        const std::string_view id(sent_id.data(), sent_id.size());
        if (is_request_id(id)) received.framing.request_id = id;
        // Two framings in one request are how requests are smuggled past a proxy.
        const auto& fields = parser.get();
        const bool has_length = fields.count(beast::http::field::content_length) > 0;
        const bool has_coding = fields.count(beast::http::field::transfer_encoding) > 0;
        if (has_coding && (has_length || !parser.chunked())) {
            error = beast::http::error::bad_transfer_encoding;
        }
    }
    if (!error) error = co_await read_body(session, parser);
    if (error) {
        refuse(received, error, session->timed_out);
        co_return received;
    }
    received.framing.keep_alive = parser.get().keep_alive();
    received.framing.is_http_1_0 = parser.get().version() < 11;
    received.framing.is_head = parser.get().method() == beast::http::verb::head;
    Request request = request_of(parser, session, received.framing.request_id);
    const auto& target = parser.get().target();
    if (parse_target(std::string_view(target.data(), target.size()), request)) {
        received.request = std::move(request);
    } else {
        received.refusal = malformed_request("the path or query is not well-formed", request.id);
        received.framing.keep_alive = false;
    }
    co_return received;
}

asio::awaitable<ErrorCode> Server::State::read_body(SessionPtr session, Parser& parser) {
    if (parser.is_done()) co_return ErrorCode();
    const auto& expectation = parser.get()[beast::http::field::expect];
    if (beast::iequals(expectation, "100-continue")) {
        std::string go_on = "HTTP/1.1 100 Continue\r\n\r\n";
        const bool sent = co_await send(session, std::move(go_on), limits_.write_time);
        if (!sent) co_return beast::http::error::partial_message;
    }
    session->enter(Session::Phase::kReading, limits_.body_time);
    const auto [error, count] =
        co_await beast::http::async_read(session->socket, session->buffer, parser, kNoThrow);
    co_return error;
}

void Server::State::refuse(Received& received, const ErrorCode& error, bool timed_out) const {
    const std::string& id = received.framing.request_id;
    if (timed_out) {
        received.refusal =
            refused(408, "request_timeout", "the request did not arrive in time",
                    "its header or body was not sent completely", "send it again", id);
    } else {
        received.refusal = refusal_of(error, limits_, id);
    }
}

Request Server::State::request_of(Parser& parser, const SessionPtr& session, std::string id) const {
    Request request;
    request.id = std::move(id);
    request.method = parser.get().method_string();
    request.peer = session->peer;
    for (const auto& field : parser.get()) {
        request.headers.add(field.name_string(), field.value());
    }
    request.body = std::move(parser.get().body());
    return request;
}

/// False when the connection must not be used again.
asio::awaitable<bool> Server::State::respond(SessionPtr session, Response response,
                                             Framing framing) {
    if (response.stream && framing.is_http_1_0) framing.keep_alive = false;
    std::string bytes = head_of(response, framing);
    const bool has_body = may_have_body(response.status) && !framing.is_head;
    if (has_body && !response.stream) bytes += response.body;
    if (!co_await send(session, std::move(bytes), limits_.write_time)) co_return false;
    if (!has_body || !response.stream) co_return framing.keep_alive;
    co_return co_await stream(session, std::move(response.stream), framing);
}

asio::awaitable<bool> Server::State::stream(SessionPtr session, StreamBody body, Framing framing) {
    if (is_draining_) co_return false;
    ChunkWriter writer(session, limits_.write_time, !framing.is_http_1_0);
    session->enter(Session::Phase::kStreaming, std::nullopt);
    session->is_streaming = true;
    std::exception_ptr failure;
    try {
        co_await body(writer);
    } catch (...) {  // told below
        failure = std::current_exception();
    }
    session->is_streaming = false;
    const auto cancellation = co_await asio::this_coro::cancellation_state;
    if (cancellation.cancelled() != asio::cancellation_type::none) co_return false;
    if (failure) {
        const ErrorInfo info = describe(failure);
        log::error("a streamed answer was cut", {{"request", framing.request_id},
                                                 {"code", info.code},
                                                 {"what", info.message},
                                                 {"why", info.detail}});
        co_return false;
    }
    const bool is_whole = co_await writer.finish();
    co_return is_whole&& framing.keep_alive;
}

/// After a refusal: reads on for a moment, because closing with unread input could take the answer
/// away from a client that is still sending.
asio::awaitable<void> Server::State::linger(SessionPtr session) {
    ErrorCode failed;
    session->socket.shutdown(Socket::shutdown_send, failed);
    session->enter(Session::Phase::kIdle, kLingerTime);
    std::string scratch(16'384, '\0');
    const std::size_t taken_max = 4 * (limits_.body_bytes + limits_.header_bytes);
    for (std::size_t taken = 0; !failed && !session->timed_out && taken < taken_max;) {
        const auto [error, count] =
            co_await session->socket.async_read_some(asio::buffer(scratch), kNoThrow);
        if (error) break;
        taken += count;
    }
}

Server::Server(asio::any_io_executor executor, const Router& router, Limits limits)
    : state_(std::make_shared<State>(std::move(executor), router, limits)) {}

Server::~Server() {
    state_->close();
}

void Server::listen_unix(const std::filesystem::path& path, mode_t mode,
                         std::optional<gid_t> group) {
    state_->listen_unix(path, mode, group);
}

std::uint16_t Server::listen_tcp(const std::string& host, std::uint16_t port) {
    return state_->listen_tcp(host, port);
}

asio::awaitable<void> Server::drain(std::chrono::milliseconds patience) {
    return state_->drain(patience);
}

std::size_t Server::connections() const {
    return state_->connections();
}

}  // namespace bpg::http
