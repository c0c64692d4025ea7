// Small-file helpers that are safe as root in directories others can write to: durable replacement,
// bounded reads, and a walk that never follows a symbolic link (SEC-12).
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bpg {

/// Owns a file descriptor.
class UniqueFd {
  public:
    UniqueFd() = default;
    explicit UniqueFd(int fd) : fd_(fd) {}
    ~UniqueFd() { reset(); }
    UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
    UniqueFd& operator=(UniqueFd&& other) noexcept;
    UniqueFd(const UniqueFd&) = delete;
    UniqueFd& operator=(const UniqueFd&) = delete;

    int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }
    int release();
    void reset(int fd = -1);

  private:
    int fd_ = -1;
};

struct FileOwner {
    uid_t uid = 0;
    gid_t gid = 0;

    bool operator==(const FileOwner&) const = default;
};

/// Opens `relative` below directory `root` with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS. Returns an
/// empty fd for ENOENT, throws kCorrupt `symlink_refused` for a symbolic link, errno_error
/// otherwise.
UniqueFd open_beneath(int root_fd, const std::string& relative, int flags, mode_t mode = 0);
/// Opens a directory itself, refusing a symbolic link as its last part.
UniqueFd open_directory(const std::filesystem::path& path);

/// The whole file, at most `max` bytes (more is kCorrupt `file_too_large`); nothing when it is
/// absent. Refuses symbolic links and anything that is not a regular file.
std::optional<std::string> read_file(const std::filesystem::path& path, std::size_t max = 1 << 20);

/// Temporary file in the same directory, fsync, rename, fsync of the directory: after it returns
/// the new content survives a power cut; at any instant before, the old one does.
void write_file_durably(const std::filesystem::path& path, std::string_view content, mode_t mode,
                        std::optional<FileOwner> owner = std::nullopt);

/// mkdir when absent; sets mode and owner either way; refuses a symbolic link in its place.
void ensure_directory(const std::filesystem::path& path, mode_t mode, FileOwner owner = {});

/// The names in an open directory, without "." and "..", in no order; its own offset stays as it
/// is. `shown` stands for the directory in errors.
std::vector<std::string> directory_names(int directory_fd, std::string_view shown);

void fsync_directory(const std::filesystem::path& path);

/// Removes a tree without following links or crossing into what a link names. Absent is fine.
void remove_tree(const std::filesystem::path& path);

/// What others than root could still write to the file system of `path`.
std::uint64_t free_bytes(const std::filesystem::path& path);

/// uid, gid of a system user; throws kNotFound `user_not_found`.
FileOwner lookup_user(const std::string& name);

}  // namespace bpg
