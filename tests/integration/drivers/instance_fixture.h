// Real PostgreSQL instances for driver tests: one cluster is made once a process, every instance
// begins as a copy of it. Run the suites against another PostgreSQL with BPG_TEST_BIN_DIR=<its bin
// folder>.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <pqxx/pqxx>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/id.h"
#include "orchestrator/base/offload.h"
#include "orchestrator/base/subprocess.h"
#include "orchestrator/postgres/local_data_directories.h"
#include "orchestrator/postgres/pqxx_postgres.h"
#include "orchestrator/runtime/process.h"
#include "tests/harness/loop.h"
#include "tests/harness/ports.h"

namespace bpg::test {

using namespace std::chrono_literals;
namespace asio = boost::asio;
namespace fs = std::filesystem;

/// The loop thread, its pool and the ports under test.
class Drivers : public Loop {
  public:
    Drivers()
        : runtime({.bin_dir = bin_dir(), .user = "postgres"}, pool, io.get_executor()),
          postgres(pool),
          directories(pool) {}

    static fs::path bin_dir() {
        const char* chosen = std::getenv("BPG_TEST_BIN_DIR");
        return chosen == nullptr ? "" : chosen;
    }
    /// The PostgreSQL under test: the newest of the chosen folder, else of the machine.
    runtime::Engine engine() {
        const char* chosen = std::getenv("BPG_TEST_VERSION");
        runtime::EngineRequest wanted{chosen == nullptr ? "" : chosen, ""};
        return run(runtime.find_engine(wanted));
    }

    runtime::ProcessRuntime runtime;
    postgres::PqxxPostgres postgres;
    postgres::LocalDataDirectories directories;
};

/// Everything below one directory that instances can traverse, with the cluster all begin from.
class Place {
  public:
    static Place& get() {
        static Place place;
        return place;
    }
    Place() : base_(fs::path("/tmp") / ("bpg-pg-" + random_hex(4))) {
        ensure_directory(base_, 0711);
        for (const char* name : {"v", "run", "log", "seed"})
            ensure_directory(base_ / name, 0711);
        Drivers drivers;
        engine_ = drivers.engine();
        const runtime::InitSpec spec{.branch_id = "seed",
                                     .name = "seed",
                                     .engine = engine_,
                                     .volume = base_ / "seed",
                                     .data_directory = base_ / "seed/data",
                                     .locale = "C.UTF-8"};
        drivers.run(drivers.runtime.init_data_directory(spec));
    }
    ~Place() { remove_tree(base_); }
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;

    const fs::path& base() const { return base_; }
    fs::path seed() const { return base_ / "seed/data"; }
    const runtime::Engine& engine() const { return engine_; }
    const std::string& version() const { return engine_.version; }
    int major() const { return std::stoi(engine_.version); }
    int next_port() { return ports_.first() + (next_++ % (PortSlot::kSize - 1)); }

  private:
    fs::path base_;
    runtime::Engine engine_;
    PortSlot ports_;
    int next_ = 0;
};

/// One instance of a branch of its own. Killed with its object.
class Instance {
  public:
    enum class From { kSeed, kNothing };

    explicit Instance(Drivers& drivers, From from = From::kSeed)
        : drivers_(drivers), id_(new_id()), port_(Place::get().next_port()) {
        ensure_directory(volume(), 0711);
        if (from == From::kSeed) copy_data(Place::get().seed());
    }
    ~Instance() {
        try {
            kill();
            remove_tree(volume());
        } catch (const std::exception& failure) {
            ADD_FAILURE() << "an instance could not be stopped: " << failure.what();
        }
    }
    Instance(const Instance&) = delete;
    Instance& operator=(const Instance&) = delete;

    const std::string& id() const { return id_; }
    int port() const { return port_; }
    fs::path volume() const { return Place::get().base() / "v" / id_; }
    fs::path data() const { return volume() / "data"; }
    fs::path log() const { return Place::get().base() / "log" / id_; }
    FileOwner owner() const { return Place::get().engine().user; }

    void copy_data(const fs::path& from) {
        shell_free({"cp", "-a", "--reflink=auto", from.native(), data().native()});
    }

    postgres::Endpoint endpoint() const {
        return {.socket_directory = Place::get().base() / "run/i" / id_,
                .port = port_,
                .branch_id = id_};
    }
    runtime::InstanceRef ref() const {
        return {.branch_id = id_,
                .name = "test-" + id_,
                .data_directory = data(),
                .socket_directory = endpoint().socket_directory,
                .log_path = log()};
    }
    runtime::InitSpec init_spec(const std::string& locale = "C.UTF-8") const {
        return {.branch_id = id_,
                .name = "test-" + id_,
                .engine = Place::get().engine(),
                .volume = volume(),
                .data_directory = data(),
                .locale = locale};
    }
    /// `changes` replace settings bpgd owns, or add others.
    runtime::InstanceSpec spec(
        const std::vector<std::pair<std::string, std::string>>& changes = {}) const {
        auto settings = postgres::owned_settings(volume(), endpoint(), "127.0.0.1", "test-" + id_,
                                                 Place::get().major());
        for (const auto& change : changes) {
            std::erase_if(settings, [&](const auto& one) { return one.first == change.first; });
            settings.push_back(change);
        }
        return {.branch_id = id_,
                .name = "test-" + id_,
                .ref = "test/" + id_,
                .engine = Place::get().engine(),
                .volume = volume(),
                .data_directory = data(),
                .socket_directory = endpoint().socket_directory,
                .log_path = log(),
                .listen = "127.0.0.1",
                .port = port_,
                .settings = settings};
    }

    postgres::OwnedConfig config(bool open) const {
        postgres::OwnedConfig config;
        config.volume = volume();
        config.owner = owner();
        config.settings = {{"shared_buffers", "16MB"}};
        config.open = open;
        return config;
    }
    void write_config(bool open = false) {
        drivers_.run(drivers_.directories.write_owned_config(config(open)));
    }
    /// Writes the configuration and starts; ready() waits.
    void start(const std::vector<std::pair<std::string, std::string>>& changes = {},
               bool open = false) {
        write_config(open);
        drivers_.run(drivers_.runtime.start(spec(changes)));
    }
    asio::awaitable<postgres::ReadyFacts> await_ready(std::chrono::milliseconds deadline,
                                                      std::string verifier = "") {
        auto alive = [this] { return is_running(); };
        co_return co_await drivers_.postgres.await_ready(data(), endpoint(), alive, deadline,
                                                         verifier);
    }
    postgres::ReadyFacts ready(std::chrono::milliseconds deadline = 30s) {
        try {
            return drivers_.run(await_ready(deadline));
        } catch (const Error& error) {
            ADD_FAILURE() << error.what() << "\n" << log_tail();
            throw;
        }
    }
    postgres::ReadyFacts start_ready(
        const std::vector<std::pair<std::string, std::string>>& changes = {}, bool open = false) {
        start(changes, open);
        return ready();
    }
    asio::awaitable<bool> is_running() {
        const auto status = co_await drivers_.runtime.inspect(ref());
        co_return status.running;
    }
    pid_t pid() { return static_cast<pid_t>(drivers_.run(drivers_.runtime.inspect(ref())).pid); }
    void stop() { drivers_.run(drivers_.runtime.stop(ref(), runtime::StopMode::kFast, 30s)); }
    /// As a crash does: nothing is written any more.
    void kill() { drivers_.run(drivers_.runtime.stop(ref(), runtime::StopMode::kImmediate, 10s)); }

    std::string log_tail() { return drivers_.run(drivers_.runtime.log_tail(ref(), 30)); }

    std::string conninfo(const std::string& dbname = "postgres") const {
        return fmt::format("host={} port={} user=postgres dbname={}",
                           endpoint().socket_directory.native(), port_, dbname);
    }
    /// The first value of the first row, "" when there is none. Each statement commits by itself.
    std::string sql(const std::string& statement, const std::string& dbname = "postgres") const {
        pqxx::connection connection(conninfo(dbname));
        pqxx::nontransaction transaction(connection);
        const auto result = transaction.exec(statement);
        return result.empty() || result.columns() == 0 ? "" : std::string(result[0][0].c_str());
    }

  private:
    Drivers& drivers_;
    std::string id_;
    int port_;
};

inline std::string content_of(const fs::path& path) {
    return read_file(path, 16U << 20U).value_or("");
}

class InstanceTest : public ::testing::Test {
  protected:
    Drivers drivers_;
};

}  // namespace bpg::test
