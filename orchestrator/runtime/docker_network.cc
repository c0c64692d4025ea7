#include "orchestrator/runtime/docker_network.h"

#include <fmt/format.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>

#include "orchestrator/base/error.h"
#include "orchestrator/base/signal.h"
#include "orchestrator/base/subprocess.h"

namespace bpg::runtime {
namespace {

using nlohmann::json;

constexpr std::string_view kNetworkLabel = "betterpg.network";
constexpr std::string_view kBridgeOption = "com.docker.network.bridge.name";
constexpr std::string_view kIccOption = "com.docker.network.bridge.enable_icc";
constexpr std::chrono::milliseconds kRuleDeadline{10'000};
constexpr std::chrono::seconds kRivalPatience{5};

/// The name of an interface has 15 characters at most, a prefix may have more.
std::string bridge_name(const std::string& network) {
    std::uint32_t hash = 2166136261U;  // FNV-1a
    for (const char c : network)
        hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
    return fmt::format("bpg{:08x}", hash);
}

enum class Rule {
    kNoWayOut,    ///< what comes from the bridge and belongs to no connection that exists
    kNoOtherWay,  ///< what goes to a container without passing its published port
};

std::vector<std::string> rule(const DockerNetwork& network, Rule which, const char* verb) {
    std::vector<std::string> argv = {"iptables", "-w", "5", "-t", "mangle", verb};
    const std::vector<std::string> matches =
        which == Rule::kNoWayOut
            ? std::vector<std::string>{"PREROUTING", "-i", network.bridge}
            : std::vector<std::string>{"FORWARD", "-o",           network.bridge, "!",
                                       "-i",      network.bridge, "-m",           "conntrack",
                                       "!",       "--ctstate",    "DNAT"};
    argv.insert(argv.end(), matches.begin(), matches.end());
    const std::vector<std::string> rest = {
        "-m", "conntrack", "--ctstate", "NEW",
        "-m", "comment",   "--comment", "betterpg " + network.name,
        "-j", "DROP"};
    argv.insert(argv.end(), rest.begin(), rest.end());
    return argv;
}

CommandResult run_rule(const DockerNetwork& network, Rule which, const char* verb,
                       Command& command) {
    command.argv = rule(network, which, verb);
    command.deadline = kRuleDeadline;
    return run_command(command);
}

Error not_closed(std::string why) {
    return {ErrorKind::kUnavailable, "egress_not_closed",
            "the network of a branch cannot be closed", std::move(why),
            "install iptables, or let branches reach out with runtime.docker.egress: allow"};
}

json network_body(const DockerNetwork& network) {
    return {{"Name", network.name},
            {"CheckDuplicate", true},
            {"Driver", "bridge"},
            {"EnableIPv6", false},
            {"Labels", {{std::string(kNetworkLabel), network.open ? "open" : "closed"}}},
            {"Options",
             {{std::string(kBridgeOption), network.bridge}, {std::string(kIccOption), "false"}}}};
}

void check_ours(const json& found, const DockerNetwork& wanted) {
    const auto text = [&](const char* part, std::string_view key) -> std::string {
        const auto object = found.value(part, json::object());
        return object.is_object() ? object.value(std::string(key), "") : "";
    };
    if (text("Labels", kNetworkLabel) == (wanted.open ? "open" : "closed") &&
        text("Options", kBridgeOption) == wanted.bridge && text("Options", kIccOption) == "false") {
        return;
    }
    throw Error(ErrorKind::kConflict, "network_foreign",
                fmt::format("the Docker network {} is not BetterPG's", wanted.name),
                "it has another label or other options",
                "remove it, or set another runtime.docker.container_prefix");
}

asio::awaitable<DockerAnswer> look_at_network(DockerWire& wire, std::string name) {
    DockerRequest look;
    look.target = "/networks/" + url_escape(name);
    co_return co_await wire.call(std::move(look));
}

}  // namespace

DockerNetwork network_of(const std::string& prefix, bool open) {
    const std::string name = prefix + (open ? "net-open" : "net");
    return {name, bridge_name(name), open};
}

asio::awaitable<void> ensure_network(DockerWire& wire, DockerNetwork network) {
    const auto end = std::chrono::steady_clock::now() + kRivalPatience;
    std::string why;
    while (std::chrono::steady_clock::now() < end) {
        const DockerAnswer found = co_await look_at_network(wire, network.name);
        if (found.ok()) {
            const auto facts = json::parse(found.body, nullptr, /*allow_exceptions=*/false);
            check_ours(facts.is_object() ? facts : json::object(), network);
            co_return;
        }
        DockerRequest create;
        create.method = "POST";
        create.target = "/networks/create";
        create.body = network_body(network).dump();
        const DockerAnswer made = co_await wire.call(std::move(create));
        if (made.ok()) co_return;
        why = made.message();
        // Another is making it: its bridge is there a moment before its name can be found.
        const bool is_rival =
            made.status == 409 || why.find("same bridge name") != std::string::npos;
        if (!is_rival) break;
        co_await pause_for(std::chrono::milliseconds(20));
    }
    throw Error(ErrorKind::kUnavailable, "network_failed",
                "cannot make the Docker network " + network.name, why,
                "docker network create says more");
}

asio::awaitable<void> remove_network(DockerWire& wire, DockerNetwork network) {
    const DockerAnswer found = co_await look_at_network(wire, network.name);
    if (!found.ok()) co_return;
    const auto facts = json::parse(found.body, nullptr, /*allow_exceptions=*/false);
    if (!facts.is_object()) co_return;
    const auto labels = facts.value("Labels", json::object());
    if (!labels.is_object() || !labels.contains(kNetworkLabel)) co_return;
    DockerRequest remove;
    remove.method = "DELETE";
    remove.target = "/networks/" + url_escape(network.name);
    const DockerAnswer gone = co_await wire.call(std::move(remove));
    if (gone.ok() || gone.status == 404) co_return;
    throw Error(ErrorKind::kConflict, "network_in_use",
                "cannot remove the Docker network " + network.name, gone.message());
}

namespace {

void ensure_rule(const DockerNetwork& network, Rule which) {
    Command command;
    try {
        if (run_rule(network, which, "-C", command).ok()) return;
        const CommandResult added = run_rule(network, which, "-I", command);
        if (!added.ok()) throw not_closed(added.explain(command));
    } catch (const Error& failure) {
        if (failure.code() != "command_not_found") throw;
        throw not_closed("there is no iptables on this machine");
    }
}

}  // namespace

void ensure_closed(const DockerNetwork& network) {
    ensure_rule(network, Rule::kNoWayOut);
}

void ensure_published_only(const DockerNetwork& network) {
    ensure_rule(network, Rule::kNoOtherWay);
}

void hurry_address_lookups(const DockerNetwork& network) {
    constexpr int kMilliseconds = 50;  // three questions, then those who wait are told
    std::ofstream setting("/proc/sys/net/ipv4/neigh/" + network.bridge + "/retrans_time_ms");
    setting << kMilliseconds;
}

void forget_rules(const DockerNetwork& network) {
    Command command;
    constexpr int kCopiesMax = 8;
    for (const Rule which : {Rule::kNoWayOut, Rule::kNoOtherWay}) {
        for (int copy = 0; copy < kCopiesMax; ++copy) {
            if (!run_rule(network, which, "-D", command).ok()) break;
        }
    }
}

}  // namespace bpg::runtime
