// What handlers see of HTTP: plain structs, no HTTP library. A handler takes a Request and returns
// a Response, whose body is either a string or a stream written piece by piece.
#pragma once

#include <sys/types.h>

#include <boost/asio/awaitable.hpp>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bpg::http {

namespace asio = boost::asio;

/// Who is on the other end of a unix socket, as the kernel said when it connected.
struct PeerCredentials {
    pid_t pid = 0;
    uid_t uid = 0;
    gid_t gid = 0;
};

/// Header fields in the order of their arrival; names are looked up whatever their case.
class Headers {
  public:
    void add(std::string name, std::string value);
    /// The first field of that name; nothing when there is none.
    std::optional<std::string> find(std::string_view name) const;
    const std::vector<std::pair<std::string, std::string>>& all() const { return fields_; }

  private:
    std::vector<std::pair<std::string, std::string>> fields_;
};

struct Request {
    std::string id;      ///< from X-Request-Id, or made; in the answer, the log and problems
    std::string method;  ///< as sent: "GET"
    std::string path;    ///< as sent, without the query
    std::vector<std::string> segments;  ///< of the path, percent-decoded; "%2F" stays inside one
    std::map<std::string, std::string> query;   ///< decoded; of a repeated name the last one counts
    std::map<std::string, std::string> params;  ///< what stood for "{name}" in the route
    Headers headers;
    std::string body;
    std::optional<PeerCredentials> peer;  ///< unix sockets only

    /// The part of the path that stood for "{name}". The route must have it.
    const std::string& param(const std::string& name) const { return params.at(name); }
    /// A query parameter; nothing when it is not there.
    std::optional<std::string> query_value(const std::string& name) const;
};

/// Takes the pieces of a streamed body.
class StreamWriter {
  public:
    virtual ~StreamWriter() = default;
    /// Sends one piece; comes back when the kernel has taken it, so a slow reader slows its writer.
    /// False: the client is gone or does not read, and nothing more can be sent.
    virtual asio::awaitable<bool> write(std::string piece) = 0;
};

/// Writes a body. It is kept until the coroutine it returned has ended; it must not be a capturing
/// lambda that is itself a coroutine, but may be a capturing lambda that calls one. When the client
/// goes away or the server drains, its current wait ends with operation_aborted: let that pass.
/// When it throws, the connection is cut without the end mark, so that the client can tell.
using StreamBody = std::function<asio::awaitable<void>(StreamWriter&)>;

struct Response {
    int status = 200;
    std::string content_type = "application/json";
    std::vector<std::pair<std::string, std::string>> headers;  ///< beyond those the server sets
    std::string body;
    StreamBody stream;  ///< when set, `body` is not used
};

/// Splits a request target ("/v1/x?y=z", or with "http://host" before it) into path, segments and
/// query. False when it is malformed: a broken escape, a control character, no leading slash.
bool parse_target(std::string_view target, Request& request);

}  // namespace bpg::http
