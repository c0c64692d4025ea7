#include "orchestrator/runtime/docker_events.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <list>
#include <nlohmann/json.hpp>

#include "orchestrator/base/error.h"
#include "orchestrator/base/log.h"
#include "orchestrator/runtime/docker_container.h"
#include "orchestrator/runtime/docker_wire.h"

namespace bpg::runtime {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr milliseconds kFirstPause{50};
constexpr milliseconds kLongestPause{2'000};
/// dockerd answers before it listens to itself, so events of just now are asked for, too.
constexpr int kOverlapSeconds = 3;
constexpr std::size_t kLineMax = 64 << 10;

std::string events_target() {
    const json filters = {{"type", {"container"}},
                          {"event", {"die", "destroy"}},
                          {"label", {std::string(kRoleLabel)}}};
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const auto since = std::chrono::duration_cast<std::chrono::seconds>(now).count();
    return fmt::format("/events?since={}&filters={}", since - kOverlapSeconds,
                       url_escape(filters.dump()));
}

}  // namespace

struct DockerEvents::Watch::State {
    explicit State(const asio::any_io_executor& executor, std::string name)
        : container(std::move(name)), woken(executor) {
        woken.expires_at(asio::steady_timer::time_point::max());
    }

    void wake() {
        has_changed = true;
        woken.cancel();
    }

    std::string container;
    asio::steady_timer woken;
    bool has_changed = false;
};

struct DockerEvents::Shared {
    Shared(std::filesystem::path socket, asio::any_io_executor loop)
        : wire(std::move(socket)), executor(std::move(loop)) {}

    void wake_all() const {
        for (const auto& watch : watches)
            watch->wake();
    }

    void read(std::string_view piece) {
        rest += piece;
        std::size_t begin = 0;
        for (auto end = rest.find('\n'); end != std::string::npos; end = rest.find('\n', begin)) {
            const std::string name =
                ended_container(std::string_view(rest).substr(begin, end - begin));
            for (const auto& watch : watches) {
                if (!name.empty() && watch->container == name) watch->wake();
            }
            begin = end + 1;
        }
        rest.erase(0, begin);
        if (rest.size() > kLineMax) rest.clear();
    }

    DockerWire wire;
    asio::any_io_executor executor;
    std::list<std::shared_ptr<Watch::State>> watches;
    std::string rest;
    int streams = 0;
    /// Of the stream that runs; another may follow while this one is still ending.
    std::shared_ptr<asio::cancellation_signal> cancel;
};

DockerEvents::DockerEvents(std::filesystem::path socket, asio::any_io_executor executor)
    : shared_(std::make_shared<Shared>(std::move(socket), std::move(executor))) {}

DockerEvents::~DockerEvents() {
    if (shared_->cancel) shared_->cancel->emit(asio::cancellation_type::terminal);
}

int DockerEvents::streams() const {
    return shared_->streams;
}

DockerEvents::Watch::Watch(DockerEvents& events, std::string container)
    : state_(std::make_shared<State>(events.shared_->executor, std::move(container))),
      events_(events) {
    auto& shared = *events.shared_;
    shared.watches.push_back(state_);
    if (shared.cancel) return;
    shared.cancel = std::make_shared<asio::cancellation_signal>();
    ++shared.streams;
    auto ended = [held = events.shared_, cancel = shared.cancel](std::exception_ptr) {
        --held->streams;
    };
    asio::co_spawn(shared.executor, follow(events.shared_),
                   asio::bind_cancellation_slot(shared.cancel->slot(), std::move(ended)));
}

DockerEvents::Watch::~Watch() {
    auto& shared = *events_.shared_;
    shared.watches.remove(state_);
    if (!shared.watches.empty() || !shared.cancel) return;
    const auto cancel = std::exchange(shared.cancel, nullptr);
    // Not from here: whoever destroys a watch may be running inside the stream's own callback.
    asio::post(shared.executor, [cancel] { cancel->emit(asio::cancellation_type::terminal); });
}

asio::awaitable<void> DockerEvents::Watch::changed() {
    const auto state = state_;
    if (!state->has_changed) {
        const auto [error] = co_await state->woken.async_wait(asio::as_tuple(asio::use_awaitable));
        if (!state->has_changed) {
            throw boost::system::system_error(error ? error : asio::error::operation_aborted);
        }
    }
    state->has_changed = false;
}

asio::awaitable<void> DockerEvents::follow(std::shared_ptr<Shared> shared) {
    milliseconds pause = kFirstPause;
    while (true) {
        DockerRequest request;
        request.target = events_target();
        request.deadline = milliseconds::zero();
        DockerSink sink;
        sink.opened = [&] {
            pause = kFirstPause;
            shared->rest.clear();
            shared->wake_all();
        };
        sink.received = [&](std::string_view piece) { shared->read(piece); };
        try {
            co_await shared->wire.stream(std::move(request), std::move(sink));
        } catch (const Error& failure) {
            log::debug("the stream of Docker's events broke off", {{"why", failure.what()}});
        }
        // Those who wait may find out by looking, or go on waiting.
        asio::steady_timer timer(shared->executor, pause);
        co_await timer.async_wait(asio::use_awaitable);
        pause = std::min(pause * 2, kLongestPause);
    }
}

std::string ended_container(std::string_view line) {
    const auto event = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!event.is_object() || event.value("Type", json()) != "container") return "";
    const auto action = event.value("Action", json());
    if (action != "die" && action != "destroy") return "";
    const auto actor = event.value("Actor", json::object());
    if (!actor.is_object()) return "";
    const auto attributes = actor.value("Attributes", json::object());
    if (!attributes.is_object()) return "";
    const auto name = attributes.value("name", json());
    return name.is_string() ? name.get<std::string>() : "";
}

}  // namespace bpg::runtime
