// SCRAM verifiers against values computed by Python's hashlib.
#include "orchestrator/postgres/scram.h"

#include <gtest/gtest.h>

#include "orchestrator/postgres/postgres.h"

namespace bpg::postgres {
namespace {

// The password, salt and iterations of the example exchange in RFC 7677.
const std::string kSalt = "\x5b\x6d\x99\x68\x9d\x12\x35\x8e\xec\xa0\x4b\x14\x12\x36\xfa\x81";
const std::string kVerifier =
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
    "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

TEST(Scram, ComputesTheVerifierOfAKnownPassword) {
    EXPECT_EQ(scram_verifier_with_salt(Secret("pencil"), kSalt, 4096), kVerifier);
}

TEST(Scram, SaltsEveryVerifierAnew) {
    const std::string one = scram_verifier(Secret("secret"));
    const std::string other = scram_verifier(Secret("secret"));
    EXPECT_NE(one, other);
    EXPECT_TRUE(is_scram_verifier(one)) << one;
    EXPECT_TRUE(one.starts_with("SCRAM-SHA-256$4096:")) << one;
    EXPECT_EQ(one.find("secret"), std::string::npos);
}

TEST(Scram, TellsAVerifierFromAPassword) {
    EXPECT_TRUE(is_scram_verifier(kVerifier));
    EXPECT_FALSE(is_scram_verifier(""));
    EXPECT_FALSE(is_scram_verifier("hunter2"));
    EXPECT_FALSE(is_scram_verifier("md5d41d8cd98f00b204e9800998ecf8427e"));
    EXPECT_FALSE(is_scram_verifier(kVerifier + "x"));
    EXPECT_FALSE(is_scram_verifier(kVerifier.substr(1)));
    EXPECT_FALSE(is_scram_verifier("SCRAM-SHA-256$0:AA==$AA=:AA="));
}

}  // namespace
}  // namespace bpg::postgres
