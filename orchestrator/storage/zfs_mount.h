// What is really mounted where, from the kernel's table as this process sees it: a dataset that
// `zfs` calls mounted may be so in another mount namespace only, and its directory here be empty.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace bpg::storage {

/// The dataset mounted topmost on exactly this directory; nothing when no ZFS is. Follows links
/// above the directory, and does not look at the directory itself, which may be of a dead daemon.
std::optional<std::string> zfs_mounted_on(const std::filesystem::path& directory);

}  // namespace bpg::storage
