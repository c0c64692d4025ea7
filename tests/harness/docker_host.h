// A dockerd of the tests' own, with images that have PostgreSQL in them. It is started when a test
// first asks for it and stopped at the end of the program; its data, that is the images, are kept
// in a cache outside of the repository, so that only the first run on a machine makes them (about
// two minutes) and every later start takes a second. One test program at a time uses it; others
// wait.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "orchestrator/base/files.h"

namespace bpg::test {

class DockerHost {
  public:
    /// What an image is like. Debian's PostgreSQL 15 is in the first three, and not in their PATH.
    enum class Image {
        kDebian,    ///< uid of postgres as Debian gives it
        kUid70,     ///< uid 70, as in Alpine's images, and a VOLUME
        kRefusing,  ///< its postgres says its version, and otherwise only FATAL
        kTiny       ///< the same in 3 MB, for the registry
    };

    /// The one of this program, running. Throws std::runtime_error, saying why, when it cannot be.
    static DockerHost& get();

    const std::filesystem::path& socket() const { return socket_; }
    /// The name of an image that is there.
    std::string image(Image kind) const;

    /// Makes images again that a test removed.
    void restore_images() { make_images(); }

    /// "127.0.0.1:port" of a registry that holds kTiny as repository "tiny", tag "1".
    std::string registry();

    pid_t pid() const { return pid_; }
    /// As a crash does; containers go on until it is started again.
    void kill_daemon();
    void start_daemon();

    /// docker ARGUMENTS… against this daemon: its output; throws when it fails.
    std::string docker(std::vector<std::string> arguments) const;
    /// The same; the exit code is not looked at, and stderr is part of the output.
    std::string try_docker(std::vector<std::string> arguments) const;

    /// Containers, volumes and networks whose name begins with `prefix`, and all anonymous volumes:
    /// what a suite left behind.
    std::vector<std::string> leftovers(const std::string& prefix) const;
    /// Removes them.
    void sweep(const std::string& prefix) const;

    ~DockerHost();
    DockerHost(const DockerHost&) = delete;
    DockerHost& operator=(const DockerHost&) = delete;

  private:
    DockerHost();
    void adopt_or_stop_old();
    bool try_start(const std::string& storage_driver);
    void make_images();
    void make_base_image();
    bool has_image(const std::string& name) const;
    void stop_daemon();
    void end_containerd() const;
    void stop_registry();

    std::filesystem::path cache_;
    std::filesystem::path run_;
    std::filesystem::path socket_;
    UniqueFd lock_;
    pid_t pid_ = 0;
    pid_t registry_pid_ = 0;
    std::uint16_t registry_port_ = 0;
    bool was_forwarding_ = false;
};

}  // namespace bpg::test
