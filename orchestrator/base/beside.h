// Work that goes on beside what its owner does next, on the same loop: begun now, its result asked
// for later, or never.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/this_coro.hpp>
#include <exception>
#include <memory>
#include <optional>
#include <utility>

#include "orchestrator/base/signal.h"

namespace bpg {

/// Loop thread only. The work goes on when this object is gone: it must own what it uses.
template <class Result>
class Beside {
  public:
    static asio::awaitable<Beside> begin(asio::awaitable<Result> work) {
        const auto shared = std::make_shared<Shared>();
        asio::co_spawn(co_await asio::this_coro::executor, std::move(work),
                       [shared](std::exception_ptr failure, Result result) {
                           shared->failure = std::move(failure);
                           if (!shared->failure) shared->result = std::move(result);
                           shared->ended.notify();
                       });
        co_return Beside(shared);
    }

    /// Waits for the end of the work; throws what it threw. May be asked more than once.
    asio::awaitable<Result> result() const {
        const std::shared_ptr<Shared> shared = shared_;
        while (!shared->result && !shared->failure) {
            co_await shared->ended.wait_until(std::chrono::steady_clock::time_point::max());
        }
        if (shared->failure) std::rethrow_exception(shared->failure);
        co_return *shared->result;
    }

  private:
    struct Shared {
        std::optional<Result> result;
        std::exception_ptr failure;
        Signal ended;
    };
    explicit Beside(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

    std::shared_ptr<Shared> shared_;
};

}  // namespace bpg
