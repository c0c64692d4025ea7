// What is told of jobs: their events to readers of any speed, their logs, why they stand where they
// stand, and what was told to stand still.
#include <sstream>

#include "tests/unit/http/handlers_fixture.h"

namespace bpg::http::test {
namespace {

class JobRoutes : public HandlersTest {
  protected:
    void SetUp() override { add_prod(); }

    std::string stop_dev() { return object(call("POST", "/v1/branches/prod/dev/stop"))["id"]; }

    void add_events(const std::string& id, int number) {
        jobs::Job job = queue_.get(id);
        jobs::Batch batch;
        for (int i = 0; i < number; ++i)
            queue_.append_event(job, batch, "warning", "", "more");
        run(queue_.commit(job, std::move(batch)));
    }

    void expect_error(const Response& response, int status, const json& expected) {
        EXPECT_EQ(response.status, status) << response.body;
        const json error = object(response);
        const json parts{{"code", error["code"]},
                         {"what", error["title"]},
                         {"why", error["detail"]},
                         {"fix", error["hint"]}};
        EXPECT_EQ(parts, expected);
    }
};

std::vector<json> lines_of(const std::string& text) {
    std::vector<json> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);)
        lines.push_back(json::parse(line));
    return lines;
}

/// Does something else, once, before it takes what it is given.
class SlowReader final : public StreamWriter {
  public:
    explicit SlowReader(std::function<asio::awaitable<void>()> meanwhile)
        : meanwhile_(std::move(meanwhile)) {}
    asio::awaitable<bool> write(std::string piece) override {
        text += piece;
        if (auto meanwhile = std::exchange(meanwhile_, nullptr)) co_await meanwhile();
        co_return true;
    }
    std::string text;

  private:
    std::function<asio::awaitable<void>()> meanwhile_;
};

asio::awaitable<void> go_far_ahead(jobs::Queue& queue, std::string id) {
    jobs::Job job = queue.get(id);
    jobs::Batch batch;
    for (int i = 0; i < 3000; ++i)
        queue.append_event(job, batch, "warning", "", "more");
    job.state = jobs::JobState::kSucceeded;
    queue.append_event(job, batch, "job_succeeded", "", "done");
    co_await queue.commit(job, std::move(batch));
}

TEST_F(JobRoutes, AReaderThatFallsFarBehindIsToldWhatItMissed) {
    const std::string id = stop_dev();
    const Response answer = call("GET", "/v1/jobs/" + id + "/events?follow=1");
    ASSERT_TRUE(answer.stream) << answer.body;
    SlowReader reader([this, id] { return go_far_ahead(queue_, id); });
    run(answer.stream(reader));
    const std::vector<json> lines = lines_of(reader.text);
    ASSERT_GT(lines.size(), 2U);
    EXPECT_EQ(lines[0]["seq"], 1);
    EXPECT_EQ(lines[1], (json{{"type", "gap"},
                              {"message", "the reader was too slow for these"},
                              {"data", {{"from", 2}, {"to", 2502}}}}));
    for (std::size_t i = 2; i < lines.size(); ++i)
        EXPECT_EQ(lines[i]["seq"], 2501 + i);
    EXPECT_EQ(lines.back()["type"], "job_succeeded");
    EXPECT_EQ(lines.back()["seq"], 3002);

    // What it missed is there for whoever asks.
    Collector all;
    run(call("GET", "/v1/jobs/" + id + "/events?after=1").stream(all));
    EXPECT_EQ(lines_of(all.text).size(), 3001U);
}

TEST_F(JobRoutes, AReaderThatBeginsLateMissesNothing) {
    const std::string id = stop_dev();
    add_events(id, 4000);
    end_job(id);
    Collector reader;
    run(call("GET", "/v1/jobs/" + id + "/events?follow=1").stream(reader));
    EXPECT_EQ(lines_of(reader.text).size(), 4002U);
    EXPECT_EQ(reader.text.find("gap"), std::string::npos);
}

TEST_F(JobRoutes, ALogHasEventsAndOutputAndIsReadFromAnyByte) {
    const std::string id = stop_dev();
    queue_.log(id, "initdb: warning: a\x1b[31mred\x1b[0m word\n");
    end_job(id);
    Collector whole;
    run(call("GET", "/v1/jobs/" + id + "/log").stream(whole));
    EXPECT_NE(whole.text.find("stop prod/dev queued"), std::string::npos) << whole.text;
    EXPECT_NE(whole.text.find("initdb: warning"), std::string::npos) << whole.text;
    EXPECT_EQ(whole.text.find('\x1b'), std::string::npos) << "a terminal would obey it";
    EXPECT_LT(whole.text.find("queued"), whole.text.find("initdb"));
    Collector rest;
    run(call("GET", "/v1/jobs/" + id + "/log?after=10&follow=1").stream(rest));
    EXPECT_EQ(rest.text, whole.text.substr(10));
    EXPECT_EQ(object(call("GET", "/v1/jobs/" + id))["log_path"],
              (directory_.path() / "jobs" / (id + ".log")).string());
}

TEST_F(JobRoutes, ALogThatIsFullSaysSo) {
    const std::string id = stop_dev();
    queue_.log(id, std::string(3U << 20U, 'x') + "\n");
    queue_.log(id, "never seen\n");
    Collector log;
    run(call("GET", "/v1/jobs/" + id + "/log").stream(log));
    EXPECT_LT(log.text.size(), (1U << 20U) + 200U);
    EXPECT_EQ(log.text.find("never seen"), std::string::npos);
    EXPECT_NE(log.text.find("left out"), std::string::npos)
        << log.text.substr(log.text.size() - 200);
}

TEST_F(JobRoutes, AnExplanationTellsDoneNextHolderAndWorld) {
    const std::string id = stop_dev();
    const json told = object(call("GET", "/v1/jobs/" + id + "?explain=1"))["explanation"];
    EXPECT_EQ(told["done"], json::array());
    EXPECT_EQ(told["step"], "stop_instance");
    EXPECT_EQ(told["next"], "begin with stop_instance (stop PostgreSQL)");
    EXPECT_TRUE(told["held_by"].is_null());
    ASSERT_EQ(told["world"].size(), 1U);
    EXPECT_TRUE(told["world"][0].get<std::string>().starts_with("prod/dev (running): volume "));
    EXPECT_FALSE(object(call("GET", "/v1/jobs/" + id)).contains("explanation"))
        << "the world is looked at only for those who ask";

    queue_.grant(queue_.get(id).number, 0);
    const std::string other =
        object(call("POST", "/v1/branches", {{"ref", "prod/x"}, {"from", "prod/dev"}}))["id"];
    const json held = object(call("GET", "/v1/jobs/" + other + "?explain=1"))["explanation"];
    EXPECT_EQ(held["held_by"], (json{{"job", id},
                                     {"operation", "stop"},
                                     {"target", "prod/dev"},
                                     {"step", "stop_instance"},
                                     {"state", "queued"},
                                     {"lock", "prod/dev"}}));
    end_job(id);
    const json ended = object(call("GET", "/v1/jobs/" + id + "?explain=1"))["explanation"];
    EXPECT_EQ(ended["next"], "nothing: it has ended");
}

TEST_F(JobRoutes, APauseIsListedExplainedAndEnded) {
    const Response paused =
        call("POST", "/v1/pauses", {{"database", "prod"}, {"reason", "moving disks"}});
    ASSERT_EQ(paused.status, 200) << paused.body;
    EXPECT_EQ(object(paused)["database"], "prod");
    EXPECT_TRUE(object(paused)["lane"].is_null());
    EXPECT_EQ(object(paused)["reason"], "moving disks");
    EXPECT_TRUE(object(paused)["since"].is_string());
    call("POST", "/v1/pauses", {{"lane", "housekeeping"}});
    const json items = object(call("GET", "/v1/pauses"))["items"];
    ASSERT_EQ(items.size(), 2U);
    EXPECT_EQ(items[1]["lane"], "housekeeping");
    EXPECT_EQ(pauses_.reason(queue_.get(stop_dev())), "database prod is paused: moving disks");
    EXPECT_EQ(object(call("DELETE", "/v1/pauses/databases/prod")),
              (json{{"resumed", "database prod"}}));
    EXPECT_EQ(object(call("GET", "/v1/pauses"))["items"].size(), 1U);
}

TEST_F(JobRoutes, APauseOfNothingIsRefused) {
    expect_error(call("POST", "/v1/pauses", {{"lane", "fast"}}), 422,
                 {{"code", "lane_unknown"},
                  {"what", "there is no lane \"fast\""},
                  {"why", "the lanes are interactive, scheduled and housekeeping"},
                  {"fix", "correct its name"}});
    expect_error(call("POST", "/v1/pauses", {{"lane", "scheduled"}, {"database", "prod"}}), 422,
                 {{"code", "field_invalid"},
                  {"what", "a pause is of a lane or of a database"},
                  {"why", "both were given"},
                  {"fix", "give one of them"}});
    expect_error(call("POST", "/v1/pauses", {{"reason", "none"}}), 422,
                 {{"code", "field_invalid"},
                  {"what", "a pause is of a lane or of a database"},
                  {"why", "neither was given"},
                  {"fix", "give one of them"}});
    expect_error(call("DELETE", "/v1/pauses/lanes/scheduled"), 409,
                 {{"code", "not_paused"},
                  {"what", "the scheduled lane is not paused"},
                  {"why", "nobody paused it, or it was resumed already"},
                  {"fix", "there is nothing to do"}});
    expect_refused(call("POST", "/v1/pauses", {{"database", "nowhere"}}), 404,
                   "database_not_found");
    expect_refused(
        call("POST", "/v1/pauses", {{"lane", "scheduled"}, {"reason", std::string(501, 'x')}}), 422,
        "field_invalid");
    EXPECT_EQ(object(call("GET", "/v1/pauses"))["items"], json::array());
}

}  // namespace
}  // namespace bpg::http::test
