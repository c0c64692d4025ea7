// For tests of what goes wrong: an error with its four parts and exit code, in both of its forms,
// and the look at everything that must be as it was.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/harness/host.h"

namespace bpg::test {

/// Every part is the very same.
inline void expect_same(const CliError& error, const CliError& expected) {
    EXPECT_EQ(error.exit_code, expected.exit_code);
    EXPECT_EQ(error.code, expected.code);
    EXPECT_EQ(error.what, expected.what);
    EXPECT_EQ(error.why, expected.why);
    EXPECT_EQ(error.fix, expected.fix);
}

/// Runs a command that must be refused, with `-o json`: one problem object on stderr, nothing on
/// stdout.
CliError refusal(const TestHost& host, const std::vector<std::string>& arguments);

/// The same, both with `-o json` and as people read it, and with these very words.
void expect_refused(const TestHost& host, const std::vector<std::string>& arguments,
                    const CliError& expected);

/// bpgd with this configuration, started in the foreground by a test that expects it to end; the
/// error it tells people.
CliError refusal_of_bpgd(const std::filesystem::path& config);

/// What the machine and the catalog show. Jobs are left out: a failed one stays in the history.
class Untouched {
  public:
    explicit Untouched(const TestHost& host);
    /// That both show the same again.
    void expect() const;

  private:
    const TestHost& host_;
    World world_;
    std::string catalog_;
};

}  // namespace bpg::test
