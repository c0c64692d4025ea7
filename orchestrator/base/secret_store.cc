#include "orchestrator/base/secret_store.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/id.h"

namespace bpg {
namespace {

constexpr std::size_t kPasswordBytes = 24;
constexpr std::size_t kSecretMax = 4096;

/// What a process that was killed while it wrote this file has left; see write_file_durably().
void remove_unfinished(const std::filesystem::path& file) {
    const std::string prefix = "." + file.filename().native() + ".";
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(file.parent_path(), none)) {
        const std::string name = entry.path().filename();
        if (!name.starts_with(prefix) || !name.ends_with(".tmp")) continue;
        if (::unlink(entry.path().c_str()) != 0 && errno != ENOENT) {
            throw errno_error("remove " + entry.path().native(), errno);
        }
    }
}

std::optional<Secret> read_secret(const std::filesystem::path& file) {
    auto text = read_file(file, kSecretMax);
    if (!text) return std::nullopt;
    return Secret(std::move(*text));
}

}  // namespace

SecretStore::SecretStore(std::filesystem::path directory) : directory_(std::move(directory)) {}

std::filesystem::path SecretStore::path_of(const std::string& branch_id) const {
    if (!is_valid_id(branch_id)) {
        throw Error(ErrorKind::kInternal, "id_invalid", "a branch id is not valid", branch_id);
    }
    return directory_ / branch_id;
}

std::filesystem::path SecretStore::next_path_of(const std::string& branch_id) const {
    return path_of(branch_id).native() + ".next";
}

Secret SecretStore::ensure(const std::filesystem::path& path) const {
    if (auto existing = read_secret(path)) return std::move(*existing);
    ensure_directory(directory_, 0700);
    remove_unfinished(path);
    Secret password(random_hex(kPasswordBytes));
    write_file_durably(path, password.reveal(), 0600);
    return password;
}

Secret SecretStore::ensure_password(const std::string& branch_id) const {
    return ensure(path_of(branch_id));
}

Secret SecretStore::ensure_next_password(const std::string& branch_id) const {
    return ensure(next_path_of(branch_id));
}

void SecretStore::keep_next_password(const std::string& branch_id) const {
    const std::filesystem::path next = next_path_of(branch_id);
    if (::rename(next.c_str(), path_of(branch_id).c_str()) != 0 && errno != ENOENT) {
        throw errno_error("keep the new password of branch " + branch_id, errno);
    }
    fsync_directory(directory_);
}

void SecretStore::remove_next_password(const std::string& branch_id) const {
    const std::filesystem::path next = next_path_of(branch_id);
    if (::unlink(next.c_str()) != 0 && errno != ENOENT) {
        throw errno_error("remove the new password of branch " + branch_id, errno);
    }
    remove_unfinished(next);
}

std::optional<Secret> SecretStore::find_password(const std::string& branch_id) const {
    return read_secret(path_of(branch_id));
}

void SecretStore::remove_password(const std::string& branch_id) const {
    if (::unlink(path_of(branch_id).c_str()) != 0 && errno != ENOENT) {
        throw errno_error("remove the password of branch " + branch_id, errno);
    }
    remove_unfinished(path_of(branch_id));
    remove_next_password(branch_id);
}

}  // namespace bpg
