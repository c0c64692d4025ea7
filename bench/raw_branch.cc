#include "bench/raw_branch.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <exception>
#include <fstream>
#include <future>
#include <iostream>
#include <stdexcept>
#include <thread>

#include "orchestrator/base/files.h"
#include "tests/harness/load.h"

namespace bpg::bench {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr auto kLookPause = 500us;
constexpr auto kAlivePause = 50ms;
constexpr auto kReadyPatience = 60s;
constexpr const char* kOwnPassword = "of-the-clone";

std::string content_of(const fs::path& path) {
    const auto content = read_file(path);
    if (!content) throw std::runtime_error("there is no " + path.native());
    return *content;
}

void write(const fs::path& path, const std::string& content, FileOwner owner, mode_t mode) {
    std::ofstream(path, std::ios::trunc) << content;
    if (::chown(path.c_str(), owner.uid, owner.gid) != 0 || ::chmod(path.c_str(), mode) != 0) {
        throw std::runtime_error("cannot write " + path.native());
    }
}

}  // namespace

RawBranch::RawBranch(const test::TestHost& host, const std::string& parent,
                     const std::string& model)
    : host_(host) {
    const auto record = host.branch(parent);
    const std::string volume = record.at("storage").at("name");
    parent_volume_ = host.volumes() / volume;
    model_volume_ = host.volumes() / host.branch(model).at("storage").at("name").get<std::string>();
    conf_ = content_of(model_volume_ / "conf/postgresql.conf");
    storage_ = RawStorage::make(host, volume);
    runtime_ = RawRuntime::make(host, model);
    place_.port = host.ports().last_instance();  // bpgd takes the lowest
    struct stat facts{};
    if (::stat((parent_volume_ / "data").c_str(), &facts) != 0) {
        throw std::runtime_error("cannot look at " + parent_volume_.native());
    }
    owner_ = {facts.st_uid, facts.st_gid};
    const std::string url = host.url(parent);
    parent_ = std::make_unique<pqxx::connection>(url);
    // The clone is the parent to its users: its password, and its door is open.
    url_ = replaced(url, fmt::format(":{}/", record.at("port").get<int>()),
                    fmt::format(":{}/", place_.port));
    own_url_ = url_ + "?password=" + kOwnPassword;
}

RawBranch::~RawBranch() {
    try {
        remove();
    } catch (const std::exception& failure) {
        std::cerr << "a raw branch stays: " << failure.what() << "\n";
    }
}

void RawBranch::ask(const std::string& sql) {
    pqxx::nontransaction work(*parent_);
    work.exec(sql);
}

/// The label.
std::string RawBranch::stop_backup() {
    pqxx::nontransaction work(*parent_);
    return work.exec1("SELECT labelfile FROM pg_backup_stop(wait_for_archive => false)")[0]
        .as<std::string>();
}

void RawBranch::clone(Laps& laps) {
    place_.volume = storage_->clone(name_);
    laps.lap("clone");
}

/// As little as makes the clone start as itself.
void RawBranch::clean_up() const {
    for (const char* name : {"data/postmaster.pid", "data/postmaster.opts"})
        ::unlink((place_.volume / name).c_str());
    write(place_.volume / "conf/postgresql.conf",
          replaced(conf_, model_volume_.native(), place_.volume.native()), {0, owner_.gid}, 0640);
    ensure_directory(place_.sockets, 0700, owner_);
}

/// The WAL since the copy began, and the label that says where replay begins.
void RawBranch::finish_copy(const std::string& label) const {
    run_or_throw({"cp", "-a", "--reflink=never", "--no-target-directory",
                  (parent_volume_ / "data/pg_wal").native(),
                  (place_.volume / "data/pg_wal").native()});
    write(place_.volume / "data/backup_label", label, owner_, 0600);
}

void RawBranch::wait_until_ready() const {
    const fs::path pid_file = place_.volume / "data/postmaster.pid";
    const auto deadline = Steady::now() + kReadyPatience;
    auto next_alive = Steady::now() + kAlivePause;
    while (true) {
        const std::string content = read_file(pid_file, 4096).value_or("");
        if (content.find("\nready") != std::string::npos) return;
        const auto now = Steady::now();
        if (now > next_alive) {
            if (!runtime_->runs()) throw std::runtime_error("a raw PostgreSQL did not start");
            next_alive = Steady::now() + kAlivePause;
        }
        if (now > deadline) throw std::runtime_error("a raw PostgreSQL is never ready");
        std::this_thread::sleep_for(kLookPause);
    }
}

void RawBranch::start(Laps& laps) {
    clean_up();
    laps.lap("clean_up");
    runtime_->start(place_, laps);
    wait_until_ready();
    laps.lap("until_ready");
}

void RawBranch::connect(Laps& laps, const std::string& url) const {
    test::query_value(url, "SELECT 1");
    laps.lap("connect");
}

Sample RawBranch::with_checkpoint() {
    name_ = fmt::format("raw-{}", ++count_);
    place_.sockets = host_.base() / "run" / name_;
    Laps laps;
    ask("CHECKPOINT");
    laps.lap("checkpoint");
    storage_->snapshot(name_);
    laps.lap("snapshot");
    clone(laps);
    start(laps);
    connect(laps, url_);
    return laps.finish();
}

Sample RawBranch::in_backup_mode() {
    name_ = fmt::format("raw-{}", ++count_);
    place_.sockets = host_.base() / "run" / name_;
    Laps laps;
    ask("SELECT pg_backup_start('raw', fast => true)");
    laps.lap("backup_start");
    if (host_.atomic()) {
        storage_->snapshot(name_);
        laps.lap("snapshot");
    } else {
        clone(laps);
    }
    const std::string label = stop_backup();
    laps.lap("backup_stop");
    if (host_.atomic()) {
        clone(laps);
    } else {
        finish_copy(label);
        laps.lap("wal_and_label");
    }
    start(laps);
    connect(laps, url_);
    return laps.finish();
}

Sample RawBranch::in_backup_mode_beside() {
    return beside_the_stop(/*same_result=*/false);
}

Sample RawBranch::with_the_same_result() {
    return beside_the_stop(/*same_result=*/true);
}

Sample RawBranch::beside_the_stop(bool same_result) {
    name_ = fmt::format("raw-{}", ++count_);
    place_.sockets = host_.base() / "run" / name_;
    Laps laps;
    ask("SELECT pg_backup_start('raw', fast => true)");
    laps.lap("backup_start");
    storage_->snapshot(name_);
    laps.lap("snapshot");
    // Its destructor waits, also after a failure below.
    const std::future<std::string> label =
        std::async(std::launch::async, [this] { return stop_backup(); });
    clone(laps);
    if (same_result) write(place_.volume / "data/recovery.signal", "", owner_, 0600);
    start(laps);
    if (same_result) {
        test::execute(url_, fmt::format("ALTER ROLE postgres PASSWORD '{}'", kOwnPassword));
        laps.lap("own_password");
    }
    connect(laps, same_result ? own_url_ : url_);
    label.wait();
    laps.lap("rest_of_backup_stop");
    return laps.finish();
}

void RawBranch::remove() {
    if (name_.empty()) return;
    runtime_->stop();
    storage_->remove(name_);
    remove_tree(place_.sockets);
    name_.clear();
}

}  // namespace bpg::bench
