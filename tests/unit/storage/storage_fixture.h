// What tests of the storage drivers share: a directory of their own, a loop to run verbs on, and
// small helpers to look at files.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

#include "orchestrator/base/error.h"
#include "orchestrator/base/id.h"
#include "orchestrator/base/offload.h"
#include "orchestrator/storage/storage.h"
#include "tests/harness/scratch_directory.h"

namespace bpg::storage {

namespace fs = std::filesystem;
using test::ScratchDirectory;

/// Runs one verb to its end; rethrows what it threw.
template <class T>
T await(asio::awaitable<T> verb) {
    asio::io_context loop;
    std::exception_ptr failure;
    if constexpr (std::is_void_v<T>) {
        asio::co_spawn(loop, std::move(verb),
                       [&](std::exception_ptr error) { failure = std::move(error); });
        loop.run();
        if (failure) std::rethrow_exception(failure);
    } else {
        std::optional<T> result;
        asio::co_spawn(loop, std::move(verb), [&](std::exception_ptr error, T value) {
            failure = std::move(error);
            result = std::move(value);
        });
        loop.run();
        if (failure) std::rethrow_exception(failure);
        return std::move(*result);
    }
}

/// The error an action ends with; a test failure when it ends well.
template <class Action>
ErrorInfo error_of(Action action) {
    try {
        action();
    } catch (const Error& error) {
        return error.info();
    }
    ADD_FAILURE() << "nothing was thrown";
    return {};
}

inline void put(const fs::path& path, const std::string& content) {
    std::ofstream file(path, std::ios::binary);
    file << content;
    file.flush();
    ASSERT_TRUE(file.good()) << path;
}

inline std::string get(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    EXPECT_TRUE(file.good()) << path;
    std::ostringstream content;
    content << file.rdbuf();
    return content.str();
}

inline struct stat facts(const fs::path& path) {
    struct stat result{};
    EXPECT_EQ(::lstat(path.c_str(), &result), 0) << path;
    return result;
}

inline bool is_empty_directory(const fs::path& path) {
    return fs::directory_iterator(path) == fs::directory_iterator();
}

/// Bytes that neither compress nor repeat, from a seed.
inline std::string noise(std::size_t size, std::uint64_t seed) {
    std::string text(size, '\0');
    for (char& c : text) {
        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        c = static_cast<char>(seed >> 56U);
    }
    return text;
}

inline Identity some_identity(const std::string& ref = "prod/main") {
    return {new_id(), ref, new_id(), new_id()};
}

}  // namespace bpg::storage
