// The priority of one thread, and that nothing it starts gets it too.
#include "orchestrator/base/thread_priority.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <thread>

#include "orchestrator/base/subprocess.h"

namespace bpg {
namespace {

TEST(ThreadPriority, IsOfThatThreadAloneAndNotInherited) {
    int raised = -1;
    int of_its_thread = -1;
    std::string of_its_child;
    std::thread first([&] {
        ASSERT_TRUE(let_this_thread_go_first()) << "this test needs root";
        raised = ::sched_getscheduler(0);
        std::thread([&] { of_its_thread = ::sched_getscheduler(0); }).join();
        Command self;
        self.argv = {"chrt", "-p", "0"};
        of_its_child = run_command(self).out;
    });
    first.join();
    EXPECT_EQ(raised, SCHED_RR | SCHED_RESET_ON_FORK);
    EXPECT_EQ(of_its_thread, SCHED_OTHER);
    EXPECT_NE(of_its_child.find("SCHED_OTHER"), std::string::npos) << of_its_child;
    EXPECT_EQ(::sched_getscheduler(0), SCHED_OTHER);
}

}  // namespace
}  // namespace bpg
