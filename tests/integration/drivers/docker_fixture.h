// Instances in containers for driver tests: a private dockerd, images with PostgreSQL, one cluster
// an image that instances begin as a copy of. Every suite has a container prefix of its own, and
// ends with a look at what carries it.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <pqxx/pqxx>
#include <string>
#include <utility>
#include <vector>

#include "orchestrator/base/files.h"
#include "orchestrator/base/id.h"
#include "orchestrator/postgres/local_data_directories.h"
#include "orchestrator/postgres/pqxx_postgres.h"
#include "orchestrator/runtime/docker.h"
#include "tests/harness/docker_host.h"
#include "tests/harness/loop.h"
#include "tests/harness/ports.h"

namespace bpg::test {

using namespace std::chrono_literals;
namespace fs = std::filesystem;
using Image = DockerHost::Image;
using Settings = std::vector<std::pair<std::string, std::string>>;

/// The ports under test. Each object is a bpgd that knows nothing yet.
class DockerDrivers : public Loop {
  public:
    explicit DockerDrivers(const std::string& prefix, fs::path socket = DockerHost::get().socket(),
                           std::chrono::milliseconds deadline = 30s)
        : runtime(settings(prefix, std::move(socket), deadline), pool, io.get_executor()),
          postgres(pool),
          directories(pool) {}

    runtime::DockerRuntime runtime;
    postgres::PqxxPostgres postgres;
    postgres::LocalDataDirectories directories;

  private:
    static runtime::DockerSettings settings(const std::string& prefix, fs::path socket,
                                            std::chrono::milliseconds deadline) {
        runtime::DockerSettings all;
        all.socket = std::move(socket);
        all.container_prefix = prefix;
        all.image = DockerHost::get().image(Image::kDebian);
        all.limits.shm = 64 << 20;
        all.deadline = deadline;
        return all;
    }
};

/// Directories, ports and clusters of one program.
class DockerPlace {
  public:
    static DockerPlace& get() {
        static DockerPlace place;
        return place;
    }
    ~DockerPlace() {
        try {
            DockerDrivers drivers(prefix_);
            drivers.run(drivers.runtime.remove_networks());
            for (const std::string& left : DockerHost::get().leftovers(prefix_))
                fmt::print(stderr, "left behind: {}\n", left);
            DockerHost::get().sweep(prefix_);
        } catch (const std::exception& failure) {
            fmt::print(stderr, "cannot clean up: {}\n", failure.what());
        }
        remove_tree(base_);
    }
    DockerPlace(const DockerPlace&) = delete;
    DockerPlace& operator=(const DockerPlace&) = delete;

    const fs::path& base() const { return base_; }
    const std::string& prefix() const { return prefix_; }
    int next_port() { return ports_.first() + (next_++ % (PortSlot::kSize - 1)); }

    /// What prepare_engine() says of an image.
    const runtime::Engine& engine(DockerDrivers& drivers, Image kind) {
        const auto known = engines_.find(kind);
        if (known != engines_.end()) return known->second;
        runtime::Engine wanted;
        wanted.image = DockerHost::get().image(kind);
        const auto made = drivers.run(drivers.runtime.prepare_engine(wanted, {}));
        return engines_.insert_or_assign(kind, made).first->second;
    }

    /// A finished cluster to copy.
    fs::path seed(DockerDrivers& drivers, Image kind) {
        const std::string name = fmt::format("seed{}", static_cast<int>(kind));
        const fs::path volume = base_ / "v" / name;
        if (fs::exists(volume)) return volume / "data";
        ensure_directory(volume, 0711);
        drivers.run(drivers.runtime.init_data_directory({.branch_id = new_id(),
                                                         .name = name,
                                                         .engine = engine(drivers, kind),
                                                         .volume = volume,
                                                         .data_directory = volume / "data",
                                                         .locale = "C.UTF-8"}));
        return volume / "data";
    }

  private:
    DockerPlace()
        : base_(fs::path("/tmp") / ("bpg-dk-" + random_hex(4))),
          prefix_("t" + random_hex(3) + "-") {
        DockerHost::get();  // lives longer
        ensure_directory(base_, 0711);
        for (const char* name : {"v", "run"})
            ensure_directory(base_ / name, 0711);
    }

    fs::path base_;
    std::string prefix_;
    PortSlot ports_;
    int next_ = 0;
    std::map<Image, runtime::Engine> engines_;
};

/// One branch. Killed and removed with its object.
class Boxed {
  public:
    enum class From { kSeed, kNothing };

    explicit Boxed(DockerDrivers& drivers, Image kind = Image::kDebian, From from = From::kSeed)
        : drivers_(drivers),
          id_(new_id()),
          engine_(DockerPlace::get().engine(drivers, kind)),
          port_(DockerPlace::get().next_port()) {
        const fs::path seed =
            from == From::kSeed ? DockerPlace::get().seed(drivers, kind) : fs::path();
        ensure_directory(volume(), 0711);
        if (from == From::kSeed) shell_free({"cp", "-a", seed.native(), data().native()});
    }
    ~Boxed() {
        try {
            drivers_.run(drivers_.runtime.stop(ref(), runtime::StopMode::kImmediate, 10s));
            drivers_.run(drivers_.runtime.remove(ref()));
            remove_tree(volume());
        } catch (const std::exception& failure) {
            ADD_FAILURE() << "an instance could not be removed: " << failure.what();
        }
    }
    Boxed(const Boxed&) = delete;
    Boxed& operator=(const Boxed&) = delete;

    const std::string& id() const { return id_; }
    int port() const { return port_; }
    const runtime::Engine& engine() const { return engine_; }
    std::string name() const { return "b-" + id_; }
    std::string container() const { return DockerPlace::get().prefix() + name(); }
    fs::path volume() const { return DockerPlace::get().base() / "v" / id_; }
    fs::path data() const { return volume() / "data"; }
    postgres::Endpoint endpoint() const {
        return {.socket_directory = DockerPlace::get().base() / "run/i" / id_,
                .port = port_,
                .branch_id = id_};
    }
    runtime::InstanceRef ref() const {
        return {.branch_id = id_,
                .name = name(),
                .data_directory = data(),
                .socket_directory = endpoint().socket_directory,
                .log_path = {}};
    }
    runtime::InitSpec init_spec(const std::string& locale = "C.UTF-8") const {
        return {.branch_id = id_,
                .name = name(),
                .engine = engine_,
                .volume = volume(),
                .data_directory = data(),
                .locale = locale};
    }
    runtime::InstanceSpec spec(const Settings& changes = {}) const {
        const auto reach = drivers_.runtime.reach("127.0.0.1");
        auto settings = postgres::owned_settings(volume(), endpoint(), reach.listen_addresses,
                                                 name(), std::stoi(engine_.version));
        for (const auto& change : changes) {
            std::erase_if(settings, [&](const auto& one) { return one.first == change.first; });
            settings.push_back(change);
        }
        runtime::InstanceSpec spec;
        spec.branch_id = id_;
        spec.name = name();
        spec.ref = "test/" + id_;
        spec.engine = engine_;
        spec.volume = volume();
        spec.data_directory = data();
        spec.socket_directory = endpoint().socket_directory;
        spec.listen = "127.0.0.1";
        spec.port = port_;
        spec.settings = std::move(settings);
        return spec;
    }

    void write_config(bool open = false) {
        postgres::OwnedConfig config;
        config.volume = volume();
        config.owner = engine_.user;
        config.settings = {{"shared_buffers", "16MB"}};
        config.open = open;
        config.published = true;
        drivers_.run(drivers_.directories.write_owned_config(config));
    }
    void start(const Settings& changes = {}) {
        write_config();
        drivers_.run(drivers_.runtime.start(spec(changes)));
    }
    asio::awaitable<postgres::ReadyFacts> await_ready(std::chrono::milliseconds deadline,
                                                      std::string verifier = "") {
        auto alive = [this] { return is_running(); };
        co_return co_await drivers_.postgres.await_ready(data(), endpoint(), alive, deadline,
                                                         verifier);
    }
    void ready() {
        try {
            drivers_.run(await_ready(30s));
        } catch (const Error& error) {
            ADD_FAILURE() << error.what() << "\n" << log();
            throw;
        }
    }
    void start_ready(const Settings& changes = {}) {
        start(changes);
        ready();
    }
    asio::awaitable<bool> is_running() {
        const auto status = co_await drivers_.runtime.inspect(ref());
        co_return status.running;
    }
    pid_t pid() { return static_cast<pid_t>(drivers_.run(drivers_.runtime.inspect(ref())).pid); }
    std::string log() { return drivers_.run(drivers_.runtime.log_tail(ref(), 50)); }

    /// As bpgd asks: over the unix socket, as root, which is postgres by peer.
    std::string sql(const std::string& statement) const {
        pqxx::connection connection(fmt::format("host={} port={} user=postgres dbname=postgres",
                                                endpoint().socket_directory.native(), port_));
        pqxx::nontransaction transaction(connection);
        const auto result = transaction.exec(statement);
        return result.empty() || result.columns() == 0 ? "" : std::string(result[0][0].c_str());
    }
    /// What a superuser of the branch gets out of a program it runs in its container.
    std::string program(const std::string& shell) const {
        pqxx::connection connection(fmt::format("host={} port={} user=postgres dbname=postgres",
                                                endpoint().socket_directory.native(), port_));
        pqxx::nontransaction transaction(connection);
        transaction.exec("CREATE TEMP TABLE said (line text)");
        transaction.exec("COPY said FROM PROGRAM " +
                         transaction.quote("bash -c " + quoted("{ " + shell + "\n} 2>&1; true")) +
                         " WITH (FORMAT csv, DELIMITER E'\\x01', QUOTE E'\\x02')");
        std::string all;
        for (const auto& row : transaction.exec("SELECT line FROM said"))
            all += std::string(row[0].c_str()) + "\n";
        return all;
    }
    nlohmann::json inspected() const {
        return nlohmann::json::parse(DockerHost::get().docker({"inspect", container()}))[0];
    }

  private:
    static std::string quoted(const std::string& text) {
        std::string out = "'";
        for (const char c : text)
            out += c == '\'' ? std::string("'\\''") : std::string(1, c);
        return out + "'";
    }

    DockerDrivers& drivers_;
    std::string id_;
    runtime::Engine engine_;
    int port_;
};

class DockerTest : public ::testing::Test {
  protected:
    /// Every test leaves no container and no anonymous volume.
    void TearDown() override {
        for (const std::string& left : DockerHost::get().leftovers(prefix())) {
            if (left.starts_with("network ") || left.starts_with("-A PREROUTING")) continue;
            ADD_FAILURE() << "left behind: " << left;
        }
    }
    static const std::string& prefix() { return DockerPlace::get().prefix(); }
    static DockerHost& host() { return DockerHost::get(); }

    DockerDrivers drivers_{prefix()};
};

}  // namespace bpg::test
