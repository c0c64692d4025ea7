// What the Docker runtime reads about images: references, what inspecting and pulling answers, the
// files and the version an image tells. Pure: text in, facts out.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"

namespace bpg::runtime {

/// "postgres:16-alpine", "ghcr.io/owner/name:tag@sha256:…" in its parts.
struct ImageReference {
    std::string repository;  ///< as written, with the registry
    std::string tag;         ///< may be empty
    std::string digest;      ///< "sha256:…", may be empty

    /// The query of `POST /images/create`; without a tag Docker would pull every one there is.
    std::string pull_query() const;
};

/// Reads what a user wrote; throws kInvalid `image_invalid`. What it lets pass holds nothing that
/// could leave its place in a URL.
ImageReference parse_image_reference(std::string_view text);

/// "sha256:" and 64 hexadecimal digits.
bool is_image_id(std::string_view text);

/// What matters of `GET /images/{name}/json`.
struct ImageFacts {
    std::string id;                         ///< "sha256:…"
    std::vector<std::string> repo_digests;  ///< "postgres@sha256:…"
    std::string path;                       ///< PATH of its environment
    std::vector<std::string> volumes;       ///< what its VOLUME lines declare
};
ImageFacts read_image_facts(std::string_view json);

/// The one of `repo_digests` this reference can be pulled by again; empty when there is none.
std::string digest_of(const ImageFacts& facts, const ImageReference& reference);

/// Follows the lines of a pull across the pieces they come in.
class PullProgress {
  public:
    void feed(std::string_view piece);

    std::uint64_t done() const;
    std::uint64_t total() const;
    /// What went wrong; empty so far.
    const std::string& error() const { return error_; }

  private:
    struct Layer {
        std::uint64_t done = 0;
        std::uint64_t total = 0;
    };
    void read_line(std::string_view line);

    std::string rest_;
    std::map<std::string, Layer, std::less<>> layers_;
    std::string error_;
};

/// Why a pull failed, from what dockerd or the registry said.
Error pull_failed(const std::string& image, const std::string& message);

/// The first member of a tar archive.
struct TarMember {
    std::string content;
    std::string link_target;  ///< not empty: a symbolic link
};
std::optional<TarMember> first_tar_member(std::string_view archive);

/// uid and gid of a user in an /etc/passwd.
std::optional<FileOwner> owner_in_passwd(std::string_view passwd, std::string_view user);

/// "15.20" of "postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)".
std::optional<std::string> version_in(std::string_view text);

/// Takes the frames of `GET /containers/{id}/logs` apart and keeps the end of what they say.
class LogCollector {
  public:
    explicit LogCollector(std::size_t max) : max_(max) {}
    void feed(std::string_view piece);
    /// At most `lines` lines, and not half of one.
    std::string tail(std::size_t lines) const;

  private:
    void keep(std::string_view text);

    std::size_t max_;
    std::string header_;
    std::size_t frame_left_ = 0;
    std::string text_;
    bool was_cut_ = false;
};

}  // namespace bpg::runtime
