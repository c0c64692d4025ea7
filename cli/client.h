// One request after another to bpgd over its unix socket. Blocking; only client.cc knows Beast. A
// connection is made for each request: over a unix socket that costs microseconds, and no stale
// connection ever has to be told from a dead daemon.
#pragma once

#include <chrono>
#include <exception>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/interrupt.h"

namespace bpg::cli {

/// bpgd is not there, or went away in the middle. Whoever waits for a job tries again.
class Unreachable : public std::exception {
  public:
    Unreachable(std::string why, bool request_sent)
        : why_(std::move(why)), request_sent_(request_sent) {}

    const char* what() const noexcept override { return why_.c_str(); }
    /// Whether bpgd may have acted on the request.
    bool request_sent() const { return request_sent_; }

  private:
    std::string why_;
    bool request_sent_;
};

struct Request {
    std::string method;
    std::string target;
    nlohmann::json body;          ///< null: none
    std::string idempotency_key;  ///< empty: none
};

struct Response {
    int status = 0;
    nlohmann::json body;
};

class Client {
  public:
    explicit Client(std::filesystem::path socket) : socket_(std::move(socket)) {}

    const std::filesystem::path& socket() const { return socket_; }
    /// Every wait ends there with DeadlinePassed; nothing: only the limits below hold.
    void set_deadline(Deadline deadline) { deadline_ = deadline; }
    const Deadline& deadline() const { return deadline_; }

    /// The answer of a success; throws Failure for a problem, Unreachable, Interrupted,
    /// DeadlinePassed.
    Response call(const Request& request) const;
    nlohmann::json get(const std::string& target) const;

    /// Reads an NDJSON answer line by line as it comes, with no limit between two lines. Returns
    /// when the server ended it properly; throws Unreachable when it broke off, else as call().
    void stream(const std::string& target,
                const std::function<void(const std::string& line)>& on_line) const;

  private:
    std::filesystem::path socket_;
    Deadline deadline_;
};

}  // namespace bpg::cli
