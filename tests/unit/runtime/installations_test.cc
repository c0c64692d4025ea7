// Versions, and which installation a wish means.
#include "orchestrator/runtime/installations.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace bpg::runtime {
namespace {

const std::vector<Installation> kFound = {{"15.20", "/a"}, {"16.2", "/b"},  {"16.10", "/c"},
                                          {"18rc1", "/d"}, {"16.10", "/e"}, {"9.6", "/f"}};

std::string chosen(const std::string& wanted) {
    const Installation* one = choose(kFound, wanted);
    return one == nullptr ? "" : one->bin_dir.native();
}

std::string for_data(const std::string& version) {
    const Installation* one = choose_for_data(kFound, version);
    return one == nullptr ? "" : one->bin_dir.native();
}

TEST(Versions, AreReadFromWhatPostgresSays) {
    EXPECT_EQ(parse_version_output("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n"),
              "15.20");
    EXPECT_EQ(parse_version_output("postgres (PostgreSQL) 18rc1\n"), "18rc1");
    EXPECT_EQ(parse_version_output("psql (PostgreSQL) 15.20\n"), std::nullopt);
    EXPECT_EQ(parse_version_output("postgres (PostgreSQL) \n"), std::nullopt);
    EXPECT_EQ(parse_version_output(""), std::nullopt);
}

TEST(Versions, AreOrderedAsReleased) {
    const std::vector<std::string> released = {"9.6",     "15.2",     "15.20", "16.1",
                                               "18beta1", "18beta10", "18rc1", "18.0"};
    EXPECT_TRUE(std::is_sorted(released.begin(), released.end(), version_less));
    EXPECT_FALSE(version_less("15.20", "15.2"));
}

TEST(Versions, AWishIsAMajorOrOneRelease) {
    for (const char* text : {"16", "16.4", "18rc1", "18beta2"})
        EXPECT_TRUE(is_version(text)) << text;
    for (const char* text : {"", "x", "16.", "16.4.1", "-1", "16 ", "16;ls", "1e9", "rc1"}) {
        EXPECT_FALSE(is_version(text)) << text;
    }
}

TEST(Installations, AMajorMeansItsNewestMinor) {
    EXPECT_EQ(chosen("16"), "/c");
    EXPECT_EQ(chosen("16.2"), "/b");
    EXPECT_EQ(chosen("15"), "/a");
    EXPECT_EQ(chosen("1"), "");
    EXPECT_EQ(chosen("17"), "");
    EXPECT_EQ(chosen("16.3"), "");
}

TEST(Installations, NoWishMeansTheNewestOfAll) {
    EXPECT_EQ(chosen(""), "/d");
}

TEST(Installations, DataIsServedByAnotherMinorOfItsMajorAfterAnUpgrade) {
    EXPECT_EQ(for_data("16.2"), "/b");
    EXPECT_EQ(for_data("16.9"), "/c");
    EXPECT_EQ(for_data("15.1"), "/a");
    EXPECT_EQ(for_data("15"), "/a");
    EXPECT_EQ(for_data("17.1"), "");
    EXPECT_EQ(for_data("garbage"), "");
}

}  // namespace
}  // namespace bpg::runtime
