#include "orchestrator/storage/btrfs_ioctl.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <memory>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"
#include "orchestrator/storage/volume_root.h"

namespace bpg::storage {
namespace {

// Subvolumes within subvolumes: more levels are somebody's trap for our stack.
constexpr int kNestingMax = 64;

void set_name(btrfs_ioctl_vol_args_v2& arguments, const std::string& name) {
    if (name.size() >= sizeof arguments.name) throw errno_error("name a subvolume", ENAMETOOLONG);
    std::memcpy(arguments.name, name.c_str(), name.size() + 1);
}

std::uint64_t subvolume_id(int fd) {
    const auto arguments = std::make_unique<btrfs_ioctl_ino_lookup_args>();
    arguments->treeid = 0;  // asks for the subvolume that holds fd
    arguments->objectid = BTRFS_FIRST_FREE_OBJECTID;
    if (::ioctl(fd, BTRFS_IOC_INO_LOOKUP, arguments.get()) != 0) {
        throw storage_error("ask for the id of a subvolume", errno);
    }
    return arguments->treeid;
}

/// Ids of the subvolumes made directly inside the one called `id`, as far as one answer holds them.
std::vector<std::uint64_t> child_subvolumes(int fd, std::uint64_t id) {
    const auto arguments = std::make_unique<btrfs_ioctl_search_args>();
    btrfs_ioctl_search_key& key = arguments->key;
    key.tree_id = BTRFS_ROOT_TREE_OBJECTID;
    key.min_objectid = key.max_objectid = id;
    key.min_type = key.max_type = BTRFS_ROOT_REF_KEY;
    key.max_offset = std::numeric_limits<std::uint64_t>::max();
    key.max_transid = std::numeric_limits<std::uint64_t>::max();
    key.nr_items = 64;
    if (::ioctl(fd, BTRFS_IOC_TREE_SEARCH, arguments.get()) != 0) {
        throw storage_error("look for nested subvolumes", errno);
    }
    std::vector<std::uint64_t> children;
    const char* at = arguments->buf;
    for (std::uint32_t i = 0; i < key.nr_items; ++i) {
        btrfs_ioctl_search_header header{};
        std::memcpy(&header, at, sizeof header);
        at += sizeof header + header.len;
        if (header.objectid == id && header.type == BTRFS_ROOT_REF_KEY) {
            children.push_back(header.offset);
        }
    }
    return children;
}

void destroy_children(int fd, std::uint64_t id, int depth) {
    if (depth > kNestingMax) {
        throw Error(ErrorKind::kInvalid, "subvolumes_too_deep", "cannot destroy a volume",
                    fmt::format("subvolumes are nested more than {} deep in it", kNestingMax),
                    "delete the innermost ones with btrfs subvolume delete");
    }
    for (auto children = child_subvolumes(fd, id); !children.empty();
         children = child_subvolumes(fd, id)) {
        for (const std::uint64_t child : children) {
            destroy_children(fd, child, depth + 1);
            btrfs_ioctl_vol_args_v2 arguments{};
            arguments.flags = BTRFS_SUBVOL_SPEC_BY_ID;
            arguments.subvolid = child;
            if (::ioctl(fd, BTRFS_IOC_SNAP_DESTROY_V2, &arguments) != 0 && errno != ENOENT) {
                throw storage_error("destroy a nested subvolume", errno);
            }
        }
    }
}

}  // namespace

bool is_btrfs(int fd) {
    struct statfs facts{};
    return ::fstatfs(fd, &facts) == 0 && facts.f_type == BTRFS_SUPER_MAGIC;
}

bool is_subvolume(int fd) {
    struct stat facts{};
    return is_btrfs(fd) && ::fstat(fd, &facts) == 0 && S_ISDIR(facts.st_mode) &&
           facts.st_ino == BTRFS_FIRST_FREE_OBJECTID;
}

void create_subvolume(int parent_fd, const std::string& name) {
    btrfs_ioctl_vol_args_v2 arguments{};
    set_name(arguments, name);
    if (::ioctl(parent_fd, BTRFS_IOC_SUBVOL_CREATE_V2, &arguments) != 0) {
        throw storage_error(fmt::format("create the subvolume {}", name), errno);
    }
}

void snapshot_subvolume(int source_fd, int parent_fd, const std::string& name, bool read_only) {
    btrfs_ioctl_vol_args_v2 arguments{};
    arguments.fd = source_fd;
    arguments.flags = read_only ? BTRFS_SUBVOL_RDONLY : 0;
    set_name(arguments, name);
    if (::ioctl(parent_fd, BTRFS_IOC_SNAP_CREATE_V2, &arguments) != 0) {
        throw storage_error(fmt::format("snapshot a subvolume as {}", name), errno);
    }
}

void destroy_subvolume(int parent_fd, const std::string& name) {
    UniqueFd subvolume(
        ::openat(parent_fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!subvolume) {
        if (errno == ENOENT) return;
        throw storage_error(fmt::format("open the subvolume {}", name), errno);
    }
    destroy_children(parent_fd, subvolume_id(subvolume.get()), 0);
    subvolume.reset();
    btrfs_ioctl_vol_args_v2 arguments{};
    set_name(arguments, name);
    if (::ioctl(parent_fd, BTRFS_IOC_SNAP_DESTROY_V2, &arguments) != 0 && errno != ENOENT) {
        throw storage_error(fmt::format("destroy the subvolume {}", name), errno);
    }
}

bool has_nested_subvolume(int subvolume_fd) {
    return !child_subvolumes(subvolume_fd, subvolume_id(subvolume_fd)).empty();
}

}  // namespace bpg::storage
