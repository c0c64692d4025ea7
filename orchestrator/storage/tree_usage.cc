#include "orchestrator/storage/tree_usage.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"
#include "orchestrator/storage/volume_root.h"

namespace bpg::storage {
namespace {

constexpr int kDepthMax = 64;
constexpr std::uint32_t kExtentsAtOnce = 512;
constexpr std::uint64_t kBlocksUnit = 512;  // of st_blocks, whatever the file system

class TreeMeter {
  public:
    TreeMeter() : memory_(sizeof(fiemap) + kExtentsAtOnce * sizeof(fiemap_extent)) {}

    void add_directory(int directory, const std::string& shown, int depth) {
        if (depth > kDepthMax) {
            throw Error(ErrorKind::kInvalid, "tree_too_deep", "cannot measure a volume",
                        fmt::format("directories are nested more than {} deep", kDepthMax));
        }
        for (const std::string& name : directory_names(directory, shown)) {
            struct stat facts{};
            if (::fstatat(directory, name.c_str(), &facts, AT_SYMLINK_NOFOLLOW) != 0) continue;
            const bool is_directory = S_ISDIR(facts.st_mode);
            if (!is_directory && !S_ISREG(facts.st_mode)) continue;
            const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOATIME | O_CLOEXEC |
                              (is_directory ? O_DIRECTORY : 0);
            const UniqueFd entry(::openat(directory, name.c_str(), flags));
            if (!entry) continue;  // vanished meanwhile
            if (is_directory) {
                add_directory(entry.get(), name, depth + 1);
            } else {
                add_file(entry.get(), facts);
            }
        }
    }

    const Usage& usage() const { return usage_; }

  private:
    void add_file(int file, const struct stat& facts) {
        usage_.logical += static_cast<std::uint64_t>(facts.st_size);
        std::uint64_t start = 0;
        while (true) {
            const fiemap* map = extents_from(file, start);
            if (map == nullptr) {
                const auto bytes = static_cast<std::uint64_t>(facts.st_blocks) * kBlocksUnit;
                usage_.used += bytes;
                usage_.referenced += bytes;
                return;
            }
            if (map->fm_mapped_extents == 0) return;
            for (std::uint32_t i = 0; i < map->fm_mapped_extents; ++i) {
                const fiemap_extent& extent = map->fm_extents[i];
                add_extent(extent);
                if ((extent.fe_flags & FIEMAP_EXTENT_LAST) != 0) return;
                start = extent.fe_logical + extent.fe_length;
            }
        }
    }

    void add_extent(const fiemap_extent& extent) {
        usage_.referenced += extent.fe_length;
        // Inline data lies in a metadata block that clones share, and is never marked as shared.
        constexpr std::uint32_t kNotOurs = FIEMAP_EXTENT_SHARED | FIEMAP_EXTENT_DATA_INLINE;
        if ((extent.fe_flags & kNotOurs) == 0) usage_.used += extent.fe_length;
    }

    /// Nothing when the file system cannot tell.
    const fiemap* extents_from(int file, std::uint64_t start) {
        std::memset(memory_.data(), 0, sizeof(fiemap));
        void* const raw = memory_.data();
        auto* const map = static_cast<fiemap*>(raw);
        map->fm_start = start;
        map->fm_length = FIEMAP_MAX_OFFSET - start;
        map->fm_extent_count = kExtentsAtOnce;
        if (::ioctl(file, FS_IOC_FIEMAP, map) == 0) return map;
        if (errno == EOPNOTSUPP || errno == ENOTTY || errno == EINVAL) return nullptr;
        throw storage_error("ask for the extents of a file", errno);
    }

    std::vector<char> memory_;
    Usage usage_;
};

}  // namespace

Usage measure_tree(int directory_fd) {
    TreeMeter meter;
    meter.add_directory(directory_fd, "a volume", 0);
    return meter.usage();
}

}  // namespace bpg::storage
