#include "orchestrator/http/router.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/asio/this_coro.hpp>
#include <exception>
#include <stdexcept>
#include <utility>

#include "orchestrator/base/error.h"
#include "orchestrator/base/log.h"
#include "orchestrator/http/problem.h"

namespace bpg::http {
namespace {

bool is_name(std::string_view segment) {
    return segment.size() > 2 && segment.front() == '{' && segment.back() == '}';
}

std::vector<std::string> split(std::string_view route) {
    std::vector<std::string> segments;
    if (route == "/") return segments;
    while (!route.empty()) {
        route.remove_prefix(1);
        const std::size_t slash = std::min(route.find('/'), route.size());
        segments.emplace_back(route.substr(0, slash));
        route.remove_prefix(slash);
    }
    return segments;
}

bool fits(const std::vector<std::string>& route, const std::vector<std::string>& path) {
    return std::equal(route.begin(), route.end(), path.begin(), path.end(),
                      [](const std::string& expected, const std::string& given) {
                          return is_name(expected) ? !given.empty() : expected == given;
                      });
}

/// Whether the first segment in which the two differ in kind is literal in `left`.
bool is_more_literal(const std::vector<std::string>& left, const std::vector<std::string>& right) {
    return std::lexicographical_compare(
        left.begin(), left.end(), right.begin(), right.end(),
        [](const std::string& a, const std::string& b) { return !is_name(a) && is_name(b); });
}

Response route_not_found(const Request& request) {
    return problem_response(
        {ErrorKind::kNotFound, "route_not_found",
         fmt::format("there is nothing at {}", log::escape(request.path)),
         "no route of the API has this path", "GET /openapi.json lists every route"},
        request.id);
}

Response method_not_allowed(const Request& request, std::vector<std::string> methods) {
    if (std::find(methods.begin(), methods.end(), "GET") != methods.end()) {
        methods.emplace_back("HEAD");
    }
    std::sort(methods.begin(), methods.end());
    const std::string allowed = fmt::format("{}", fmt::join(methods, ", "));
    Response response = problem_response(
        {ErrorKind::kInvalid, "method_not_allowed",
         fmt::format("{} cannot be done with {}", request.method, log::escape(request.path)),
         fmt::format("it takes {}", allowed), "use one of these methods"},
        request.id, 405);
    response.headers.emplace_back("Allow", allowed);
    return response;
}

/// What a handler threw, as the answer; bugs and broken data also go to the log.
Response failed(const std::exception_ptr& failure, const Request& request,
                const std::string& route) {
    const ErrorInfo info = describe(failure);
    if (info.kind == ErrorKind::kInternal || info.kind == ErrorKind::kCorrupt) {
        log::error("a request failed", {{"request", request.id},
                                        {"method", request.method},
                                        {"route", route},
                                        {"code", info.code},
                                        {"what", info.message},
                                        {"why", info.detail}});
    }
    return problem_response(info, request.id);
}

}  // namespace

void Router::add(std::string method, std::string_view route, Handler handler) {
    Route added{std::move(method), std::string(route), split(route), std::move(handler)};
    const bool known = std::any_of(routes_.begin(), routes_.end(), [&added](const Route& other) {
        return other.method == added.method && other.text == added.text;
    });
    if (known || !route.starts_with('/')) {
        throw std::logic_error(fmt::format("bad route {} {}", added.method, added.text));
    }
    routes_.push_back(std::move(added));
}

std::vector<const Router::Route*> Router::routes_of(
    const std::vector<std::string>& segments) const {
    std::vector<const Route*> found;
    for (const Route& route : routes_) {
        if (!fits(route.segments, segments)) continue;
        if (!found.empty() && is_more_literal(route.segments, found.front()->segments)) {
            found.clear();
        }
        if (found.empty() || !is_more_literal(found.front()->segments, route.segments)) {
            found.push_back(&route);
        }
    }
    return found;
}

asio::awaitable<Router::Answer> Router::answer(Request request) const {
    const std::vector<const Route*> candidates = routes_of(request.segments);
    Answer answer;
    if (candidates.empty()) {
        answer.response = route_not_found(request);
        co_return answer;
    }
    const Route* chosen = nullptr;
    std::vector<std::string> methods;
    for (const Route* route : candidates) {
        const bool same =
            route->method == request.method || (request.method == "HEAD" && route->method == "GET");
        if (same && (chosen == nullptr || route->method == request.method)) chosen = route;
        methods.push_back(route->method);
    }
    answer.route = candidates.front()->text;
    if (chosen == nullptr) {
        answer.response = method_not_allowed(request, std::move(methods));
        co_return answer;
    }
    answer.route = chosen->text;
    for (std::size_t i = 0; i < chosen->segments.size(); ++i) {
        const std::string& name = chosen->segments[i];
        if (is_name(name)) request.params[name.substr(1, name.size() - 2)] = request.segments[i];
    }
    std::exception_ptr failure;
    try {
        answer.response = co_await chosen->handler(request);
    } catch (...) {  // translated below
        failure = std::current_exception();
    }
    const auto cancellation = co_await asio::this_coro::cancellation_state;
    if (failure && cancellation.cancelled() != asio::cancellation_type::none) {
        std::rethrow_exception(failure);
    }
    if (failure) answer.response = failed(failure, request, answer.route);
    co_return answer;
}

void Router::request_done(std::string_view route, std::string_view method, int status,
                          double seconds) const {
    static constexpr std::array<std::string_view, 7> kMethods{"GET",   "HEAD",   "POST",   "PUT",
                                                              "PATCH", "DELETE", "OPTIONS"};
    const bool usual = std::find(kMethods.begin(), kMethods.end(), method) != kMethods.end();
    if (done_) done_(route, usual ? method : "other", status, seconds);
}

}  // namespace bpg::http
