// What postmaster.pid says.
#include <gtest/gtest.h>
#include <unistd.h>

#include "orchestrator/postgres/pqxx_postgres.h"
#include "orchestrator/postgres/session.h"

namespace bpg::postgres {
namespace {

std::string pid_file(const std::string& pid, const std::string& status) {
    return pid + "\n/v/data\n1700000000\n5433\n/run/i/x\n127.0.0.1\n  1 2\n" + status + "\n";
}

const std::string kSelf = std::to_string(::getpid());

TEST(PostmasterPid, IsReadyOnlyWhenItSaysSo) {
    EXPECT_TRUE(says_ready(pid_file(kSelf, "ready   "), 5433));
    EXPECT_TRUE(says_ready(pid_file(kSelf, "ready"), 5433));
    for (const char* status : {"starting", "standby ", "stopping", "", "readyish", "already"}) {
        EXPECT_FALSE(says_ready(pid_file(kSelf, status), 5433)) << status;
    }
}

TEST(PostmasterPid, OfADeadProcessIsNotReady) {
    // Above the largest pid the kernel gives out.
    EXPECT_FALSE(says_ready(pid_file("4194305", "ready"), 5433));
    EXPECT_FALSE(says_ready(pid_file("-1", "ready"), 5433));
    EXPECT_FALSE(says_ready(pid_file("x", "ready"), 5433));
}

TEST(PostmasterPid, HalfWrittenOrOfAnotherPortIsNotReady) {
    const std::string whole = pid_file(kSelf, "ready");
    for (std::size_t size = 0; size + 6 < whole.size(); ++size) {
        EXPECT_FALSE(says_ready(whole.substr(0, size), 5433)) << size;
    }
    EXPECT_FALSE(says_ready(whole, 5434));
}

TEST(Conninfo, AValueCannotBecomeAnotherKeyword) {
    EXPECT_EQ(quote_conninfo("a' host='evil"), "'a\\' host=\\'evil'");
    EXPECT_EQ(quote_conninfo("back\\slash"), "'back\\\\slash'");
    EXPECT_EQ(quote_conninfo(""), "''");
}

}  // namespace
}  // namespace bpg::postgres
