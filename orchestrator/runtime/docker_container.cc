#include "orchestrator/runtime/docker_container.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <sstream>

namespace bpg::runtime {
namespace {

using nlohmann::json;
using std::filesystem::path;

constexpr std::string_view kDefaultPath =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where packages put the servers, newest first; an image with several and none in PATH is no
/// ordinary one.
constexpr std::array kServerPaths = {
    "/usr/lib/postgresql/18/bin", "/usr/lib/postgresql/17/bin", "/usr/lib/postgresql/16/bin",
    "/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/14/bin", "/usr/lib/postgresql/13/bin",
    "/usr/local/pgsql/bin",       "/usr/pgsql-18/bin",          "/usr/pgsql-17/bin",
    "/usr/pgsql-16/bin",          "/usr/pgsql-15/bin",          "/usr/pgsql-14/bin",
    "/usr/pgsql-13/bin",          "/usr/lib/postgresql",        "/usr/libexec/postgresql",
    "/opt/bitnami/postgresql/bin"};

constexpr std::string_view kScratch = "rw,nosuid,nodev,noexec,mode=1777,size=67108864";
/// An image's VOLUME that nothing of ours covers; without this Docker would make a volume of it.
constexpr std::string_view kUnusedVolume = "rw,nosuid,nodev,noexec,mode=0755,size=1048576";
/// Killed before anything else of the host when memory runs out.
constexpr int kOomScore = 500;
constexpr int kStopSeconds = 60;

/// Removes "." and "..", double and final slashes.
path tidy(const path& raw) {
    path clean = raw.lexically_normal();
    if (!clean.has_filename() && clean.has_relative_path()) clean = clean.parent_path();
    return clean;
}

json labels_of(const ContainerPlan& plan) {
    json labels = {{std::string(kRoleLabel), plan.role},
                   {std::string(kOwnerLabel), plan.prefix},
                   {std::string(kVersionLabel), "1"}};
    if (!plan.branch_id.empty()) labels[std::string(kBranchLabel)] = plan.branch_id;
    if (!plan.ref.empty()) labels[std::string(kRefLabel)] = plan.ref;
    if (!plan.attempt.empty()) labels[std::string(kAttemptLabel)] = plan.attempt;
    if (!plan.data_directory.empty()) {
        labels[std::string(kDataLabel)] = plan.data_directory.native();
    }
    return labels;
}

/// What programs must be able to write to, and the volumes the image declares, unless one of our
/// mounts is there.
json scratch_of(const ContainerPlan& plan) {
    json scratch;
    for (const char* place : {"tmp", "run"})
        scratch[(path("/") / place).native()] = kScratch;
    for (const std::string& declared : plan.image.volumes) {
        const path place = tidy(declared);
        if (!place.is_absolute() || place == "/") continue;
        const bool is_covered = std::any_of(plan.mounts.begin(), plan.mounts.end(),
                                            [&](const path& one) { return tidy(one) == place; });
        if (!is_covered && !scratch.contains(place.native())) {
            scratch[place.native()] = kUnusedVolume;
        }
    }
    return scratch;
}

json mounts_of(const ContainerPlan& plan) {
    json mounts = json::array();
    const auto add = [&mounts](const std::vector<path>& places, bool read_only) {
        for (const path& place : places) {
            mounts.push_back({{"Type", "bind"},
                              {"Source", place.native()},
                              {"Target", place.native()},
                              {"ReadOnly", read_only},
                              {"BindOptions", {{"Propagation", "rprivate"}}}});
        }
    };
    add(plan.mounts, /*read_only=*/false);
    add(plan.read_only_mounts, /*read_only=*/true);
    return mounts;
}

json host_config(const ContainerPlan& plan) {
    json host = {
        {"Mounts", mounts_of(plan)},
        {"Tmpfs", scratch_of(plan)},
        {"NetworkMode", plan.network},
        {"CapDrop", {"ALL"}},
        {"SecurityOpt", {"no-new-privileges"}},
        {"ReadonlyRootfs", true},
        {"Privileged", false},
        {"PublishAllPorts", false},
        {"IpcMode", "private"},
        {"PidsLimit", plan.limits.pids},
        {"ShmSize", plan.limits.shm},
        {"OomScoreAdj", kOomScore},
        {"Init", false},  // the postmaster is pid 1: it reaps its children itself
        {"AutoRemove", false},
        {"RestartPolicy", {{"Name", "no"}}},  // bpgd restarts, and knows when not to
        {"Ulimits", {{{"Name", "core"}, {"Soft", 0}, {"Hard", 0}}}},  // a core holds the data
        {"LogConfig", {{"Type", "local"}, {"Config", {{"max-size", "10m"}, {"max-file", "2"}}}}},
    };
    if (plan.limits.memory > 0) {
        host["Memory"] = plan.limits.memory;
        host["MemorySwap"] = plan.limits.memory;
    }
    // Docker's own name server in the container would pass questions on.
    if (!plan.may_resolve && plan.network != "none") host["Dns"] = {"127.0.0.1"};
    return host;
}

}  // namespace

bool is_in(const path& inner, const path& directory) {
    const path place = tidy(inner);
    const path above = tidy(directory);
    const auto [end, rest] = std::mismatch(above.begin(), above.end(), place.begin(), place.end());
    return end == above.end();
}

bool mount_reaches(const path& source, const path& volume, const path& data) {
    return is_in(source, data) || (is_in(data, source) && is_in(source, volume));
}

std::string program_path(const ImageFacts& image) {
    std::string all(image.path.empty() ? kDefaultPath : std::string_view(image.path));
    for (const char* one : kServerPaths) {
        all += ':';
        all += one;
    }
    return all;
}

std::vector<std::string> host_addresses(const std::string& listen) {
    std::vector<std::string> found;
    std::stringstream list(listen);
    std::string item;
    while (std::getline(list, item, ',')) {
        std::erase(item, ' ');
        if (item.empty()) continue;
        if (item == "localhost") item = "127.0.0.1";
        if (item == "*") item = "0.0.0.0";
        found.push_back(item);
    }
    return found;
}

json container_body(const ContainerPlan& plan) {
    json body = {
        {"Image", plan.image.id},
        {"Entrypoint", {plan.program}},
        {"Cmd", plan.arguments},
        {"User", fmt::format("{}:{}", plan.user.uid, plan.user.gid)},
        {"WorkingDir", "/"},
        {"Env", {"PATH=" + program_path(plan.image)}},
        {"Labels", labels_of(plan)},
        {"StopSignal", "SIGINT"},
        {"StopTimeout", kStopSeconds},
        {"Healthcheck", {{"Test", {"NONE"}}}},  // the image's would run beside ours
        {"HostConfig", host_config(plan)},
    };
    if (!plan.data_directory.empty()) {
        body["Env"].push_back("PGDATA=" + plan.data_directory.native());
    }
    if (plan.port > 0) {
        const std::string port = fmt::format("{}/tcp", plan.port);
        body["ExposedPorts"][port] = json::object();
        for (const std::string& address : host_addresses(plan.listen)) {
            body["HostConfig"]["PortBindings"][port].push_back(
                {{"HostIp", address}, {"HostPort", std::to_string(plan.port)}});
        }
    }
    return body;
}

}  // namespace bpg::runtime
