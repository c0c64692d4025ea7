// The file a pool of any driver lies in: made sparse, and only where the disk could hold all of it.
// Blocks.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <optional>

namespace bpg::storage {

/// lstat; nothing when there is no such file.
std::optional<struct stat> facts_of(const std::filesystem::path& path);

/// Throws kExhausted `no_space` when the disk could not hold the file as it is now: a sparse one
/// would be made all the same, and the pool break when the disk runs full below it.
void check_room(const std::filesystem::path& path, std::uint64_t size);

/// A new file, mode 0600, without a block allocated. One that is there is an error.
void make_sparse_file(const std::filesystem::path& path, std::uint64_t size);

}  // namespace bpg::storage
