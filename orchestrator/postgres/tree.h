// Access to a data directory that somebody hostile may be changing meanwhile: everything below one
// open descriptor, no symbolic link followed, every read bounded (SEC-12). Blocks: call it on a
// pool.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "orchestrator/base/files.h"

namespace bpg::postgres {

enum class EntryType { kFile, kDirectory, kLink, kOther };

struct Entry {
    std::string name;
    EntryType type = EntryType::kOther;
};

/// A directory and what is below it. Paths are relative to it and never begin with '/'.
class Tree {
  public:
    /// Throws as open_directory() does.
    explicit Tree(const std::filesystem::path& path);

    /// A directory below this one; nothing when it is absent.
    std::optional<Tree> sub(const std::string& relative) const;
    /// What stands under a path; nothing when there is none. Does not follow a link in its place.
    std::optional<EntryType> type_of(const std::string& relative) const;
    /// What is in a directory (default: this one); empty when it is absent. At most a million.
    std::vector<Entry> list(const std::string& relative = ".") const;

    /// The content; nothing when it is absent. Throws kCorrupt for a link, for anything that is no
    /// regular file and for more than `max` bytes.
    std::optional<std::string> read(const std::string& relative, std::size_t max) const;
    /// Opens for reading; empty when absent. Throws kCorrupt as read() does.
    UniqueFd open_file(const std::string& relative) const;

    /// Whether this very file is there: regular, with this content, mode and owner.
    bool holds(const std::string& relative, std::string_view content, mode_t mode,
               FileOwner owner) const;

    /// Writes a file aside, syncs it, renames it into place and syncs the directory it is in.
    void replace(const std::string& relative, std::string_view content, mode_t mode,
                 FileOwner owner) const;
    /// The same without the syncs: after a power loss the file may be the old one, or empty. For
    /// what is written again before it counts, or synced with its directory by the caller.
    void replace_unsynced(const std::string& relative, std::string_view content, mode_t mode,
                          FileOwner owner) const;
    /// Removes a file, a link (not what it names) or a whole directory. Absent is fine.
    void remove(const std::string& relative) const;
    /// Removes everything in a directory and keeps it. Absent is fine.
    void empty(const std::string& relative) const;
    /// fsync of a directory (default: this one). Absent is fine.
    void sync(const std::string& relative = ".") const;
    /// Owner and mode of this directory itself.
    void own(FileOwner owner, mode_t mode) const;

    const std::string& shown() const { return shown_; }
    int fd() const { return fd_.get(); }

  private:
    Tree(UniqueFd fd, std::string shown) : fd_(std::move(fd)), shown_(std::move(shown)) {}
    std::string shown_path(const std::string& relative) const;
    /// Returns the directory that the file is in now.
    UniqueFd put_in_place(const std::string& relative, std::string_view content, mode_t mode,
                          FileOwner owner, bool synced) const;
    /// The directory that holds `relative`, and its last part.
    std::pair<UniqueFd, std::string> split(const std::string& relative) const;

    UniqueFd fd_;
    std::string shown_;  ///< for messages only
};

/// Writes all of it or throws.
void write_fully(int fd, std::string_view content, const std::string& shown);

}  // namespace bpg::postgres
