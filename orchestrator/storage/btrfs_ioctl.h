// The few btrfs system calls we use, without the btrfs command: each is one ioctl, and takes open
// directories so that no path is looked up twice. They need root and block (a snapshot waits for
// one commit of the file system). Quota groups are never touched.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bpg::storage {

bool is_btrfs(int fd);
/// Whether this directory is the top of a subvolume.
bool is_subvolume(int fd);

void create_subvolume(int parent_fd, const std::string& name);
/// Everything written to the source by system calls that returned before is in the snapshot: the
/// kernel writes out the source's dirty pages first.
void snapshot_subvolume(int source_fd, int parent_fd, const std::string& name, bool read_only);
/// Destroys a subvolume and those made inside it (an instance's user may have made some; no others
/// can hang below it). Absent is fine. Gone for good once the parent directory is synced.
void destroy_subvolume(int parent_fd, const std::string& name);

/// Whether a subvolume was made anywhere inside this one: a snapshot would show it as an empty
/// directory. Asks the tree of roots, does not walk.
bool has_nested_subvolume(int subvolume_fd);

}  // namespace bpg::storage
