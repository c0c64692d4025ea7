// A directory of a test's own, which goes away with the object.
#pragma once

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "orchestrator/base/error.h"

namespace bpg::test {

class ScratchDirectory {
  public:
    /// Below the system's directory for temporary files: "bpg-<what>-XXXXXX".
    explicit ScratchDirectory(const std::string& what = "test") {
        std::string pattern =
            (std::filesystem::temp_directory_path() / ("bpg-" + what + "-XXXXXX")).native();
        if (::mkdtemp(pattern.data()) == nullptr) throw errno_error("make a directory", errno);
        path_ = pattern;
    }
    ~ScratchDirectory() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    ScratchDirectory(const ScratchDirectory&) = delete;
    ScratchDirectory& operator=(const ScratchDirectory&) = delete;
    const std::filesystem::path& path() const { return path_; }

  private:
    std::filesystem::path path_;
};

}  // namespace bpg::test
