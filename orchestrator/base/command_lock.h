// Waiting out the commands of an earlier bpgd. A child process goes on when bpgd is killed, and
// what it does to the world may take effect after a new bpgd has looked at that world. Each such
// command therefore inherits one locked descriptor; the lock is free once bpgd and all of them have
// ended.
#pragma once

#include <chrono>
#include <filesystem>
#include <mutex>

#include "orchestrator/base/files.h"

namespace bpg {

class CommandLock {
  public:
    /// No I/O. The file is made (mode 0600) with the first hold(); its directory must exist.
    explicit CommandLock(std::filesystem::path path) : path_(std::move(path)) {}

    /// The descriptor for Command::inherited; ours until the end of this object and of every child
    /// that has it. Blocks while commands of an earlier bpgd run; throws kUnavailable
    /// `earlier_command_runs` after `patience`, and may then be asked again. Any thread.
    int hold(std::chrono::milliseconds patience);

  private:
    const std::filesystem::path path_;
    std::timed_mutex mutex_;
    UniqueFd fd_;
};

}  // namespace bpg
