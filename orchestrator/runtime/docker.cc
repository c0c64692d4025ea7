// The Docker runtime's verbs for containers. Each begins with a look at what dockerd has, and the
// name of a container is what two attempts at the same thing cannot both take.
#include "orchestrator/runtime/docker.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <ctime>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "orchestrator/base/id.h"
#include "orchestrator/base/log.h"
#include "orchestrator/runtime/cluster_files.h"
#include "orchestrator/runtime/instance_process.h"

namespace bpg::runtime {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kInitDeadline{300'000};
/// From SIGQUIT to SIGKILL, and from SIGKILL to giving up.
constexpr milliseconds kImmediatePatience{5'000};
constexpr milliseconds kKillPatience{10'000};
/// How long processes of an instance that was killed may take to notice.
constexpr milliseconds kLeftoverPatience{5'000};
constexpr milliseconds kLeftoverPause{20};
/// How long dockerd may take to remove what it is removing already.
constexpr milliseconds kRemovePatience{10'000};
constexpr milliseconds kLookPause{50};
constexpr milliseconds kLookAgain{5'000};
/// How long another attempt may be between its create and its start; later it was given up.
constexpr std::chrono::seconds kCreatedPatience{5};
/// Many starts at once wait for one another in dockerd.
constexpr milliseconds kStartDeadline{120'000};
/// How long to give way to another attempt at the same start.
constexpr milliseconds kRivalPatience{30'000};
constexpr std::size_t kTailMax = 16 * 1024;
constexpr std::size_t kPieceMax = 4 << 20;
constexpr std::string_view kTimeMark = "time:";
constexpr std::size_t kLastWords = 200;  // lines
constexpr std::size_t kListMax = 64 << 20;
constexpr std::size_t kInitLogLines = 100;

/// "2025-10-07T14:30:00.123456789Z", as dockerd writes it, in the form it takes:
/// "1759847400.123456789".
std::string unix_time_of(const std::string& time) {
    std::tm parts{};
    const char* rest = ::strptime(time.c_str(), "%Y-%m-%dT%H:%M:%S", &parts);
    if (rest == nullptr) return "0";
    std::string fraction(rest);
    while (!fraction.empty() && (fraction.back() < '0' || fraction.back() > '9'))
        fraction.pop_back();
    return std::to_string(::timegm(&parts)) + fraction;
}

json parsed(const std::string& text) {
    auto value = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (value.is_discarded()) {
        throw Error(ErrorKind::kInternal, "docker_answer_invalid",
                    "the Docker daemon answered something that is no JSON", text.substr(0, 200));
    }
    return value;
}

/// A member of an object; null when there is none, or no object.
json member(const json& object, std::string_view name) {
    if (!object.is_object()) return nullptr;
    const auto found = object.find(name);
    return found == object.end() ? json() : *found;
}

std::string text_of(const json& value) {
    return value.is_string() ? value.get<std::string>() : "";
}

std::int64_t number_of(const json& value) {
    return value.is_number_integer() ? value.get<std::int64_t>() : 0;
}

Error docker_refused(std::string action, const DockerAnswer& answer) {
    const bool is_busy = answer.status == 503;
    return {is_busy ? ErrorKind::kUnavailable : ErrorKind::kInternal,
            is_busy ? "runtime_unavailable" : "docker_refused",
            "the Docker daemon refused to " + std::move(action), answer.message()};
}

Error foreign(const std::string& container, const std::string& branch_id) {
    return {ErrorKind::kConflict, "container_foreign",
            fmt::format("the container {} is not this branch's", container),
            branch_id.empty() ? "it does not carry BetterPG's labels"
                              : "its labels name another branch or data directory: " + branch_id,
            "remove or rename it by hand, or set another runtime.docker.container_prefix"};
}

Error in_use_by(const std::string& container, const std::string& state,
                const std::filesystem::path& data) {
    return {ErrorKind::kConflict, "data_directory_in_use",
            "another container has this data directory",
            fmt::format("container {} ({}) mounts {}", container, state, data.native()),
            fmt::format("remove it (docker rm {}): two servers on one data directory destroy it",
                        container)};
}

Error image_gone(const std::string& image, const std::string& why) {
    return {ErrorKind::kNotFound, "image_not_found",
            "the image of this branch is not here: " + image, why,
            "pull or load it again; another one would change how the data is sorted"};
}

Error rivals(const std::string& action) {
    return {ErrorKind::kUnavailable, "runtime_unavailable", "cannot " + action,
            "its container is made and removed by somebody else again and again",
            "does another bpgd use the same runtime.docker.container_prefix?"};
}

void check_branch_id(const std::string& branch_id) {
    if (!is_valid_id(branch_id)) {
        throw Error(ErrorKind::kInternal, "id_invalid", "this is no id of a branch", branch_id);
    }
}

/// PostgreSQL would take a pid file of an earlier life for its own, as both say pid 1; but until it
/// has written its own, the old one would still call the instance ready.
void remove_pid_file(const std::filesystem::path& data) {
    const auto path = data / "postmaster.pid";
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
        throw errno_error("remove " + path.native(), errno);
    }
}

}  // namespace

DockerRuntime::DockerRuntime(Settings settings, BlockingPool& pool, asio::any_io_executor executor)
    : settings_(std::move(settings)),
      pool_(pool),
      executor_(std::move(executor)),
      wire_(settings_.socket),
      events_(settings_.socket, executor_) {
    const std::string& prefix = settings_.container_prefix;
    constexpr std::size_t kPrefixMax = 40;
    const auto fits = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
    };
    if (prefix.empty() || prefix.size() > kPrefixMax || prefix.front() < '0' ||
        !std::all_of(prefix.begin(), prefix.end(), fits)) {
        throw Error(ErrorKind::kInvalid, "prefix_invalid",
                    "runtime.docker.container_prefix cannot be '" + prefix + "'",
                    "a container's name has lower-case letters, digits, - _ and .",
                    "bpg- is the default");
    }
}

DockerRuntime::~DockerRuntime() = default;

Reach DockerRuntime::reach(const std::string& /*listen*/) const {
    // The container's own address and loopback; its network has no IPv6.
    return {"0.0.0.0", true};
}

asio::awaitable<std::string> DockerRuntime::version() {
    DockerRequest request;
    request.target = "/version";
    request.deadline = milliseconds(5'000);
    try {
        const DockerAnswer answer = co_await wire_.call(std::move(request));
        co_return text_of(member(parsed(answer.body), "Version"));
    } catch (const Error&) {
        co_return "";
    }
}

// ---- looking ------------------------------------------------------------------------------------

DockerRuntime::Container DockerRuntime::read_inspected(std::string_view text) {
    const json facts = parsed(std::string(text));
    const json state = member(facts, "State");
    const json labels = member(member(facts, "Config"), "Labels");
    Container found;
    found.id = text_of(member(facts, "Id"));
    found.name = text_of(member(facts, "Name"));
    found.role = text_of(member(labels, kRoleLabel));
    found.branch_id = text_of(member(labels, kBranchLabel));
    found.data_directory = text_of(member(labels, kDataLabel));
    found.attempt = text_of(member(labels, kAttemptLabel));
    found.state = text_of(member(state, "Status"));
    found.pid = number_of(member(state, "Pid"));
    found.exit_code = number_of(member(state, "ExitCode"));
    if (found.name.starts_with('/')) found.name.erase(0, 1);
    return found;
}

DockerRuntime::Container DockerRuntime::read_listed(const json& item) {
    const json labels = member(item, "Labels");
    Container found;
    found.id = text_of(member(item, "Id"));
    found.role = text_of(member(labels, kRoleLabel));
    found.branch_id = text_of(member(labels, kBranchLabel));
    found.data_directory = text_of(member(labels, kDataLabel));
    found.owner = text_of(member(labels, kOwnerLabel));
    found.state = text_of(member(item, "State"));
    found.made_at = number_of(member(item, "Created"));
    for (const json& name : member(item, "Names")) {
        const std::string one = text_of(name);
        // Others hold a slash more: links of one container to another.
        if (one.starts_with('/') && one.find('/', 1) == std::string::npos) {
            found.name = one.substr(1);
        }
    }
    for (const json& mount : member(item, "Mounts")) {
        const std::string source = text_of(member(mount, "Source"));
        if (!source.empty() && member(mount, "RW") != json(false)) {
            found.writable_mounts.emplace_back(source);
        }
    }
    return found;
}

bool DockerRuntime::is_ours(const Container& container, std::string_view role,
                            const std::string& branch_id,
                            const std::filesystem::path& data_directory) {
    return container.role == role && container.branch_id == branch_id &&
           container.data_directory == data_directory.native();
}

std::string DockerRuntime::container_name(const std::string& name) const {
    check_volume_name(name);
    return settings_.container_prefix + name;
}

asio::awaitable<DockerAnswer> DockerRuntime::send(std::string method, std::string target,
                                                  std::string body) {
    DockerRequest request;
    request.method = std::move(method);
    request.target = std::move(target);
    request.body = std::move(body);
    request.deadline = settings_.deadline;
    co_return co_await wire_.call(std::move(request));
}

asio::awaitable<std::optional<DockerRuntime::Container>> DockerRuntime::look_at(
    std::string id_or_name) {
    const DockerAnswer answer =
        co_await send("GET", "/containers/" + url_escape(id_or_name) + "/json");
    if (answer.status == 404) co_return std::nullopt;
    if (!answer.ok()) throw docker_refused("describe container " + id_or_name, answer);
    co_return read_inspected(answer.body);
}

/// The instance's container, in whatever state; somebody else's of that name is none.
asio::awaitable<std::optional<DockerRuntime::Container>> DockerRuntime::find(InstanceRef instance) {
    std::string name = container_name(instance.name);
    auto found = co_await look_at(std::move(name));
    if (found && !is_ours(*found, kInstanceRole, instance.branch_id, instance.data_directory)) {
        co_return std::nullopt;
    }
    co_return found;
}

/// One look at all containers. PostgreSQL cannot see a server in another container (E46), so
/// whatever else could run on the data directory is refused here.
asio::awaitable<DockerRuntime::Survey> DockerRuntime::survey(Place place) {
    DockerRequest request;
    request.target = "/containers/json?all=1";
    request.deadline = settings_.deadline;
    request.body_max = kListMax;
    const DockerAnswer answer = co_await wire_.call(std::move(request));
    if (!answer.ok()) throw docker_refused("list containers", answer);
    const json list = parsed(answer.body);
    const std::string name = container_name(place.name);
    Survey result;
    std::optional<Error> refusal;
    for (const json& item : list) {
        const Container one = read_listed(item);
        const bool is_instance = one.name == name;
        if (is_instance || one.name == name + ".init") {
            const auto role = is_instance ? kInstanceRole : kInitRole;
            if (one.owner == settings_.container_prefix && one.branch_id != place.branch_id &&
                one.state == "created") {
                // Names are given out once: it was made late, for a job that had given up on it.
                result.leftovers.push_back(one.id);
            } else if (!is_ours(one, role, place.branch_id, place.data_directory)) {
                refusal = foreign(one.name, one.branch_id);
            } else if (is_instance && one.is_running()) {
                result.runs = true;
            } else if (const auto made = ready_.find(one.name);
                       made != ready_.end() && made->second.id == one.id) {
                result.is_ready = true;
            } else if (is_instance && one.state == "created" &&
                       std::time(nullptr) - one.made_at <= kCreatedPatience.count()) {
                result.is_being_made = true;
            } else {
                result.leftovers.push_back(one.id);
            }
            continue;
        }
        const bool reaches = std::any_of(
            one.writable_mounts.begin(), one.writable_mounts.end(), [&](const auto& mount) {
                return mount_reaches(mount, place.volume, place.data_directory);
            });
        if (reaches && !refusal) refusal = in_use_by(one.name, one.state, place.data_directory);
    }
    if (!result.runs && refusal) throw *refusal;
    co_return result;
}

// ---- starting -----------------------------------------------------------------------------------

asio::awaitable<void> DockerRuntime::make_ready(const InstanceSpec& spec) {
    check_branch_id(spec.branch_id);
    while (removing_networks_)
        co_await networks_removed_.wait_until(steady_clock::time_point::max());
    const Starting counted(starting_);
    const ImageFacts image = co_await image_of(spec.engine);
    const Survey found =
        co_await survey({spec.branch_id, spec.name, spec.volume, spec.data_directory});
    // start() knows what to do with any of these.
    if (found.runs || found.is_being_made || found.is_ready) co_return;
    co_await clear_leftovers(found.leftovers, spec);
    const DockerNetwork network = network_for(spec);
    co_await prepare_place(spec, network);
    std::string name = container_name(spec.name);
    std::string body = container_body(plan_of(spec, image, network)).dump();
    const auto id = co_await create(name, body, spec.engine.image);
    if (id) ready_[std::move(name)] = {*id, std::move(body)};
}

/// What make_ready() made, which is the caller's now; nothing when another is wanted by now.
asio::awaitable<std::optional<std::string>> DockerRuntime::take_ready(std::string name,
                                                                      std::string body) {
    const auto found = ready_.find(name);
    if (found == ready_.end()) co_return std::nullopt;
    const Ready made = std::move(found->second);
    ready_.erase(found);
    if (made.body == body) co_return made.id;
    co_await remove_container(made.id);
    co_return std::nullopt;
}

asio::awaitable<void> DockerRuntime::start(const InstanceSpec& spec) {
    check_branch_id(spec.branch_id);
    while (removing_networks_)
        co_await networks_removed_.wait_until(steady_clock::time_point::max());
    const Starting counted(starting_);
    const ImageFacts image = co_await image_of(spec.engine);
    const auto end = steady_clock::now() + kRivalPatience;
    while (steady_clock::now() < end) {
        if (co_await start_once(spec, image)) co_return;
        asio::steady_timer timer(executor_, kLookPause);
        co_await timer.async_wait(asio::use_awaitable);
    }
    throw rivals("start the instance");
}

/// Why an instance ended is in its container's log, which goes with the container.
asio::awaitable<void> DockerRuntime::keep_last_words(std::string id, InstanceSpec spec) {
    if (spec.log_path.empty()) co_return;
    const std::string words = co_await last_words(std::move(id), kLastWords);
    if (words.empty()) co_return;
    auto work = [&spec, &words] {
        begin_log(spec.log_path, spec.branch_id);
        append_log(spec.log_path, words + "\n");
    };
    co_await pool_.run(std::move(work));
}

/// False when another attempt took the name first.
asio::awaitable<bool> DockerRuntime::start_once(InstanceSpec spec, ImageFacts image) {
    const Place place{spec.branch_id, spec.name, spec.volume, spec.data_directory};
    const Survey found = co_await survey(place);
    if (found.runs) co_return true;
    const std::string name = container_name(spec.name);
    if (found.is_being_made) {
        co_await wait_while_created(name);
        co_return false;
    }
    const DockerNetwork network = network_for(spec);
    std::string body = container_body(plan_of(spec, std::move(image), network)).dump();
    std::optional<std::string> id;
    if (found.is_ready) id = co_await take_ready(name, body);
    co_await clear_leftovers(found.leftovers, spec);
    co_await prepare_place(spec, network);
    if (spec.port > 0) {
        auto look = [&spec] { check_port_free(spec.listen, spec.port); };
        co_await pool_.run(std::move(look));
    }
    if (!id) id = co_await create(name, std::move(body), spec.engine.image);
    if (!id) {
        co_await wait_while_created(name);
        co_return false;
    }
    std::optional<Error> failure;
    try {
        co_await clean_and_start(*id, spec, network);
        co_return true;
    } catch (const Error& error) {
        failure = error;
    }
    // A dockerd that fell silent may have started it: the next attempt looks.
    if (failure->code() != "runtime_unavailable") co_await remove_container(*id);
    throw *failure;
}

asio::awaitable<void> DockerRuntime::clear_leftovers(std::vector<std::string> ids,
                                                     InstanceSpec spec) {
    for (const std::string& id : ids) {
        co_await keep_last_words(id, spec);
        co_await remove_container(id);
    }
}

DockerNetwork DockerRuntime::network_for(const InstanceSpec& spec) const {
    return network_of(settings_.container_prefix, settings_.egress_allowed || spec.may_reach_out);
}

ContainerPlan DockerRuntime::plan_of(const InstanceSpec& spec, ImageFacts image,
                                     const DockerNetwork& network) const {
    ContainerPlan plan;
    plan.role = kInstanceRole;
    plan.prefix = settings_.container_prefix;
    plan.branch_id = spec.branch_id;
    plan.ref = spec.ref;
    plan.data_directory = spec.data_directory;
    plan.image = std::move(image);
    plan.program = "postgres";
    plan.arguments = postmaster_arguments("", spec);
    plan.arguments.erase(plan.arguments.begin());
    plan.user = spec.engine.user;
    plan.mounts = {spec.volume, spec.socket_directory};
    plan.mounts.insert(plan.mounts.end(), spec.writable.begin(), spec.writable.end());
    plan.read_only_mounts = spec.readable;
    plan.network = network.name;
    plan.listen = spec.listen;
    plan.port = spec.port;
    plan.limits = settings_.limits;
    plan.may_resolve = network.open;
    return plan;
}

/// What must be so before the container is made. Nothing here disturbs an instance that runs.
asio::awaitable<void> DockerRuntime::prepare_place(InstanceSpec spec, DockerNetwork network) {
    co_await wait_for_free_directory(spec.data_directory);
    auto work = [&spec, &network] {
        ensure_directory(spec.socket_directory.parent_path(), 0711, FileOwner{0, 0});
        ensure_directory(spec.socket_directory, 0700, spec.engine.user);
        if (!network.open) ensure_closed(network);
    };
    co_await pool_.run(std::move(work));
    if (!networks_.contains(network.name)) {
        co_await ensure_network(wire_, network);
        auto close = [&network] {
            ensure_published_only(network);
            hurry_address_lookups(network);
        };
        co_await pool_.run(std::move(close));
        networks_.insert(network.name);
    }
}

/// Processes of an instance that was killed end by themselves; any other is in the way.
asio::awaitable<void> DockerRuntime::wait_for_free_directory(std::filesystem::path data_directory) {
    const auto end = steady_clock::now() + kLeftoverPatience;
    while (true) {
        auto work = [&data_directory] { return processes_in(data_directory); };
        const auto found = co_await pool_.run(std::move(work));
        if (found.empty()) co_return;
        if (steady_clock::now() >= end) throw directory_in_use(data_directory, found.front());
        asio::steady_timer timer(executor_, kLeftoverPause);
        co_await timer.async_wait(asio::use_awaitable);
    }
}

/// The id of the new container; nothing when the name is taken.
asio::awaitable<std::optional<std::string>> DockerRuntime::create(std::string name,
                                                                  std::string body,
                                                                  std::string image) {
    std::string target = "/containers/create?name=" + url_escape(name);
    const DockerAnswer answer = co_await send("POST", std::move(target), std::move(body));
    if (answer.ok()) co_return text_of(member(parsed(answer.body), "Id"));
    if (answer.status == 409) co_return std::nullopt;
    if (answer.status == 404) throw image_gone(image, answer.message());
    throw docker_refused("make container " + name, answer);
}

/// Whoever made the container is the one to clear its place of what an earlier life left.
asio::awaitable<void> DockerRuntime::clean_and_start(std::string id, InstanceSpec spec,
                                                     DockerNetwork network) {
    auto work = [&spec] {
        remove_pid_file(spec.data_directory);
        make_socket_directory(spec.socket_directory, spec.engine.user);
    };
    co_await pool_.run(std::move(work));
    std::optional<Error> failure;
    try {
        co_await start_container(id, spec.port);
        co_return;
    } catch (const Error& error) {
        if (error.code() != "network_gone") throw;
        failure = error;
    }
    networks_.erase(network.name);
    co_await ensure_network(wire_, network);
    networks_.insert(network.name);
    co_await start_container(id, spec.port);
}

asio::awaitable<void> DockerRuntime::start_container(std::string id, int port) {
    DockerRequest request;
    request.method = "POST";
    request.target = "/containers/" + url_escape(id) + "/start";
    request.deadline = std::max(settings_.deadline, kStartDeadline);
    if (settings_.deadline < DockerSettings().deadline) request.deadline = settings_.deadline;
    const DockerAnswer answer = co_await wire_.call(std::move(request));
    if (answer.ok()) co_return;
    const std::string why = answer.message();
    const auto says = [&](const char* part) { return why.find(part) != std::string::npos; };
    if (says("port is already allocated") || says("address already in use")) {
        throw Error(ErrorKind::kConflict, "port_taken", fmt::format("port {} is taken", port), why,
                    "stop what listens on it, or give the branch another port");
    }
    // dockerd speaks of missing files of its own (containerd's socket, a cgroup) too.
    if (says("executable file not found") || says("exec: \"postgres\"")) {
        throw Error(ErrorKind::kInvalid, "image_unsuitable", "there is no PostgreSQL in this image",
                    why, "choose an image with initdb and postgres, such as postgres:16");
    }
    if (answer.status == 404 && says("network")) {
        throw Error(ErrorKind::kUnavailable, "network_gone", "the branch's network is gone", why);
    }
    if (says("containerd") || says("dial unix")) {
        throw Error(ErrorKind::kUnavailable, "runtime_unavailable",
                    "Docker cannot start the instance now", why,
                    "dockerd's log may say more (journalctl -u docker)");
    }
    throw Error(ErrorKind::kInternal, "container_failed",
                "the Docker daemon cannot start the instance", why,
                "dockerd's log may say more (journalctl -u docker)");
}

asio::awaitable<void> DockerRuntime::wait_while_created(std::string name) {
    const auto end = steady_clock::now() + kCreatedPatience;
    while (steady_clock::now() < end) {
        const auto found = co_await look_at(name);
        if (!found || found->state != "created") co_return;
        asio::steady_timer timer(executor_, kLookPause);
        co_await timer.async_wait(asio::use_awaitable);
    }
}

asio::awaitable<void> DockerRuntime::remove_container(std::string id) {
    const auto end = steady_clock::now() + kRemovePatience;
    while (true) {
        std::string target = "/containers/" + url_escape(id) + "?v=1&force=1";
        const DockerAnswer answer = co_await send("DELETE", std::move(target));
        if (answer.ok() || answer.status == 404) co_return;
        // 409: somebody removes it already.
        if (answer.status != 409 || steady_clock::now() >= end) {
            throw docker_refused("remove container " + id, answer);
        }
        asio::steady_timer timer(executor_, kLookPause);
        co_await timer.async_wait(asio::use_awaitable);
    }
}

// ---- a new cluster ------------------------------------------------------------------------------

asio::awaitable<std::string> DockerRuntime::init_data_directory(const InitSpec& spec) {
    check_branch_id(spec.branch_id);
    ImageFacts image = co_await image_of(spec.engine);
    const ContainerPlan plan = init_plan(spec, std::move(image));
    const auto end = steady_clock::now() + kRivalPatience;
    while (steady_clock::now() < end) {
        const std::optional<std::string> said = co_await init_once(spec, plan);
        if (said) co_return *said;
        asio::steady_timer timer(executor_, kLookPause);
        co_await timer.async_wait(asio::use_awaitable);
    }
    throw rivals("make a data directory");
}

ContainerPlan DockerRuntime::init_plan(const InitSpec& spec, ImageFacts image) const {
    ContainerPlan plan;
    plan.role = kInitRole;
    plan.prefix = settings_.container_prefix;
    plan.branch_id = spec.branch_id;
    plan.data_directory = spec.data_directory;
    plan.image = std::move(image);
    plan.program = "initdb";
    plan.arguments = initdb_arguments(spec.data_directory, spec.locale);
    // Of an earlier boot, a power cut may have taken what it wrote: nothing of it was synced.
    plan.attempt =
        fmt::format("{} {} {}", boot_id(), plan.image.id, fmt::join(plan.arguments, " "));
    plan.user = spec.engine.user;
    plan.mounts = {spec.volume};
    plan.limits = settings_.limits;
    return plan;
}

/// What initdb said; nothing when another attempt took the name first.
asio::awaitable<std::optional<std::string>> DockerRuntime::init_once(InitSpec spec,
                                                                     ContainerPlan plan) {
    std::string name = container_name(spec.name) + ".init";
    const auto earlier = co_await look_at(std::move(name));
    auto look = [&spec] {
        return std::pair(is_finished_cluster(spec.data_directory),
                         is_finished_cluster(unfinished_cluster(spec.data_directory)));
    };
    const auto [is_finished, is_complete] = co_await pool_.run(std::move(look));
    const bool is_left =
        earlier && is_ours(*earlier, kInitRole, spec.branch_id, spec.data_directory);
    if (is_finished) {
        if (is_left) co_await remove_container(earlier->id);
        co_return std::string();
    }
    if (is_left && earlier->attempt == plan.attempt) {
        const bool has_done_it = earlier->state == "exited" && earlier->exit_code == 0;
        if (earlier->state == "running" || (has_done_it && is_complete)) {
            co_return co_await finish_init(earlier->id, std::move(spec), /*is_new=*/false);
        }
    }
    const auto id = co_await create_init(spec, std::move(plan));
    if (!id) co_return std::nullopt;
    co_return co_await finish_init(*id, std::move(spec), /*is_new=*/true);
}

/// Nothing when the name is taken.
asio::awaitable<std::optional<std::string>> DockerRuntime::create_init(InitSpec spec,
                                                                       ContainerPlan plan) {
    const Place place{spec.branch_id, spec.name, spec.volume, spec.data_directory};
    const Survey found = co_await survey(place);
    for (const std::string& id : found.leftovers)
        co_await remove_container(id);
    co_await wait_for_free_directory(spec.data_directory);
    auto begin = [&spec] { begin_cluster(spec.data_directory, spec.engine.user); };
    co_await pool_.run(std::move(begin));
    std::string body = container_body(plan).dump();
    std::string name = container_name(spec.name) + ".init";
    co_return co_await create(std::move(name), std::move(body), spec.engine.image);
}

/// The container goes last: until the cluster has its name, it says how initdb ended.
asio::awaitable<std::string> DockerRuntime::finish_init(std::string id, InitSpec spec,
                                                        bool is_new) {
    Exit exit;
    std::optional<Error> failure;
    try {
        if (is_new) co_await start_container(id, 0);
        exit = co_await end_of(id, kInitDeadline);
        if (exit.code != 0) throw initdb_failed(fmt::format("exit code {}", exit.code), exit.log);
        auto finish = [&spec] { finish_cluster(spec.data_directory); };
        co_await pool_.run(std::move(finish));
    } catch (const Error& error) {
        failure = error;
    }
    if (!failure || failure->code() != "runtime_unavailable") co_await remove_container(id);
    if (failure) throw *failure;
    co_return exit.log;
}

/// How a container ends; kTimeout `container_timed_out` if it does not.
asio::awaitable<DockerRuntime::Exit> DockerRuntime::end_of(std::string id, milliseconds deadline) {
    if (!co_await wait_for_end(id, deadline)) {
        throw Error(ErrorKind::kTimeout, "container_timed_out", "a container did not end in time",
                    fmt::format("it still ran after {} s", deadline.count() / 1000));
    }
    const auto ended = co_await look_at(id);
    Exit exit;
    exit.code = ended ? ended->exit_code : -1;
    exit.log = co_await last_words(id, kInitLogLines);
    co_return exit;
}

/// Starts a container that was made, waits for its end and removes it.
asio::awaitable<DockerRuntime::Exit> DockerRuntime::run_to_end(std::string id,
                                                               milliseconds deadline) {
    Exit exit;
    std::optional<Error> failure;
    try {
        co_await start_container(id, 0);
        exit = co_await end_of(id, deadline);
    } catch (const Error& error) {
        failure = error;
    }
    if (!failure || failure->code() != "runtime_unavailable") co_await remove_container(id);
    if (failure) throw *failure;
    co_return exit;
}

// ---- stopping -----------------------------------------------------------------------------------

asio::awaitable<void> DockerRuntime::stop(const InstanceRef& instance, StopMode mode,
                                          milliseconds timeout) {
    const auto found = co_await find(instance);
    if (!found || !found->is_running()) co_return;
    const std::string id = found->id;
    if (found->state == "paused") {
        const DockerAnswer answer = co_await send("POST", "/containers/" + id + "/unpause");
        if (!answer.ok() && answer.status != 409) throw docker_refused("unpause " + id, answer);
    }
    bool ended = false;
    if (mode == StopMode::kFast) {
        co_await send_signal(id, "SIGINT");
        ended = co_await wait_for_end(id, timeout);
    } else {
        co_await send_signal(id, "SIGQUIT");
        ended = co_await wait_for_end(id, kImmediatePatience);
        if (!ended) {
            co_await send_signal(id, "SIGKILL");
            ended = co_await wait_for_end(id, kKillPatience);
        }
    }
    if (!ended) {
        throw Error(ErrorKind::kTimeout, "stop_timed_out", "PostgreSQL did not stop in time",
                    fmt::format("container {} still runs", found->name),
                    "wait and stop it again, or use --force");
    }
}

asio::awaitable<void> DockerRuntime::send_signal(std::string id, std::string signal) {
    const DockerAnswer answer =
        co_await send("POST", "/containers/" + id + "/kill?signal=" + signal);
    // 409, 404: it does not run any more.
    if (answer.ok() || answer.status == 409 || answer.status == 404) co_return;
    throw docker_refused("signal container " + id, answer);
}

/// False when `timeout` passed first.
asio::awaitable<bool> DockerRuntime::wait_for_end(std::string id, milliseconds timeout) {
    const auto end = steady_clock::now() + timeout;
    while (true) {
        const auto rest = std::chrono::duration_cast<milliseconds>(end - steady_clock::now());
        DockerRequest request;
        request.method = "POST";
        request.target = "/containers/" + id + "/wait?condition=not-running";
        request.deadline = std::max(rest, milliseconds(1));
        try {
            const DockerAnswer answer = co_await wire_.call(std::move(request));
            if (answer.status == 404) co_return true;
            if (!answer.ok()) throw docker_refused("wait for container " + id, answer);
        } catch (const Error& failure) {
            // Too late, or dockerd went away: the next look tells which.
            if (failure.code() != "runtime_unavailable") throw;
        }
        const auto found = co_await look_at(id);
        if (!found || !found->is_running()) co_return true;
        if (steady_clock::now() >= end) co_return false;
        co_await pause_for(kLookPause);
    }
}

asio::awaitable<void> DockerRuntime::remove(const InstanceRef& instance) {
    const auto found = co_await find(instance);
    if (found && found->is_running()) {
        throw Error(ErrorKind::kConflict, "still_running", "this instance cannot be removed",
                    fmt::format("container {} runs", found->name), "stop it first");
    }
    if (found) co_await remove_container(found->id);
    const auto unfinished = co_await look_at(container_name(instance.name) + ".init");
    if (unfinished &&
        is_ours(*unfinished, kInitRole, instance.branch_id, instance.data_directory)) {
        co_await remove_container(unfinished->id);
    }
    ready_.erase(container_name(instance.name));
    if (!instance.socket_directory.empty()) {
        auto work = [&instance] { remove_tree(instance.socket_directory); };
        co_await pool_.run(std::move(work));
    }
    try {
        co_await clear_up();
    } catch (const Error& error) {
        log::debug("what is shared by instances stays for now", {{"why", error.what()}});
    }
}

/// Removes what a bpgd that was killed looked at an image with. With the last instance go the
/// networks and the rule: nothing of ours is left on a host without branches. Not while one starts,
/// which may have looked at the rule already.
asio::awaitable<void> DockerRuntime::clear_up() {
    if (removing_networks_) co_return;
    const json filters{{"label", {fmt::format("{}={}", kOwnerLabel, settings_.container_prefix)}}};
    DockerRequest request;
    request.target = "/containers/json?all=1&filters=" + url_escape(filters.dump());
    request.deadline = settings_.deadline;
    request.body_max = kListMax;
    const DockerAnswer answer = co_await wire_.call(std::move(request));
    if (!answer.ok()) co_return;
    const json list = parsed(answer.body);
    std::size_t left = 0;
    for (const json& item : list) {
        const Container one = read_listed(item);
        const bool is_stray = one.role == kProbeRole && !probes_.contains(one.name);
        if (is_stray) co_await remove_container(one.id);
        if (!is_stray) ++left;
    }
    if (left > 0 || starting_ > 0 || removing_networks_) co_return;
    const Removing announced(*this);
    co_await remove_networks();
}

// ---- the rest -----------------------------------------------------------------------------------

asio::awaitable<void> DockerRuntime::reload(const InstanceRef& instance) {
    const auto found = co_await find(instance);
    // One that does not run reads its files when it starts.
    if (found && found->is_running()) co_await send_signal(found->id, "SIGHUP");
}

asio::awaitable<InstanceStatus> DockerRuntime::inspect(const InstanceRef& instance) {
    const auto found = co_await find(instance);
    if (!found || !found->is_running()) co_return InstanceStatus{};
    co_return InstanceStatus{.running = true, .pid = found->pid};
}

asio::awaitable<void> DockerRuntime::wait_until_gone(const InstanceRef& instance) {
    // Before the first look, so that nothing falls between the two.
    DockerEvents::Watch watch(events_, container_name(instance.name));
    bool is_known = false;
    while (true) {
        bool was_seen = false;
        try {
            const InstanceStatus status = co_await inspect(instance);
            if (!status.running) co_return;
            is_known = true;
            was_seen = true;
        } catch (const Error& failure) {
            // It was there: while dockerd is away nobody can tell. When it is back we are told; one
            // that hung without going away tells nothing, so the look is repeated.
            if (!is_known || failure.code() != "runtime_unavailable") throw;
        }
        if (was_seen) {
            co_await watch.changed();
        } else {
            co_await pause_for(kLookAgain);
        }
    }
}

asio::awaitable<std::string> DockerRuntime::log_tail(const InstanceRef& instance,
                                                     std::size_t lines) {
    const auto found = co_await find(instance);
    if (!found) co_return "";
    co_return co_await last_words(found->id, lines);
}

/// A container's log is asked for by time: what has the time of the last line, or an earlier one,
/// is known. That of one that is gone is in the file where its last words were kept.
asio::awaitable<LogPiece> DockerRuntime::read_log(const InstanceRef& instance, std::string from,
                                                  std::size_t lines) {
    const auto found = co_await find(instance);
    if (!found) {
        auto work = [log_path = instance.log_path, from = std::move(from), lines] {
            return read_log_piece(log_path, from, lines);
        };
        co_return co_await pool_.run(std::move(work));
    }
    const bool goes_on = from.starts_with(kTimeMark);
    const std::string since = goes_on ? from.substr(kTimeMark.size()) : "";
    LogCollector collector(goes_on ? kPieceMax : kTailMax);
    DockerRequest request;
    request.target = fmt::format("/containers/{}/logs?stdout=1&stderr=1&timestamps=1&{}", found->id,
                                 goes_on ? "since=" + unix_time_of(since)
                                         : fmt::format("tail={}", std::max<std::size_t>(lines, 1)));
    request.deadline = settings_.deadline;
    DockerSink sink;
    sink.received = [&](std::string_view piece) { collector.feed(piece); };
    const DockerAnswer answer = co_await wire_.stream(std::move(request), std::move(sink));
    if (answer.status == 404) co_return LogPiece{"", from};
    if (!answer.ok()) throw docker_refused("show the log of " + found->id, answer);
    LogPiece piece{"", from.empty() ? std::string(kTimeMark) : from};
    std::stringstream stream(collector.tail(std::numeric_limits<std::size_t>::max()));
    for (std::string line; std::getline(stream, line);) {
        const auto space = line.find(' ');
        const std::string time = line.substr(0, space);
        if (space == std::string::npos || (goes_on && time <= since)) continue;
        piece.text += line.substr(space + 1) + "\n";
        piece.next = std::string(kTimeMark) + time;
    }
    co_return piece;
}

asio::awaitable<std::string> DockerRuntime::last_words(std::string id, std::size_t lines) {
    if (lines == 0) co_return "";
    LogCollector collector(kTailMax);
    DockerRequest request;
    request.target = fmt::format("/containers/{}/logs?stdout=1&stderr=1&tail={}", id, lines);
    request.deadline = settings_.deadline;
    DockerSink sink;
    sink.received = [&](std::string_view piece) { collector.feed(piece); };
    const DockerAnswer answer = co_await wire_.stream(std::move(request), std::move(sink));
    if (answer.status == 404) co_return "";
    if (!answer.ok()) throw docker_refused("show the log of " + id, answer);
    co_return collector.tail(lines);
}

asio::awaitable<void> DockerRuntime::remove_networks() {
    for (const bool open : {false, true}) {
        const DockerNetwork network = network_of(settings_.container_prefix, open);
        networks_.erase(network.name);
        co_await remove_network(wire_, network);
        auto work = [&network] { forget_rules(network); };
        co_await pool_.run(std::move(work));
    }
}

namespace {

asio::awaitable<DockerPresence> look_for_docker(std::filesystem::path socket) {
    DockerWire wire(std::move(socket));
    DockerPresence presence;
    DockerRequest version;
    version.target = "/version";
    version.deadline = milliseconds(5'000);
    const DockerAnswer told = co_await wire.call(std::move(version));
    presence.version = text_of(member(parsed(told.body), "Version"));
    DockerRequest info;
    info.target = "/info";
    info.deadline = milliseconds(10'000);
    const DockerAnswer answer = co_await wire.call(std::move(info));
    for (const json& option : member(parsed(answer.body), "SecurityOptions")) {
        const std::string text = text_of(option);
        if (!text.starts_with("name=userns") && !text.starts_with("name=rootless")) continue;
        presence.why = ErrorInfo{ErrorKind::kInvalid, "docker_unsupported",
                                 "this Docker daemon cannot run branches",
                                 "it maps users (" + text +
                                     "), so files of a branch would belong "
                                     "to other users inside than outside",
                                 "use a Docker daemon without user namespaces, or "
                                 "runtime.driver: process"};
    }
    co_return presence;
}

}  // namespace

DockerPresence detect_docker(const std::filesystem::path& socket) {
    asio::io_context loop;
    DockerPresence presence;
    asio::co_spawn(loop, look_for_docker(socket),
                   [&](const std::exception_ptr& failure, DockerPresence found) {
                       presence = std::move(found);
                       if (failure) presence.why = describe(failure);
                   });
    loop.run();
    return presence;
}

}  // namespace bpg::runtime
