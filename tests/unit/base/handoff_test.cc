// Work handed from thread to thread arrives whole, in order, and exactly once.
#include "orchestrator/base/handoff.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <memory>
#include <thread>
#include <vector>

#include "orchestrator/base/loop_inbox.h"
#include "orchestrator/base/offload.h"

namespace bpg {
namespace {

constexpr int kEach = 20'000;

TEST(Handoff, KeepsTheOrderOfEveryGiverAndLosesNothing) {
    struct Item {
        std::size_t giver;
        int number;
    };
    Handoff<Item> handoff;
    std::vector<std::thread> givers;
    for (std::size_t giver = 0; giver < 3; ++giver) {
        givers.emplace_back([&handoff, giver] {
            for (int number = 0; number < kEach; ++number)
                handoff.give({giver, number});
        });
    }
    std::array<int, 3> next{};
    while (next != std::array<int, 3>{kEach, kEach, kEach}) {
        std::deque<Item> items;
        handoff.take_all(items);
        for (const Item& item : items)
            ASSERT_EQ(item.number, next.at(item.giver)++);
    }
    for (auto& giver : givers)
        giver.join();
}

TEST(Handoff, FreesWhatNobodyTook) {
    const auto shared = std::make_shared<int>(1);
    {
        Handoff<std::shared_ptr<int>> handoff;
        handoff.give(shared);
        EXPECT_EQ(shared.use_count(), 2);
    }
    EXPECT_EQ(shared.use_count(), 1);
}

TEST(LoopInbox, RunsWhatOtherThreadsDeliverAndThenTheLoopEnds) {
    asio::io_context loop;
    int ran = 0;
    std::vector<std::thread> givers;
    asio::post(loop, [&] {
        for (int giver = 0; giver < 4; ++giver) {
            auto inbox = LoopInbox::expect(loop.get_executor());
            givers.emplace_back([inbox, &ran] { inbox->deliver(Task([&ran] { ++ran; })); });
        }
    });
    loop.run();
    EXPECT_EQ(ran, 4);
    for (auto& giver : givers)
        giver.join();
}

TEST(LoopInbox, MayBeDeliveredToWhenItsLoopIsGone) {
    std::shared_ptr<LoopInbox> inbox;
    {
        asio::io_context loop;
        inbox = LoopInbox::expect(loop.get_executor());
    }
    inbox->deliver(Task([] { ADD_FAILURE() << "there is no loop to run on"; }));
}

/// The end overtakes a thread between its wake-up and its look for work.
TEST(BlockingPool, EndsHoweverItsThreadsAreInterleaved) {
    std::atomic<int> ran = 0;
    for (int pool_number = 0; pool_number < 20'000; ++pool_number) {
        BlockingPool pool(3);
        for (int task = 0; task < 3; ++task)
            pool.post([&ran] { ++ran; });
    }
    EXPECT_EQ(ran, 60'000);
}

TEST(BlockingPool, RunsEverythingBeforeItEnds) {
    std::atomic<int> ran = 0;
    {
        BlockingPool pool(3);
        for (int task = 0; task < kEach; ++task)
            pool.post([&ran] { ++ran; });
    }
    EXPECT_EQ(ran, kEach);
}

}  // namespace
}  // namespace bpg
