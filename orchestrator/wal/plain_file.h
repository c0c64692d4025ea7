// Reading a file in a directory that others can write to: no link is followed, only regular files
// are opened, and a read is of as many bytes as were asked for or as there are.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "orchestrator/base/files.h"

namespace bpg::wal {

class PlainFile {
  public:
    /// What read_all() reads at once; a multiple of every size of a WAL page.
    static constexpr std::size_t kBlock = 256U << 10U;

    /// Nothing when there is none. Throws kCorrupt `symlink_refused` or `not_a_regular_file`.
    /// `directory` is what errors call it.
    static std::optional<PlainFile> open(int directory_fd, const std::string& directory,
                                         const std::string& name);

    int fd() const { return file_.get(); }
    std::uint64_t size() const { return size_; }  ///< when it was opened
    std::int64_t modified_seconds() const { return modified_seconds_; }
    /// Fewer than `size` bytes only where the file ends.
    std::string read_at(std::uint64_t at, std::size_t size) const;
    /// From `at` to `end` in blocks, until `take` says false or the file ends.
    void read_blocks(std::uint64_t at, std::uint64_t end,
                     const std::function<bool(std::string_view)>& take) const;
    /// Whether its name still stands for it: PostgreSQL renames old WAL files before it writes to
    /// them again.
    bool is_still(int directory_fd, const std::string& name) const;

  private:
    PlainFile(UniqueFd file, std::string shown)
        : file_(std::move(file)), shown_(std::move(shown)) {}
    std::size_t read_into(char* bytes, std::size_t size, std::uint64_t at) const;

    UniqueFd file_;
    std::string shown_;  ///< name and directory
    std::uint64_t size_ = 0;
    std::int64_t modified_seconds_ = 0;
    std::uint64_t device_ = 0;
    std::uint64_t inode_ = 0;
};

}  // namespace bpg::wal
