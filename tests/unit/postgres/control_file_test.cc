// The parts of pg_control that need no PostgreSQL; the integration suite compares with
// pg_controldata.
#include "orchestrator/postgres/control_file.h"

#include <gtest/gtest.h>

#include <cstring>

#include "orchestrator/base/crc32c.h"
#include "orchestrator/base/error.h"

namespace bpg::postgres {
namespace {

template <class T>
void put(std::string& content, std::size_t at, T value) {
    std::memcpy(content.data() + at, &value, sizeof value);
}

/// A pg_control as that version writes it: a running cluster on timeline 3.
std::string control_of(std::uint32_t version) {
    std::string content(8192, '\0');
    put<std::uint64_t>(content, 0, 7'300'000'000'000'000'001U);
    put<std::uint32_t>(content, 8, version);
    put<std::uint32_t>(content, 16, 6);  // in production
    put<std::uint64_t>(content, 32, 0x3000060);
    put<std::uint64_t>(content, 40, 0x3000028);
    put<std::uint32_t>(content, 48, 3);
    put<std::uint32_t>(content, 172, 1);  // replica
    put<std::uint32_t>(content, 192, 7);
    put<std::uint32_t>(content, 228, 16U << 20U);
    const std::size_t crc_at = version == 1800 ? 292 : 288;
    put(content, crc_at, crc32c(std::string_view(content).substr(0, crc_at)));
    return content;
}

std::string code_of(const std::string& content) {
    try {
        parse_control_file(content);
    } catch (const Error& error) {
        return error.code();
    }
    return "";
}

TEST(Crc32c, MatchesTheCheckValueOfTheStandard) {
    EXPECT_EQ(crc32c("123456789"), 0xE3069283U);
}

TEST(ControlFile, IsReadInTheLayoutOfEveryVersion) {
    for (const std::uint32_t version : {1300U, 1700U, 1800U}) {
        const ControlFile control = parse_control_file(control_of(version));
        EXPECT_EQ(control.system_identifier, "7300000000000000001");
        EXPECT_EQ(control.version, version);
        EXPECT_FALSE(control.cleanly_shut_down);
        EXPECT_EQ(to_string(control.checkpoint), "0/3000060");
        EXPECT_EQ(to_string(control.redo), "0/3000028");
        EXPECT_EQ(control.timeline, 3U);
        EXPECT_EQ(control.segment_size, 16U << 20U);
        EXPECT_FALSE(control.wal_level_minimal);
        EXPECT_EQ(control.max_prepared_transactions, 7U);
        EXPECT_TRUE(control_file_is_whole(control_of(version)));
    }
}

TEST(ControlFile, ATornOneIsNotWhole) {
    const std::string content = control_of(1300);
    for (const std::size_t at : {0U, 16U, 40U, 200U, 288U}) {
        std::string torn = content;
        torn[at] = static_cast<char>(torn[at] ^ 1);
        EXPECT_FALSE(control_file_is_whole(torn)) << at;
        EXPECT_EQ(code_of(torn), "control_file_torn") << at;
    }
    EXPECT_FALSE(control_file_is_whole(content.substr(0, 512)));
    EXPECT_FALSE(control_file_is_whole(""));
}

TEST(ControlFile, OfAnUnknownVersionIsRefused) {
    EXPECT_EQ(code_of(control_of(1201)), "control_file_unknown");
    EXPECT_FALSE(control_file_is_whole(control_of(1201)));
}

TEST(ControlFile, WithoutACheckpointIsStillWhole) {
    const std::string changed = without_checkpoint(control_of(1800));
    ASSERT_TRUE(control_file_is_whole(changed));
    EXPECT_EQ(to_string(parse_control_file(changed).checkpoint), "0/DEAD");
    EXPECT_EQ(without_checkpoint(changed), changed);
}

}  // namespace
}  // namespace bpg::postgres
