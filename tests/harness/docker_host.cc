// See docker_host.h.
#include "tests/harness/docker_host.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <iomanip>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "orchestrator/base/id.h"
#include "orchestrator/base/subprocess.h"
#include "tests/harness/ports.h"

namespace bpg::test {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

/// What the images are made of: another recipe is another image.
constexpr std::string_view kRecipe = "debootstrap minbase bookworm postgresql-15; 3";
constexpr const char* kUid70Recipe =
    "RUN usermod -u 70 postgres && groupmod -g 70 postgres\n"
    "VOLUME /var/lib/postgresql/data\n";
constexpr const char* kRefusingRecipe = "COPY postgres /usr/lib/postgresql/15/bin/postgres\n";
constexpr const char* kTinyRecipe =
    "RUN mkdir /tiny && cp --parents -L /bin/sh $(ldd /bin/sh | grep -o '/[^ ]*') /tiny\n"
    "FROM scratch\n"
    "COPY --from=0 /tiny /\n"
    "COPY passwd /etc/passwd\n"
    "COPY postgres /usr/local/bin/postgres\n";
constexpr const char* kPasswd =
    "root:x:0:0:root:/root:/bin/sh\npostgres:x:71:72::/var/lib/postgresql:/bin/sh\n";
constexpr const char* kRefusingPostgres =
    "#!/bin/sh\n"
    "if [ \"$1\" = --version ]; then echo 'postgres (PostgreSQL) 15.99 (test)'; exit 0; fi\n"
    "echo 'FATAL:  this server never starts' >&2\n"
    "exit 1\n";

constexpr std::array kCacheRoots = {"/var/cache", "/var/tmp"};
constexpr auto kStartPatience = 60s;
constexpr auto kStopPatience = 30s;
constexpr auto kMakeDeadline = 900'000ms;

CommandResult run(std::vector<std::string> argv, std::chrono::milliseconds deadline = 120'000ms) {
    Command command;
    command.argv = std::move(argv);
    command.deadline = deadline;
    command.environment = {"DOCKER_BUILDKIT=0", "HOME=/nonexistent"};
    return run_command(command);
}

std::string must(std::vector<std::string> argv, std::chrono::milliseconds deadline = 120'000ms) {
    Command shown;
    shown.argv = argv;
    const CommandResult result = run(std::move(argv), deadline);
    if (!result.ok()) {
        throw std::runtime_error(shown.argv[0] + ": " + result.explain(shown) + "\n" + result.err);
    }
    return result.out;
}

std::string recipe_key(std::string_view recipe) {
    std::uint64_t hash = 1469598103934665603ULL;  // FNV-1a
    for (const char c : recipe)
        hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
    return fmt::format("{:012x}", hash & 0xffffffffffffULL);
}

bool is_alive(pid_t pid) {
    const auto facts = process_facts(pid);
    return facts && !facts->zombie;
}

/// Ends a process: SIGTERM, then SIGKILL.
void end(pid_t pid) {
    if (pid <= 0) return;
    ::kill(pid, SIGTERM);
    const auto late = std::chrono::steady_clock::now() + kStopPatience;
    while (is_alive(pid)) {
        if (std::chrono::steady_clock::now() > late) ::kill(pid, SIGKILL);
        std::this_thread::sleep_for(10ms);
        ::waitpid(pid, nullptr, WNOHANG);
    }
    ::waitpid(pid, nullptr, WNOHANG);
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::stringstream stream(text);
    for (std::string line; std::getline(stream, line);) {
        if (!line.empty()) lines.push_back(line);
    }
    return lines;
}

std::string filter_rules() {
    return run({"iptables", "-S"}).out;
}

bool another_dockerd_runs() {
    for (const auto& entry : fs::directory_iterator("/proc")) {
        const std::string name = entry.path().filename();
        if (name.find_first_not_of("0123456789") != std::string::npos) continue;
        const auto facts = process_facts(std::stoi(name));
        if (facts && !facts->zombie && !facts->argv.empty() &&
            fs::path(facts->argv[0]).filename() == "dockerd") {
            return true;
        }
    }
    return false;
}

/// What a dockerd that was killed has left mounted.
void unmount_below(const fs::path& directory) {
    std::vector<std::string> places;
    std::ifstream mounts("/proc/self/mounts");
    for (std::string source, place, rest;
         mounts >> source >> place && std::getline(mounts, rest);) {
        if (place.starts_with(directory.native() + "/")) places.push_back(place);
    }
    for (auto place = places.rbegin(); place != places.rend(); ++place)
        ::umount2(place->c_str(), MNT_DETACH);
}

/// Removes the rules of a table that say `part`.
void remove_rules(const std::string& table, const std::string& part) {
    for (const std::string& line : lines_of(run({"iptables", "-t", table, "-S"}).out)) {
        if (!line.starts_with("-A ") || line.find(part) == std::string::npos) continue;
        std::vector<std::string> argv = {"iptables", "-t", table};
        std::stringstream words(line);
        for (std::string word; words >> std::quoted(word);)
            argv.push_back(word == "-A" ? "-D" : word);
        run(argv);
    }
}

/// The bridges of branches' networks: a dockerd that ends leaves them, one that forgot them, too.
void remove_bridges() {
    constexpr std::size_t kNameSize = 11;  // bpg and 8 hexadecimal digits
    for (const auto& entry : fs::directory_iterator("/sys/class/net")) {
        const std::string name = entry.path().filename();
        if (!name.starts_with("bpg") || name.size() != kNameSize) continue;
        run({"ip", "link", "delete", name});
        for (const char* table : {"filter", "nat", "mangle"})
            remove_rules(table, " " + name + " ");
    }
}

/// The chains dockerd makes and never removes.
void remove_chains(bool allow_forwarding) {
    for (const char* chain : {"DOCKER-USER", "DOCKER-ISOLATION-STAGE-1"})
        run({"iptables", "-D", "FORWARD", "-j", chain});
    for (const char* way : {"PREROUTING", "OUTPUT"}) {
        run({"iptables", "-t", "nat", "-D", way, "-m", "addrtype", "--dst-type", "LOCAL", "-j",
             "DOCKER"});
    }
    const std::array chains = {"DOCKER-USER", "DOCKER-ISOLATION-STAGE-1",
                               "DOCKER-ISOLATION-STAGE-2", "DOCKER"};
    for (const char* chain : chains)
        run({"iptables", "-F", chain});
    for (const char* chain : chains)
        run({"iptables", "-X", chain});
    run({"iptables", "-t", "nat", "-F", "DOCKER"});
    run({"iptables", "-t", "nat", "-X", "DOCKER"});
    if (allow_forwarding) run({"iptables", "-P", "FORWARD", "ACCEPT"});
}

}  // namespace

DockerHost& DockerHost::get() {
    static DockerHost host;
    return host;
}

DockerHost::DockerHost() {
    for (const char* root : kCacheRoots) {
        if (::access(root, W_OK) != 0) continue;
        cache_ = fs::path(root) / "betterpg-tests";
        break;
    }
    run_ = "/run/betterpg-tests";
    fs::create_directories(cache_);
    fs::create_directories(run_);
    socket_ = run_ / "docker.sock";
    lock_ = UniqueFd(::open((cache_ / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    // Two dockerds on a machine flush one another's chains: another program's must end first.
    if (lock_ && ::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
        fmt::print(stderr, "waiting for another program's dockerd to end\n");
    }
    if (!lock_ || ::flock(lock_.get(), LOCK_EX) != 0) {
        throw std::runtime_error("cannot lock " + cache_.native());
    }
    // dockerd forbids forwarding. It was allowed before, or a program that was killed forbade it.
    was_forwarding_ = filter_rules().find("-P FORWARD ACCEPT") != std::string::npos ||
                      filter_rules().find("-N DOCKER\n") != std::string::npos;
    start_daemon();
    sweep("");  // what a program that was killed has left
    make_images();
}

DockerHost::~DockerHost() {
    stop_registry();
    stop_daemon();
    unmount_below(cache_);
    if (!another_dockerd_runs()) {
        remove_bridges();
        remove_chains(was_forwarding_);
    }
    std::error_code ignored;  // somebody else may look at it
    fs::remove_all(run_, ignored);
}

void DockerHost::start_daemon() {
    if (pid_ > 0 && is_alive(pid_)) return;
    adopt_or_stop_old();
    if (pid_ > 0) return;
    // With another driver the images would seem to be gone.
    std::string known;
    std::ifstream(cache_ / "storage-driver") >> known;
    for (const std::string storage_driver : {"overlay2", "vfs"}) {
        if (!known.empty() && storage_driver != known) continue;
        if (!try_start(storage_driver)) continue;
        std::ofstream(cache_ / "storage-driver") << storage_driver << "\n";
        return;
    }
    throw std::runtime_error("dockerd does not start, see " + (cache_ / "dockerd.log").native());
}

/// What a test program that was killed has left.
void DockerHost::adopt_or_stop_old() {
    pid_t old = 0;
    std::ifstream(run_ / "docker.pid") >> old;
    const auto facts = old > 0 ? process_facts(old) : std::nullopt;
    const bool is_ours = facts && !facts->zombie &&
                         std::find(facts->argv.begin(), facts->argv.end(),
                                   "unix://" + socket_.native()) != facts->argv.end();
    if (is_ours && run({"docker", "-H", "unix://" + socket_.native(), "version"}).ok()) {
        pid_ = old;
        return;
    }
    if (is_ours) end(old);
    end_containerd();
    std::error_code ignored;  // it need not be there
    fs::remove(run_ / "docker.pid", ignored);
}

bool DockerHost::try_start(const std::string& storage_driver) {
    DetachedCommand command;
    command.argv = {"dockerd",
                    "--data-root=" + (cache_ / "docker").native(),
                    "--exec-root=" + (run_ / "exec").native(),
                    "--pidfile=" + (run_ / "docker.pid").native(),
                    "--host",
                    "unix://" + socket_.native(),
                    "--userland-proxy=false",
                    "--bridge=none",
                    "--storage-driver=" + storage_driver,
                    "--log-level=warn"};
    command.log_path = cache_ / "dockerd.log";
    pid_ = spawn_detached(command);
    const auto late = std::chrono::steady_clock::now() + kStartPatience;
    while (is_alive(pid_) && std::chrono::steady_clock::now() < late) {
        if (fs::exists(socket_) &&
            run({"docker", "-H", "unix://" + socket_.native(), "version"}).ok()) {
            return true;
        }
        std::this_thread::sleep_for(20ms);
    }
    end(pid_);
    pid_ = 0;
    return false;
}

void DockerHost::kill_daemon() {
    ::kill(pid_, SIGKILL);
    while (is_alive(pid_))
        std::this_thread::sleep_for(2ms);
    ::waitpid(pid_, nullptr, WNOHANG);
    pid_ = 0;
    end_containerd();
}

/// Dies with its dockerd, but not at once, and a new dockerd would wait for the dying one in vain.
void DockerHost::end_containerd() const {
    pid_t pid = 0;
    std::ifstream(run_ / "exec/containerd/containerd.pid") >> pid;
    const auto facts = pid > 0 ? process_facts(pid) : std::nullopt;
    const bool is_ours =
        facts && std::any_of(facts->argv.begin(), facts->argv.end(), [&](const std::string& one) {
            return one.starts_with((run_ / "exec").native());
        });
    if (is_ours) end(pid);
    // Where nobody reaps it, its pid would seem to be in use for ever.
    std::error_code ignored;  // it need not be there
    fs::remove(run_ / "exec/containerd/containerd.pid", ignored);
}

void DockerHost::stop_daemon() {
    end(pid_);
    pid_ = 0;
}

std::string DockerHost::docker(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {"docker", "-H", "unix://" + socket_.native()});
    return must(std::move(arguments), kMakeDeadline);
}

std::string DockerHost::try_docker(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {"docker", "-H", "unix://" + socket_.native()});
    const CommandResult result = run(std::move(arguments));
    return result.out + result.err;
}

std::string DockerHost::image(Image kind) const {
    const std::string base = "bpg-test/debian:" + recipe_key(kRecipe);
    switch (kind) {
        case Image::kDebian:
            return base;
        case Image::kUid70:
            return "bpg-test/uid70:" + recipe_key(base + kUid70Recipe);
        case Image::kRefusing:
            return "bpg-test/refusing:" +
                   recipe_key(base + kRefusingRecipe + std::string(kRefusingPostgres));
        case Image::kTiny:
            return "bpg-test/tiny:" + recipe_key(base + kTinyRecipe + kPasswd + kRefusingPostgres);
    }
    return base;
}

bool DockerHost::has_image(const std::string& name) const {
    return !lines_of(docker({"images", "-q", name})).empty();
}

void DockerHost::make_images() {
    if (!has_image(image(Image::kDebian))) make_base_image();
    const auto build = [&](Image kind, const std::string& recipe) {
        if (has_image(image(kind))) return;
        const fs::path context = cache_ / ("context-" + random_hex(4));
        fs::create_directories(context);
        std::ofstream(context / "Dockerfile") << "FROM " << image(Image::kDebian) << "\n" << recipe;
        std::ofstream(context / "postgres") << kRefusingPostgres;
        std::ofstream(context / "passwd") << kPasswd;
        fs::permissions(context / "postgres", fs::perms(0755));
        docker({"build", "--network=none", "-t", image(kind), context.native()});
        remove_tree(context);
    };
    build(Image::kUid70, kUid70Recipe);
    build(Image::kRefusing, kRefusingRecipe);
    build(Image::kTiny, kTinyRecipe);
}

void DockerHost::make_base_image() {
    const fs::path root = cache_ / "rootfs";
    const fs::path archive = cache_ / "rootfs.tar";
    remove_tree(root);
    must({"debootstrap", "--variant=minbase", "--include=postgresql-15", "bookworm", root.native()},
         kMakeDeadline);
    // Fetched for the installation only, and half of the size.
    remove_tree(root / "var/cache/apt/archives");
    must({"tar", "-C", root.native(), "-cf", archive.native(), "."}, kMakeDeadline);
    docker({"import", archive.native(), image(Image::kDebian)});
    remove_tree(root);
    fs::remove(archive);
}

std::string DockerHost::registry() {
    const std::string address = "127.0.0.1:";
    if (registry_pid_ > 0) return address + std::to_string(registry_port_);
    const fs::path root = run_ / "registry";
    remove_tree(root);
    fs::create_directories(root);
    PortSlot ports;
    registry_port_ = ports.first();
    std::ofstream(root / "config.yml")
        << "version: 0.1\nlog: { level: error }\nstorage: { filesystem: { rootdirectory: "
        << (root / "data").native() << " } }\nhttp: { addr: 127.0.0.1:" << registry_port_ << " }\n";
    DetachedCommand command;
    command.argv = {"docker-registry", "serve", (root / "config.yml").native()};
    command.log_path = root / "log";
    registry_pid_ = spawn_detached(command);
    const auto late = std::chrono::steady_clock::now() + kStartPatience;
    while (port_is_free(registry_port_)) {
        if (!is_alive(registry_pid_) || std::chrono::steady_clock::now() > late) {
            throw std::runtime_error("docker-registry does not start, see " +
                                     command.log_path.native());
        }
        std::this_thread::sleep_for(10ms);
    }
    const std::string name = address + std::to_string(registry_port_) + "/tiny:1";
    docker({"tag", image(Image::kTiny), name});
    docker({"push", name});
    docker({"rmi", name});
    return address + std::to_string(registry_port_);
}

void DockerHost::stop_registry() {
    end(registry_pid_);
    registry_pid_ = 0;
}

std::vector<std::string> DockerHost::leftovers(const std::string& prefix) const {
    std::vector<std::string> found;
    const auto add = [&](const char* kind, std::vector<std::string> arguments, bool any) {
        for (const std::string& line : lines_of(docker(std::move(arguments)))) {
            if (any || line.starts_with(prefix)) found.push_back(fmt::format("{} {}", kind, line));
        }
    };
    add("container", {"ps", "-a", "--format", "{{.Names}}"}, false);
    add("network", {"network", "ls", "--filter", "type=custom", "--format", "{{.Name}}"}, false);
    add("volume", {"volume", "ls", "-q"}, true);
    for (const std::string& line : lines_of(run({"iptables", "-t", "mangle", "-S"}).out)) {
        if (line.find("betterpg " + prefix) != std::string::npos) found.push_back(line);
    }
    return found;
}

void DockerHost::sweep(const std::string& prefix) const {
    for (const std::string& line : leftovers(prefix)) {
        const auto space = line.find(' ');
        const std::string kind = line.substr(0, space);
        const std::string name = line.substr(space + 1);
        if (kind == "container") try_docker({"rm", "-f", "-v", name});
        if (kind == "network") try_docker({"network", "rm", name});
        if (kind == "volume") try_docker({"volume", "rm", "-f", name});
    }
    remove_rules("mangle", "\"betterpg " + prefix);
}

}  // namespace bpg::test
