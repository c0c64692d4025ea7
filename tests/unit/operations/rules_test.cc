// The table of what operations do to one another is the one the README prints.
#include "orchestrator/operations/rules.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "orchestrator/base/files.h"

namespace bpg::operations {
namespace {

TEST(Rules, AreWhatTheReadmePrints) {
    const auto readme = std::filesystem::path(__FILE__).parent_path() / "../../../README.md";
    EXPECT_NE(read_file(readme).value().find(rules_as_markdown()), std::string::npos)
        << rules_as_markdown();
}

}  // namespace
}  // namespace bpg::operations
