// The daemon's loop thread for tests of drivers: coroutines run on it to their end, one at a time.
#pragma once

#include <gtest/gtest.h>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <chrono>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "orchestrator/base/error.h"
#include "orchestrator/base/offload.h"
#include "orchestrator/base/subprocess.h"

namespace bpg::test {

namespace asio = boost::asio;

class Loop {
  public:
    Loop() : pool(4) {}

    /// Runs the loop until the coroutine is done; its value or exception.
    template <class T>
    T run(asio::awaitable<T> work) {
        std::exception_ptr failure;
        std::optional<std::conditional_t<std::is_void_v<T>, bool, T>> value;
        io.restart();
        if constexpr (std::is_void_v<T>) {
            asio::co_spawn(io, std::move(work),
                           [&](std::exception_ptr thrown) { failure = thrown; });
        } else {
            asio::co_spawn(io, std::move(work), [&](std::exception_ptr thrown, T result) {
                failure = thrown;
                if (!thrown) value.emplace(std::move(result));
            });
        }
        io.run();
        if (failure) std::rethrow_exception(failure);
        if constexpr (!std::is_void_v<T>) return std::move(*value);
    }

    /// The error a coroutine ends with; a failed test when it ends with none.
    template <class T>
    ErrorInfo error_of(asio::awaitable<T> work) {
        try {
            static_cast<void>(run(std::move(work)));
        } catch (const Error& error) {
            return error.info();
        }
        ADD_FAILURE() << "no error was thrown";
        return {};
    }

    asio::io_context io;
    BlockingPool pool;
};

/// What a command writes; throws when it fails.
inline std::string output_of(std::vector<std::string> argv) {
    Command command;
    command.argv = std::move(argv);
    const CommandResult result = run_command(command);
    if (!result.ok()) throw std::runtime_error(command.argv[0] + ": " + result.explain(command));
    return result.out;
}
inline void shell_free(std::vector<std::string> argv) {
    output_of(std::move(argv));
}

/// Looks every 10 ms until it holds; false when the deadline passed.
template <class Condition>
bool soon(Condition condition, std::chrono::milliseconds deadline = std::chrono::seconds(10)) {
    const auto end = std::chrono::steady_clock::now() + deadline;
    while (!condition()) {
        if (std::chrono::steady_clock::now() >= end) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return true;
}

}  // namespace bpg::test
