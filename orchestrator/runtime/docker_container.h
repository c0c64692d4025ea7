// What a container of ours is: its names, its labels and the body of its creation. Pure.
//
// Every container runs a program of the image directly as an ordinary user, without capabilities
// and without a way to get one, on a read-only root; it sees its volume, its socket directory and
// nothing else of the host. No secret is in its environment, labels or arguments.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "orchestrator/base/files.h"
#include "orchestrator/runtime/docker_image.h"

namespace bpg::runtime {

constexpr std::string_view kBranchLabel = "betterpg.branch_id";
constexpr std::string_view kRefLabel = "betterpg.ref";
constexpr std::string_view kRoleLabel = "betterpg.role";
constexpr std::string_view kDataLabel = "betterpg.data_directory";
constexpr std::string_view kVersionLabel = "betterpg.version";
constexpr std::string_view kOwnerLabel = "betterpg.prefix";
constexpr std::string_view kAttemptLabel = "betterpg.attempt";

constexpr std::string_view kInstanceRole = "instance";
constexpr std::string_view kInitRole = "init";
constexpr std::string_view kProbeRole = "probe";

struct DockerLimits {
    std::uint64_t memory = 0;  ///< bytes, swap included; 0: no limit
    std::int64_t pids = 4096;
    std::uint64_t shm = 1ULL << 30;  ///< bytes of /dev/shm
};

/// One container to be made.
struct ContainerPlan {
    std::string_view role;
    std::string prefix;     ///< runtime.docker.container_prefix
    std::string branch_id;  ///< empty for a probe
    std::string ref;
    std::filesystem::path data_directory;
    std::string attempt;  ///< what another must have in common to be the same; empty: nothing
    ImageFacts image;
    std::string program;  ///< looked up in program_path()
    std::vector<std::string> arguments;
    FileOwner user;
    std::vector<std::filesystem::path> mounts;  ///< of the host, at the same place inside
    std::vector<std::filesystem::path> read_only_mounts;
    std::string network = "none";
    std::string listen;  ///< addresses of the host, with commas; where `port` is published
    int port = 0;        ///< 0: none
    DockerLimits limits;
    bool may_resolve = false;  ///< ask name servers
};

/// The body of `POST /containers/create`.
nlohmann::json container_body(const ContainerPlan& plan);

/// PATH in a container: the image's own, then where distributions keep PostgreSQL.
std::string program_path(const ImageFacts& image);

/// "127.0.0.1, ::1" as the host addresses Docker takes.
std::vector<std::string> host_addresses(const std::string& listen);

/// Whether a mount of `source` lets another server run on `data`: it is `data`, something in it, or
/// between it and the volume. What is above the volume is mounted for other reasons (monitoring,
/// backups); a server that ran there would be seen by its process.
bool mount_reaches(const std::filesystem::path& source, const std::filesystem::path& volume,
                   const std::filesystem::path& data);

/// Whether `path` is `directory` or lies below it.
bool is_in(const std::filesystem::path& path, const std::filesystem::path& directory);

}  // namespace bpg::runtime
