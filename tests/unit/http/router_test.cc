// Which handler answers, and what callers are told when none does.
#include "orchestrator/http/router.h"

#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "orchestrator/base/error.h"
#include "orchestrator/http/problem.h"

namespace bpg::http {
namespace {

asio::awaitable<Response> say(std::string text) {
    Response response;
    response.body = std::move(text);
    co_return response;
}

asio::awaitable<Response> fail(std::exception_ptr failure) {
    std::rethrow_exception(failure);
    co_return Response{};
}

template <class Failure>
Handler failing_with(Failure failure) {
    return [failure](const Request&) { return fail(std::make_exception_ptr(failure)); };
}

class RouterTest : public testing::Test {
  protected:
    void SetUp() override {
        router_.add("GET", "/", [](const Request&) { return say("root"); });
        router_.add("GET", "/v1/jobs/{id}", [](const Request& r) { return say(r.param("id")); });
        router_.add("POST", "/v1/jobs/{id}", [](const Request&) { return say("posted"); });
        router_.add("GET", "/v1/jobs/all", [](const Request&) { return say("the literal"); });
        router_.add("GET", "/v1/branches/{db}/{br}",
                    [](const Request& r) { return say(r.param("db") + " and " + r.param("br")); });
    }

    Router::Answer ask(const std::string& method, std::string_view target) {
        Request request;
        request.id = "r1";
        request.method = method;
        EXPECT_TRUE(parse_target(target, request));
        asio::io_context loop;
        auto answer = asio::co_spawn(loop, router_.answer(std::move(request)), asio::use_future);
        loop.run();
        return answer.get();
    }

    Router router_;
};

nlohmann::json problem_of(const Router::Answer& answer) {
    EXPECT_EQ(answer.response.content_type, "application/problem+json");
    return nlohmann::json::parse(answer.response.body);
}

TEST_F(RouterTest, GivesHandlersWhatStoodForTheNames) {
    EXPECT_EQ(ask("GET", "/").response.body, "root");
    const Router::Answer answer = ask("GET", "/v1/branches/prod/a%2Fb");
    EXPECT_EQ(answer.response.body, "prod and a/b");
    EXPECT_EQ(answer.route, "/v1/branches/{db}/{br}");
}

TEST_F(RouterTest, PrefersLiteralSegments) {
    EXPECT_EQ(ask("GET", "/v1/jobs/all").response.body, "the literal");
    EXPECT_EQ(ask("GET", "/v1/jobs/x").response.body, "x");
}

TEST_F(RouterTest, AnswersHeadWithTheGetHandler) {
    EXPECT_EQ(ask("HEAD", "/v1/jobs/x").response.body, "x");
}

TEST_F(RouterTest, AnUnknownPathIsNotFoundAndHasNoRoute) {
    for (const char* target : {"/v1/job", "/v1/jobs", "/v1/jobs/", "/v1/jobs/x/y", "/v1//x"}) {
        const Router::Answer answer = ask("GET", target);
        EXPECT_EQ(answer.response.status, 404) << target;
        EXPECT_EQ(answer.route, "");
        EXPECT_EQ(problem_of(answer)["code"], "route_not_found");
        EXPECT_EQ(problem_of(answer)["instance"], "/requests/r1");
    }
}

TEST_F(RouterTest, AnotherMethodIsRefusedNamingTheAllowedOnes) {
    const Router::Answer answer = ask("DELETE", "/v1/jobs/x");
    EXPECT_EQ(answer.response.status, 405);
    EXPECT_EQ(answer.route, "/v1/jobs/{id}");
    const nlohmann::json problem = problem_of(answer);
    EXPECT_EQ(problem["code"], "method_not_allowed");
    EXPECT_EQ(problem["status"], 405);
    ASSERT_EQ(answer.response.headers.size(), 1U);
    EXPECT_EQ(answer.response.headers[0].first, "Allow");
    EXPECT_EQ(answer.response.headers[0].second, "GET, HEAD, POST");
}

TEST_F(RouterTest, TurnsWhatHandlersThrowIntoProblems) {
    router_.add("GET", "/conflict",
                failing_with(Error(ErrorKind::kConflict, "busy", "it is busy", "why", "wait")));
    router_.add("GET", "/full", failing_with(Error(ErrorKind::kExhausted, "queue_full", "full")));
    router_.add("GET", "/space", failing_with(Error(ErrorKind::kExhausted, "no_space", "full")));
    router_.add("GET", "/bug", failing_with(std::runtime_error("oops \xff")));

    const nlohmann::json conflict = problem_of(ask("GET", "/conflict"));
    EXPECT_EQ(conflict["status"], 409);
    EXPECT_EQ(conflict["title"], "it is busy");
    EXPECT_EQ(conflict["detail"], "why");
    EXPECT_EQ(conflict["hint"], "wait");
    EXPECT_EQ(conflict["kind"], "conflict");
    EXPECT_EQ(ask("GET", "/full").response.status, 429);
    EXPECT_EQ(ask("GET", "/space").response.status, 507);
    const Router::Answer bug = ask("GET", "/bug");
    EXPECT_EQ(bug.response.status, 500);
    EXPECT_EQ(problem_of(bug)["code"], "internal");
}

TEST_F(RouterTest, RefusesTheSameRouteTwice) {
    const Handler handler = [](const Request&) { return say(""); };
    EXPECT_THROW(router_.add("GET", "/v1/jobs/{id}", handler), std::logic_error);
    EXPECT_THROW(router_.add("GET", "no/slash", handler), std::logic_error);
}

TEST_F(RouterTest, UnusualMethodsBecomeOneLabel) {
    std::vector<std::string> methods;
    router_.on_request_done([&methods](std::string_view, std::string_view method, int, double) {
        methods.emplace_back(method);
    });
    router_.request_done("/", "PATCH", 200, 0);
    router_.request_done("/", "BREW", 405, 0);
    EXPECT_EQ(methods, (std::vector<std::string>{"PATCH", "other"}));
}

TEST(Problem, OfAMalformedRequestIs400) {
    const Response response = malformed_request("no JSON", "r1");
    EXPECT_EQ(response.status, 400);
    EXPECT_EQ(nlohmann::json::parse(response.body)["detail"], "no JSON");
}

}  // namespace
}  // namespace bpg::http
