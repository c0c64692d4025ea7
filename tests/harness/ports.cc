// See ports.h.
#include "tests/harness/ports.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <stdexcept>

namespace bpg::test {

namespace {

constexpr int kFirstPort = 10'000;
constexpr int kSlots = 500;  // up to 30 000: the kernel's own choices begin above 32 768

UniqueFd try_lock_slot(const std::string& slot) {
    const auto path =
        std::filesystem::temp_directory_path() / fmt::format("bpg-ports-{}.lock", slot);
    UniqueFd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock || ::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) return {};
    return lock;
}

}  // namespace

sockaddr loopback(std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    sockaddr generic{};
    static_assert(sizeof generic == sizeof address);
    std::memcpy(&generic, &address, sizeof generic);
    return generic;
}

bool port_is_free(std::uint16_t port) {
    const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) throw std::runtime_error("no socket");
    const int on = 1;  // as PostgreSQL does: a port in TIME_WAIT is free
    ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    const sockaddr address = loopback(port);
    return ::bind(socket.get(), &address, sizeof address) == 0;
}

PortSlot::PortSlot(bool wide) {
    if (wide) {
        lock_ = try_lock_slot("wide");
        first_ = kFirstPort + kSlots * kSize;
        size_ = kWideSize;
        if (lock_ && taken().empty()) return;
        throw std::runtime_error("the wide run of ports is taken");
    }
    for (int tried = 0; tried < kSlots; ++tried) {
        const int slot = static_cast<int>((::getpid() * 7L + tried) % kSlots);
        lock_ = try_lock_slot(std::to_string(slot));
        if (!lock_) continue;
        first_ = static_cast<std::uint16_t>(kFirstPort + slot * kSize);
        if (taken().empty()) return;
    }
    throw std::runtime_error("no run of free TCP ports between 10000 and 30000");
}

std::vector<std::uint16_t> PortSlot::taken() const {
    std::vector<std::uint16_t> taken;
    for (int port = first_; port < first_ + size_; ++port) {
        if (!port_is_free(static_cast<std::uint16_t>(port))) {
            taken.push_back(static_cast<std::uint16_t>(port));
        }
    }
    return taken;
}

}  // namespace bpg::test
