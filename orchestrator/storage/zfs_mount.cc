#include "orchestrator/storage/zfs_mount.h"

#include <mntent.h>
#include <stdio.h>

#include <array>
#include <cerrno>
#include <memory>
#include <string_view>
#include <system_error>

#include "orchestrator/base/error.h"

namespace bpg::storage {

std::optional<std::string> zfs_mounted_on(const std::filesystem::path& directory) {
    constexpr std::size_t kLineMax = 16UL * 1024;
    const std::unique_ptr<FILE, int (*)(FILE*)> table(::setmntent("/proc/self/mounts", "re"),
                                                      ::endmntent);
    if (!table) throw errno_error("open /proc/self/mounts", errno);
    std::error_code failure;
    std::filesystem::path wanted = std::filesystem::canonical(directory.parent_path(), failure);
    wanted = failure ? directory : wanted / directory.filename();
    std::optional<std::string> found;
    std::array<char, kLineMax> line{};
    mntent entry{};
    while (::getmntent_r(table.get(), &entry, line.data(), line.size()) != nullptr) {
        if (wanted != entry.mnt_dir) continue;
        const std::string_view type = entry.mnt_type;
        // The last line of a directory is what lies on top.
        found.reset();
        if (type == "zfs" || type == "fuse.zfs") found = entry.mnt_fsname;
    }
    return found;
}

}  // namespace bpg::storage
