#include "orchestrator/operations/submit.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <vector>

#include "orchestrator/base/clock.h"
#include "orchestrator/base/error.h"
#include "orchestrator/base/id.h"
#include "orchestrator/base/log.h"
#include "orchestrator/catalog/catalog.h"
#include "orchestrator/operations/retention.h"

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
    std::string optional_text(const std::string& name) { return optional(name).value_or(""); }
    std::optional<std::string> optional(const std::string& name) {
        known_.push_back(name);
        const auto found = parameters_.find(name);
        if (found == parameters_.end()) return std::nullopt;
        return take(found);
    }
    int number(const std::string& name) {
        const std::string value = text(name);
        int parsed = 0;
        const auto [end, error] =
            std::from_chars(value.data(), value.data() + value.size(), parsed);
        if (error == std::errc() && end == value.data() + value.size()) return parsed;
        throw Error(ErrorKind::kInvalid, "parameter_invalid",
                    fmt::format("the parameter {} of {} has no valid value", name, operation_),
                    fmt::format("\"{}\" is no whole number", log::printable(value)),
                    fmt::format("give it like {}=7", name));
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
    std::optional<std::chrono::milliseconds> duration(const std::string& name) {
        const std::string value = optional_text(name);
        if (value.empty()) return std::nullopt;
        const auto parsed = parse_duration(value);
        if (parsed && parsed->count() > 0) return parsed;
        throw Error(ErrorKind::kInvalid, "parameter_invalid",
                    fmt::format("the parameter {} of {} has no valid value", name, operation_),
                    fmt::format("\"{}\" is no duration", log::printable(value)),
                    fmt::format("give it like {}=7d", name));
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
    BranchCreateRequest wanted;
    wanted.ref = reader.text("target");
    wanted.from = reader.optional_text("from");
    wanted.fast = reader.flag("fast");
    wanted.snapshot = reader.optional_text("snapshot");
    wanted.ttl = reader.duration("ttl");
    wanted.stopped = reader.flag("stopped");
    wanted.no_archive = reader.flag("no-archive");
    wanted.target = parse_target(
        {reader.optional("pitr"), reader.optional("at-lsn"), reader.optional("at-restore-point")},
        requests.now());
    reader.finish();
    catalog::split_ref(wanted.ref);
    co_return co_await requests.branch_create(std::move(wanted), std::move(key));
}

asio::awaitable<jobs::Job> branch_delete(Requests& requests, Reader reader, RequestKey key) {
    BranchDeleteRequest wanted;
    wanted.ref = reader.text("target");
    wanted.force = reader.flag("force");
    wanted.recursive = reader.flag("recursive");
    wanted.purge = reader.flag("purge");
    reader.finish();
    co_return co_await requests.branch_delete(std::move(wanted), std::move(key));
}

asio::awaitable<jobs::Job> branch_sync(Requests& requests, Reader reader, RequestKey key) {
    const std::string ref = reader.text("target");
    const bool fast = reader.flag("fast");
    reader.finish();
    co_return co_await requests.branch_sync(ref, fast, std::move(key));
}

asio::awaitable<jobs::Job> branch_promote(Requests& requests, Reader reader, RequestKey key) {
    const std::string ref = reader.text("target");
    const std::string old_name = reader.optional_text("old-name");
    reader.finish();
    co_return co_await requests.branch_promote(ref, old_name, std::move(key));
}

asio::awaitable<jobs::Job> undo_delete(Requests& requests, Reader reader, RequestKey key) {
    const std::string what = reader.text("target");
    const std::string as = reader.optional_text("as");
    reader.finish();
    co_return co_await requests.undo_delete(what, as, std::move(key));
}

asio::awaitable<jobs::Job> trash_purge(Requests& requests, Reader reader, RequestKey key) {
    const std::string what = reader.optional_text("target");
    const bool all = reader.flag("all");
    reader.finish();
    if (all == !what.empty()) {
        throw Error(ErrorKind::kInvalid, "parameter_missing",
                    "trash-purge needs the parameter target, or all=true",
                    all ? "both were given" : "neither was given",
                    "add --param target=…, or --param all=true");
    }
    co_return co_await requests.trash_purge(what, std::move(key));
}

asio::awaitable<jobs::Job> snapshot(Requests& requests, Reader reader, RequestKey key) {
    const std::string ref = reader.text("target");
    const std::string label = reader.optional_text("label");
    reader.finish();
    const std::string maker = key.schedule.empty() ? "user" : made_by_schedule(key.schedule);
    co_return co_await requests.snapshot(ref, label, maker, std::move(key));
}

asio::awaitable<jobs::Job> snapshot_delete(Requests& requests, Reader reader, RequestKey key) {
    const std::string id = reader.text("target");
    const bool force = reader.flag("force");
    reader.finish();
    co_return co_await requests.snapshot_delete(id, force, std::move(key));
}

asio::awaitable<jobs::Job> password_rotate(Requests& requests, Reader reader, RequestKey key) {
    const std::string ref = reader.text("target");
    reader.finish();
    co_return co_await requests.password_rotate(ref, std::move(key));
}

asio::awaitable<jobs::Job> wal_cleanup(Requests& requests, Reader reader, RequestKey key) {
    const std::string ref = reader.text("target");
    const int days = reader.number("days");
    reader.finish();
    co_return co_await requests.wal_cleanup(ref, days, std::move(key));
}

asio::awaitable<jobs::Job> prune(Requests& requests, Reader reader, RequestKey key) {
    PruneRequest wanted;
    wanted.ref = reader.text("target");
    wanted.schedule = reader.optional_text("schedule");
    wanted.force = reader.flag("force");
    wanted.plan = reader.optional_text("plan");
    reader.finish();
    co_return co_await requests.prune(std::move(wanted), std::move(key));
}

using Submit = asio::awaitable<jobs::Job> (*)(Requests& requests, Reader reader, RequestKey key);

template <const char* Operation>
asio::awaitable<jobs::Job> control(Requests& requests, Reader reader, RequestKey key) {
    const std::string ref = reader.text("target");
    const bool force = reader.flag("force");
    reader.finish();
    co_return co_await requests.control(Operation, ref, force, std::move(key));
}

constexpr char kStart[] = "start";
constexpr char kStop[] = "stop";
constexpr char kRestart[] = "restart";

constexpr std::pair<std::string_view, Submit> kOperations[] = {
    {"db-create", db_create},
    {"db-delete", db_delete},
    {"branch-create", branch_create},
    {"branch-sync", branch_sync},
    {"branch-promote", branch_promote},
    {"branch-delete", branch_delete},
    {"undo-delete", undo_delete},
    {"snapshot", snapshot},
    {"snapshot-delete", snapshot_delete},
    {kStart, control<kStart>},
    {kStop, control<kStop>},
    {kRestart, control<kRestart>},
    {"wal-cleanup", wal_cleanup},
    {"prune", prune},
    {"password-rotate", password_rotate},
    {"trash-purge", trash_purge},
};

}  // namespace

void check_operation(const std::string& operation) {
    std::vector<std::string_view> names;
    for (const auto& [name, how] : kOperations) {
        names.push_back(name);
        if (name == operation) return;
    }
    throw Error(ErrorKind::kInvalid, "operation_unknown",
                fmt::format("there is no operation \"{}\"", log::printable(operation)),
                fmt::format("there are {}", fmt::join(names, ", ")), "correct its name");
}

asio::awaitable<jobs::Job> submit(Requests& requests, std::string operation, Parameters parameters,
                                  RequestKey key) {
    check_operation(operation);
    const auto found =
        std::find_if(std::begin(kOperations), std::end(kOperations),
                     [&operation](const auto& entry) { return entry.first == operation; });
    return found->second(requests, Reader(operation, std::move(parameters)), std::move(key));
}

}  // namespace bpg::operations
