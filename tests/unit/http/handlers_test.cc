// The API as a caller sees it: routes over a real store, catalog and queue. Nothing runs the jobs;
// a test that wants one to end commits its end itself.
#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "jobs/queue.h"
#include "metrics/instruments.h"
#include "orchestrator/base/clock.h"
#include "orchestrator/base/id.h"
#include "orchestrator/http/handlers/register.h"
#include "orchestrator/operations/operations.h"
#include "orchestrator/operations/shared_snapshots.h"
#include "orchestrator/postgres/local_data_directories.h"
#include "orchestrator/postgres/pqxx_postgres.h"
#include "orchestrator/runtime/process.h"
#include "orchestrator/storage/copy.h"

namespace bpg::http {
namespace {

using nlohmann::json;

class TemporaryDirectory {
  public:
    TemporaryDirectory()
        : path_(std::filesystem::temp_directory_path() / ("bpg-handlers-" + random_hex(8))) {
        std::filesystem::create_directories(path_);
    }
    ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
    const std::filesystem::path& path() const { return path_; }

  private:
    std::filesystem::path path_;
};

class Collector final : public StreamWriter {
  public:
    asio::awaitable<bool> write(std::string piece) override {
        text += piece;
        co_return true;
    }
    std::string text;
};

class HandlersTest : public testing::Test {
  protected:
    HandlersTest() {
        operations::register_operations(registry_, services_);
        register_api(router_, api_);
    }
    ~HandlersTest() override { store_.close(); }

    template <class T>
    T run(asio::awaitable<T> work) {
        auto result = asio::co_spawn(loop_, std::move(work), asio::use_future);
        loop_.restart();
        loop_.run();
        return result.get();
    }

    Response call(std::string method, std::string_view target, const json& body = nullptr,
                  std::vector<std::pair<std::string, std::string>> headers = {}) {
        Request request;
        request.id = "r1";
        request.method = std::move(method);
        request.body = body.is_null() ? "" : body.dump();
        request.peer = peer_;
        for (auto& [name, value] : headers)
            request.headers.add(name, value);
        EXPECT_TRUE(parse_target(target, request));
        return run(router_.answer(std::move(request))).response;
    }

    static json object(const Response& response) { return json::parse(response.body); }

    void expect_refused(const Response& response, int status, const std::string& code) {
        EXPECT_EQ(response.status, status) << response.body;
        EXPECT_EQ(object(response).value("code", ""), code) << response.body;
    }

    /// prod with main (running) and dev (cut from main, running), and no jobs.
    void add_prod() {
        jobs::Batch batch;
        catalog::Database prod;
        prod.id = new_id();
        prod.name = "prod";
        prod.pg_version = "15.20";
        prod.created_at = clock_.now();
        catalog_.put(prod, batch);
        const std::string main = add_branch("main", "", 5432, batch);
        dev_ = add_branch("dev", main, 5433, batch);
        add_branch("a-first", main, 5434, batch);
        run(store_.commit(std::move(batch)));
    }

    std::string add_branch(const std::string& name, const std::string& parent, int port,
                           jobs::Batch& batch) {
        catalog::Branch branch;
        branch.id = new_id();
        branch.database_id = catalog_.database("prod").id;
        branch.name = name;
        branch.parent_id = parent;
        branch.state = catalog::BranchState::kRunning;
        branch.host = "127.0.0.1";
        branch.port = port;
        branch.volume = "prod-" + name;
        branch.storage_driver = "copy";
        branch.incarnation_id = new_id();
        branch.created_at = clock_.now();
        branch.timeline = 2;
        if (!parent.empty()) branch.created_from = {"", "safe", "0/3000060", clock_.now()};
        catalog_.put(branch, batch);
        return branch.id;
    }

    /// What a runner would do at the end of a job.
    void end_job(const std::string& id) {
        jobs::Job job = queue_.get(id);
        jobs::Batch batch;
        job.state = jobs::JobState::kSucceeded;
        job.finished_at = clock_.now();
        queue_.append_event(job, batch, "job_succeeded", "", "done");
        run(queue_.commit(job, std::move(batch)));
    }

    std::size_t open_jobs() const { return queue_.open_jobs().size(); }

    TemporaryDirectory directory_;
    asio::io_context loop_{1};
    SystemClock clock_;
    metrics::Instruments metrics_;
    BlockingPool pool_{2};
    SecretStore secrets_{directory_.path() / "secrets"};
    storage::CopyStorage storage_{directory_.path() / "volumes", pool_};
    runtime::ProcessRuntime runtime_{{"", "postgres"}, pool_, loop_.get_executor()};
    postgres::PqxxPostgres postgres_{pool_};
    postgres::LocalDataDirectories data_directories_{pool_};
    catalog::Catalog catalog_;
    operations::SharedSnapshots shared_snapshots_{catalog_};
    operations::Services services_{
        catalog_,          shared_snapshots_, storage_, runtime_, postgres_,
        data_directories_, secrets_,          pool_,    clock_,   {}};
    jobs::OperationRegistry registry_;
    jobs::Store store_{new_store(), loop_.get_executor(), metrics_};
    jobs::Queue queue_{store_, registry_, clock_, {}};
    jobs::Pauses pauses_{store_};
    jobs::JobLogs job_logs_{directory_.path() / "jobs", 1U << 20U};
    operations::Requests requests_{
        services_, queue_, {5432, 5440, [](int) { return true; }}, {"15", ""}};
    bool ready_ = true;
    ApiServices api_{catalog_,
                     queue_,
                     pauses_,
                     job_logs_,
                     requests_,
                     services_,
                     clock_,
                     [this] { return ready_; },
                     [] { return json{{"driver", "process"}, {"version", "15"}}; },
                     [] { return json{{"driver", "copy"}}; },
                     std::chrono::steady_clock::now()};
    Router router_;
    std::optional<PeerCredentials> peer_ = PeerCredentials{1, 0, 0};
    std::string dev_;

  private:
    std::filesystem::path new_store() const {
        const auto path = directory_.path() / "store";
        jobs::Store::create(path);
        return path;
    }
};

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

asio::awaitable<void> end_later(jobs::Queue& queue, std::string id) {
    co_await pause_for(std::chrono::milliseconds(50));
    jobs::Job job = queue.get(id);
    jobs::Batch batch;
    job.state = jobs::JobState::kSucceeded;
    queue.append_event(job, batch, "job_succeeded", "", "done");
    co_await queue.commit(job, std::move(batch));
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
    const std::string password = secrets_.ensure_password(dev_);
    const Response answer = call("GET", "/v1/branches/prod/dev/credentials");
    EXPECT_EQ(object(answer), (json{{"user", "postgres"},
                                    {"password", password},
                                    {"host", "127.0.0.1"},
                                    {"port", 5433},
                                    {"dbname", "postgres"}}));
    peer_.reset();
    expect_refused(call("GET", "/v1/branches/prod/dev/credentials"), 403, "credentials_local_only");
    for (const char* target : {"/v1/branches/prod/dev", "/v1/status", "/v1/branches"}) {
        EXPECT_EQ(call("GET", target).body.find(password), std::string::npos) << target;
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
    EXPECT_TRUE(status["schedules"]["next"].is_null());
    EXPECT_TRUE(status["daemon"]["uptime_seconds"].is_number_integer());
}

}  // namespace
}  // namespace bpg::http
