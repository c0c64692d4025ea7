// Superuser passwords, one file a branch id, 0600 below `<paths.state>/secrets` (0700 root). They
// are in no record, argument, environment or log of the daemon.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "orchestrator/base/secret.h"

namespace bpg {

/// Blocking; call it in a pool. Ids are checked before they become a path.
class SecretStore {
  public:
    explicit SecretStore(std::filesystem::path directory);

    /// The password of a branch, made (192 random bits) and stored durably if there is none.
    Secret ensure_password(const std::string& branch_id) const;
    std::optional<Secret> find_password(const std::string& branch_id) const;
    /// The password that is to follow it, made and stored beside it if there is none.
    Secret ensure_next_password(const std::string& branch_id) const;
    /// It takes the place of the old one; success when there is none.
    void keep_next_password(const std::string& branch_id) const;
    /// Success when there is none.
    void remove_next_password(const std::string& branch_id) const;
    /// Success when there is none. The next one goes too.
    void remove_password(const std::string& branch_id) const;

  private:
    std::filesystem::path path_of(const std::string& branch_id) const;
    std::filesystem::path next_path_of(const std::string& branch_id) const;
    Secret ensure(const std::filesystem::path& path) const;

    std::filesystem::path directory_;
};

}  // namespace bpg
