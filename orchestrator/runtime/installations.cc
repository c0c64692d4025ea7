// Finding PostgreSQL installations.
#include "orchestrator/runtime/installations.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <tuple>

#include "orchestrator/base/error.h"
#include "orchestrator/base/log.h"
#include "orchestrator/base/subprocess.h"

namespace bpg::runtime {

namespace {

constexpr const char* kDebianRoot = "/usr/lib/postgresql";

struct Version {
    int major = 0;
    int stage = 0;  ///< 0 beta, 1 release candidate, 2 released
    int minor = 0;

    auto key() const { return std::tuple(major, stage, minor); }
};

std::optional<int> take_number(std::string_view& text) {
    int value = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (failure != std::errc() || value < 0) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return value;
}

bool take(std::string_view& text, std::string_view prefix) {
    if (!text.starts_with(prefix)) return false;
    text.remove_prefix(prefix.size());
    return true;
}

std::optional<Version> parse(std::string_view text) {
    if (text.empty() || text.size() > 16 || text.front() < '1' || text.front() > '9') {
        return std::nullopt;
    }
    Version version{.stage = 2};
    version.major = take_number(text).value_or(0);
    if (text.empty()) return version;
    if (take(text, "beta")) {
        version.stage = 0;
    } else if (take(text, "rc")) {
        version.stage = 1;
    } else if (!take(text, ".")) {
        return std::nullopt;
    }
    const auto minor = take_number(text);
    if (!minor || !text.empty()) return std::nullopt;
    version.minor = *minor;
    return version;
}

/// The version exactly, or any of a major when only that is wanted.
bool satisfies(std::string_view version, std::string_view wanted) {
    if (wanted.empty() || version == wanted) return true;
    const bool only_major = wanted.find_first_not_of("0123456789") == std::string_view::npos;
    return only_major && major_of(version) == major_of(wanted);
}

void add_path_directories(std::vector<std::filesystem::path>& directories) {
    const char* path = std::getenv("PATH");
    std::string_view rest = path == nullptr ? "" : path;
    while (!rest.empty()) {
        const auto length = std::min(rest.find(':'), rest.size());
        // A relative entry would mean another directory tomorrow.
        if (rest.starts_with('/')) directories.emplace_back(rest.substr(0, length));
        rest.remove_prefix(std::min(length + 1, rest.size()));
    }
}

}  // namespace

std::optional<std::string> parse_version_output(std::string_view output) {
    if (!take(output, "postgres (PostgreSQL) ")) return std::nullopt;
    const std::string_view version = output.substr(0, output.find_first_of(" \n"));
    if (!parse(version)) return std::nullopt;
    return std::string(version);
}

bool is_version(std::string_view wanted) {
    return parse(wanted).has_value();
}

int major_of(std::string_view version) {
    const auto parsed = parse(version);
    return parsed ? parsed->major : 0;
}

bool version_less(std::string_view left, std::string_view right) {
    return parse(left).value_or(Version{}).key() < parse(right).value_or(Version{}).key();
}

const Installation* choose(const std::vector<Installation>& found, const std::string& wanted) {
    const Installation* best = nullptr;
    for (const Installation& one : found) {
        if (!satisfies(one.version, wanted)) continue;
        if (best == nullptr || version_less(best->version, one.version)) best = &one;
    }
    return best;
}

const Installation* choose_for_data(const std::vector<Installation>& found,
                                    const std::string& version) {
    if (const Installation* same = choose(found, version)) return same;
    const int major = major_of(version);
    return major == 0 ? nullptr : choose(found, std::to_string(major));
}

std::vector<Installation> Installations::find() {
    std::vector<std::filesystem::path> directories;
    if (!bin_dir_.empty()) directories.push_back(bin_dir_);
    std::error_code ignored;  // no such directory means none there
    for (const auto& entry : std::filesystem::directory_iterator(kDebianRoot, ignored)) {
        directories.push_back(entry.path() / "bin");
    }
    add_path_directories(directories);

    std::vector<Installation> found;
    for (const auto& directory : directories) {
        if (const auto version = version_in(directory)) found.push_back({*version, directory});
    }
    return found;
}

std::optional<std::string> Installations::version_in(const std::filesystem::path& bin_dir) {
    const std::filesystem::path program = bin_dir / "postgres";
    struct stat facts{};
    if (::stat(program.c_str(), &facts) != 0 || !S_ISREG(facts.st_mode)) return std::nullopt;
    if (::access(program.c_str(), X_OK) != 0) return std::nullopt;
    if (::access((bin_dir / "initdb").c_str(), X_OK) != 0) return std::nullopt;
    const std::int64_t modified =
        std::int64_t{facts.st_mtim.tv_sec} * 1'000'000'000 + facts.st_mtim.tv_nsec;

    const std::lock_guard lock(mutex_);
    const auto known = known_.find(program);
    if (known != known_.end() && known->second.modified_ns == modified)
        return known->second.version;
    Command command;
    command.argv = {program.native(), "--version"};
    command.deadline = std::chrono::seconds(10);
    const CommandResult result = run_command(command);
    const auto version = result.ok() ? parse_version_output(result.out) : std::nullopt;
    if (!version) {
        log::warning("this PostgreSQL cannot be used",
                     {{"program", program.native()}, {"why", result.explain(command)}});
        return std::nullopt;
    }
    known_[program] = {modified, *version};
    return version;
}

}  // namespace bpg::runtime
