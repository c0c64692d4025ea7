// Command lines, /proc, ports and logs of instances.
#include "orchestrator/runtime/instance_process.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>

#include "orchestrator/base/clock.h"
#include "orchestrator/base/error.h"

namespace bpg::runtime {

namespace {

constexpr off_t kLogMax = 16 << 20;
constexpr std::size_t kTailMax = 16 * 1024;
constexpr off_t kPieceMax = 64 << 10;
constexpr std::string_view kStartMark = "=== bpgd starts ";

std::string branch_argument(const std::string& branch_id) {
    return "bpg.branch_id=" + branch_id;
}

bool serves(const ProcessFacts& process, const std::filesystem::path& data_directory) {
    const auto& argv = process.argv;
    const auto option = std::find(argv.begin(), argv.end(), "-D");
    return option != argv.end() && option + 1 != argv.end() &&
           *(option + 1) == data_directory.native();
}

/// Calls `visit(pid)` for every process there is.
template <class Visit>
void each_process(Visit visit) {
    const std::unique_ptr<DIR, int (*)(DIR*)> processes(::opendir("/proc"), ::closedir);
    if (!processes) throw errno_error("read /proc", errno);
    while (const dirent* entry = ::readdir(processes.get())) {
        const std::string_view name(&entry->d_name[0]);
        pid_t pid = 0;
        const auto [end, failure] = std::from_chars(name.data(), name.data() + name.size(), pid);
        if (failure == std::errc() && end == name.data() + name.size()) visit(pid);
    }
}

struct Address {
    sockaddr_storage storage{};
    socklen_t size = 0;
};

/// The numeric addresses a listen_addresses value names.
std::vector<Address> addresses_of(const std::string& listen_addresses, int port) {
    std::vector<Address> found;
    const auto add4 = [&](const std::string& text) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(static_cast<std::uint16_t>(port));
        if (::inet_pton(AF_INET, text.c_str(), &address.sin_addr) != 1) return;
        Address& made = found.emplace_back();
        std::memcpy(&made.storage, &address, sizeof address);
        made.size = sizeof address;
    };
    const auto add6 = [&](const std::string& text) {
        sockaddr_in6 address{};
        address.sin6_family = AF_INET6;
        address.sin6_port = htons(static_cast<std::uint16_t>(port));
        if (::inet_pton(AF_INET6, text.c_str(), &address.sin6_addr) != 1) return;
        Address& made = found.emplace_back();
        std::memcpy(&made.storage, &address, sizeof address);
        made.size = sizeof address;
    };
    std::stringstream list(listen_addresses);
    std::string item;
    while (std::getline(list, item, ',')) {
        std::erase(item, ' ');
        if (item == "localhost") {
            add4("127.0.0.1");
        } else if (item == "*") {
            add4("0.0.0.0");
            add6("::");
        } else {
            add4(item);
            add6(item);
        }
    }
    return found;
}

bool is_taken(const Address& address) {
    const UniqueFd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) return false;  // a machine without IPv6
    const int on = 1;
    // As PostgreSQL does: connections of an earlier server in TIME_WAIT do not count.
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (address.storage.ss_family == AF_INET6) {
        ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    }
    const void* raw = &address.storage;
    return ::bind(fd.get(), static_cast<const sockaddr*>(raw), address.size) != 0 &&
           errno == EADDRINUSE;
}

/// Inodes of the sockets that listen on this port, from /proc/net/tcp or tcp6.
void add_listening_inodes(const char* table, int port, std::vector<std::string>& inodes) {
    std::ifstream file(table);
    std::string line;
    const std::string wanted = fmt::format(":{:04X}", port);
    while (std::getline(file, line)) {
        std::istringstream fields(line);
        std::string number, local, remote, state, queues, timer, retransmits, uid, timeout, inode;
        fields >> number >> local >> remote >> state >> queues >> timer >> retransmits >> uid >>
            timeout >> inode;
        if (state == "0A" && local.ends_with(wanted)) inodes.push_back("socket:[" + inode + "]");
    }
}

bool holds_one_of(pid_t pid, const std::vector<std::string>& sockets) {
    std::error_code gone;  // the process may end while it is looked at
    const std::filesystem::path directory = fmt::format("/proc/{}/fd", pid);
    for (const auto& entry : std::filesystem::directory_iterator(directory, gone)) {
        const auto target = std::filesystem::read_symlink(entry.path(), gone);
        if (std::find(sockets.begin(), sockets.end(), target.native()) != sockets.end())
            return true;
    }
    return false;
}

/// "process 123 (nginx)", or a sentence that says nobody can be named.
std::string who_listens(int port) {
    std::vector<std::string> inodes;
    add_listening_inodes("/proc/net/tcp", port, inodes);
    add_listening_inodes("/proc/net/tcp6", port, inodes);
    std::string found;
    if (!inodes.empty()) {
        each_process([&](pid_t pid) {
            if (!found.empty() || !holds_one_of(pid, inodes)) return;
            const auto facts = process_facts(pid);
            const std::string name = facts && !facts->argv.empty() ? facts->argv.front() : "?";
            found = fmt::format("process {} ({}) listens on it", pid, name);
        });
    }
    return found.empty() ? "another program listens on it" : found;
}

}  // namespace

std::vector<std::string> as_user(FileOwner user, std::vector<std::string> argv) {
    std::vector<std::string> all = {"setpriv",
                                    "--reuid",
                                    std::to_string(user.uid),
                                    "--regid",
                                    std::to_string(user.gid),
                                    "--init-groups",
                                    "--inh-caps=-all",
                                    "--ambient-caps=-all",
                                    "--bounding-set=-all",
                                    "--no-new-privs",
                                    "--"};
    all.insert(all.end(), argv.begin(), argv.end());
    return all;
}

std::vector<std::string> postmaster_arguments(const std::filesystem::path& bin_dir,
                                              const InstanceSpec& spec) {
    std::vector<std::string> argv = {(bin_dir / "postgres").native(), "-D",
                                     spec.data_directory.native()};
    for (const auto& [name, value] : spec.settings) {
        argv.emplace_back("-c");
        argv.push_back(name + "=" + value);
    }
    argv.emplace_back("-c");
    argv.push_back(branch_argument(spec.branch_id));
    return argv;
}

bool systemd_runs() {
    struct stat facts{};
    return ::stat("/run/systemd/system", &facts) == 0 && S_ISDIR(facts.st_mode);
}

std::vector<std::string> in_own_scope(const std::string& branch_id, std::vector<std::string> argv) {
    std::vector<std::string> all = {"systemd-run",
                                    "--scope",
                                    "--quiet",
                                    "--collect",
                                    "--description=BetterPG branch " + branch_id,
                                    "--"};
    all.insert(all.end(), argv.begin(), argv.end());
    return all;
}

std::optional<ProcessFacts> find_postmaster(const std::string& branch_id,
                                            const std::filesystem::path& data_directory) {
    std::optional<ProcessFacts> oldest;
    for (ProcessFacts& process : find_processes_with_argument(branch_argument(branch_id))) {
        if (process.zombie || !serves(process, data_directory)) continue;
        const auto key = std::pair(process.start_time, process.pid);
        if (!oldest || key < std::pair(oldest->start_time, oldest->pid)) {
            oldest = std::move(process);
        }
    }
    return oldest;
}

std::vector<ProcessFacts> find_servers_of(const std::filesystem::path& data_directory) {
    std::vector<ProcessFacts> found = find_processes_with_argument(data_directory.native());
    std::erase_if(
        found, [&](const ProcessFacts& one) { return one.zombie || !serves(one, data_directory); });
    return found;
}

std::vector<pid_t> processes_in(const std::filesystem::path& directory) {
    struct stat wanted{};
    if (::stat(directory.c_str(), &wanted) != 0) {
        if (errno == ENOENT) return {};
        throw errno_error("look at " + directory.native(), errno);
    }
    std::vector<pid_t> found;
    each_process([&](pid_t pid) {
        struct stat facts{};
        if (::stat(fmt::format("/proc/{}/cwd", pid).c_str(), &facts) != 0) return;
        if (facts.st_dev == wanted.st_dev && facts.st_ino == wanted.st_ino) found.push_back(pid);
    });
    return found;
}

void check_port_free(const std::string& listen_addresses, int port) {
    for (const Address& address : addresses_of(listen_addresses, port)) {
        if (!is_taken(address)) continue;
        throw Error(ErrorKind::kConflict, "port_taken", fmt::format("port {} is taken", port),
                    who_listens(port), "stop what listens on it, or give the branch another port");
    }
}

std::string setting_of(const InstanceSpec& spec, const std::string& name) {
    for (const auto& [key, value] : spec.settings) {
        if (key == name) return value;
    }
    return "";
}

void begin_log(const std::filesystem::path& log_path, const std::string& branch_id) {
    struct stat facts{};
    if (::lstat(log_path.c_str(), &facts) == 0 && facts.st_size > kLogMax) {
        std::filesystem::path old = log_path;
        old += ".1";
        std::filesystem::rename(log_path, old);
    }
    append_log(log_path, fmt::format("{}branch {} at {} ===\n", kStartMark, branch_id,
                                     format_time(SystemClock().now())));
}

void append_log(const std::filesystem::path& log_path, const std::string& text) {
    const UniqueFd log(::open(
        log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC, 0640));
    if (!log) throw errno_error("open " + log_path.native(), errno);
    if (::write(log.get(), text.data(), text.size()) < 0) {
        throw errno_error("write " + log_path.native(), errno);
    }
}

std::string last_lines(std::string_view text, std::size_t lines) {
    if (lines == 0 || text.empty()) return "";
    std::size_t begin = text.size() - (text.back() == '\n' ? 1 : 0);
    for (std::size_t count = 0; count < lines && begin > 0; ++count) {
        const auto newline = text.rfind('\n', begin - 1);
        begin = newline == std::string_view::npos ? 0 : newline;
    }
    if (begin > 0) ++begin;
    return std::string(text.substr(begin));
}

LogPiece read_log_piece(const std::filesystem::path& log_path, const std::string& from,
                        std::size_t lines) {
    const UniqueFd log(::open(log_path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!log) {
        if (errno == ENOENT) return {"", "file:0:0"};
        throw errno_error("open " + log_path.native(), errno);
    }
    struct stat facts{};
    if (::fstat(log.get(), &facts) != 0) throw errno_error("look at " + log_path.native(), errno);
    unsigned long long inode = 0;
    long long offset = 0;
    const bool goes_on = std::sscanf(from.c_str(), "file:%llu:%lld", &inode, &offset) == 2 &&
                         (inode == facts.st_ino || inode == 0) && offset <= facts.st_size;
    if (!goes_on) offset = from.empty() ? std::max<off_t>(0, facts.st_size - kPieceMax) : 0;
    std::string text(kPieceMax, '\0');
    const ssize_t got = ::pread(log.get(), text.data(), text.size(), offset);
    if (got < 0) throw errno_error("read " + log_path.native(), errno);
    text.resize(static_cast<std::size_t>(got));
    const bool is_full = got == kPieceMax;
    const auto end = text.rfind('\n');
    if (end != std::string::npos) {
        text.resize(end + 1);
    } else if (!is_full) {
        text.clear();  // no line is whole yet
    }
    const std::string next =
        fmt::format("file:{}:{}", facts.st_ino, offset + static_cast<long long>(text.size()));
    if (from.empty() && offset > 0) text.erase(0, text.find('\n') + 1);
    return {from.empty() ? last_lines(text, lines) : std::move(text), next};
}

std::string read_log_tail(const std::filesystem::path& log_path, std::size_t lines) {
    const UniqueFd log(::open(log_path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!log) {
        if (errno == ENOENT) return "";
        throw errno_error("open " + log_path.native(), errno);
    }
    const off_t size = ::lseek(log.get(), 0, SEEK_END);
    const off_t from = std::max<off_t>(0, size - static_cast<off_t>(kTailMax));
    std::array<char, kTailMax> block{};
    const ssize_t got = ::pread(log.get(), block.data(), block.size(), from);
    if (got < 0) throw errno_error("read " + log_path.native(), errno);
    std::string_view text(block.data(), static_cast<std::size_t>(got));

    const auto mark = text.rfind(kStartMark);
    if (mark != std::string_view::npos && (mark == 0 || text[mark - 1] == '\n')) {
        text.remove_prefix(std::min(text.find('\n', mark), text.size() - 1) + 1);
    } else if (from > 0) {
        // Not half a line.
        text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1);
    }
    return last_lines(text, lines);
}

}  // namespace bpg::runtime
