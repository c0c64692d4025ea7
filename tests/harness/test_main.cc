// The main function of every test program: GoogleTest's, with a limit on the time of one test. A
// test that hangs is named and ends the program, instead of taking the whole run with it in
// silence.
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>

namespace {

/// Far above the slowest test there is; the long form has soaks of an hour.
constexpr std::chrono::minutes kShortLimit{10};
constexpr std::chrono::hours kLongLimit{2};

class HangWatch : public testing::EmptyTestEventListener {
  public:
    HangWatch() : watcher_([this](const std::stop_token& stop) { watch(stop); }) {}

    void OnTestStart(const testing::TestInfo& test) override {
        begin(std::string(test.test_suite_name()) + "." + test.name());
    }
    void OnTestEnd(const testing::TestInfo& test) override {
        begin(std::string("what follows ") + test.test_suite_name() + "." + test.name());
    }

  private:
    using Clock = std::chrono::steady_clock;

    static Clock::duration limit() {
        const char* form = std::getenv("BPG_LONG");  // read before any test changes the environment
        if (form != nullptr && *form != '\0') return kLongLimit;
        return kShortLimit;
    }

    void begin(std::string what) {
        const std::lock_guard lock(mutex_);
        running_ = std::move(what);
        deadline_ = Clock::now() + limit_;
    }

    void watch(const std::stop_token& stop) {
        std::unique_lock lock(mutex_);
        while (!stop.stop_requested()) {
            changed_.wait_until(lock, stop, deadline_, [] { return false; });
            if (stop.stop_requested() || Clock::now() < deadline_) continue;
            std::printf("hung: %s took more than %lld minutes\n", running_.c_str(),
                        static_cast<long long>(
                            std::chrono::duration_cast<std::chrono::minutes>(limit_).count()));
            std::fflush(nullptr);
            std::abort();
        }
    }

    const Clock::duration limit_ = limit();
    std::mutex mutex_;
    std::condition_variable_any changed_;
    std::string running_ = "what precedes the first test";  // guarded by mutex_
    Clock::time_point deadline_ = Clock::now() + limit_;    // guarded by mutex_
    std::jthread watcher_;
};

}  // namespace

int main(int argc, char** argv) {
    testing::InitGoogleTest(&argc, argv);
    testing::UnitTest::GetInstance()->listeners().Append(new HangWatch());
    return RUN_ALL_TESTS();
}
