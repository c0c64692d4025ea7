#include "orchestrator/base/offload.h"

namespace bpg {

BlockingPool::BlockingPool(std::size_t threads) {
    threads_.reserve(threads);
    while (threads_.size() < threads)
        threads_.emplace_back([this] { work_until_closed(); });
}

BlockingPool::~BlockingPool() {
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
        std::optional<Task> task;
        {
            const std::lock_guard lock(taking_);
            if (taken_.empty()) given_.take_all(taken_);
            if (!taken_.empty()) {
                task.emplace(std::move(taken_.front()));
                taken_.pop_front();
            }
        }
        // A task is given before its semaphore is posted, so only those posted at the end can leave
        // somebody without one; whichever thread that is, it is one of as many as there are
        // threads.
        if (!task) return;
        (*task)();
    }
}

}  // namespace bpg
