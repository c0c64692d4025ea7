// The error type: kinds survive the wire, system calls get the right kind, every exception is told.
#include "orchestrator/base/error.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace bpg {
namespace {

TEST(Error, EveryKindSurvivesItsTextForm) {
    for (const auto kind :
         {ErrorKind::kInvalid, ErrorKind::kNotFound, ErrorKind::kPermission, ErrorKind::kConflict,
          ErrorKind::kExhausted, ErrorKind::kUnavailable, ErrorKind::kTimeout,
          ErrorKind::kCancelled, ErrorKind::kCorrupt, ErrorKind::kInternal}) {
        EXPECT_EQ(error_kind_from_string(to_string(kind)), kind) << to_string(kind);
    }
}

TEST(Error, AnUnknownKindReadsAsInternal) {
    EXPECT_EQ(error_kind_from_string("of the future"), ErrorKind::kInternal);
}

TEST(Error, SurvivesJson) {
    const ErrorInfo info{ErrorKind::kConflict, "branch_exists", "it is there", "made yesterday",
                         "choose another name"};
    const nlohmann::json wire = info;
    EXPECT_EQ(wire.get<ErrorInfo>(), info);
}

TEST(Error, TextIsTheFactAndItsReason) {
    EXPECT_STREQ(Error(ErrorKind::kInternal, "c", "no answer", "it sleeps").what(),
                 "no answer: it sleeps");
    EXPECT_STREQ(Error(ErrorKind::kInternal, "c", "no answer").what(), "no answer");
}

TEST(Error, AFullDiskIsExhaustedAndSaysHowToGoOn) {
    const Error error = errno_error("write /x", ENOSPC);
    EXPECT_EQ(error.kind(), ErrorKind::kExhausted);
    EXPECT_EQ(error.code(), "no_space");
    EXPECT_EQ(error.info().message, "cannot write /x");
    EXPECT_FALSE(error.info().hint.empty());
    EXPECT_EQ(errno_error("write /x", EDQUOT).kind(), ErrorKind::kExhausted);
}

TEST(Error, MissingRightsArePermissionAndTheRestIsInternal) {
    EXPECT_EQ(errno_error("open /x", EACCES).kind(), ErrorKind::kPermission);
    EXPECT_EQ(errno_error("open /x", EPERM).kind(), ErrorKind::kPermission);
    EXPECT_EQ(errno_error("open /x", EIO).kind(), ErrorKind::kInternal);
}

TEST(Error, DescribesForeignExceptionsAsInternal) {
    const ErrorInfo info = describe(std::make_exception_ptr(std::runtime_error("odd")));
    EXPECT_EQ(info.kind, ErrorKind::kInternal);
    EXPECT_EQ(info.code, "internal");
    EXPECT_EQ(info.detail, "odd");
    const Error own(ErrorKind::kTimeout, "too_late", "m", "d", "h");
    EXPECT_EQ(describe(std::make_exception_ptr(own)), own.info());
}

}  // namespace
}  // namespace bpg
