// How blocking work leaves the event loop: `co_await pool.run(work)` runs it on a bounded pool of
// threads and comes back to the caller's executor with its result or exception. The loop thread
// itself never blocks; nothing but leaf work (file trees, ioctls, libpqxx, child processes) runs
// here.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

namespace bpg {

namespace asio = boost::asio;

/// A fixed number of threads for blocking work. Work queued beyond that waits its turn. The
/// destructor waits for what runs; coroutines still waiting on it must be gone by then.
class BlockingPool {
  public:
    explicit BlockingPool(std::size_t threads) : pool_(threads) {}
    ~BlockingPool() { pool_.join(); }
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
        asio::post(pool_, std::move(work));
    }

  private:
    asio::thread_pool pool_;
};

template <class Work>
asio::awaitable<std::invoke_result_t<Work&>> BlockingPool::run(Work work) {
    using Result = std::invoke_result_t<Work&>;
    using Value = std::conditional_t<std::is_void_v<Result>, std::monostate, Result>;
    std::optional<Value> value;
    std::exception_ptr failure;
    auto executor = co_await asio::this_coro::executor;
    auto initiate = [this, executor, &work, &value, &failure](auto handler) {
        auto task = [executor, &work, &value, &failure, handler = std::move(handler)]() mutable {
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
            asio::post(executor, std::move(handler));
        };
        // The guard keeps the loop running while only this piece of work is outstanding.
        asio::post(pool_, [task = std::move(task),
                           guard = asio::make_work_guard(executor)]() mutable { task(); });
    };
    co_await asio::async_initiate<const asio::use_awaitable_t<>&, void()>(std::move(initiate),
                                                                          asio::use_awaitable);
    if (failure) std::rethrow_exception(failure);
    if constexpr (!std::is_void_v<Result>) co_return std::move(*value);
}

}  // namespace bpg
