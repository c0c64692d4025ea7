#include "orchestrator/operations/submit.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <functional>
#include <vector>

#include "orchestrator/base/error.h"
#include "orchestrator/base/id.h"
#include "orchestrator/base/log.h"
#include "orchestrator/catalog/catalog.h"

namespace bpg::operations {
namespace {

/// The parameters of one submission; what nobody took is unknown.
class Reader {
  public:
    Reader(std::string operation, Parameters parameters)
        : operation_(std::move(operation)), parameters_(std::move(parameters)) {}

    std::string text(const std::string& name) {
        known_.push_back(name);
        const auto found = parameters_.find(name);
        if (found != parameters_.end()) return take(found);
        throw Error(ErrorKind::kInvalid, "parameter_missing",
                    fmt::format("{} needs the parameter {}", operation_, name), "it was not given",
                    fmt::format("add --param {}=…", name));
    }
    std::string optional_text(const std::string& name) {
        known_.push_back(name);
        const auto found = parameters_.find(name);
        return found == parameters_.end() ? std::string() : take(found);
    }
    bool flag(const std::string& name) {
        const std::string value = optional_text(name);
        if (value == "true") return true;
        if (value.empty() || value == "false") return false;
        throw Error(ErrorKind::kInvalid, "parameter_invalid",
                    fmt::format("the parameter {} of {} has no valid value", name, operation_),
                    fmt::format("\"{}\" is neither true nor false", log::printable(value)),
                    fmt::format("give {}=true, or leave it out", name));
    }
    void finish() const {
        if (parameters_.empty()) return;
        throw Error(ErrorKind::kInvalid, "parameter_unknown",
                    fmt::format("{} has no parameter {}", operation_,
                                log::printable(parameters_.begin()->first)),
                    fmt::format("it takes {}", fmt::join(known_, ", ")),
                    "parameters are the long flags of the command, without dashes");
    }

  private:
    std::string take(Parameters::iterator found) {
        std::string value = std::move(found->second);
        parameters_.erase(found);
        return value;
    }

    std::string operation_;
    Parameters parameters_;
    std::vector<std::string> known_;
};

asio::awaitable<jobs::Job> db_create(Requests& requests, Reader reader, RequestKey key) {
    DbCreateRequest wanted{reader.text("target"), reader.optional_text("pg-version"),
                           reader.optional_text("image")};
    reader.finish();
    check_name("database", wanted.name);
    co_return co_await requests.db_create(std::move(wanted), std::move(key));
}

asio::awaitable<jobs::Job> db_delete(Requests& requests, Reader reader, RequestKey key) {
    const std::string name = reader.text("target");
    const bool force = reader.flag("force");
    reader.finish();
    co_return co_await requests.db_delete(name, force, std::move(key));
}

asio::awaitable<jobs::Job> branch_create(Requests& requests, Reader reader, RequestKey key) {
    BranchCreateRequest wanted{reader.text("target"), reader.optional_text("from"),
                               reader.flag("fast")};
    reader.finish();
    catalog::split_ref(wanted.ref);
    if (!wanted.from.empty()) catalog::split_ref(wanted.from);
    co_return co_await requests.branch_create(std::move(wanted), std::move(key));
}

asio::awaitable<jobs::Job> branch_delete(Requests& requests, Reader reader, RequestKey key) {
    const std::string ref = reader.text("target");
    const bool force = reader.flag("force");
    reader.finish();
    co_return co_await requests.branch_delete(ref, force, std::move(key));
}

asio::awaitable<jobs::Job> control(Requests& requests, std::string operation, Reader reader,
                                   RequestKey key) {
    const std::string ref = reader.text("target");
    const bool force = reader.flag("force");
    reader.finish();
    co_return co_await requests.control(std::move(operation), ref, force, std::move(key));
}

}  // namespace

asio::awaitable<jobs::Job> submit(Requests& requests, std::string operation, Parameters parameters,
                                  RequestKey key) {
    Reader reader(operation, std::move(parameters));
    if (operation == "db-create") return db_create(requests, std::move(reader), std::move(key));
    if (operation == "db-delete") return db_delete(requests, std::move(reader), std::move(key));
    if (operation == "branch-create") {
        return branch_create(requests, std::move(reader), std::move(key));
    }
    if (operation == "branch-delete") {
        return branch_delete(requests, std::move(reader), std::move(key));
    }
    if (operation == "start" || operation == "stop" || operation == "restart") {
        return control(requests, std::move(operation), std::move(reader), std::move(key));
    }
    throw Error(ErrorKind::kInvalid, "operation_unknown",
                fmt::format("there is no operation \"{}\"", log::printable(operation)),
                "there are db-create, db-delete, branch-create, branch-delete, start, stop and "
                "restart",
                "correct its name");
}

}  // namespace bpg::operations
