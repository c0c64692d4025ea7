// A snapshot and a clone of a branch's volume by hand, with the commands or system calls that a
// driver uses and nothing around them: no identity, no journal, no look before or after.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "tests/harness/host.h"

namespace bpg::bench {

class RawStorage {
  public:
    virtual ~RawStorage() = default;
    RawStorage() = default;
    RawStorage(const RawStorage&) = delete;
    RawStorage& operator=(const RawStorage&) = delete;

    /// Where there is no such thing, nothing.
    virtual void snapshot(const std::string& name) = 0;
    /// Of the snapshot of that name, or straight from the parent: the path of the new volume.
    virtual std::filesystem::path clone(const std::string& name) = 0;
    /// Removes both. Absent is fine.
    virtual void remove(const std::string& name) = 0;

    /// For the storage of a host; `parent` is the name of a volume.
    static std::unique_ptr<RawStorage> make(const test::TestHost& host, const std::string& parent);
};

/// Runs a program; throws with its words unless it succeeds.
void run_or_throw(std::vector<std::string> argv);

}  // namespace bpg::bench
