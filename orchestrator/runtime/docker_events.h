// Tells when containers of ours end: one stream of dockerd's events for everybody who waits,
// however many. It runs while somebody waits; when dockerd breaks it off it is opened again, and
// then everybody is told to look for themselves, since what happened meanwhile is not repeated.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace bpg::runtime {

namespace asio = boost::asio;

/// Loop thread only.
class DockerEvents {
  public:
    DockerEvents(std::filesystem::path socket, asio::any_io_executor executor);
    /// Ends the stream; nobody may be waiting.
    ~DockerEvents();
    DockerEvents(const DockerEvents&) = delete;
    DockerEvents& operator=(const DockerEvents&) = delete;

    /// Somebody's interest in one container, by its name. What happens while it exists is not lost.
    class Watch {
      public:
        Watch(DockerEvents& events, std::string container);
        ~Watch();
        Watch(const Watch&) = delete;
        Watch& operator=(const Watch&) = delete;

        /// Completes when the container may have ended since the last call. Cancellable.
        asio::awaitable<void> changed();

      private:
        friend class DockerEvents;
        struct State;
        std::shared_ptr<State> state_;
        DockerEvents& events_;
    };

    /// Streams that are open or being opened: never more than one.
    int streams() const;

  private:
    struct Shared;
    static asio::awaitable<void> follow(std::shared_ptr<Shared> shared);

    std::shared_ptr<Shared> shared_;
};

/// The container a line of /events is about when it says that one ended; empty otherwise.
std::string ended_container(std::string_view line);

}  // namespace bpg::runtime
