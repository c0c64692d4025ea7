// The log: one line a fact, and nothing logged can forge a second line.
#include "orchestrator/base/log.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace bpg {
namespace {

TEST(Log, EscapesControlCharacters) {
    EXPECT_EQ(log::escape("a\nb\x1b[0m\x7f"), "a\\x0ab\\x1b[0m\\x7f");
}

TEST(Log, QuotesWhatHasSpacesAndTheEmptyValue) {
    EXPECT_EQ(log::escape("plain"), "plain");
    EXPECT_EQ(log::escape("two words"), "\"two words\"");
    EXPECT_EQ(log::escape(""), "\"\"");
    EXPECT_EQ(log::escape("say \"x\""), "\"say \\\"x\\\"\"");
}

TEST(Log, WritesOneLineWithItsFields) {
    testing::internal::CaptureStderr();
    log::warning("disk\nnearly full", {{"pool", "tank"}, {"free", "1 GiB"}});
    const std::string text = testing::internal::GetCapturedStderr();
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
    EXPECT_NE(text.find("disk\\x0anearly full pool=tank free=\"1 GiB\"\n"), std::string::npos)
        << text;
}

TEST(Log, DropsLinesBelowTheLevel) {
    testing::internal::CaptureStderr();
    log::debug("not at start");
    log::set_level(log::Level::kError);
    log::warning("not now");
    log::error("seen");
    log::set_level(log::Level::kInfo);
    const std::string text = testing::internal::GetCapturedStderr();
    EXPECT_EQ(text.find("not "), std::string::npos) << text;
    EXPECT_NE(text.find("seen"), std::string::npos) << text;
}

}  // namespace
}  // namespace bpg
