// How blocking work leaves the event loop: `co_await pool.run(work)` runs it on a bounded pool of
// threads and comes back to the caller's executor with its result or exception. The loop thread
// itself never blocks, not even on a thread of the pool that gets no CPU; nothing but leaf work
// (file trees, ioctls, libpqxx, child processes) runs here.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "orchestrator/base/handoff.h"
#include "orchestrator/base/loop_inbox.h"

namespace bpg {

namespace asio = boost::asio;

/// A fixed number of threads for blocking work. Work queued beyond that waits its turn. The
/// destructor runs all of it; coroutines still waiting on it must be gone by then.
class BlockingPool {
  public:
    explicit BlockingPool(std::size_t threads);
    ~BlockingPool();
    BlockingPool(const BlockingPool&) = delete;
    BlockingPool& operator=(const BlockingPool&) = delete;

    /// Runs `work()` on a pool thread. Cannot be cancelled once begun: give the work its own
    /// deadline. Never combine it with `||` (the other arm would wait for it).
    template <class Work>
    asio::awaitable<std::invoke_result_t<Work&>> run(Work work);

    /// Runs `work()` on a pool thread with nobody waiting: closing what may block, from a
    /// destructor. It must not throw. Never blocks; may be called from any thread.
    template <class Work>
    void post(Work work) {
        put(Task(std::move(work)));
    }

  private:
    void put(Task task);
    void work_until_closed();

    Handoff<Task> given_;
    Semaphore ready_;         ///< one for every task, and for every thread one at the end
    std::mutex taking_;       ///< among the threads of the pool only
    std::deque<Task> taken_;  // guarded by taking_
    std::vector<std::thread> threads_;
};

template <class Work>
asio::awaitable<std::invoke_result_t<Work&>> BlockingPool::run(Work work) {
    using Result = std::invoke_result_t<Work&>;
    using Value = std::conditional_t<std::is_void_v<Result>, std::monostate, Result>;
    std::optional<Value> value;
    std::exception_ptr failure;
    auto executor = co_await asio::this_coro::executor;
    auto initiate = [this, executor, &work, &value, &failure](auto handler) {
        auto inbox = LoopInbox::expect(executor);
        auto task = [executor, inbox, &work, &value, &failure,
                     handler = std::move(handler)]() mutable {
            try {
                if constexpr (std::is_void_v<Result>) {
                    work();
                    value.emplace();
                } else {
                    value.emplace(work());
                }
            } catch (...) {  // carried over to the awaiting coroutine, rethrown there
                failure = std::current_exception();
            }
            inbox->deliver(Task([executor, handler = std::move(handler)]() mutable {
                asio::post(executor, std::move(handler));
            }));
        };
        put(Task(std::move(task)));
    };
    co_await asio::async_initiate<const asio::use_awaitable_t<>&, void()>(std::move(initiate),
                                                                          asio::use_awaitable);
    if (failure) std::rethrow_exception(failure);
    if constexpr (!std::is_void_v<Result>) co_return std::move(*value);
}

}  // namespace bpg
