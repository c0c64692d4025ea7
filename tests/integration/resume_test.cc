// How soon bpgd goes on with its jobs after it was killed, with a long history behind it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include "jobs/job.h"
#include "jobs/store.h"
#include "metrics/instruments.h"
#include "orchestrator/base/id.h"
#include "orchestrator/base/json.h"
#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

constexpr std::uint64_t kFinished = 10'000;
constexpr std::uint64_t kOpen = 100;
constexpr std::uint64_t kFirstNumber = 1'000'000;  // after those of the suite itself

/// A stop of a branch that is gone: its step ends as soon as it is begun.
jobs::Job stop_job(std::uint64_t number, bool is_open) {
    jobs::Job job;
    job.id = new_id();
    job.number = kFirstNumber + number;
    job.operation = "stop";
    job.target = fmt::format("past/b{}", number);
    job.params = {{"ref", job.target}, {"force", false}};
    job.data = {{"branch_id", new_id()}, {"ref", job.target}};
    job.created_at = SystemClock().now();
    job.started_at = job.created_at;
    job.step = "stop_instance";
    job.steps = {{"stop_instance", "stop PostgreSQL", is_open ? "running" : "done", {}, {}}};
    job.state = is_open ? jobs::JobState::kRunning : jobs::JobState::kSucceeded;
    if (!is_open) job.finished_at = job.created_at;
    job.locks = {{.resource = "branch/" + job.id,
                  .above = {"pool", "database/past"},
                  .mode = jobs::LockMode::kExclusive,
                  .shown_as = job.target,
                  .held = true}};
    return job;
}

class Resume : public HostSuite<Resume> {
  protected:
    /// Puts a history into the store of a bpgd that does not run; the ids of the open jobs.
    static std::vector<std::string> write_history() {
        boost::asio::io_context loop;
        metrics::Instruments metrics;
        jobs::Store store(host().state() / "state", loop.get_executor(), metrics);
        std::vector<std::string> open;
        jobs::Batch batch;
        for (std::uint64_t number = 0; number < kFinished + kOpen; ++number) {
            const bool is_open = number >= kFinished;
            const jobs::Job job = stop_job(number, is_open);
            const std::string key = jobs::big_endian(job.number);
            batch.put(std::string(jobs::kinds::kJob) + key, json_text(to_record(job)));
            batch.put(std::string(jobs::kinds::kJobId) + job.id, key);
            if (!is_open) continue;
            batch.put(std::string(jobs::kinds::kActive) + key, "");
            open.push_back(job.id);
        }
        boost::asio::co_spawn(loop, store.commit(std::move(batch)), [](std::exception_ptr failure) {
            if (failure) std::rethrow_exception(failure);
        });
        loop.run();
        store.close();
        return open;
    }

    /// When bpgd went on with this job.
    static WallTime resumed_at(const std::string& id) {
        std::istringstream events(host().bpg({"-o", "json", "job", "tail", id}).out);
        for (std::string line; std::getline(events, line);) {
            const Json event = Json::parse(line);
            if (event.at("type") != "job_resumed") continue;
            return parse_time(event.at("at").get<std::string>()).value();
        }
        throw std::runtime_error("job " + id + " was not resumed");
    }
};

TEST_P(Resume, TheFirstStepGoesOnWithinASecondWithTenThousandFinishedAndAHundredOpenJobs) {
    host().kill_daemon();
    const std::vector<std::string> open = write_history();
    const WallTime began = SystemClock().now();
    host().start_daemon();
    host().wait_until_idle();
    WallTime first = resumed_at(open.front());
    WallTime last = first;
    for (const std::string& id : open) {
        first = std::min(first, resumed_at(id));
        last = std::max(last, resumed_at(id));
    }
    const auto ms = [&began](WallTime time) {
        return std::chrono::duration_cast<std::chrono::milliseconds>(time - began);
    };
    fmt::print("first job resumed after {} ms, the last of {} after {} ms\n", ms(first).count(),
               kOpen, ms(last).count());
    EXPECT_LT(ms(first), kUnderSanitizer ? 5s : 1s);
    const Json list = host().bpg_json({"job", "list", "--state", "succeeded", "--limit", "10000"});
    EXPECT_GE(list.at("items").size(), 9000U) << "the history is still there";
}

INSTANTIATE_TEST_SUITE_P(Btrfs, Resume, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);

}  // namespace
}  // namespace bpg::test
