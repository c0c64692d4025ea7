// See host.h.
#include "tests/harness/host.h"

#include <fmt/format.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "orchestrator/base/subprocess.h"
#include "tests/harness/http.h"

namespace bpg::test {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::uint64_t kPoolBytes = 12ULL << 30U;  // sparse

constexpr std::array<std::string_view, 5> kOpenStates = {"queued", "waiting", "running", "retrying",
                                                         "undoing"};

bool is_open(const std::string& state) {
    return std::find(kOpenStates.begin(), kOpenStates.end(), state) != kOpenStates.end();
}

/// Short, since unix socket paths end after 107 characters, and readable by the instances' user.
fs::path make_base_directory() {
    std::string name = (fs::temp_directory_path() / "bpg-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
    ::chmod(name.c_str(), 0755);
    return name;
}

std::string slurp(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

/// Makes an ext2 in a file beside the directory and mounts it there. Ext2, since it reserves
/// nothing ahead of a write: a full one is full.
void mount_small_disk(const fs::path& directory, const std::string& size) {
    if (size.empty()) return;
    fs::create_directories(directory);
    const std::string image = directory.string() + ".img";
    for (std::vector<std::string> argv :
         {std::vector<std::string>{"truncate", "-s", size, image},
          {"mkfs.ext2", "-q", "-F", "-m", "0", image},
          {"mount", "-o", "loop,nodev,nosuid", image, directory.string()}}) {
        Command command;
        command.argv = std::move(argv);
        const CommandResult result = run_command(command);
        if (!result.ok()) {
            throw std::runtime_error(command.argv[0] + ": " + result.explain(command));
        }
    }
    fs::remove(directory / "lost+found");
}

/// The last 4000 bytes.
std::string tail(const std::string& text) {
    return text.substr(text.size() - std::min<std::size_t>(text.size(), 4000));
}

/// The first JSON value of a text that may carry progress lines before it.
std::optional<Json> find_json(const std::string& text) {
    for (std::size_t at = text.find('{'); at != std::string::npos; at = text.find('{', at + 1)) {
        if (at != 0 && text[at - 1] != '\n') continue;
        Json parsed = Json::parse(text.substr(at), nullptr, false);
        if (!parsed.is_discarded()) return parsed;
    }
    return std::nullopt;
}

std::string text_member(const Json& object, const char* name) {
    const auto found = object.find(name);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const DriverPair& pair) {
    return out << pair.storage << "+" << pair.runtime;
}

Json CliResult::json() const {
    Json parsed = Json::parse(out, nullptr, false);
    if (parsed.is_discarded()) throw std::runtime_error("stdout is no JSON: " + text());
    return parsed;
}

CliError CliResult::error() const {
    const auto problem = find_json(err);
    if (!problem) throw std::runtime_error("no problem object on stderr: " + text());
    return CliError{exit_code, text_member(*problem, "code"), text_member(*problem, "title"),
                    text_member(*problem, "detail"), text_member(*problem, "hint")};
}

std::string CliResult::text() const {
    return fmt::format("exit code {}\n--- stdout\n{}\n--- stderr\n{}", exit_code, out, err);
}

fs::path bin_dir() {
    if (const char* given = ::getenv("BPG_BIN_DIR"); given != nullptr && *given != '\0') {
        return given;
    }
    return fs::read_symlink("/proc/self/exe").parent_path();
}

bool long_mode() {
    const char* given = ::getenv("BPG_LONG");
    return given != nullptr && *given != '\0';
}

bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds deadline) {
    const auto end = Clock::now() + deadline;
    while (!condition()) {
        if (Clock::now() > end) return false;
        std::this_thread::sleep_for(20ms);
    }
    return true;
}

// ---- life
// ----------------------------------------------------------------------------------------

TestHost::TestHost(HostOptions options)
    : options_(std::move(options)), ports_(options_.wide_ports), base_(make_base_directory()) {
    try {
        prepare();
    } catch (const std::exception&) {
        force_down();
        throw;
    }
}

void TestHost::prepare() {
    if (on_zfs() && options_.pool_by_init) {
        require_zfs();
        pool_name_ = fmt::format("bpgtest-init{}", ports_.first());
    } else if (on_zfs()) {
        pool_ = std::make_unique<TestPool>(kPoolBytes);
        pool_name_ = pool_->name();
    }
    mount_small_disk(volumes(), options_.volumes_size);
    mount_small_disk(state(), options_.state_size);
    write_config();
    std::vector<std::string> init = {"init",      "--no-start",
                                     "--storage", options_.drivers.storage,
                                     "--runtime", options_.drivers.runtime};
    if (options_.drivers.storage == "btrfs") {
        init.insert(init.end(), {"--pool-file", (base_ / "pool.btrfs").string(), "--pool-size",
                                 options_.pool_size});
    }
    if (on_zfs()) init.insert(init.end(), {"--pool", pool_name_});
    if (options_.pool_by_init) {
        init.insert(init.end(), {"--pool-file", (base_ / "pool.zfs").string(), "--pool-size",
                                 options_.pool_size});
    }
    const auto result = bpg(init);
    if (!result.ok()) throw std::runtime_error("bpg init: " + result.text());
}

std::string TestHost::container_prefix() const {
    return fmt::format("bpgt{}-", ports_.first());
}

std::string TestHost::dataset_base() const {
    return pool_name_ + "/bpg/databases";
}

TestHost::~TestHost() {
    if (!finished_) force_down();
}

void TestHost::write_config() const {
    std::ofstream file(config_file());
    file << "# A test's own world.\n"
         << "postgres:\n";
    if (in_docker()) {
        file << "  image: " << DockerHost::get().image(options_.image) << "\n";
    } else {
        file << "  version: \"15\"\n";
    }
    file << "  config: { shared_buffers: 64MB, max_connections: \"60\" }\n"
         << "storage:\n"
         << "  driver: " << options_.drivers.storage << "\n"
         << "  root: " << volumes().string() << "\n";
    if (!options_.storage_reserve.empty()) {
        file << "  reserve: " << options_.storage_reserve << "\n";
    }
    if (options_.drivers.storage == "btrfs") {
        file << "  pool_file: " << (base_ / "pool.btrfs").string() << "\n"
             << "  pool_size: " << options_.pool_size << "\n";
    }
    if (on_zfs()) {
        file << "zfs: { pool: " << pool_name_ << ", datasetBase: bpg/databases }\n";
    }
    file << "runtime:\n  driver: " << options_.drivers.runtime << "\n";
    if (in_docker()) {
        file << "  docker: { socket: " << DockerHost::get().socket().string()
             << ", container_prefix: " << container_prefix() << " }\n"
             << "  limits: { shm: 64MiB }\n";
    }
    file << "network: { listen: 127.0.0.1, ports: " << ports_.first() << "-"
         << ports_.last_instance() << " }\n"
         << "paths:\n"
         << "  state: " << (base_ / "state").string() << "\n"
         << "  run: " << (base_ / "run").string() << "\n"
         << "  wal_archive: " << (base_ / "wal").string() << "\n"
         << "api: { socket: " << (base_ / "run" / "bpgd.sock").string() << " }\n"
         << "metrics: { listen: \"127.0.0.1:" << ports_.metrics() << "\" }\n"
         << "trash: { keep: " << options_.trash_keep << " }\n"
         << options_.extra_config;
}

// ---- the daemon
// ----------------------------------------------------------------------------------

void TestHost::spawn_daemon(const std::vector<std::string>& arguments,
                            const std::vector<std::string>& environment) {
    if (daemon_ > 0) throw std::logic_error("bpgd runs already");
    DetachedCommand command;
    command.argv = {(bin_dir() / "bpgd").string(), "--config", config_file().string()};
    command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
    command.environment = environment;
    for (const char* name : {"ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS"}) {
        if (const char* value = ::getenv(name)) {
            command.environment.push_back(fmt::format("{}={}", name, value));
        }
    }
    command.log_path = daemon_log();
    daemon_ = spawn_detached(command);
}

void TestHost::start_daemon(const std::vector<std::string>& arguments) {
    spawn_daemon(arguments);
    wait_until_ready();
}

void TestHost::wait_until_ready(std::chrono::milliseconds deadline) {
    CliResult last;
    const bool ready = eventually(
        [&] {
            last = bpg({"status"});
            if (last.ok()) return true;
            if (wait_for_daemon_end(0ms)) {
                throw std::runtime_error("bpgd ended instead of becoming ready:\n" +
                                         slurp(daemon_log()));
            }
            return false;
        },
        deadline);
    if (!ready) throw std::runtime_error("bpgd did not become ready: " + last.text());
}

void TestHost::kill_daemon() {
    if (daemon_ <= 0) return;
    ::kill(daemon_, SIGKILL);
    ::waitpid(daemon_, nullptr, 0);
    daemon_ = -1;
}

int TestHost::stop_daemon(std::chrono::milliseconds deadline) {
    if (daemon_ <= 0) return 0;
    ::kill(daemon_, SIGTERM);
    const auto status = wait_for_daemon_end(deadline);
    if (!status) {
        kill_daemon();
        return -1;
    }
    return WIFEXITED(*status) ? WEXITSTATUS(*status) : -1;
}

std::optional<int> TestHost::wait_for_daemon_end(std::chrono::milliseconds deadline) {
    int status = 0;
    const bool ended =
        eventually([&] { return ::waitpid(daemon_, &status, WNOHANG) == daemon_; }, deadline);
    if (!ended) return std::nullopt;
    daemon_ = -1;
    return status;
}

// ---- the command line
// ----------------------------------------------------------------------------

CliResult TestHost::bpg(const std::vector<std::string>& arguments,
                        std::chrono::milliseconds deadline) const {
    Command command;
    command.argv = {(bin_dir() / "bpg").string(), "--config", config_file().string()};
    command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
    command.deadline = deadline;
    command.output_max = 8 << 20;
    const auto began = Clock::now();
    const auto result = run_command(command);
    CliResult answer{result.exit_code, result.out, result.err,
                     std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - began)};
    if (result.timed_out) answer.err += "\n(the test's deadline passed; killed)";
    return answer;
}

Json TestHost::bpg_json(const std::vector<std::string>& arguments,
                        std::chrono::milliseconds deadline) const {
    std::vector<std::string> all = {"-o", "json"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const auto result = bpg(all, deadline);
    if (!result.ok()) {
        throw std::runtime_error(fmt::format("bpg {}: {}", fmt::join(all, " "), result.text()));
    }
    return result.json();
}

CliError TestHost::bpg_error(const std::vector<std::string>& arguments) const {
    std::vector<std::string> all = {"-o", "json"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const auto result = bpg(all);
    if (result.ok()) {
        throw std::runtime_error(
            fmt::format("bpg {} was expected to fail: {}", fmt::join(all, " "), result.text()));
    }
    return result.error();
}

std::string TestHost::url(const std::string& ref) const {
    return bpg_json({"url", ref}).at("url").get<std::string>();
}

std::vector<std::string> TestHost::client_environment(const std::string& ref) const {
    std::vector<std::string> environment;
    const Json variables = bpg_json({"env", ref});
    for (const auto& [name, value] : variables.items()) {
        environment.push_back(fmt::format(
            "{}={}", name, value.is_string() ? value.get<std::string>() : value.dump()));
    }
    return environment;
}

bool TestHost::branch_exists(const std::string& ref) const {
    const auto result = bpg({"-o", "json", "branch", "get", ref});
    if (result.ok()) return true;
    if (result.exit_code == 3) return false;
    throw std::runtime_error("bpg branch get " + ref + ": " + result.text());
}

Json TestHost::finished_job(const std::string& id, std::chrono::milliseconds deadline) const {
    Json job;
    const bool finished = eventually(
        [&] {
            job = bpg_json({"job", "get", id});
            return !is_open(job.at("state"));
        },
        deadline);
    if (!finished) throw std::runtime_error("job is still open: " + job.dump(2));
    return job;
}

std::string TestHost::outcome(const std::string& id) const {
    const Json job = finished_job(id);
    if (job.at("state") == "succeeded") return "succeeded";
    return job.at("state").get<std::string>() + ": " + job.dump(2) + "\n" +
           bpg({"-o", "json", "job", "tail", id}).out;
}

void TestHost::wait_until_idle(std::chrono::milliseconds deadline) const {
    Json open;
    const bool idle = eventually(
        [&] {
            open = Json::array();
            const Json job_list = bpg_json({"job", "list"});
            for (const auto& job : job_list.at("items")) {
                const std::string state = job.at("state");
                if (state == "stuck") throw std::runtime_error("a job is stuck: " + job.dump(2));
                if (is_open(state)) open.push_back(job);
            }
            return open.empty();
        },
        deadline);
    if (!idle) throw std::runtime_error("jobs are still open: " + open.dump(2));
}

// ---- the world
// -----------------------------------------------------------------------------------

World TestHost::world() const {
    World world = look_at_world({volumes(), base_ / "state", base_ / "run", base_ / "wal"}, ports_);
    if (on_zfs()) {
        std::istringstream names(
            run_zfs({"zfs", "list", "-H", "-r", "-t", "all", "-o", "name", dataset_base()}));
        for (std::string name; std::getline(names, name);) {
            if (name != dataset_base()) world.things.insert("dataset " + name);
        }
    }
    if (in_docker()) {
        for (const std::string& thing : DockerHost::get().leftovers(container_prefix())) {
            // Made with the first instance, gone with the last.
            if (!thing.starts_with("network ") && !thing.starts_with("-A ")) {
                world.things.insert(thing);
            }
        }
    }
    return world;
}

std::string TestHost::compare_world_with_catalog() const {
    std::string wrong;
    std::map<std::string, std::size_t> processes;  // by branch id
    for (const auto& postmaster : postmasters_below(volumes()))
        ++processes[branch_id_of(postmaster)];
    std::set<std::string> volumes_left;
    for (const auto& entry : fs::directory_iterator(volumes())) {
        const std::string name = entry.path().filename();
        if (!name.starts_with(".") && entry.is_directory()) volumes_left.insert(name);
    }
    std::set<std::string> archives_left;
    for (const auto& entry : fs::directory_iterator(base_ / "wal"))
        archives_left.insert(entry.path().filename());
    std::size_t running = 0;
    std::size_t volumes_named = 0;
    const Json branch_list = bpg_json({"branch", "list"});
    for (const auto& branch : branch_list.at("items")) {
        ++volumes_named;
        const std::string ref = branch.at("ref");
        const std::string state = branch.at("state");
        const std::string volume = branch.at("storage").at("name");
        const std::size_t expected = state == "running" || state == "degraded" ? 1 : 0;
        running += expected;
        const auto found = processes[branch.at("id")];
        if (found != expected) {
            wrong += fmt::format("{} is {} and has {} postmasters\n", ref, state, found);
        }
        archives_left.erase(volume);
        if (volumes_left.erase(volume) == 0) {
            wrong += fmt::format("{} has no volume {}\n", ref, volume);
        }
        if (port_is_free(branch.at("port")) != (expected == 0)) {
            wrong += fmt::format("{} is {} and port {} says otherwise\n", ref, state,
                                 branch.at("port").get<int>());
        }
        processes.erase(branch.at("id"));
    }
    const Json trash_list = bpg_json({"trash", "list"});
    for (const auto& item : trash_list.at("items")) {
        for (const std::string volume : item.at("volumes")) {
            ++volumes_named;
            archives_left.erase(volume);
            if (volumes_left.erase(volume) > 0) continue;
            wrong +=
                fmt::format("{} in the trash has no volume {}\n", item.at("ref").dump(), volume);
        }
    }
    for (const auto& [id, count] : processes) {
        wrong += fmt::format("{} postmasters of unknown branch {}\n", count, id);
    }
    for (const auto& volume : volumes_left)
        wrong += fmt::format("unknown volume {}\n", volume);
    for (const auto& archive : archives_left)
        wrong += fmt::format("unknown archive {}\n", archive);
    // A password may be shared by what a sync replaced; none is there without a branch.
    const auto secrets = fs::directory_iterator(base_ / "state" / "secrets");
    const auto secret_files = std::distance(fs::begin(secrets), fs::end(secrets));
    if (secret_files > static_cast<std::ptrdiff_t>(volumes_named)) {
        wrong += fmt::format("{} passwords of {} branches\n", secret_files, volumes_named);
    }
    std::size_t ports = 0;
    for (const auto port : ports_.taken())
        ports += port != ports_.metrics() ? 1 : 0;
    if (ports != running) {
        wrong += fmt::format("{} ports are taken, {} branches run\n", ports, running);
    }
    return wrong + compare_snapshots_with_catalog();
}

std::string TestHost::compare_snapshots_with_catalog() const {
    const std::string kept_beside = "volume .snapshots/";
    std::set<std::string> left;
    for (const std::string& thing : world().things) {
        const auto name = thing.find_last_of("/@");
        const bool is_beside = thing.starts_with(kept_beside) && name >= kept_beside.size();
        const bool is_of_zfs = thing.starts_with("dataset ") && thing[name] == '@';
        if (is_beside || is_of_zfs) left.insert(thing.substr(name + 1));
    }
    std::string wrong;
    const Json snapshot_list = bpg_json({"snapshot", "list"});
    for (const auto& snapshot : snapshot_list.at("items")) {
        if (left.erase(snapshot.at("id")) > 0) continue;
        wrong += fmt::format("snapshot {} is not there\n", snapshot.at("id").dump());
    }
    // Those of what is in the trash are on record, and not in the list.
    for (const auto& id : left) {
        const CliResult got = bpg({"-o", "json", "snapshot", "get", id});
        if (!got.ok()) wrong += fmt::format("unknown snapshot {}: {}\n", id, got.error().code);
    }
    return wrong;
}

std::string TestHost::ref_on_disk(const std::string& volume) const {
    if (on_zfs()) {
        Command command;
        command.argv = {
            "zfs", "get", "-H", "-o", "value", "betterpg:ref", dataset_base() + "/" + volume};
        const std::string value = run_command(command).out;
        return value.substr(0, value.find('\n'));
    }
    std::ifstream file(volumes() / volume / "betterpg.json");
    return Json::parse(file).at("ref");
}

ProcessFacts TestHost::postmaster(const std::string& ref) const {
    const std::string id = branch(ref).at("id");
    std::vector<ProcessFacts> found;
    for (const auto& facts : postmasters_below(volumes())) {
        if (branch_id_of(facts) == id) found.push_back(facts);
    }
    if (found.size() != 1) {
        throw std::runtime_error(fmt::format("{} has {} postmasters", ref, found.size()));
    }
    return found.front();
}

std::string TestHost::instance_log(const std::string& ref) const {
    if (in_docker()) {
        const std::string volume = branch(ref).at("storage").at("name");
        return DockerHost::get().try_docker({"logs", container_prefix() + volume});
    }
    // Where it writes is nobody's contract, so the process itself is asked.
    return slurp(fs::read_symlink(fmt::format("/proc/{}/fd/2", postmaster(ref).pid)));
}

std::string TestHost::metrics() const {
    return http_get(ports_.metrics(), "/metrics");
}

// ---- the end
// -------------------------------------------------------------------------------------

void TestHost::delete_all_databases(std::vector<std::string>& left) {
    if (daemon_ <= 0) start_daemon();
    wait_until_idle();
    const Json database_list = bpg_json({"db", "list"});
    for (const auto& database : database_list.at("items")) {
        const std::string name = database.at("name");
        const auto result = bpg({"-y", "db", "delete", name, "--force"});
        if (!result.ok()) left.push_back("db delete " + name + ": " + result.text());
    }
    const auto purged = bpg({"-y", "trash", "purge", "--all"});
    if (!purged.ok()) left.push_back("trash purge: " + purged.text());
    wait_until_idle();
}

std::vector<std::string> TestHost::finish() {
    if (finished_) return {};
    std::vector<std::string> left;
    try {
        delete_all_databases(left);
        for (const auto& thing : world().things) {
            // The store's own files and the hidden places of a storage driver may stay while empty.
            const bool of_the_daemon =
                thing.starts_with("state file ") && !thing.starts_with("state file secrets/");
            const bool mark_of_the_root = thing == "volume betterpg-root.json";
            const bool empty_place =
                thing.starts_with("volume .") && thing.find('/') == std::string::npos;
            if (!of_the_daemon && !empty_place && !mark_of_the_root) left.push_back(thing);
        }
        if (stop_daemon() != 0) left.push_back("bpgd did not stop with exit code 0 within 10 s");
    } catch (const std::exception& failure) {
        left.emplace_back(failure.what());
    }
    for (const auto& process : processes_naming(base_)) {
        left.push_back(fmt::format("process {} {}", process.pid, fmt::join(process.argv, " ")));
    }
    if (!left.empty()) left.push_back("the end of bpgd's log:\n" + tail(slurp(daemon_log())));
    if (in_docker()) {
        for (const auto& thing : DockerHost::get().leftovers(container_prefix()))
            left.push_back(thing);
    }
    destroy_pool(left);
    force_down();
    for (const auto& mount : mounts_below(base_))
        left.push_back("mount " + mount.string());
    for (const auto& device : loop_devices_below(base_))
        left.push_back("loop device " + device);
    if (fs::exists(base_)) left.push_back("directory " + base_.string());
    return left;
}

void TestHost::destroy_pool(std::vector<std::string>& left) {
    if (pool_) {
        for (const auto& thing : pool_->finish())
            left.push_back(thing);
    } else if (on_zfs() && fs::exists(base_ / "pool.zfs")) {
        // Made by init; nothing of BetterPG destroys a pool.
        run_zfs({"zpool", "destroy", "-f", pool_name_});
        fs::remove(base_ / "pool.zfs");
    }
}

void TestHost::force_down() noexcept {
    finished_ = true;
    try {
        kill_daemon();
        for (const auto& process : processes_naming(base_)) {
            if (process.pid != ::getpid()) ::kill(process.pid, SIGQUIT);
        }
        eventually([&] { return processes_naming(base_).empty(); }, 5s);
        for (const auto& process : processes_naming(base_)) {
            if (process.pid != ::getpid()) ::kill(process.pid, SIGKILL);
        }
        if (in_docker()) DockerHost::get().sweep(container_prefix());
        std::vector<std::string> ignored;
        destroy_pool(ignored);
        // A mount is busy for a moment after its last user died.
        eventually(
            [&] {
                for (const auto& mount : mounts_below(base_))
                    ::umount2(mount.c_str(), 0);
                return mounts_below(base_).empty();
            },
            10s);
        for (const auto& device : loop_devices_below(base_)) {
            run_command({.argv = {"losetup", "-d", device}, .environment = {}, .input = {}});
        }
        // Nothing is removed below a mount that would not go.
        if (mounts_below(base_).empty()) fs::remove_all(base_);
    } catch (const std::exception& failure) {
        std::cerr << "taking down " << base_ << ": " << failure.what() << "\n";
    }
}

}  // namespace bpg::test
