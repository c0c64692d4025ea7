// How threads hand work to one another when one of them must never wait: no mutex that a thread
// could hold while it is not running, and no condition variable, whose notify waits until threads
// woken earlier have run. On a busy machine either would stop the event loop for as long as another
// thread gets no CPU.
#pragma once

#include <semaphore.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <ctime>
#include <deque>
#include <memory>
#include <utility>

namespace bpg {

/// Something to call once. Unlike std::function it takes what can only be moved.
class Task {
  public:
    template <class Call>
    explicit Task(Call call) : call_(std::make_unique<Holder<Call>>(std::move(call))) {}

    void operator()() { call_->run(); }

  private:
    struct Base {
        virtual ~Base() = default;
        virtual void run() = 0;
    };
    template <class Call>
    struct Holder final : Base {
        explicit Holder(Call held) : call(std::move(held)) {}
        void run() override { call(); }
        Call call;
    };
    std::unique_ptr<Base> call_;
};

/// Any number of threads give, one at a time takes. Neither ever waits.
template <class Item>
class Handoff {
  public:
    Handoff() = default;
    ~Handoff() {
        std::deque<Item> never_taken;
        take_all(never_taken);
    }
    Handoff(const Handoff&) = delete;
    Handoff& operator=(const Handoff&) = delete;

    void give(Item item) {
        auto* node = new Node{std::move(item), newest_.load(std::memory_order_relaxed)};
        while (!newest_.compare_exchange_weak(node->before, node, std::memory_order_release,
                                              std::memory_order_relaxed)) {
        }
    }

    /// Appends all that was given, in that order.
    void take_all(std::deque<Item>& to) {
        Node* newest = newest_.exchange(nullptr, std::memory_order_acquire);
        Node* oldest = nullptr;
        while (newest != nullptr)
            oldest = std::exchange(newest, std::exchange(newest->before, oldest));
        while (oldest != nullptr) {
            const std::unique_ptr<Node> node(std::exchange(oldest, oldest->before));
            to.push_back(std::move(node->item));
        }
    }

  private:
    struct Node {
        Item item;
        Node* before;
    };
    std::atomic<Node*> newest_{nullptr};
};

/// std::counting_semaphore of libstdc++ 12 can lose a wake-up.
class Semaphore {
  public:
    Semaphore() { ::sem_init(&semaphore_, 0, 0); }
    ~Semaphore() { ::sem_destroy(&semaphore_); }
    Semaphore(const Semaphore&) = delete;
    Semaphore& operator=(const Semaphore&) = delete;

    /// Lets one wait() return. Never waits itself.
    void post() { ::sem_post(&semaphore_); }
    void wait() {
        while (::sem_wait(&semaphore_) != 0 && errno == EINTR) {
        }
    }
    /// The same for a while; false when nobody posted in time.
    bool wait_for(std::chrono::nanoseconds time) {
        const auto end = std::chrono::steady_clock::now().time_since_epoch() + time;
        const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(end);
        const timespec deadline{.tv_sec = seconds.count(), .tv_nsec = (end - seconds).count()};
        while (::sem_clockwait(&semaphore_, CLOCK_MONOTONIC, &deadline) != 0) {
            if (errno != EINTR) return false;
        }
        return true;
    }

  private:
    ::sem_t semaphore_{};
};

}  // namespace bpg
