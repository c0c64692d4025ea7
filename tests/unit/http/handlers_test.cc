// The API as a caller sees it.
#include <sstream>

#include "tests/unit/http/handlers_fixture.h"

namespace bpg::http::test {
namespace {

TEST_F(HandlersTest, AnswersOnlyHealthUntilReady) {
    ready_ = false;
    EXPECT_EQ(call("GET", "/healthz").status, 200);
    expect_refused(call("GET", "/readyz"), 503, "starting");
    expect_refused(call("GET", "/v1/status"), 503, "starting");
    expect_refused(call("POST", "/v1/databases", {{"name", "prod"}}), 503, "starting");
    ready_ = true;
    EXPECT_EQ(object(call("GET", "/readyz"))["status"], "ready");
}

TEST_F(HandlersTest, RefusesBodiesItDoesNotUnderstand) {
    expect_refused(call("POST", "/v1/databases"), 400, "request_malformed");
    expect_refused(call("POST", "/v1/databases", json::array()), 422, "field_invalid");
    expect_refused(call("POST", "/v1/databases", json::object()), 422, "field_missing");
    expect_refused(call("POST", "/v1/databases", {{"name", 1}}), 422, "field_invalid");
    const Response unknown = call("POST", "/v1/databases", {{"name", "prod"}, {"a/b", 1}});
    expect_refused(unknown, 422, "field_unknown");
    EXPECT_NE(unknown.body.find("/a~1b"), std::string::npos) << unknown.body;
    expect_refused(call("POST", "/v1/databases", {{"name", "prod"}, {"image", "postgres:15"}}), 422,
                   "image_unsupported");
    EXPECT_EQ(open_jobs(), 0U);
}

TEST_F(HandlersTest, CreatesADatabaseAsAJobThatItNames) {
    const Response created = call("POST", "/v1/databases", {{"name", "prod"}});
    ASSERT_EQ(created.status, 202) << created.body;
    const json job = object(created);
    EXPECT_EQ(job["operation"], "db-create");
    EXPECT_EQ(job["target"], "prod");
    ASSERT_FALSE(created.headers.empty());
    EXPECT_EQ(created.headers.front().first, "Location");
    EXPECT_EQ(object(call("GET", created.headers.front().second))["id"], job["id"]);
    EXPECT_EQ(object(call("GET", "/v1/databases/prod"))["branches"], 1);
    EXPECT_EQ(object(call("GET", "/v1/branches/prod/main"))["state"], "creating");
}

TEST_F(HandlersTest, AnswersARepeatedKeyWithTheSameJobAndNothingElse) {
    add_prod();
    const std::vector<std::pair<std::string, std::string>> key{{"idempotency-key", "k1"}};
    const json body{{"ref", "prod/new"}};
    const json first = object(call("POST", "/v1/branches", body, key));
    ASSERT_TRUE(first.contains("operation")) << first;
    end_job(first["id"]);
    EXPECT_EQ(object(call("POST", "/v1/branches", body, key))["id"], first["id"]);
    EXPECT_EQ(open_jobs(), 0U);
    expect_refused(call("POST", "/v1/branches", {{"ref", "prod/other"}}, key), 422,
                   "idempotency_key_reused");
}

TEST_F(HandlersTest, DoesNotTakeAForcedRequestForTheSameRequest) {
    add_prod();
    const std::vector<std::pair<std::string, std::string>> key{{"Idempotency-Key", "k2"}};
    ASSERT_EQ(call("DELETE", "/v1/branches/prod/dev", nullptr, key).status, 202);
    expect_refused(call("DELETE", "/v1/branches/prod/dev?force=1", nullptr, key), 422,
                   "idempotency_key_reused");
}

TEST_F(HandlersTest, WaitsNoLongerThanItIsAskedTo) {
    add_prod();
    const std::vector<std::pair<std::string, std::string>> prefer{{"Prefer", "x, wait=0"}};
    EXPECT_EQ(call("POST", "/v1/branches/prod/dev/stop", nullptr, prefer).status, 202);
    end_job(queue_.open_jobs().begin()->second->id);
    const Response answer = call("POST", "/v1/branches/prod/dev/stop", {{"force", false}}, prefer);
    EXPECT_EQ(answer.status, 202) << "a new job, which nobody runs";
}

TEST_F(HandlersTest, AnswersWithTheFinalJobWhenItEndsWithinTheWait) {
    add_prod();
    const json job = object(call("POST", "/v1/branches/prod/dev/stop"));
    auto ended = asio::co_spawn(loop_, end_later(queue_, job["id"]), asio::use_future);
    const Response answer =
        call("POST", "/v1/branches/prod/dev/stop", nullptr, {{"Prefer", "wait=30"}});
    ended.get();
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(object(answer)["id"], job["id"]);
    EXPECT_EQ(object(answer)["state"], "succeeded");
}

TEST_F(HandlersTest, AnswersWithTheExistingObjectWhenAskedTo) {
    add_prod();
    const Response database =
        call("POST", "/v1/databases", {{"name", "prod"}, {"if_not_exists", true}});
    EXPECT_EQ(database.status, 200);
    EXPECT_EQ(object(database)["branches"], 3);
    const Response same =
        call("POST", "/v1/branches",
             {{"ref", "prod/dev"}, {"from", "prod/main"}, {"if_not_exists", true}});
    EXPECT_EQ(same.status, 200);
    EXPECT_FALSE(object(same).contains("note"));
    const Response other =
        call("POST", "/v1/branches",
             {{"ref", "prod/dev"}, {"from", "prod/a-first"}, {"if_not_exists", true}});
    EXPECT_EQ(other.status, 200);
    EXPECT_NE(object(other).value("note", "").find("made from prod/main"), std::string::npos);
    expect_refused(call("POST", "/v1/branches", {{"ref", "prod/dev"}}), 409, "branch_exists");
    EXPECT_EQ(open_jobs(), 0U);
}

TEST_F(HandlersTest, AnswersWithTheJobThatIsMakingTheBranch) {
    add_prod();
    const json job =
        object(call("POST", "/v1/branches", {{"ref", "prod/new"}, {"from", "prod/dev"}}));
    const Response again =
        call("POST", "/v1/branches", {{"ref", "prod/new"}, {"if_not_exists", true}});
    EXPECT_EQ(again.status, 202);
    EXPECT_EQ(object(again)["id"], job["id"]);
}

TEST_F(HandlersTest, ListsMainFirstThenByName) {
    add_prod();
    const json items = object(call("GET", "/v1/branches?database=prod"))["items"];
    ASSERT_EQ(items.size(), 3U);
    EXPECT_EQ(items[0]["ref"], "prod/main");
    EXPECT_EQ(items[1]["ref"], "prod/a-first");
    EXPECT_EQ(items[2]["ref"], "prod/dev");
    expect_refused(call("GET", "/v1/branches?database=none"), 404, "database_not_found");
}

TEST_F(HandlersTest, GivesAPasswordOnlyToAPeerOfTheUnixSocket) {
    add_prod();
    expect_refused(call("GET", "/v1/branches/prod/dev/credentials"), 409, "password_missing");
    const Secret password = secrets_.ensure_password(dev_);
    const Response answer = call("GET", "/v1/branches/prod/dev/credentials");
    EXPECT_EQ(object(answer), (json{{"user", "postgres"},
                                    {"password", password.reveal()},
                                    {"host", "127.0.0.1"},
                                    {"port", 5433},
                                    {"dbname", "postgres"}}));
    peer_.reset();
    expect_refused(call("GET", "/v1/branches/prod/dev/credentials"), 403, "credentials_local_only");
    for (const char* target : {"/v1/branches/prod/dev", "/v1/status", "/v1/branches"}) {
        EXPECT_EQ(call("GET", target).body.find(password.reveal()), std::string::npos) << target;
    }
}

TEST_F(HandlersTest, StreamsEveryEventOnceAndEndsWithTheJob) {
    add_prod();
    const std::string id = object(call("POST", "/v1/branches/prod/dev/stop"))["id"];
    jobs::Job job = queue_.get(id);
    jobs::Batch batch;
    for (int i = 0; i < 1200; ++i)
        queue_.append_event(job, batch, "warning", "", "more");
    run(queue_.commit(job, std::move(batch)));
    const Response answer = call("GET", "/v1/jobs/" + id.substr(0, 6) + "/events?after=1&follow=1");
    ASSERT_TRUE(answer.stream) << answer.body;
    Collector writer;
    auto ended = asio::co_spawn(loop_, end_later(queue_, id), asio::use_future);
    run(answer.stream(writer));
    ended.get();
    std::istringstream lines(writer.text);
    std::uint64_t expected = 2;
    std::string last;
    for (std::string line; std::getline(lines, line); ++expected) {
        const json event = json::parse(line);
        ASSERT_EQ(event["seq"], expected);
        last = event["type"];
    }
    EXPECT_EQ(expected, 1203U);
    EXPECT_EQ(last, "job_succeeded");
}

TEST_F(HandlersTest, EndsAStreamAtOnceWhenNotFollowing) {
    add_prod();
    const std::string id = object(call("POST", "/v1/branches/prod/dev/stop"))["id"];
    Collector writer;
    run(call("GET", "/v1/jobs/" + id + "/events").stream(writer));
    EXPECT_EQ(json::parse(writer.text)["type"], "job_queued");
}

TEST_F(HandlersTest, RefusesQueryParametersItCannotRead) {
    expect_refused(call("GET", "/v1/jobs?state=asleep"), 422, "parameter_invalid");
    expect_refused(call("GET", "/v1/jobs?limit=0"), 422, "parameter_invalid");
    expect_refused(call("GET", "/v1/jobs/none/events?after=-1"), 422, "parameter_invalid");
    expect_refused(call("GET", "/v1/jobs/none"), 404, "job_not_found");
    add_prod();
    expect_refused(call("DELETE", "/v1/branches/prod/dev?force=maybe"), 422, "parameter_invalid");
}

TEST_F(HandlersTest, ShowsEverythingInTheStatus) {
    add_prod();
    call("POST", "/v1/branches/prod/dev/stop");
    const json status = object(call("GET", "/v1/status"));
    EXPECT_EQ(status["databases"][0]["name"], "prod");
    EXPECT_EQ(status["databases"][0]["branches"][0]["url"],
              "postgresql://postgres@127.0.0.1:5432/postgres");
    EXPECT_EQ(status["jobs"], (json{{"queued", 1}, {"running", 0}, {"failed_24h", 0}}));
    EXPECT_EQ(status["warnings"], json::array());
    EXPECT_EQ(status["schedules"]["next"], json::array());
    EXPECT_TRUE(status["daemon"]["uptime_seconds"].is_number_integer());
}

}  // namespace
}  // namespace bpg::http::test
