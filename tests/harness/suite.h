// The fixture of tests that run against a real bpgd: one TestHost a suite and driver pair, made at
// its first test and taken down, with a look at what was left behind, after its last.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <initializer_list>
#include <latch>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/harness/host.h"
#include "tests/harness/load.h"
#include "tests/harness/metrics_text.h"

namespace bpg::test {

/// AddressSanitizer makes everything several times slower: limits of time are wider then.
#ifdef __SANITIZE_ADDRESS__
inline constexpr bool kUnderSanitizer = true;
#else
inline constexpr bool kUnderSanitizer = false;
#endif

/// Name for INSTANTIATE_TEST_SUITE_P: "btrfs_process".
inline std::string pair_name(const ::testing::TestParamInfo<DriverPair>& info) {
    return info.param.storage + "_" + info.param.runtime;
}

/// Every named member is there; whether it may be null is the caller's business.
inline void expect_members(const Json& object, std::initializer_list<const char*> names) {
    for (const char* name : names) {
        EXPECT_TRUE(object.contains(name)) << "no member \"" << name << "\" in " << object.dump(2);
    }
}

/// All four parts are there, the exit code is right, and the code is a stable snake_case word.
inline void expect_error(const CliError& error, int exit_code, const std::string& code) {
    EXPECT_EQ(error.exit_code, exit_code) << error.code << ": " << error.what << ": " << error.why;
    EXPECT_EQ(error.code, code);
    EXPECT_FALSE(error.what.empty()) << "what failed is missing";
    EXPECT_FALSE(error.why.empty()) << "why is missing of: " << error.what;
    EXPECT_FALSE(error.fix.empty()) << "how to fix it is missing of: " << error.what;
}

/// What must not change of a parent while it is branched.
struct ParentWatch {
    TestHost& host;
    std::string ref;
    std::string url = host.url(ref);
    std::string started = postmaster_start_time(url);
    pid_t pid = host.postmaster(ref).pid;
    std::size_t log_size = host.instance_log(ref).size();

    void expect_undisturbed() const {
        EXPECT_EQ(postmaster_start_time(url), started) << "the parent was restarted";
        EXPECT_EQ(host.postmaster(ref).pid, pid);
        EXPECT_EQ(bad_log_lines(host.instance_log(ref).substr(log_size)),
                  std::vector<std::string>{});
    }
};

/// The promise that the event loop is never blocked, by its own histogram, from here on.
struct LagWatch {
    TestHost& host;
    MetricsText before = MetricsText(host.metrics());

    void expect_below_ten_milliseconds() const {
        const HistogramGrowth lag(before, MetricsText(host.metrics()),
                                  "bpg_event_loop_lag_seconds");
        fmt::print("event loop lag, seconds: {}\n", lag.text());
        EXPECT_GT(lag.count(), 0);
        // The short form allows a machine with other work one late wake-up in a hundred.
        const auto late = static_cast<double>(lag.above(kUnderSanitizer ? 0.05 : 0.01));
        EXPECT_LE(late, long_mode() ? 0 : static_cast<double>(lag.count()) / 100 + 1) << lag.text();
        EXPECT_EQ(lag.above(kUnderSanitizer ? 0.5 : 0.05), 0) << lag.text();
    }
};

/// BPG_SEED repeats a run; whoever uses it prints it.
inline std::uint64_t seed() {
    const char* given = std::getenv("BPG_SEED");
    return given != nullptr ? std::stoull(given) : std::random_device()();
}

/// Runs call(0) … call(number - 1) on threads of their own, all let go at the same moment. What one
/// throws is a failure of the test.
template <class Call>
void at_once(std::size_t number, Call call) {
    std::latch gate(static_cast<std::ptrdiff_t>(number));
    std::vector<std::jthread> callers;
    callers.reserve(number);
    for (std::size_t caller = 0; caller < number; ++caller) {
        callers.emplace_back([&gate, &call, caller] {
            gate.arrive_and_wait();
            try {
                call(caller);
            } catch (const std::exception& failure) {
                ADD_FAILURE() << "caller " << caller << ": " << failure.what();
            }
        });
    }
}

/// `Suite` is the deriving class itself, so that every suite has a host of its own. `Parameter` is
/// a DriverPair or something that converts to one by `drivers_of(parameter)`.
template <class Suite, class Parameter = DriverPair>
class HostSuite : public ::testing::TestWithParam<Parameter> {
  protected:
    void SetUp() override {
        if (!host_) {
            HostOptions options;
            options.drivers = drivers_of(this->GetParam());
            adapt(options);
            host_ = std::make_unique<TestHost>(options);
        }
        if (!host_->daemon_runs()) host_->start_daemon();
    }

    static void TearDownTestSuite() {
        if (!host_) return;
        for (const auto& left : host_->finish())
            ADD_FAILURE() << "left behind: " << left;
        host_.reset();
    }

    static DriverPair drivers_of(const DriverPair& pair) { return pair; }
    template <class Other>
    static DriverPair drivers_of(const Other& other) {
        return other.drivers;
    }

    /// For suites whose host is not like others'.
    virtual void adapt(HostOptions&) const {}

    static TestHost& host() { return *host_; }
    static bool atomic() { return host_->atomic(); }

    /// Makes the database unless it is there; its main branch as `name/main`.
    static std::string database(const std::string& name) {
        host_->bpg_json({"db", "create", name, "--if-not-exists"});
        return name + "/main";
    }
    /// A database with `rows` rows in table `items`.
    static std::string database_with_items(const std::string& name, int rows) {
        const std::string main = database(name);
        execute(host().url(main),
                fmt::format("CREATE TABLE IF NOT EXISTS items (id int PRIMARY KEY, note text);"
                            "TRUNCATE items;"
                            "INSERT INTO items SELECT g, 'original' FROM generate_series(1, {}) g",
                            rows));
        return main;
    }
    /// Creates a branch and waits; the branch object.
    static Json create(const std::string& ref, const std::vector<std::string>& flags = {}) {
        std::vector<std::string> arguments = {"branch", "create", ref};
        arguments.insert(arguments.end(), flags.begin(), flags.end());
        return host_->bpg_json(arguments);
    }
    static void remove(const std::string& ref) { host_->bpg_json({"-y", "branch", "delete", ref}); }
    static void remove_database(const std::string& name,
                                std::chrono::milliseconds deadline = 180s) {
        host_->bpg_json({"-y", "db", "delete", name, "--force"}, deadline);
    }

  private:
    friend Suite;
    HostSuite() = default;

    static inline std::unique_ptr<TestHost> host_;
};

}  // namespace bpg::test
