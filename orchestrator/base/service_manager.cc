#include "orchestrator/base/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "orchestrator/base/files.h"
#include "orchestrator/base/log.h"

namespace bpg {
namespace {

std::string take_variable(const char* name) {
    const char* value = ::getenv(name);
    const std::string taken = value == nullptr ? "" : value;
    ::unsetenv(name);
    return taken;
}

template <class Number>
std::optional<Number> number_of(const std::string& text) {
    Number number{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return number;
}

}  // namespace

ServiceManager::ServiceManager() : socket_(take_variable("NOTIFY_SOCKET")) {
    const auto period = number_of<std::int64_t>(take_variable("WATCHDOG_USEC"));
    const std::string pid = take_variable("WATCHDOG_PID");
    const bool is_ours = pid.empty() || number_of<std::int64_t>(pid) == ::getpid();
    if (period && *period > 0 && is_ours) watchdog_ = std::chrono::microseconds(*period);
}

void ServiceManager::tell(const std::string& state) const {
    sockaddr_un address{};
    if (socket_.empty() || socket_.size() >= sizeof address.sun_path) return;
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, socket_.data(), socket_.size());
    if (socket_.front() == '@') address.sun_path[0] = '\0';  // an abstract one
    const UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_.size());
    const ssize_t sent = ::sendto(fd.get(), state.data(), state.size(), MSG_NOSIGNAL,
                                  reinterpret_cast<const sockaddr*>(&address), length);  // NOLINT
    if (sent < 0) log::debug("the service manager does not listen", {{"socket", socket_}});
}

}  // namespace bpg
