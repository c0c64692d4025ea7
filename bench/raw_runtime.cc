#include "bench/raw_runtime.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <stdexcept>
#include <utility>

#include "orchestrator/runtime/docker_wire.h"
#include "orchestrator/runtime/instance_process.h"
#include "tests/harness/loop.h"

namespace bpg::bench {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::TestHost;

constexpr std::string_view kSockets = "unix_socket_directories=";
constexpr std::string_view kPort = "port=";
constexpr std::string_view kBranch = "bpg.branch_id=";
constexpr std::string_view kCluster = "cluster_name=";

fs::path volume_of(const TestHost& host, const std::string& ref) {
    return host.volumes() / host.branch(ref).at("storage").at("name").get<std::string>();
}

/// The arguments of an instance of bpgd, made ones for another place.
class Arguments {
  public:
    Arguments(std::vector<std::string> argv, fs::path volume)
        : argv_(std::move(argv)), volume_(std::move(volume)) {
        for (const std::string& one : argv_) {
            if (one.starts_with(kSockets)) sockets_ = one.substr(kSockets.size());
        }
        if (sockets_.empty()) throw std::runtime_error("the instance to copy has no socket");
    }

    const std::string& sockets() const { return sockets_; }

    std::vector<std::string> at(const RawPlace& place) const {
        std::vector<std::string> argv = argv_;
        for (std::string& one : argv) {
            if (one.starts_with(kSockets)) one = std::string(kSockets) + place.sockets.native();
            if (one.starts_with(kPort)) one = fmt::format("{}{}", kPort, place.port);
            if (one.starts_with(kBranch)) one = std::string(kBranch) + "raw";
            if (one.starts_with(kCluster)) one = std::string(kCluster) + "raw";
            one = replaced(one, volume_.native(), place.volume.native());
        }
        return argv;
    }

  private:
    std::vector<std::string> argv_;
    fs::path volume_;
    std::string sockets_;
};

class RawProcess final : public RawRuntime {
  public:
    RawProcess(const TestHost& host, const std::string& model)
        : arguments_(host.postmaster(model).argv, volume_of(host, model)),
          log_(host.base() / "raw.log") {
        struct stat facts{};
        if (::stat((volume_of(host, model) / "data").c_str(), &facts) != 0) {
            throw std::runtime_error("cannot look at the data directory of " + model);
        }
        user_ = {facts.st_uid, facts.st_gid};
    }
    ~RawProcess() override { RawProcess::stop(); }

    void start(const RawPlace& place, Laps& laps) override {
        DetachedCommand command;
        command.argv = runtime::as_user(user_, arguments_.at(place));
        command.log_path = log_;
        pid_ = spawn_detached(command);
        laps.lap("spawn");
    }

    bool runs() override {
        if (pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) == pid_) pid_ = 0;
        return pid_ > 0;
    }

    void stop() override {
        if (pid_ <= 0) return;
        ::kill(pid_, SIGQUIT);
        ::waitpid(pid_, nullptr, 0);
        pid_ = 0;
    }

  private:
    Arguments arguments_;
    FileOwner user_;
    fs::path log_;
    pid_t pid_ = 0;
};

class RawDocker final : public RawRuntime {
  public:
    RawDocker(const TestHost& host, const std::string& model)
        : wire_(test::DockerHost::get().socket()), name_(host.container_prefix() + "raw") {
        const fs::path volume = volume_of(host, model);
        const json facts = call(
            "GET", "/containers/" + host.container_prefix() + volume.filename().native() + "/json");
        const json& config = facts.at("Config");
        for (const char* part : {"Image", "Entrypoint", "User", "WorkingDir", "Env", "StopSignal",
                                 "StopTimeout", "Healthcheck"}) {
            if (config.contains(part)) model_[part] = config.at(part);
        }
        model_["HostConfig"] = facts.at("HostConfig");
        volume_ = volume;
        arguments_ =
            std::make_unique<Arguments>(config.at("Cmd").get<std::vector<std::string>>(), volume);
    }
    ~RawDocker() override {
        try {
            RawDocker::stop();
        } catch (const std::exception& failure) {
            // The host's end sweeps what has its prefix, and says so.
            fmt::print(stderr, "a raw container stays: {}\n", failure.what());
        }
    }

    void start(const RawPlace& place, Laps& laps) override {
        const std::string text = replaced(model_.dump(), volume_.native(), place.volume.native());
        json body = json::parse(replaced(text, arguments_->sockets(), place.sockets.native()));
        body["Cmd"] = arguments_->at(place);
        const std::string port = fmt::format("{}/tcp", place.port);
        body["ExposedPorts"] = {{port, json::object()}};
        body["HostConfig"]["PortBindings"] = {
            {port, {{{"HostIp", "127.0.0.1"}, {"HostPort", std::to_string(place.port)}}}}};
        id_ = call("POST", "/containers/create?name=" + name_, body.dump()).at("Id");
        laps.lap("docker_create");
        call("POST", "/containers/" + id_ + "/start");
        laps.lap("docker_start");
    }

    bool runs() override {
        return call("GET", "/containers/" + id_ + "/json").at("State").at("Running");
    }

    void stop() override {
        if (id_.empty()) return;
        call("DELETE", "/containers/" + id_ + "?v=1&force=1");
        id_.clear();
    }

  private:
    json call(std::string method, std::string target, std::string body = "") {
        runtime::DockerRequest request;
        request.method = std::move(method);
        request.target = std::move(target);
        request.body = std::move(body);
        const std::string what = request.method + " " + request.target;
        const runtime::DockerAnswer answer = loop_.run(wire_.call(std::move(request)));
        if (!answer.ok()) throw std::runtime_error(what + ": " + answer.message());
        return answer.body.empty() ? json() : json::parse(answer.body);
    }

    test::Loop loop_;
    runtime::DockerWire wire_;
    std::string name_;
    json model_;
    fs::path volume_;
    std::unique_ptr<Arguments> arguments_;
    std::string id_;
};

}  // namespace

std::unique_ptr<RawRuntime> RawRuntime::make(const TestHost& host, const std::string& model) {
    if (host.in_docker()) return std::make_unique<RawDocker>(host, model);
    return std::make_unique<RawProcess>(host, model);
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
    for (std::size_t at = text.find(from); at != std::string::npos;
         at = text.find(from, at + to.size())) {
        text.replace(at, from.size(), to);
    }
    return text;
}

}  // namespace bpg::bench
