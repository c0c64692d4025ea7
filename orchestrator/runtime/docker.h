// The Docker runtime: PostgreSQL instances as containers of any image that has PostgreSQL in it. It
// isolates branches from one another and, unless told otherwise, from the network.
//
// An instance is known by its container's name and labels (branch id, data directory), so it is
// found again by a bpgd that was killed. A container of the same name without them is somebody
// else's: it is never touched; to look at an instance it does not exist, to start one it is in the
// way (kConflict `container_foreign`). Nothing is remembered here that matters.
//
// Further errors: kInvalid `image_invalid`, `image_unsuitable` (no PostgreSQL in it),
// `postgres_unsupported` (its version), `docker_too_old`; kUnavailable `pull_failed`,
// `egress_not_closed`; kConflict `network_foreign`.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "orchestrator/base/error.h"
#include "orchestrator/base/offload.h"
#include "orchestrator/base/signal.h"
#include "orchestrator/runtime/docker_container.h"
#include "orchestrator/runtime/docker_events.h"
#include "orchestrator/runtime/docker_image.h"
#include "orchestrator/runtime/docker_network.h"
#include "orchestrator/runtime/docker_wire.h"
#include "orchestrator/runtime/runtime.h"

namespace bpg::runtime {

struct DockerSettings {
    std::filesystem::path socket = "/var/run/docker.sock";  ///< runtime.docker.socket
    std::string container_prefix = "bpg-";                  ///< runtime.docker.container_prefix
    std::string image;                                      ///< postgres.image
    bool egress_allowed = false;                            ///< runtime.docker.egress: allow
    DockerLimits limits;                                    ///< runtime.limits
    std::chrono::milliseconds deadline{30'000};             ///< of a call, pulls and waits aside
};

/// Whether Docker can run instances here.
struct DockerPresence {
    std::string version;           ///< of the engine, when it answered
    std::optional<ErrorInfo> why;  ///< what is in the way; nothing when it can be used
};
/// Blocks for up to some seconds, on a loop of its own.
DockerPresence detect_docker(const std::filesystem::path& socket);

class DockerRuntime final : public Runtime {
  public:
    using Settings = DockerSettings;

    /// No I/O. Throws kInvalid `prefix_invalid`. The pool outlives this object; `executor` is the
    /// loop's.
    DockerRuntime(Settings settings, BlockingPool& pool, asio::any_io_executor executor);
    ~DockerRuntime() override;

    std::string_view driver() const override { return "docker"; }
    asio::awaitable<std::string> version() override;
    asio::awaitable<Engine> find_engine(EngineRequest request) override;
    asio::awaitable<Engine> prepare_engine(Engine engine, FetchReport report) override;
    Reach reach(const std::string& listen) const override;
    asio::awaitable<std::string> init_data_directory(const InitSpec& spec) override;
    asio::awaitable<void> make_ready(const InstanceSpec& spec) override;
    asio::awaitable<void> start(const InstanceSpec& spec) override;
    asio::awaitable<void> stop(const InstanceRef& instance, StopMode mode,
                               std::chrono::milliseconds timeout) override;
    asio::awaitable<void> remove(const InstanceRef& instance) override;
    asio::awaitable<void> reload(const InstanceRef& instance) override;
    asio::awaitable<InstanceStatus> inspect(const InstanceRef& instance) override;
    asio::awaitable<void> wait_until_gone(const InstanceRef& instance) override;
    asio::awaitable<std::string> log_tail(const InstanceRef& instance, std::size_t lines) override;
    asio::awaitable<LogPiece> read_log(const InstanceRef& instance, std::string from,
                                       std::size_t lines) override;

    /// Removes the networks and the firewall rule; remove() does it with the last instance.
    asio::awaitable<void> remove_networks();

    const DockerEvents& events() const { return events_; }

  private:
    /// One start in flight.
    class Starting {
      public:
        explicit Starting(int& count) : count_(count) { ++count_; }
        ~Starting() { --count_; }
        Starting(const Starting&) = delete;
        Starting& operator=(const Starting&) = delete;

      private:
        int& count_;
    };
    /// While it lives, starts wait.
    class Removing {
      public:
        explicit Removing(DockerRuntime& runtime) : runtime_(runtime) {
            runtime_.removing_networks_ = true;
        }
        ~Removing() {
            runtime_.removing_networks_ = false;
            runtime_.networks_removed_.notify();
        }
        Removing(const Removing&) = delete;
        Removing& operator=(const Removing&) = delete;

      private:
        DockerRuntime& runtime_;
    };
    /// One look at an image.
    class Probing {
      public:
        Probing(std::set<std::string>& all, std::string name) : all_(all), name_(std::move(name)) {
            all_.insert(name_);
        }
        ~Probing() { all_.erase(name_); }
        Probing(const Probing&) = delete;
        Probing& operator=(const Probing&) = delete;

      private:
        std::set<std::string>& all_;
        std::string name_;
    };
    asio::awaitable<void> clear_up();
    asio::awaitable<void> keep_last_words(std::string id, InstanceSpec spec);
    /// A container as dockerd describes it.
    struct Container {
        std::string id;
        std::string name;
        std::string role;
        std::string branch_id;
        std::string data_directory;
        std::string owner;    ///< container_prefix of who made it
        std::string attempt;  ///< where a look at it alone told it
        std::string state;    ///< "created", "running", "paused", "exited", …
        std::int64_t pid = 0;
        std::int64_t exit_code = 0;
        std::int64_t made_at = 0;  ///< seconds since the epoch, where a list told it
        std::vector<std::filesystem::path> writable_mounts;

        bool is_running() const { return state == "running" || state == "paused"; }
    };
    /// Who has to do with one data directory.
    struct Survey {
        bool runs = false;
        bool is_being_made = false;          ///< by another attempt, just now
        bool is_ready = false;               ///< made by make_ready(), and not started
        std::vector<std::string> leftovers;  ///< ids of ours to be removed first
    };
    struct Place {
        std::string branch_id;
        std::string name;
        std::filesystem::path volume;
        std::filesystem::path data_directory;
    };
    /// A container that make_ready() made.
    struct Ready {
        std::string id;
        std::string body;  ///< that it was made by
    };
    /// How a container that runs to its end did so.
    struct Exit {
        std::int64_t code = 0;
        std::string log;
    };

    static Container read_inspected(std::string_view text);
    static Container read_listed(const nlohmann::json& item);
    static bool is_ours(const Container& container, std::string_view role,
                        const std::string& branch_id, const std::filesystem::path& data_directory);

    std::string container_name(const std::string& name) const;
    ContainerPlan plan_of(const InstanceSpec& spec, ImageFacts image,
                          const DockerNetwork& network) const;
    ContainerPlan init_plan(const InitSpec& spec, ImageFacts image) const;
    asio::awaitable<DockerAnswer> send(std::string method, std::string target,
                                       std::string body = "");

    // docker.cc
    asio::awaitable<std::optional<Container>> look_at(std::string id_or_name);
    asio::awaitable<std::optional<Container>> find(InstanceRef instance);
    asio::awaitable<Survey> survey(Place place);
    DockerNetwork network_for(const InstanceSpec& spec) const;
    asio::awaitable<void> clear_leftovers(std::vector<std::string> ids, InstanceSpec spec);
    asio::awaitable<std::optional<std::string>> take_ready(std::string name, std::string body);
    asio::awaitable<void> prepare_place(InstanceSpec spec, DockerNetwork network);
    asio::awaitable<void> wait_while_created(std::string name);
    asio::awaitable<void> wait_for_free_directory(std::filesystem::path data_directory);
    asio::awaitable<bool> start_once(InstanceSpec spec, ImageFacts image);
    asio::awaitable<std::optional<std::string>> create(std::string name, std::string body,
                                                       std::string image);
    asio::awaitable<void> start_container(std::string id, int port);
    asio::awaitable<void> clean_and_start(std::string id, InstanceSpec spec, DockerNetwork network);
    asio::awaitable<void> remove_container(std::string id);
    asio::awaitable<bool> wait_for_end(std::string id, std::chrono::milliseconds timeout);
    asio::awaitable<void> send_signal(std::string id, std::string signal);
    asio::awaitable<std::string> last_words(std::string id, std::size_t lines);
    asio::awaitable<std::optional<std::string>> init_once(InitSpec spec, ContainerPlan plan);
    asio::awaitable<std::optional<std::string>> create_init(InitSpec spec, ContainerPlan plan);
    asio::awaitable<std::string> finish_init(std::string id, InitSpec spec, bool is_new);
    asio::awaitable<Exit> end_of(std::string id, std::chrono::milliseconds deadline);
    asio::awaitable<Exit> run_to_end(std::string id, std::chrono::milliseconds deadline);

    // docker_engine.cc
    asio::awaitable<std::optional<ImageFacts>> inspect_image(std::string name);
    asio::awaitable<ImageFacts> image_of(Engine engine);
    asio::awaitable<void> pull(ImageReference reference, std::string shown, FetchReport report);
    asio::awaitable<Engine> probe(ImageFacts facts);
    asio::awaitable<FileOwner> read_owner(std::string container_id);

    Settings settings_;
    BlockingPool& pool_;
    asio::any_io_executor executor_;
    DockerWire wire_;
    DockerEvents events_;
    std::map<std::string, ImageFacts> images_;  ///< by id; an image never changes
    std::map<std::string, Engine> probed_;      ///< by image id: version and user
    std::set<std::string> networks_;            ///< looked at since dockerd was last away
    int starting_ = 0;
    bool removing_networks_ = false;
    Signal networks_removed_;
    std::set<std::string> probes_;        ///< names of the containers that look at an image now
    std::map<std::string, Ready> ready_;  ///< by container name; those of an earlier bpgd are not
};

}  // namespace bpg::runtime
