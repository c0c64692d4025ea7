#include "orchestrator/runtime/cluster_files.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "orchestrator/base/subprocess.h"

namespace bpg::runtime {

bool is_finished_cluster(const std::filesystem::path& data) {
    struct stat version{};
    struct stat control{};
    return ::lstat((data / "PG_VERSION").c_str(), &version) == 0 && S_ISREG(version.st_mode) &&
           ::lstat((data / "global/pg_control").c_str(), &control) == 0 && S_ISREG(control.st_mode);
}

std::filesystem::path unfinished_cluster(const std::filesystem::path& data) {
    std::filesystem::path aside = data;
    aside += ".init";
    return aside;
}

void begin_cluster(const std::filesystem::path& data, FileOwner user) {
    const auto aside = unfinished_cluster(data);
    remove_tree(data);
    remove_tree(aside);
    remove_tree(init_log(data));
    ensure_directory(aside, 0700, user);
}

void finish_cluster(const std::filesystem::path& data) {
    const auto aside = unfinished_cluster(data);
    if (!is_finished_cluster(aside)) {
        throw Error(ErrorKind::kInternal, "initdb_failed", "cannot make a data directory",
                    "initdb reported success but left no cluster");
    }
    const UniqueFd directory = open_directory(aside);
    if (::syncfs(directory.get()) != 0) throw errno_error("sync " + aside.native(), errno);
    remove_tree(init_log(data));
    if (::rename(aside.c_str(), data.c_str()) != 0) {
        throw errno_error("rename " + aside.native(), errno);
    }
    fsync_directory(data.parent_path());
}

std::filesystem::path init_log(const std::filesystem::path& data) {
    std::filesystem::path log = unfinished_cluster(data);
    log += ".log";
    return log;
}

InitOutcome init_outcome(const std::filesystem::path& data) {
    constexpr std::size_t kWordsMax = 64U << 10U;
    const std::string words = read_file(init_log(data), kWordsMax).value_or("");
    const std::string boot = boot_id() + "\n";
    if (!words.starts_with(boot)) return {};
    InitOutcome outcome;
    outcome.said = words.substr(boot.size());
    outcome.succeeded = outcome.said.find("\nSuccess. You can now start") != std::string::npos &&
                        is_finished_cluster(unfinished_cluster(data));
    return outcome;
}

std::string boot_id() {
    constexpr std::size_t kUuidSize = 36;
    const auto text = read_file("/proc/sys/kernel/random/boot_id", 64);
    return text ? text->substr(0, kUuidSize) : "";
}

std::vector<std::string> initdb_arguments(const std::filesystem::path& data,
                                          const std::string& locale) {
    return {"-D",
            unfinished_cluster(data).native(),
            "-E",
            "UTF8",
            "--locale=" + locale,
            "--data-checksums",
            "--username=postgres",
            "--auth-local=peer",
            "--auth-host=scram-sha-256",
            "--no-sync"};
}

Error initdb_failed(const std::string& ended, const std::string& text) {
    constexpr std::size_t kTextMax = 4096;
    if (text.find("No space left on device") != std::string::npos) {
        return {ErrorKind::kExhausted, "no_space", "there is no space for a new data directory",
                ended, "delete branches, or make the storage larger"};
    }
    if (text.find("invalid locale") != std::string::npos) {
        return {ErrorKind::kInvalid, "locale_invalid", "PostgreSQL does not take this locale", text,
                "set postgres.locale to one that `locale -a` lists, such as C.UTF-8"};
    }
    return {ErrorKind::kInternal, "initdb_failed", "cannot make a data directory",
            ended + "\n" + text.substr(0, kTextMax)};
}

Error directory_in_use(const std::filesystem::path& data, pid_t pid) {
    const auto facts = process_facts(pid);
    const std::string name = facts && !facts->argv.empty() ? facts->argv.front() : "?";
    return {ErrorKind::kConflict, "data_directory_in_use",
            "another process runs on this data directory",
            fmt::format("process {} ({}) works in {}", pid, name, data.native()),
            "stop it: two servers on one data directory destroy it"};
}

void make_socket_directory(const std::filesystem::path& directory, FileOwner user) {
    // Traversed by the instances, listed by root only.
    ensure_directory(directory.parent_path(), 0711, FileOwner{0, 0});
    // A lock file of an earlier life would mislead a new server.
    remove_tree(directory);
    ensure_directory(directory, 0700, user);
}

}  // namespace bpg::runtime
