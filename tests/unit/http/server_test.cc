// The server seen from outside: real sockets, raw bytes.
#include "orchestrator/http/server.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <boost/asio/error.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "orchestrator/base/error.h"
#include "orchestrator/base/signal.h"
#include "tests/unit/http/client.h"

namespace bpg::http::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

/// What handlers and tests share; written on the loop, read on both sides.
struct Seen {
    std::atomic<int> begun{0};
    std::atomic<int> ended{0};
    std::atomic<int> cancelled{0};
    std::atomic<int> refused_writes{0};
};

struct Ending {
    std::atomic<int>& count;
    ~Ending() { ++count; }
};

asio::awaitable<Response> echo(Request request) {
    nlohmann::json object{{"method", request.method},
                          {"segments", request.segments},
                          {"query", request.query},
                          {"body", request.body},
                          {"id", request.id}};
    if (request.peer) {
        object["peer"] = {request.peer->pid, request.peer->uid, request.peer->gid};
    }
    Response response;
    response.body = object.dump();
    co_return response;
}

asio::awaitable<Response> sleep_for(milliseconds duration, Seen* seen) {
    ++seen->begun;
    const Ending ending{seen->ended};
    asio::steady_timer timer(co_await asio::this_coro::executor, duration);
    co_await timer.async_wait(asio::use_awaitable);
    co_return Response{};
}

asio::awaitable<void> count_up(StreamWriter& writer, int count, milliseconds pause) {
    for (int i = 1; i <= count; ++i) {
        if (!co_await writer.write(fmt::format("{}\n", i))) co_return;
        if (!co_await writer.write("")) co_return;
        co_await pause_for(pause);
    }
}

/// Writes without end; each piece is large, so that a reader who stops is noticed.
asio::awaitable<void> flood(StreamWriter& writer, Seen* seen) {
    ++seen->begun;
    const Ending ending{seen->ended};
    std::string piece(256 * 1024, 'x');
    while (co_await writer.write(piece)) {
    }
    ++seen->refused_writes;
}

/// Writes one line, then waits for something that never comes.
asio::awaitable<void> wait_for_ever(StreamWriter& writer, Seen* seen) {
    ++seen->begun;
    const Ending ending{seen->ended};
    if (!co_await writer.write("waiting\n")) co_return;
    asio::steady_timer never(co_await asio::this_coro::executor, steady_clock::time_point::max());
    const auto [error] = co_await never.async_wait(asio::as_tuple(asio::use_awaitable));
    if (error == asio::error::operation_aborted) ++seen->cancelled;
}

asio::awaitable<void> break_off(StreamWriter& writer) {
    if (!co_await writer.write("begun\n")) co_return;
    throw Error(ErrorKind::kCorrupt, "log_broken", "the log is broken");
}

asio::awaitable<Response> streamed(StreamBody body) {
    Response response;
    response.content_type = "application/x-ndjson";
    response.stream = std::move(body);
    co_return response;
}

bool becomes(const std::atomic<int>& value, int expected) {
    const auto give_up_at = steady_clock::now() + seconds(5);
    while (value != expected && steady_clock::now() < give_up_at) {
        std::this_thread::sleep_for(milliseconds(5));
    }
    return value == expected;
}

nlohmann::json body_of(const Answer& answer) {
    return nlohmann::json::parse(answer.body, nullptr, false);
}

std::string code_of(const Answer& answer) {
    const nlohmann::json body = body_of(answer);
    return body.is_object() ? body.value("code", "") : "";
}

class HttpServer : public ServerTest {
  protected:
    void SetUp() override {
        ServerTest::SetUp();
        for (const char* method : {"GET", "POST", "PUT"}) {
            router_.add(method, "/echo/{name}", [](Request r) { return echo(std::move(r)); });
        }
        router_.add("GET", "/sleep/{ms}", [this](const Request& r) {
            return sleep_for(milliseconds(std::stoi(r.param("ms"))), &seen_);
        });
        router_.add("GET", "/count/{n}", [](const Request& r) {
            const int n = std::stoi(r.param("n"));
            return streamed([n](StreamWriter& w) { return count_up(w, n, milliseconds(1)); });
        });
        router_.add("GET", "/flood", [this](const Request&) {
            return streamed([this](StreamWriter& w) { return flood(w, &seen_); });
        });
        router_.add("GET", "/wait", [this](const Request&) {
            return streamed([this](StreamWriter& w) { return wait_for_ever(w, &seen_); });
        });
        router_.add("GET", "/broken", [](const Request&) {
            return streamed([](StreamWriter& w) { return break_off(w); });
        });
    }

    Seen seen_;
};

TEST_F(HttpServer, AnswersRequestsOneAfterAnotherOnOneConnection) {
    start();
    Client client(path_);
    for (int i = 0; i < 3; ++i) {
        const Answer answer = client.ask("POST", "/echo/a%2Fb?x=%20y", fmt::format("body {}", i));
        EXPECT_EQ(answer.status, 200);
        EXPECT_EQ(answer.header("connection"), "keep-alive");
        EXPECT_EQ(answer.header("content-type"), "application/json");
        EXPECT_TRUE(answer.header("date").ends_with(" GMT"));
        const nlohmann::json body = body_of(answer);
        EXPECT_EQ(body["segments"], (nlohmann::json{"echo", "a/b"}));
        EXPECT_EQ(body["query"]["x"], " y");
        EXPECT_EQ(body["body"], fmt::format("body {}", i));
    }
    EXPECT_TRUE(has_connections(1));
}

TEST_F(HttpServer, AnswersPipelinedRequestsInTheirOrder) {
    start();
    Client client(path_);
    client.send(
        "GET /echo/one HTTP/1.1\r\n\r\nPOST /echo/two HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"
        "GET /count/3 HTTP/1.1\r\n\r\nGET /echo/four HTTP/1.1\r\nConnection: close\r\n\r\n");
    EXPECT_EQ(body_of(client.answer())["segments"][1], "one");
    const nlohmann::json second = body_of(client.answer());
    EXPECT_EQ(second["segments"][1], "two");
    EXPECT_EQ(second["body"], "hi");
    EXPECT_EQ(client.answer().body, "1\n2\n3\n");
    const Answer last = client.answer();
    EXPECT_EQ(body_of(last)["segments"][1], "four");
    EXPECT_EQ(last.header("connection"), "close");
    EXPECT_TRUE(client.is_closed_by_server());
}

TEST_F(HttpServer, ReadsARequestThatArrivesByteByByteAndChunked) {
    start();
    Client client(path_);
    for (const char c : std::string("PUT /echo/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                                    "3\r\nabc\r\n2;note=1\r\nde\r\n0\r\n\r\n")) {
        ASSERT_TRUE(client.send(std::string_view(&c, 1)));
    }
    EXPECT_EQ(body_of(client.answer())["body"], "abcde");
}

TEST_F(HttpServer, KnowsWhoIsCallingOnAUnixSocket) {
    start();
    Client client(path_);
    EXPECT_EQ(body_of(client.ask("GET", "/echo/x"))["peer"],
              (nlohmann::json{::getpid(), ::getuid(), ::getgid()}));
}

TEST_F(HttpServer, EchoesARequestIdOrMakesOne) {
    start();
    Client client(path_);
    const Answer given = client.ask("GET", "/echo/x", "", "x-request-id: my-Id_1.2\r\n");
    EXPECT_EQ(given.header("x-request-id"), "my-Id_1.2");
    EXPECT_EQ(body_of(given)["id"], "my-Id_1.2");
    const Answer made = client.ask("GET", "/echo/x", "", "X-Request-Id: not fit\r\n");
    EXPECT_EQ(body_of(made)["id"], made.header("x-request-id"));
    EXPECT_EQ(made.header("x-request-id").size(), 16U);
    EXPECT_EQ(body_of(client.ask("GET", "/nothing", "", "X-Request-Id: q1\r\n"))["instance"],
              "/requests/q1");
}

TEST_F(HttpServer, HeadHasTheLengthButNoBody) {
    start();
    Client client(path_);
    const Answer head = client.ask("HEAD", "/echo/x", "", "X-Request-Id: r\r\n");
    EXPECT_EQ(head.status, 200);
    EXPECT_GT(std::stoi("0" + head.header("content-length")), 10);
    EXPECT_EQ(client.ask("HEAD", "/count/3").header("transfer-encoding"), "chunked");
    EXPECT_EQ(client.ask("GET", "/echo/y").status, 200);
}

TEST_F(HttpServer, SaysContinueToAClientThatWaitsForIt) {
    start();
    Client client(path_);
    client.send("POST /echo/x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    ASSERT_TRUE(client.read_until("\r\n\r\n"));
    EXPECT_EQ(client.answer(true).status, 100);
    client.send("abc");
    EXPECT_EQ(body_of(client.answer())["body"], "abc");
}

TEST_F(HttpServer, MalformedRequestsGet400AndAreCut) {
    start();
    for (const char* bytes :
         {"hello\r\n\r\n", "GET\r\n\r\n", "GET /echo/x HTTP/9.9\r\n\r\n",
          "GET /echo/x HTTP/1.1\r\nno colon\r\n\r\n", "GET /%zz HTTP/1.1\r\n\r\n",
          "GET * HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\r\n\r\n",
          "POST /echo/x HTTP/1.1\r\nContent-Length: x\r\n\r\n",
          "POST /echo/x HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
          "POST /echo/x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
          "POST /echo/x HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
          "0\r\n\r\n",
          "POST /echo/x HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
          "POST /echo/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
        Client client(path_);
        client.send(bytes);
        const Answer answer = client.answer();
        EXPECT_EQ(answer.status, 400) << bytes;
        EXPECT_EQ(code_of(answer), "request_malformed") << bytes;
        EXPECT_EQ(answer.header("content-type"), "application/problem+json");
        EXPECT_EQ(answer.header("connection"), "close");
        EXPECT_TRUE(client.is_closed_by_server()) << bytes;
    }
}

TEST_F(HttpServer, RefusesAHeaderThatIsTooLarge) {
    start();
    Client client(path_);
    client.send("GET /echo/x HTTP/1.1\r\nX: " + std::string(9'000, 'x') + "\r\n\r\n");
    const Answer answer = client.answer();
    EXPECT_EQ(answer.status, 431);
    EXPECT_EQ(code_of(answer), "header_too_large");

    Client fitting(path_);
    EXPECT_EQ(fitting.ask("GET", "/echo/x", "", "X: " + std::string(7'000, 'x') + "\r\n").status,
              200);
}

TEST_F(HttpServer, RefusesABodyThatIsTooLargeSaidOrNot) {
    Limits limits;
    limits.body_bytes = 100'000;
    start(limits);
    Client fitting(path_);
    EXPECT_EQ(fitting.ask("POST", "/echo/x", std::string(100'000, 'b')).status, 200);

    Client announced(path_);
    const Answer answer = announced.ask("POST", "/echo/x", std::string(300'000, 'b'));
    EXPECT_EQ(answer.status, 413);
    EXPECT_EQ(code_of(answer), "body_too_large");

    Client chunked(path_);
    chunked.send("POST /echo/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n20000\r\n");
    chunked.send(std::string(0x20000, 'b'));
    EXPECT_EQ(chunked.answer().status, 413);
}

TEST_F(HttpServer, CutsOffAClientThatSendsTooSlowly) {
    Limits limits;
    limits.header_time = milliseconds(200);
    limits.body_time = milliseconds(200);
    start(limits);
    Client header(path_);
    header.send("GET /echo/x HTTP/1.1\r\nX: ");
    const Answer answer = header.answer();
    EXPECT_EQ(answer.status, 408);
    EXPECT_EQ(code_of(answer), "request_timeout");
    EXPECT_TRUE(header.is_closed_by_server());

    Client body(path_);
    body.send("POST /echo/x HTTP/1.1\r\nContent-Length: 5\r\n\r\nab");
    EXPECT_EQ(body.answer().status, 408);
}

TEST_F(HttpServer, ClosesAnIdleConnectionWithoutAWord) {
    Limits limits;
    limits.idle_time = milliseconds(200);
    start(limits);
    Client silent(path_);
    EXPECT_TRUE(silent.is_closed_by_server());
    Client polite(path_);
    EXPECT_EQ(polite.ask("GET", "/echo/x").status, 200);
    EXPECT_TRUE(polite.is_closed_by_server());
    EXPECT_TRUE(has_connections(0));
}

TEST_F(HttpServer, AHandlerMayTakeLongerThanEveryOtherLimit) {
    Limits limits;
    limits.idle_time = limits.header_time = limits.write_time = milliseconds(100);
    start(limits);
    Client client(path_);
    EXPECT_EQ(client.ask("GET", "/sleep/800").status, 200);
}

TEST_F(HttpServer, StreamsPiecesInOrderAndKeepsTheConnection) {
    start();
    Client client(path_);
    std::string expected;
    for (int i = 1; i <= 200; ++i)
        expected += fmt::format("{}\n", i);
    const Answer answer = client.ask("GET", "/count/200");
    EXPECT_EQ(answer.header("transfer-encoding"), "chunked");
    EXPECT_EQ(answer.header("content-type"), "application/x-ndjson");
    EXPECT_TRUE(answer.is_whole);
    EXPECT_EQ(answer.body, expected);
    EXPECT_EQ(client.ask("GET", "/echo/x").status, 200);
}

TEST_F(HttpServer, StreamsToHttp10WithoutChunksAndCloses) {
    start();
    Client client(path_);
    client.send("GET /count/3 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    const Answer answer = client.answer();
    EXPECT_EQ(answer.body, "1\n2\n3\n");
    EXPECT_EQ(answer.header("connection"), "close");
}

TEST_F(HttpServer, EachPieceArrivesBeforeTheNextIsWritten) {
    start();
    Client client(path_);
    client.send("GET /wait HTTP/1.1\r\n\r\n");
    EXPECT_TRUE(client.read_until("waiting\n"));
    EXPECT_EQ(seen_.ended, 0);
}

TEST_F(HttpServer, AStreamThatFailsIsCutWithoutItsEndMark) {
    start();
    Client client(path_);
    const Answer answer = client.ask("GET", "/broken");
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(answer.body, "begun\n");
    EXPECT_FALSE(answer.is_whole);
    EXPECT_TRUE(client.is_closed_by_server());
}

TEST_F(HttpServer, AWriterLearnsThatItsClientIsGone) {
    start();
    Client client(path_);
    client.send("GET /flood HTTP/1.1\r\n\r\n");
    ASSERT_TRUE(client.read_until("xxxx"));
    client.close();
    EXPECT_TRUE(becomes(seen_.ended, 1));
    EXPECT_TRUE(has_connections(0));
}

TEST_F(HttpServer, AStreamThatOnlyWaitsIsCancelledWhenItsClientIsGone) {
    start();
    Client client(path_);
    client.send("GET /wait HTTP/1.1\r\n\r\n");
    ASSERT_TRUE(client.read_until("waiting\n"));
    client.close();
    EXPECT_TRUE(becomes(seen_.cancelled, 1));
    EXPECT_TRUE(has_connections(0));
}

TEST_F(HttpServer, AClientThatOnlyClosedItsSendingSideStillGetsTheStream) {
    start();
    Client client(path_);
    client.send("GET /count/500 HTTP/1.1\r\n\r\n");
    ASSERT_EQ(::shutdown(client.fd(), SHUT_WR), 0);
    EXPECT_TRUE(client.answer().is_whole);
}

TEST_F(HttpServer, AReaderThatStopsIsCutOffAndBlocksNobody) {
    Limits limits;
    limits.write_time = milliseconds(300);
    start(limits);
    Client stopped(path_);
    stopped.send("GET /flood HTTP/1.1\r\n\r\n");
    ASSERT_TRUE(becomes(seen_.begun, 1));
    Client other(path_);
    const auto start = steady_clock::now();
    for (int i = 0; i < 20; ++i)
        EXPECT_EQ(other.ask("GET", "/echo/x").status, 200);
    EXPECT_LT(steady_clock::now() - start, seconds(2));
    EXPECT_TRUE(becomes(seen_.refused_writes, 1));
    EXPECT_TRUE(has_connections(1));
}

TEST_F(HttpServer, TellsTheHookWhatWasAnswered) {
    std::vector<std::string> done;
    router_.on_request_done(
        [&done](std::string_view route, std::string_view method, int status, double elapsed) {
            done.push_back(fmt::format("{} {} {} {}", route, method, status, elapsed >= 0));
        });
    start();
    Client client(path_);
    client.ask("GET", "/echo/x");
    client.ask("DELETE", "/echo/x");
    client.ask("BREW", "/nothing");
    client.ask("GET", "/count/1");
    client.send("nonsense\r\n\r\n");
    client.answer();
    const auto result = on_loop([&done] { return done; });
    EXPECT_EQ(result, (std::vector<std::string>{"/echo/{name} GET 200 true",
                                                "/echo/{name} DELETE 405 true", " other 404 true",
                                                "/count/{n} GET 200 true", " other 400 true"}));
}

TEST_F(HttpServer, ServesTwoHundredConnectionsAtOnce) {
    start();
    std::vector<std::unique_ptr<Client>> clients;
    for (int i = 0; i < 200; ++i) {
        clients.push_back(std::make_unique<Client>(path_));
        ASSERT_TRUE(clients.back()->is_connected());
        clients.back()->send("GET /sleep/300 HTTP/1.1\r\n\r\n");
    }
    EXPECT_TRUE(becomes(seen_.begun, 200));
    EXPECT_TRUE(has_connections(200));
    for (const auto& client : clients)
        EXPECT_EQ(client->answer().status, 200);
    for (const auto& client : clients)
        EXPECT_EQ(client->ask("GET", "/echo/x").status, 200);
}

TEST_F(HttpServer, OneConnectionTooManyIsToldSoAndAFreedPlaceIsUsed) {
    Limits limits;
    limits.connections = 2;
    start(limits);
    Client first(path_);
    Client second(path_);
    EXPECT_EQ(first.ask("GET", "/echo/x").status, 200);
    EXPECT_EQ(second.ask("GET", "/echo/x").status, 200);
    Client third(path_);
    const Answer answer = third.ask("POST", "/echo/x", std::string(50'000, 'b'));
    EXPECT_EQ(answer.status, 503);
    EXPECT_EQ(code_of(answer), "too_many_connections");
    third.close();
    first.close();
    ASSERT_TRUE(has_connections(1));
    Client fourth(path_);
    EXPECT_EQ(fourth.ask("GET", "/echo/x").status, 200);
}

TEST_F(HttpServer, SocketHasTheModeItWasAskedFor) {
    start();
    struct stat found{};
    ASSERT_EQ(::stat(path_.c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 07777U, 0660U);
    EXPECT_TRUE(S_ISSOCK(found.st_mode));
}

TEST_F(HttpServer, RefusesASocketThatAnotherServerAnswersOn) {
    start();
    Server second(loop_.get_executor(), router_);
    try {
        on_loop([&] { second.listen_unix(path_); });
        ADD_FAILURE() << "two servers on one socket";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kConflict);
        EXPECT_EQ(error.code(), "socket_in_use");
    }
    Client client(path_);
    EXPECT_EQ(client.ask("GET", "/echo/x").status, 200);
}

TEST_F(HttpServer, RefusesASocketOfAServerThatKnowsNoLock) {
    const UniqueFd foreign(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path_.c_str(), sizeof address.sun_path - 1);
    const void* raw = &address;
    ASSERT_EQ(::bind(foreign.get(), static_cast<const sockaddr*>(raw), sizeof address), 0);
    ASSERT_EQ(::listen(foreign.get(), 1), 0);
    try {
        start();
        ADD_FAILURE() << "a live socket was replaced";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), "socket_in_use");
    }
}

TEST_F(HttpServer, ReplacesTheSocketOfADeadServer) {
    {
        const UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strncpy(address.sun_path, path_.c_str(), sizeof address.sun_path - 1);
        const void* raw = &address;
        ASSERT_EQ(::bind(dead.get(), static_cast<const sockaddr*>(raw), sizeof address), 0);
    }
    std::ofstream(path_.native() + "~") << "left over";
    start();
    Client client(path_);
    EXPECT_EQ(client.ask("GET", "/echo/x").status, 200);
}

TEST_F(HttpServer, NeverReplacesAFileThatIsNoSocket) {
    std::ofstream(path_) << "precious";
    try {
        start();
        ADD_FAILURE() << "a file was replaced";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), "socket_path_taken");
    }
    EXPECT_EQ(std::filesystem::file_size(path_), 8U);
}

TEST_F(HttpServer, RefusesASocketPathTheKernelCannotTake) {
    path_ = directory_ / std::string(100, 's');
    try {
        start();
        ADD_FAILURE() << "was accepted";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kInvalid);
        EXPECT_EQ(error.code(), "socket_path_too_long");
    }
}

TEST_F(HttpServer, ListensOnTcpWithoutPeerCredentials) {
    start();
    const std::uint16_t port = on_loop([this] { return server_->listen_tcp("127.0.0.1", 0); });
    Client client(port);
    const nlohmann::json body = body_of(client.ask("GET", "/echo/x"));
    EXPECT_EQ(body["method"], "GET");
    EXPECT_FALSE(body.contains("peer"));
    try {
        on_loop([&] { server_->listen_tcp("127.0.0.1", port); });
        ADD_FAILURE() << "two servers on one port";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), "port_in_use");
    }
    EXPECT_THROW(on_loop([&] { server_->listen_tcp("nowhere", 0); }), Error);
}

TEST_F(HttpServer, DrainLetsRequestsEndAndClosesTheRest) {
    start();
    Client busy(path_);
    busy.send("GET /sleep/600 HTTP/1.1\r\n\r\n");
    Client idle(path_);
    EXPECT_EQ(idle.ask("GET", "/echo/x").status, 200);
    Client tail(path_);
    tail.send("GET /wait HTTP/1.1\r\n\r\n");
    ASSERT_TRUE(tail.read_until("waiting\n"));
    ASSERT_TRUE(becomes(seen_.begun, 2));

    const auto start = steady_clock::now();
    drain(seconds(10));
    EXPECT_LT(steady_clock::now() - start, seconds(3));
    const Answer answer = busy.answer();
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(answer.header("connection"), "close");
    EXPECT_TRUE(idle.is_closed_by_server());
    EXPECT_FALSE(tail.answer().is_whole);
    EXPECT_EQ(seen_.ended, 2);
    EXPECT_FALSE(std::filesystem::exists(path_));
    EXPECT_FALSE(Client(path_).is_connected());
    EXPECT_EQ(on_loop([this] { return server_->connections(); }), 0U);
}

TEST_F(HttpServer, DrainCancelsWhatOutlastsItsPatience) {
    start();
    Client client(path_);
    client.send("GET /sleep/60000 HTTP/1.1\r\n\r\n");
    ASSERT_TRUE(becomes(seen_.begun, 1));
    const auto start = steady_clock::now();
    drain(milliseconds(200));
    EXPECT_LT(steady_clock::now() - start, seconds(2));
    EXPECT_EQ(seen_.ended, 1);
    EXPECT_TRUE(client.is_closed_by_server());
}

TEST_F(HttpServer, AnotherServerMayTakeTheSocketAfterADrain) {
    start();
    drain(milliseconds(100));
    on_loop([this] {
        server_ = std::make_unique<Server>(loop_.get_executor(), router_);
        server_->listen_unix(path_);
    });
    Client client(path_);
    EXPECT_EQ(client.ask("GET", "/echo/x").status, 200);
}

TEST_F(HttpServer, ALoopThatIsThrownAwayTakesItsConnectionsAlong) {
    {
        asio::io_context loop(1);
        auto server = std::make_unique<Server>(loop.get_executor(), router_);
        server->listen_unix(path_);
        Client client(path_);
        client.send("GET /wait HTTP/1.1\r\n\r\n");
        loop.run_for(milliseconds(100));
        EXPECT_EQ(seen_.begun, 1);
        EXPECT_EQ(server->connections(), 1U);
    }
    EXPECT_EQ(seen_.ended, 1);
}

}  // namespace
}  // namespace bpg::http::test
