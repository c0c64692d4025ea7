// The way back onto a loop for what other threads have done. asio::post from another thread would
// do, but it wakes the loop while it holds the loop's mutex: the loop then waits until that thread
// gets CPU again. Here the loop shares nothing with others but an eventfd and a lock-free queue.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <memory>

#include "orchestrator/base/files.h"
#include "orchestrator/base/handoff.h"

namespace bpg {

namespace asio = boost::asio;

class LoopInbox {
  public:
    /// The inbox of the loop behind `executor`, to which the caller sees to it that exactly one
    /// task is delivered; the loop has work until it was. Called on the loop.
    static std::shared_ptr<LoopInbox> expect(const asio::any_io_executor& executor);

    /// Runs the task on the loop, where it must not throw. From any thread.
    void deliver(Task task);

  private:
    class Service;

    Handoff<Task> given_;
    UniqueFd wake_;
};

}  // namespace bpg
