#include "orchestrator/base/loop_inbox.h"

#include <fcntl.h>
#include <sys/eventfd.h>

#include <boost/asio/execution/context.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/query.hpp>
#include <cerrno>
#include <optional>

#include "orchestrator/base/error.h"

namespace bpg {

/// One a loop; lives and ends with it.
class LoopInbox::Service : public asio::execution_context::service {
  public:
    static inline asio::execution_context::id id;

    /// Every loop of ours is an io_context.
    explicit Service(asio::execution_context& loop)
        : service(loop), inbox_(std::make_shared<LoopInbox>()) {
        inbox_->wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        // Its own descriptor: a thread that has just delivered may outlive the loop for a moment.
        UniqueFd readable(::fcntl(inbox_->wake_.get(), F_DUPFD_CLOEXEC, 0));
        if (!inbox_->wake_ || !readable) throw errno_error("make an eventfd", errno);
        auto executor = static_cast<asio::io_context&>(loop).get_executor();
        readable_.emplace(executor, readable.release());
    }

    std::shared_ptr<LoopInbox> expect() {
        if (expected_++ == 0) wait();
        return inbox_;
    }

  private:
    /// Only while something is expected, since it keeps the loop running.
    void wait() {
        readable_->async_wait(asio::posix::descriptor_base::wait_read,
                              [this](const boost::system::error_code& failure) {
                                  if (!failure) take();
                              });
    }

    void take() {
        ::eventfd_t count = 0;
        ::eventfd_read(readable_->native_handle(), &count);
        std::deque<Task> tasks;
        inbox_->given_.take_all(tasks);
        expected_ -= tasks.size();
        if (expected_ > 0) wait();
        for (Task& task : tasks)
            task();
    }

    void shutdown() override {
        std::deque<Task> never_run;
        inbox_->given_.take_all(never_run);
        readable_.reset();
    }

    std::shared_ptr<LoopInbox> inbox_;
    std::optional<asio::posix::stream_descriptor> readable_;
    std::size_t expected_ = 0;
};

std::shared_ptr<LoopInbox> LoopInbox::expect(const asio::any_io_executor& executor) {
    asio::execution_context& loop = asio::query(executor, asio::execution::context);
    return asio::use_service<Service>(loop).expect();
}

void LoopInbox::deliver(Task task) {
    given_.give(std::move(task));
    // Fails only when the count is at its end, and then the loop is awake.
    ::eventfd_write(wake_.get(), 1);
}

}  // namespace bpg
