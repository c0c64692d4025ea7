// Text that people read: tables, sizes, ages, errors.
#include "cli/output.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace bpg::cli {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

Table sample() {
    Table table({{"BRANCH", Table::Align::kLeft, true}, {"PORT", Table::Align::kRight}, {"STATE"}});
    table.add({std::string("prod/main"), std::string("5432"), {"running", Style::kGood}});
    table.add({std::string("prod/a-rather-long-name"), std::string("54"), {"-", Style::kPlain}});
    return table;
}

TEST(Table, AlignsItsColumnsAndLeavesNoTrailingSpace) {
    EXPECT_EQ(sample().render(std::nullopt, false),
              "BRANCH                   PORT  STATE\n"
              "prod/main                5432  running\n"
              "prod/a-rather-long-name    54  -\n");
}

TEST(Table, CutsOnlyWhatMayShrinkWhenTheTerminalIsNarrow) {
    EXPECT_EQ(sample().render(28, false),
              "BRANCH         PORT  STATE\n"
              "prod/main      5432  running\n"
              "prod/a-rathe…    54  -\n");
}

TEST(Table, IsNotCutWithoutATerminal) {
    EXPECT_NE(sample().render(std::nullopt, false).find("a-rather-long-name"), std::string::npos);
}

TEST(Table, StaysReadableOnATerminalNarrowerThanAnything) {
    EXPECT_EQ(sample().render(5, false),
              "BRANCH  PORT  STATE\n"
              "prod/…  5432  running\n"
              "prod/…    54  -\n");
}

TEST(Table, CountsCharactersNotBytes) {
    Table table({{"LABEL"}, {"ID"}});
    table.add({std::string("größe"), std::string("1")});
    table.add({std::string("plain"), std::string("2")});
    EXPECT_EQ(table.render(std::nullopt, false),
              "LABEL  ID\n"
              "größe  1\n"
              "plain  2\n");
}

TEST(Table, ColoursACellWithoutMovingItsNeighbours) {
    Table table({{"STATE"}, {"ID"}});
    table.add({{"ok", Style::kGood}, std::string("1")});
    EXPECT_EQ(table.render(std::nullopt, true),
              "STATE  ID\n"
              "\x1b[32mok\x1b[0m     1\n");
}

TEST(Table, LetsNoCellDriveTheTerminal) {
    Table table({{"LABEL"}});
    table.add(
        {std::string("a\x1b[2Jb\nc\xc2\x9b"
                     "d")});
    EXPECT_EQ(table.render(std::nullopt, false), "LABEL\na [2Jb c d\n");
}

TEST(Fields, LeaveOutWhatIsEmptyAndAlignTheRest) {
    EXPECT_EQ(render_fields({{"branch", "prod/dev"}, {"expires", ""}, {"id", "7k3m"}}),
              "branch:  prod/dev\n"
              "id:      7k3m\n");
}

TEST(HumanSize, UsesBinaryUnitsWithOneDecimal) {
    EXPECT_EQ(human_size(0), "0 B");
    EXPECT_EQ(human_size(1023), "1023 B");
    EXPECT_EQ(human_size(1024), "1 KiB");
    EXPECT_EQ(human_size(1536), "1.5 KiB");
    EXPECT_EQ(human_size(10ULL << 30), "10 GiB");
    EXPECT_EQ(human_size(UINT64_MAX), "16 EiB");
}

TEST(HumanSize, NeverShows1024OfAUnit) {
    EXPECT_EQ(human_size((1ULL << 20) - 1), "1 MiB");
    EXPECT_EQ(human_size((1ULL << 30) - 1), "1 GiB");
}

TEST(HumanSize, IsADashForWhatWasNotMeasured) {
    EXPECT_EQ(size_of(nullptr), "-");
    EXPECT_EQ(size_of("x"), "-");
    EXPECT_EQ(size_of(-1), "-");
    EXPECT_EQ(size_of(2048), "2 KiB");
}

TEST(HumanAge, HasOneUnit) {
    EXPECT_EQ(human_age(seconds(-5)), "0s");
    EXPECT_EQ(human_age(seconds(59)), "59s");
    EXPECT_EQ(human_age(seconds(60)), "1m");
    EXPECT_EQ(human_age(minutes(59)), "59m");
    EXPECT_EQ(human_age(minutes(60)), "1h");
    EXPECT_EQ(human_age(hours(47)), "47h");
    EXPECT_EQ(human_age(hours(48)), "2d");
    EXPECT_EQ(human_age(hours(24 * 400)), "400d");
}

TEST(HumanAge, TellsThePastFromTheFuture) {
    const WallTime now = *parse_time("2026-11-23T12:00:00Z");
    EXPECT_EQ(age_of("2026-11-23T09:00:00.000000Z", now), "3h");
    EXPECT_EQ(age_of("2026-11-23T14:00:00+01:00", now), "in 1h");
    EXPECT_EQ(age_of("2026-11-23T12:00:01Z", now), "0s");
    EXPECT_EQ(age_of(nullptr, now), "-");
    EXPECT_EQ(age_of("yesterday", now), "-");
}

TEST(HumanDuration, KeepsWhatCanBeFelt) {
    EXPECT_EQ(human_duration(milliseconds(0)), "0 ms");
    EXPECT_EQ(human_duration(milliseconds(999)), "999 ms");
    EXPECT_EQ(human_duration(milliseconds(1240)), "1.24 s");
    EXPECT_EQ(human_duration(milliseconds(59'994)), "59.99 s");
    EXPECT_EQ(human_duration(milliseconds(59'995)), "1m00s");
    EXPECT_EQ(human_duration(milliseconds(125'000)), "2m05s");
}

TEST(RenderError, SaysWhatWhyFixAndCode) {
    EXPECT_EQ(render_error({ErrorKind::kConflict, "branch_exists", "branch prod/dev exists",
                            "created from prod/main", "choose another name"},
                           false),
              "error: branch prod/dev exists\n"
              "  why:  created from prod/main\n"
              "  fix:  choose another name\n"
              "  code: branch_exists\n");
}

TEST(RenderError, LeavesOutThePartsThatAreEmpty) {
    EXPECT_EQ(render_error({ErrorKind::kInternal, "internal", "it failed", "", ""}, false),
              "error: it failed\n"
              "  code: internal\n");
}

TEST(RenderError, IndentsALogBelowItsFirstLine) {
    EXPECT_EQ(render_error({ErrorKind::kInternal, "c", "m", "one\n\x1b[31mtwo\n", ""}, false),
              "error: m\n"
              "  why:  one\n"
              "         [31mtwo\n"
              "  code: c\n");
}

TEST(RenderError, IsOneProblemObjectOnOneLineAsJson) {
    const std::string text = render_error_json(
        {ErrorKind::kConflict, "branch_exists", "it exists", "why\nagain", "fix"}, "7k3m");
    EXPECT_EQ(text.find('\n'), text.size() - 1);
    EXPECT_EQ(nlohmann::json::parse(text),
              (nlohmann::json{{"type", "urn:betterpg:error:branch_exists"},
                              {"title", "it exists"},
                              {"status", 409},
                              {"detail", "why\nagain"},
                              {"code", "branch_exists"},
                              {"hint", "fix"},
                              {"kind", "conflict"},
                              {"job", "7k3m"}}));
}

TEST(RenderError, SurvivesBytesThatAreNoText) {
    EXPECT_TRUE(nlohmann::json::accept(
        render_error_json({ErrorKind::kInternal, "c", "m", "\xff\xfe", ""}, "")));
}

}  // namespace
}  // namespace bpg::cli
