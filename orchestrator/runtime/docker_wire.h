// HTTP to the Docker Engine over its unix socket: one connection a call, a deadline and a limit on
// each, the API version negotiated. Knows nothing of containers.
//
// Loop thread only. Errors: kUnavailable `runtime_unavailable` when dockerd is not there, hangs or
// breaks off; kInvalid `docker_too_old`. What dockerd answers, also 404 and 500, is an answer.
// A cancelled call throws boost::system::system_error (operation_aborted).
#pragma once

#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace bpg::runtime {

namespace asio = boost::asio;

struct DockerRequest {
    std::string method = "GET";
    std::string target;  ///< with a query, without the API version: "/containers/json?all=1"
    std::string body;    ///< JSON; may be empty
    /// For the whole exchange; of a stream: without one byte. Zero: none.
    std::chrono::milliseconds deadline{30'000};
    std::size_t body_max = 8 << 20;  ///< of an answer that is kept
};

struct DockerAnswer {
    int status = 0;
    std::string body;

    /// 2xx, and 304: what was asked for is so already.
    bool ok() const { return (status >= 200 && status < 300) || status == 304; }
    /// What dockerd says went wrong.
    std::string message() const;
};

/// Who takes a stream. Neither may throw.
struct DockerSink {
    std::function<void()> opened = {};  ///< dockerd has begun a good answer
    std::function<void(std::string_view)> received;
};

class DockerWire {
  public:
    explicit DockerWire(std::filesystem::path socket) : socket_(std::move(socket)) {}

    asio::awaitable<DockerAnswer> call(DockerRequest request);
    /// The body of a good answer goes to the sink as it comes; a refusal's is in the result.
    asio::awaitable<DockerAnswer> stream(DockerRequest request, DockerSink sink);

    const std::filesystem::path& socket() const { return socket_; }

  private:
    asio::awaitable<DockerAnswer> exchange(DockerRequest request, const DockerSink* sink);
    asio::awaitable<int> negotiate();

    std::filesystem::path socket_;
    std::optional<int> minor_;  ///< of API version 1.x, once known; forgotten when dockerd was away
};

/// Percent-encodes all but unreserved characters.
std::string url_escape(std::string_view text);

/// The minor version to speak with a daemon that offers `api_version`, such as "1.43"; nothing when
/// it is too old or no version.
std::optional<int> negotiated_minor(std::string_view api_version);

}  // namespace bpg::runtime
