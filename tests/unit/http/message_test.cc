// Paths and queries as handlers see them.
#include "orchestrator/http/message.h"

#include <gtest/gtest.h>

namespace bpg::http {
namespace {

using Segments = std::vector<std::string>;

Request parsed(std::string_view target) {
    Request request;
    EXPECT_TRUE(parse_target(target, request)) << target;
    return request;
}

TEST(Target, IsSplitIntoDecodedSegments) {
    EXPECT_EQ(parsed("/").segments, Segments{});
    EXPECT_EQ(parsed("/v1/jobs").segments, (Segments{"v1", "jobs"}));
    EXPECT_EQ(parsed("/v1/jobs/").segments, (Segments{"v1", "jobs", ""}));
    EXPECT_EQ(parsed("//").segments, (Segments{"", ""}));
    EXPECT_EQ(parsed("/a%20b/%c3%A4+").segments, (Segments{"a b", "ä+"}));
    EXPECT_EQ(parsed("/a?b").path, "/a");
}

TEST(Target, AnEscapedSlashStaysInsideItsSegment) {
    EXPECT_EQ(parsed("/v1/branches/prod%2Fdev/x").segments,
              (Segments{"v1", "branches", "prod/dev", "x"}));
}

TEST(Target, QueryIsDecodedAndTheLastOfARepeatedNameCounts) {
    const Request request = parsed("/x?a=1&b=2%203+4&a=%26&flag&=v&&c=d=e");
    EXPECT_EQ(request.query_value("a"), "&");
    EXPECT_EQ(request.query_value("b"), "2 3 4");
    EXPECT_EQ(request.query_value("flag"), "");
    EXPECT_EQ(request.query_value("c"), "d=e");
    EXPECT_EQ(request.query_value("missing"), std::nullopt);
    EXPECT_TRUE(parsed("/x?").query.empty());
}

TEST(Target, MayBeAWholeUrl) {
    EXPECT_EQ(parsed("http://localhost:1/v1/x?y=z").segments, (Segments{"v1", "x"}));
    EXPECT_EQ(parsed("http://localhost").path, "/");
}

TEST(Target, RefusesBrokenEscapesControlCharactersAndOtherForms) {
    for (const char* target : {"", "*", "v1/jobs", "/%", "/%4", "/%zz", "/%00", "/%0a", "/x?a=%1f",
                               "/x?%g0=1", "/x#y", "https://h/x", "/\x7f"}) {
        Request request;
        EXPECT_FALSE(parse_target(target, request)) << target;
    }
}

TEST(Headers, AreFoundWhateverTheirCase) {
    Headers headers;
    headers.add("Prefer", "wait=5");
    headers.add("prefer", "second");
    EXPECT_EQ(headers.find("PREFER"), "wait=5");
    EXPECT_EQ(headers.find("prefe"), std::nullopt);
    EXPECT_EQ(headers.all().size(), 2U);
}

}  // namespace
}  // namespace bpg::http
