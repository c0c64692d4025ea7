// The HTTP/1.1 server: unix sockets for the API, TCP for /metrics. One coroutine a connection, all
// on the loop thread. A limit on everything; a slow or silent client costs its own connection only.
#pragma once

#include <sys/types.h>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "orchestrator/http/router.h"

namespace bpg::http {

struct Limits {
    std::size_t header_bytes = 8192;                ///< beyond: 431
    std::size_t body_bytes = 1 << 20;               ///< beyond: 413
    std::size_t connections = 256;                  ///< beyond: 503 and closed
    std::chrono::milliseconds idle_time{60'000};    ///< between requests; then closed
    std::chrono::milliseconds header_time{10'000};  ///< from a header's first byte to its end; 408
    std::chrono::milliseconds body_time{30'000};    ///< for a whole body; 408
    std::chrono::milliseconds write_time{30'000};   ///< without one byte taken; then closed
};

/// Loop thread only. Handlers have no time limit of their own. Await drain() before the end; the
/// router must live until the executor's loop has stopped or drain() is over.
class Server {
  public:
    Server(asio::any_io_executor executor, const Router& router, Limits limits = {});
    /// Closes what drain() did not; handlers that still run are not waited for.
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    /// Listens on a unix socket. A stale socket file is replaced in one step; another server's is
    /// kConflict `socket_in_use`, any other file there kConflict `socket_path_taken`, a path over
    /// 106 bytes kInvalid `socket_path_too_long`. Keeps a lock file "<path>.lock". Blocks for some
    /// µs.
    void listen_unix(const std::filesystem::path& path, mode_t mode = 0660,
                     std::optional<gid_t> group = std::nullopt);

    /// Listens on an IP address (port 0: any free one) and returns the port. Throws kConflict
    /// `port_in_use`, kInvalid `address_invalid`.
    std::uint16_t listen_tcp(const std::string& host, std::uint16_t port);

    /// Stops: no new connections, idle ones are closed and streams cut at once; running requests
    /// get `patience` to be answered, then they are cancelled. Returns when every connection has
    /// ended, or, where a cancelled handler does not come back, one second later with a warning.
    asio::awaitable<void> drain(std::chrono::milliseconds patience);

    std::size_t connections() const;

  private:
    class State;
    std::shared_ptr<State> state_;
};

}  // namespace bpg::http
