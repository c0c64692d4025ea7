#include "orchestrator/ports.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "orchestrator/base/files.h"

namespace bpg {
namespace {

bool can_bind(const sockaddr* address, socklen_t size) {
    const UniqueFd fd(::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) return true;  // no such address family here: nobody can listen there either
    const int on = 1;
    // Like PostgreSQL: a connection in TIME_WAIT does not make a port taken.
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (::bind(fd.get(), address, size) != 0) return errno == EADDRNOTAVAIL;
    return ::listen(fd.get(), 1) == 0;
}

bool can_bind_ipv4(const std::string& host, int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    if (::inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1) return true;
    return can_bind(std::bit_cast<const sockaddr*>(&address), sizeof address);
}

bool can_bind_ipv6_loopback(int port) {
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(static_cast<std::uint16_t>(port));
    address.sin6_addr = in6addr_loopback;
    return can_bind(std::bit_cast<const sockaddr*>(&address), sizeof address);
}

bool claims(const std::string& postgresql_conf, int port) {
    std::istringstream lines(postgresql_conf);
    std::string line;
    while (std::getline(lines, line)) {
        std::istringstream words(line.substr(0, line.find('#')));
        std::string name;
        std::string equals;
        int value = 0;
        if (words >> name >> equals >> value && name == "port" && equals == "=" && value == port) {
            return true;
        }
    }
    return false;
}

bool claimed_by_a_cluster(int port) {
    std::error_code error;
    const std::filesystem::path root = "/etc/postgresql";
    for (std::filesystem::directory_iterator version(root, error), end; !error && version != end;
         version.increment(error)) {
        std::error_code below;
        for (std::filesystem::directory_iterator cluster(version->path(), below);
             !below && cluster != end; cluster.increment(below)) {
            const auto text = read_file(cluster->path() / "postgresql.conf");
            if (text && claims(*text, port)) return true;
        }
    }
    return false;
}

}  // namespace

bool port_is_free(int port, const std::string& listen) {
    return can_bind_ipv4("127.0.0.1", port) && can_bind_ipv6_loopback(port) &&
           can_bind_ipv4(listen, port) && !claimed_by_a_cluster(port);
}

}  // namespace bpg
