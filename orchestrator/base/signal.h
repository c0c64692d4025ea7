// A condition variable for the loop thread: coroutines wait, somebody notifies, all of them go on.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <list>

namespace bpg {

namespace asio = boost::asio;

/// Loop thread only. Must outlive its waiters.
class Signal {
  public:
    /// Returns at the next notify(), or when `deadline` passes (false).
    asio::awaitable<bool> wait_until(std::chrono::steady_clock::time_point deadline) {
        asio::steady_timer timer(co_await asio::this_coro::executor, deadline);
        const auto place = waiters_.insert(waiters_.end(), &timer);
        const Removal removal{waiters_, place};
        const auto [error] = co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
        co_return error == asio::error::operation_aborted;
    }

    void notify() {
        for (asio::steady_timer* timer : waiters_)
            timer->cancel();
    }

  private:
    using Waiters = std::list<asio::steady_timer*>;
    struct Removal {
        Waiters& waiters;
        Waiters::iterator place;
        ~Removal() { waiters.erase(place); }
    };
    Waiters waiters_;
};

/// Suspends the calling coroutine; ends early, without a throw, when it is cancelled.
inline asio::awaitable<void> pause_for(std::chrono::milliseconds duration) {
    asio::steady_timer timer(co_await asio::this_coro::executor, duration);
    co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
}

}  // namespace bpg
