// Which handler answers which method and path. Routes are "/v1/branches/{db}/{br}/start": literal
// segments, and "{name}" for any one non-empty segment; a literal wins over a name. All on the loop
// thread.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "orchestrator/http/message.h"

namespace bpg::http {

/// Answers one request. May throw: a bpg::Error becomes its problem object, anything else a 500.
using Handler = std::function<asio::awaitable<Response>(Request)>;

/// Told after each answer, also about refusals of the router and the server. `route` is the
/// template
/// ("" when no route matched), `method` one of the usual words or "other", so that both are safe as
/// metric labels. `seconds` ends where a streamed body begins.
using RequestDone = std::function<void(std::string_view route, std::string_view method, int status,
                                       double seconds)>;

class Router {
  public:
    /// Routes are added before the server starts; the same method and route twice is a
    /// std::logic_error.
    void add(std::string method, std::string_view route, Handler handler);
    void on_request_done(RequestDone hook) { done_ = std::move(hook); }

    struct Answer {
        Response response;
        std::string route;  ///< the template, "" when none matched
    };
    /// 404 `route_not_found`, 405 `method_not_allowed` with Allow, or what the handler answers.
    /// HEAD is answered by the GET handler. Throws only when it is cancelled.
    asio::awaitable<Answer> answer(Request request) const;

    void request_done(std::string_view route, std::string_view method, int status,
                      double seconds) const;

  private:
    struct Route {
        std::string method;
        std::string text;
        std::vector<std::string> segments;
        Handler handler;
    };
    /// The routes that fit a path, all of the same (the most literal) template.
    std::vector<const Route*> routes_of(const std::vector<std::string>& segments) const;

    std::vector<Route> routes_;
    RequestDone done_;
};

}  // namespace bpg::http
