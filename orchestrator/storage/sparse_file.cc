#include "orchestrator/storage/sparse_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"

namespace bpg::storage {

namespace fs = std::filesystem;

std::optional<struct stat> facts_of(const fs::path& path) {
    struct stat facts{};
    if (::lstat(path.c_str(), &facts) == 0) return facts;
    if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
    throw errno_error(fmt::format("look at {}", path.native()), errno);
}

void check_room(const fs::path& path, std::uint64_t size) {
    struct statvfs facts{};
    if (::statvfs(path.parent_path().c_str(), &facts) != 0) {
        throw errno_error(fmt::format("ask for the space beside {}", path.native()), errno);
    }
    const std::uint64_t free = facts.f_bavail * facts.f_frsize;
    if (size <= free) return;
    throw Error(ErrorKind::kExhausted, "no_space",
                fmt::format("cannot make a pool file of {} bytes", size),
                fmt::format("only {} bytes are free below {}", free, path.parent_path().native()),
                "choose a smaller --pool-size or another disk");
}

void make_sparse_file(const fs::path& path, std::uint64_t size) {
    const UniqueFd fd(
        ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
        throw errno_error(fmt::format("make {}", path.native()), errno);
    }
}

}  // namespace bpg::storage
