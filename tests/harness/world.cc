// See world.h.
#include "tests/harness/world.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <functional>
#include <iterator>

namespace bpg::test {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kBranchIdArgument = "bpg.branch_id=";

bool is_below(const std::string& text, const fs::path& root) {
    return text.find(root.string() + "/") != std::string::npos || text == root.string();
}

/// Names below `directory` down to `depth` levels, relative to it. A directory that vanishes while
/// it is read is simply not there.
void list_tree(const fs::path& directory, const fs::path& prefix, int depth,
               const std::function<void(const fs::path& relative, bool is_directory)>& visit) {
    std::error_code error;
    for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
         entry.increment(error)) {
        std::error_code ignored;
        const bool is_directory = entry->is_directory(ignored) && !entry->is_symlink(ignored);
        const fs::path relative = prefix / entry->path().filename();
        visit(relative, is_directory);
        if (is_directory && depth > 1) list_tree(entry->path(), relative, depth - 1, visit);
    }
}

std::vector<ProcessFacts> select_processes(const std::function<bool(const ProcessFacts&)>& wanted) {
    std::vector<ProcessFacts> found;
    std::error_code error;
    for (fs::directory_iterator entry("/proc", error), end; !error && entry != end;
         entry.increment(error)) {
        const std::string name = entry->path().filename();
        pid_t pid = 0;
        const auto parsed = std::from_chars(name.data(), name.data() + name.size(), pid);
        if (parsed.ec != std::errc{} || parsed.ptr != name.data() + name.size()) continue;
        const auto facts = process_facts(pid);
        if (facts && !facts->zombie && wanted(*facts)) found.push_back(*facts);
    }
    return found;
}

/// Volumes, and what a storage driver keeps beside them: snapshots by volume, half-built copies.
void add_volumes(const fs::path& root, World& world) {
    list_tree(root, {}, 1, [&](const fs::path& top, bool) {
        world.things.insert(fmt::format("volume {}", top.string()));
        // The inside of a volume belongs to PostgreSQL; of hidden places every name counts.
        if (!top.string().starts_with(".")) return;
        list_tree(root / top, top, 2, [&](const fs::path& relative, bool) {
            world.things.insert(fmt::format("volume {}", relative.string()));
        });
    });
}

void add_state_files(const fs::path& state, const WorldPlaces& places, World& world) {
    list_tree(state, {}, 2, [&](const fs::path& relative, bool is_directory) {
        const std::string top = relative.begin()->string();
        // The store and the jobs' own logs outlive a job on purpose.
        if (top == "state" || top == "jobs" || is_directory) return;
        const fs::path whole = state / relative;
        if (is_below(whole, places.volumes) || is_below(whole, places.archive)) return;
        world.things.insert(fmt::format("state file {}", relative.string()));
    });
}

}  // namespace

std::vector<std::string> World::without(const World& other) const {
    std::vector<std::string> rest;
    std::set_difference(things.begin(), things.end(), other.things.begin(), other.things.end(),
                        std::back_inserter(rest));
    return rest;
}

World look_at_world(const WorldPlaces& places, const PortSlot& ports) {
    World world;
    add_volumes(places.volumes, world);
    add_state_files(places.state, places, world);
    list_tree(places.archive, {}, 2, [&](const fs::path& relative, bool) {
        world.things.insert(fmt::format("archive {}", relative.string()));
    });
    list_tree(places.run / "i", {}, 1, [&](const fs::path& relative, bool) {
        world.things.insert(fmt::format("socket directory {}", relative.string()));
    });
    for (const auto& postmaster : postmasters_below(places.volumes)) {
        world.things.insert(
            fmt::format("postgres {} branch {}", postmaster.pid, branch_id_of(postmaster)));
    }
    for (const auto port : ports.taken()) {
        if (port != ports.metrics()) world.things.insert(fmt::format("port {}", port));
    }
    return world;
}

std::string describe_difference(const World& before, const World& after) {
    std::string text;
    for (const auto& thing : after.without(before))
        text += fmt::format("+ {}\n", thing);
    for (const auto& thing : before.without(after))
        text += fmt::format("- {}\n", thing);
    return text;
}

std::vector<ProcessFacts> postmasters_below(const fs::path& root) {
    // Only the postmaster keeps its arguments; its children rename themselves.
    return select_processes([&](const ProcessFacts& facts) {
        if (facts.argv.size() < 3) return false;
        if (fs::path(facts.argv.front()).filename() != "postgres") return false;
        return std::any_of(facts.argv.begin() + 1, facts.argv.end(),
                           [&](const std::string& argument) { return is_below(argument, root); });
    });
}

std::vector<ProcessFacts> processes_naming(const fs::path& root) {
    return select_processes([&](const ProcessFacts& facts) {
        return std::any_of(facts.argv.begin(), facts.argv.end(),
                           [&](const std::string& argument) { return is_below(argument, root); });
    });
}

std::vector<fs::path> mounts_below(const fs::path& root) {
    std::vector<fs::path> mounts;
    std::ifstream table("/proc/self/mountinfo");
    for (std::string line; std::getline(table, line);) {
        std::vector<std::string> fields;
        for (std::size_t begin = 0, end = 0; end != std::string::npos && fields.size() < 5;
             begin = end + 1) {
            end = line.find(' ', begin);
            fields.push_back(line.substr(begin, end - begin));
        }
        if (fields.size() == 5 && (fields[4] == root.string() || is_below(fields[4], root))) {
            mounts.emplace_back(fields[4]);
        }
    }
    std::reverse(mounts.begin(), mounts.end());
    return mounts;
}

std::vector<std::string> loop_devices_below(const fs::path& root) {
    std::vector<std::string> devices;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator("/sys/block", error)) {
        std::ifstream file(entry.path() / "loop" / "backing_file");
        std::string backing;
        if (std::getline(file, backing) && is_below(backing, root)) {
            devices.push_back("/dev/" + entry.path().filename().string());
        }
    }
    return devices;
}

std::string branch_id_of(const ProcessFacts& postmaster) {
    for (const auto& argument : postmaster.argv) {
        if (argument.starts_with(kBranchIdArgument)) {
            return argument.substr(kBranchIdArgument.size());
        }
    }
    return {};
}

}  // namespace bpg::test
