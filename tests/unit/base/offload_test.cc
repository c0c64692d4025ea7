// Blocking work leaves the loop and its outcome comes back to it.
#include "orchestrator/base/offload.h"

#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>

#include "orchestrator/base/error.h"

namespace bpg {
namespace {

using std::chrono::milliseconds;

/// Runs a coroutine to its end on a loop of its own; rethrows what it threw.
template <class T>
T run_to_end(asio::io_context& loop, asio::awaitable<T> body) {
    std::optional<T> result;
    std::exception_ptr failure;
    asio::co_spawn(loop, std::move(body), [&](std::exception_ptr error, T value) {
        failure = error;
        result = std::move(value);
    });
    loop.run();
    if (failure) std::rethrow_exception(failure);
    return std::move(*result);
}

struct ThreadsSeen {
    std::thread::id before;
    std::thread::id work;
    std::thread::id after;
};

asio::awaitable<ThreadsSeen> see_threads(BlockingPool& pool) {
    ThreadsSeen seen;
    seen.before = std::this_thread::get_id();
    auto work = [] { return std::this_thread::get_id(); };
    seen.work = co_await pool.run(work);
    seen.after = std::this_thread::get_id();
    co_return seen;
}

TEST(Offload, WorkRunsOnThePoolAndTheCallerGoesOnOnTheLoop) {
    asio::io_context loop;
    BlockingPool pool(1);
    const ThreadsSeen seen = run_to_end(loop, see_threads(pool));
    EXPECT_NE(seen.work, seen.before);
    EXPECT_EQ(seen.after, seen.before);
}

asio::awaitable<std::string> carry(BlockingPool& pool, std::unique_ptr<std::string> text) {
    auto work = [&text] { return std::make_unique<std::string>(*text + "!"); };
    const auto result = co_await pool.run(work);
    co_return *result;
}

TEST(Offload, CarriesMoveOnlyResults) {
    asio::io_context loop;
    BlockingPool pool(1);
    EXPECT_EQ(run_to_end(loop, carry(pool, std::make_unique<std::string>(100, 'x'))),
              std::string(100, 'x') + "!");
}

asio::awaitable<int> fail(BlockingPool& pool) {
    auto work = []() -> int { throw Error(ErrorKind::kExhausted, "no_space", "full"); };
    co_return co_await pool.run(work);
}

TEST(Offload, AnExceptionArrivesWhereItIsAwaited) {
    asio::io_context loop;
    BlockingPool pool(1);
    try {
        run_to_end(loop, fail(pool));
        FAIL() << "the exception was lost";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), "no_space");
    }
}

asio::awaitable<bool> fail_void(BlockingPool& pool) {
    auto work = [] { throw std::runtime_error("void too"); };
    bool caught = false;
    try {
        co_await pool.run(work);
    } catch (const std::runtime_error&) {
        caught = true;
    }
    co_return caught;
}

TEST(Offload, WorkWithoutResultReportsFailureToo) {
    asio::io_context loop;
    BlockingPool pool(1);
    EXPECT_TRUE(run_to_end(loop, fail_void(pool)));
}

asio::awaitable<int> work_in_parts(BlockingPool& pool, bool& finished) {
    int total = 0;
    for (int part = 1; part <= 20; ++part) {
        auto work = [part] {
            std::this_thread::sleep_for(milliseconds(5));
            return part;
        };
        total += co_await pool.run(work);
    }
    finished = true;
    co_return total;
}

asio::awaitable<void> count_ticks(const bool& finished, int& ticks) {
    asio::steady_timer timer(co_await asio::this_coro::executor);
    while (!finished) {
        timer.expires_after(milliseconds(1));
        co_await timer.async_wait(asio::use_awaitable);
        ++ticks;
    }
}

TEST(Offload, TheLoopTurnsWhileWorkBlocks) {
    asio::io_context loop;
    BlockingPool pool(1);
    bool finished = false;
    int ticks = 0;
    asio::co_spawn(loop, count_ticks(finished, ticks), [](std::exception_ptr failure) {
        if (failure) std::rethrow_exception(failure);
    });
    EXPECT_EQ(run_to_end(loop, work_in_parts(pool, finished)), 210);
    EXPECT_GT(ticks, 10);
}

TEST(Offload, OutstandingWorkAloneKeepsTheLoopRunning) {
    asio::io_context loop;
    BlockingPool pool(2);
    bool finished = false;
    run_to_end(loop, work_in_parts(pool, finished));
    EXPECT_TRUE(finished);
}

}  // namespace
}  // namespace bpg
