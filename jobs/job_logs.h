// A log file for every job: its events, what the programs it ran said, and what PostgreSQL said
// when it was started. Written by a thread of its own, in order; the loop never waits for it. It is
// for people, and none of it is needed to go on with a job.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "jobs/job.h"
#include "orchestrator/base/offload.h"

namespace bpg::jobs {

class JobLogs {
  public:
    /// `bytes_max`: of one log; what comes after is left out, and the log says so.
    JobLogs(std::filesystem::path directory, std::uint64_t bytes_max)
        : directory_(std::move(directory)), bytes_max_(bytes_max) {}

    const std::filesystem::path& directory() const { return directory_; }
    std::filesystem::path path(const std::string& job_id) const {
        return directory_ / (job_id + ".log");
    }
    /// One line.
    void note(const Job& job, const Event& event);
    /// Output of a program, as it is but for control characters.
    void append(const std::string& job_id, std::string text);
    /// Returns when all that was noted before is in the files.
    asio::awaitable<void> written();
    /// Whole lines from byte `from` on, some 64 KiB of them, with all that was written before this
    /// call; empty at the end, and where there is no log.
    asio::awaitable<std::string> read(std::string job_id, std::uint64_t from);
    /// Success when there is none. Any thread.
    void remove(const std::string& job_id) const;

  private:
    void write(const std::string& job_id, const std::string& text) const;
    std::string read_lines(const std::string& job_id, std::uint64_t from) const;

    std::filesystem::path directory_;
    std::uint64_t bytes_max_;
    BlockingPool writer_{1};
};

}  // namespace bpg::jobs
