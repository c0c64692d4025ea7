#include "orchestrator/storage/identity.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"

namespace bpg::storage {
namespace {

constexpr int kFormatVersion = 1;
constexpr std::size_t kIdentityMax = 16UL * 1024;
constexpr const char* kTemporaryName = ".betterpg.json.new";

std::optional<Identity> parse(const std::string& text) {
    const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return std::nullopt;
    Identity identity;
    for (const auto& [key, field] :
         {std::pair{"id", &identity.id}, std::pair{"ref", &identity.ref},
          std::pair{"incarnation", &identity.incarnation}, std::pair{"job", &identity.job}}) {
        const auto found = json.find(key);
        if (found == json.end() || !found->is_string()) return std::nullopt;
        *field = found->get<std::string>();
    }
    if (identity.id.empty()) return std::nullopt;
    return identity;
}

}  // namespace

std::optional<Identity> read_identity(int volume_fd) {
    const UniqueFd fd(
        ::openat(volume_fd, kIdentityFile, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!fd) {
        if (errno == ENOENT || errno == ELOOP || errno == ENXIO) return std::nullopt;
        throw errno_error("open the identity file of a volume", errno);
    }
    struct stat facts{};
    if (::fstat(fd.get(), &facts) != 0) throw errno_error("look at an identity file", errno);
    if (!S_ISREG(facts.st_mode) || facts.st_uid != ::geteuid()) return std::nullopt;
    std::string text(kIdentityMax, '\0');
    const ssize_t got = ::read(fd.get(), text.data(), text.size());
    if (got < 0) throw errno_error("read the identity file of a volume", errno);
    text.resize(static_cast<std::size_t>(got));
    return parse(text);
}

void write_identity(int volume_fd, const Identity& identity) {
    const nlohmann::json json = {{"version", kFormatVersion},
                                 {"id", identity.id},
                                 {"ref", identity.ref},
                                 {"incarnation", identity.incarnation},
                                 {"job", identity.job}};
    const std::string text = json.dump() + "\n";
    ::unlinkat(volume_fd, kTemporaryName, 0);
    const UniqueFd fd(::openat(volume_fd, kTemporaryName,
                               O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd) throw errno_error("create the identity file of a volume", errno);
    const ssize_t written = ::write(fd.get(), text.data(), text.size());
    if (written < 0) throw errno_error("write the identity file of a volume", errno);
    if (static_cast<std::size_t>(written) != text.size()) {
        throw errno_error("write the identity file of a volume", ENOSPC);
    }
    if (::fsync(fd.get()) != 0) throw errno_error("sync the identity file of a volume", errno);
    if (::renameat(volume_fd, kTemporaryName, volume_fd, kIdentityFile) != 0) {
        throw errno_error("publish the identity file of a volume", errno);
    }
}

}  // namespace bpg::storage
