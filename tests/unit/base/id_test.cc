// Ids are random and recognisable; names that could escape a path or an argument are refused.
#include "orchestrator/base/id.h"

#include <gtest/gtest.h>

#include <set>

#include "orchestrator/base/error.h"

namespace bpg {
namespace {

TEST(Id, IsValidAndNeverRepeats) {
    std::set<std::string> seen;
    for (int i = 0; i < 1000; ++i) {
        const std::string id = new_id();
        EXPECT_TRUE(is_valid_id(id)) << id;
        EXPECT_TRUE(seen.insert(id).second) << id;
    }
}

TEST(Id, RefusesWhatNewIdCannotMake) {
    for (const char* text : {"", "abc", "0123456789abcde/", "0123456789ABCDEF", "0123456789abcdefg",
                             "../../../../etc/", "0123456789abcdel"}) {
        EXPECT_FALSE(is_valid_id(text)) << text;
    }
}

TEST(Id, RandomHexHasTwoDigitsAByte) {
    EXPECT_EQ(random_hex(0), "");
    const std::string text = random_hex(24);
    EXPECT_EQ(text.size(), 48U);
    EXPECT_EQ(text.find_first_not_of("0123456789abcdef"), std::string::npos);
    EXPECT_NE(text, random_hex(24));
}

TEST(Name, AcceptsTheDocumentedForm) {
    EXPECT_TRUE(is_valid_name("a"));
    EXPECT_TRUE(is_valid_name("9"));
    EXPECT_TRUE(is_valid_name("prod-eu_1"));
    EXPECT_TRUE(is_valid_name(std::string(63, 'x')));
}

TEST(Name, RefusesEverythingElse) {
    for (const std::string& name :
         {std::string(), std::string("-a"), std::string("a-"), std::string("A"), std::string("a/b"),
          std::string("a b"), std::string("a.b"), std::string(".."), std::string("a\nb"),
          std::string("a\0b", 3), std::string("\xc3\xa4"), std::string(64, 'x')}) {
        EXPECT_FALSE(is_valid_name(name)) << name;
        EXPECT_THROW(check_name("branch", name), Error) << name;
    }
}

TEST(Name, TheErrorNamesTheNounAndShowsControlCharactersHarmlessly) {
    try {
        check_name("branch", "x\x1b[31m");
        FAIL() << "accepted";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), "name_invalid");
        EXPECT_EQ(error.kind(), ErrorKind::kInvalid);
        EXPECT_NE(error.info().message.find("branch"), std::string::npos);
        EXPECT_NE(error.info().message.find("\\x1b"), std::string::npos);
        EXPECT_EQ(error.info().message.find('\x1b'), std::string::npos);
    }
}

TEST(VolumeName, AcceptsTwoJoinedNamesAndANumber) {
    EXPECT_NO_THROW(check_volume_name("prod-main"));
    EXPECT_NO_THROW(check_volume_name("prod-main.2"));
    EXPECT_NO_THROW(check_volume_name(std::string(63, 'a') + "-" + std::string(63, 'b') + ".123"));
}

TEST(VolumeName, RefusesWhatCouldLeaveTheRootOrHide) {
    for (const char* name : {"", ".", "..", ".snapshots", "a/b", "a..b", "/etc", "a-", "-rf",
                             "prod-main.", "Prod-main", "a b"}) {
        EXPECT_THROW(check_volume_name(name), Error) << name;
    }
}

}  // namespace
}  // namespace bpg
