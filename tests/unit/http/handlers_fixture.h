// Routes over a real store, catalog and queue, called as the server calls them. Nothing runs the
// jobs; a test that wants one to end commits its end itself.
#pragma once

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
#include "orchestrator/operations/submit.h"
#include "orchestrator/postgres/local_data_directories.h"
#include "orchestrator/postgres/pqxx_postgres.h"
#include "orchestrator/runtime/process.h"
#include "orchestrator/storage/copy.h"
#include "orchestrator/wal/local_archives.h"
#include "scheduler/scheduler.h"

namespace bpg::http::test {

using nlohmann::json;

class TemporaryDirectory {
  public:
    TemporaryDirectory()
        : path_(std::filesystem::temp_directory_path() / ("bpg-handlers-" + random_hex(8))) {
        std::filesystem::create_directories(path_ / "jobs");
        std::filesystem::create_directories(path_ / "volumes");
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
        queue_.keep_logs(job_logs_);
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
    wal::LocalArchives archives_{directory_.path() / "wal-archive", pool_};
    catalog::Catalog catalog_;
    operations::SharedSnapshots shared_snapshots_{catalog_};
    scheduler::Schedules schedules_;
    operations::Services services_{
        catalog_,  shared_snapshots_, storage_,   runtime_, postgres_, data_directories_,
        archives_, secrets_,          schedules_, pool_,    clock_,    {}};
    jobs::OperationRegistry registry_;
    jobs::Store store_{new_store(), loop_.get_executor(), metrics_};
    jobs::Queue queue_{store_, registry_, clock_, {}};
    jobs::Pauses pauses_{store_};
    jobs::JobLogs job_logs_{directory_.path() / "jobs", 1U << 20U};
    operations::Requests requests_{
        services_, queue_, {5432, 5440, [](int) { return true; }}, {"15", ""}};
    scheduler::Scheduler scheduler_{
        loop_.get_executor(), schedules_, queue_, store_,
        [this](std::string operation, operations::Parameters parameters, jobs::RequestKey key) {
            return operations::submit(requests_, std::move(operation), std::move(parameters),
                                      std::move(key));
        }};
    bool ready_ = true;
    ApiServices api_{catalog_,
                     queue_,
                     pauses_,
                     job_logs_,
                     requests_,
                     services_,
                     scheduler_,
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

inline asio::awaitable<void> end_later(jobs::Queue& queue, std::string id) {
    co_await pause_for(std::chrono::milliseconds(50));
    jobs::Job job = queue.get(id);
    jobs::Batch batch;
    job.state = jobs::JobState::kSucceeded;
    queue.append_event(job, batch, "job_succeeded", "", "done");
    co_await queue.commit(job, std::move(batch));
}

}  // namespace bpg::http::test
