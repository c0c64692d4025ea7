#include "orchestrator/base/offload.h"

namespace bpg {

BlockingPool::BlockingPool(std::size_t threads) {
    threads_.reserve(threads);
    while (threads_.size() < threads)
        threads_.emplace_back([this] { work_until_closed(); });
}

BlockingPool::~BlockingPool() {
    closing_ = true;
    for (std::size_t thread = 0; thread < threads_.size(); ++thread)
        ready_.post();
    for (std::thread& thread : threads_)
        thread.join();
}

void BlockingPool::put(Task task) {
    given_.give(std::move(task));
    ready_.post();
}

void BlockingPool::work_until_closed() {
    while (true) {
        ready_.wait();
        const bool closing = closing_;
        std::optional<Task> task;
        {
            const std::lock_guard lock(taking_);
            if (taken_.empty()) given_.take_all(taken_);
            if (!taken_.empty()) {
                task.emplace(std::move(taken_.front()));
                taken_.pop_front();
            }
        }
        if (!task && closing) return;
        if (task) (*task)();
    }
}

}  // namespace bpg
