// The fixture of tests that run against a real bpgd: one TestHost a suite and driver pair, made at
// its first test and taken down, with a look at what was left behind, after its last.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <memory>
#include <string>

#include "tests/harness/host.h"
#include "tests/harness/load.h"

namespace bpg::test {

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

/// `Suite` is the deriving class itself, so that every suite has a host of its own. `Parameter` is
/// a DriverPair or something that converts to one by `drivers_of(parameter)`.
template <class Suite, class Parameter = DriverPair>
class HostSuite : public ::testing::TestWithParam<Parameter> {
  protected:
    void SetUp() override {
        if (!host_) {
            HostOptions options;
            options.drivers = drivers_of(this->GetParam());
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

    static TestHost& host() { return *host_; }
    static bool atomic() { return host_->atomic(); }

    /// Makes the database unless it is there; its main branch as `name/main`.
    static std::string database(const std::string& name) {
        host_->bpg_json({"db", "create", name, "--if-not-exists"});
        return name + "/main";
    }
    /// Creates a branch and waits; the branch object.
    static Json create(const std::string& ref, const std::vector<std::string>& flags = {}) {
        std::vector<std::string> arguments = {"branch", "create", ref};
        arguments.insert(arguments.end(), flags.begin(), flags.end());
        return host_->bpg_json(arguments);
    }
    static void remove(const std::string& ref) { host_->bpg_json({"-y", "branch", "delete", ref}); }
    static void remove_database(const std::string& name) {
        host_->bpg_json({"-y", "db", "delete", name, "--force"});
    }

  private:
    friend Suite;
    HostSuite() = default;

    static inline std::unique_ptr<TestHost> host_;
};

}  // namespace bpg::test
