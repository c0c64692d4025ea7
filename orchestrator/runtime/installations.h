// The PostgreSQL installations of this machine. Reads directories and runs `postgres --version`:
// blocks, call it on a pool. Thread-safe.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bpg::runtime {

struct Installation {
    std::string version;            ///< "15.20", "18rc1"
    std::filesystem::path bin_dir;  ///< holds postgres and initdb
};

/// "15.20" out of "postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)"; nothing when it is not
/// that.
std::optional<std::string> parse_version_output(std::string_view output);

/// Whether `wanted` is a version as a user writes it: "16", "16.4", "18rc1".
bool is_version(std::string_view wanted);
/// The number before the dot; 0 when the text is no version.
int major_of(std::string_view version);
/// Order of versions: 9.6 < 15.2 < 15.20 < 18beta1 < 18rc1 < 18.0.
bool version_less(std::string_view left, std::string_view right);

/// Which of `found` a wish means; null when none. "" takes the newest, a major its newest minor.
/// Among equals the first wins.
const Installation* choose(const std::vector<Installation>& found, const std::string& wanted);
/// For data of this version: the same, or the newest of its major.
const Installation* choose_for_data(const std::vector<Installation>& found,
                                    const std::string& version);

class Installations {
  public:
    /// `bin_dir` may be empty: /usr/lib/postgresql/*/bin and PATH are looked at anyway, after it.
    explicit Installations(std::filesystem::path bin_dir) : bin_dir_(std::move(bin_dir)) {}

    /// All that are there now, the configured one first. A binary is asked for its version once,
    /// and again when it has changed.
    std::vector<Installation> find();

  private:
    struct Known {
        std::int64_t modified_ns = 0;
        std::string version;
    };

    std::optional<std::string> version_in(const std::filesystem::path& bin_dir);

    std::filesystem::path bin_dir_;
    std::mutex mutex_;
    std::map<std::filesystem::path, Known> known_;
};

}  // namespace bpg::runtime
