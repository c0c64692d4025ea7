// An operation is a table of steps; this file is the shape of a row and what the engine sees of it.
//
// The contract of a row. `run` and `undo` happen at least once: the daemon may die anywhere and
// re-enters the row it was in, so each first looks at the world and then acts. `record` happens
// exactly once, in the commit that ends the row; it is synchronous, sees only a Batch and the
// in-memory catalog. `undo` begins at the failing row, which may be half done. Publish last: only
// the final row records what users see. Step names are persisted: retired, never renamed.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "jobs/cancellation.h"
#include "jobs/step_progress.h"
#include "jobs/store.h"
#include "orchestrator/base/error.h"

namespace bpg::jobs {

namespace asio = boost::asio;

/// Commit the State and enter the next row.
struct Done {
    bool ends_job = false;  ///< nothing is left to do for the rows behind it
};
/// Nothing is wrong; look again after `delay`.
struct Wait {
    std::chrono::milliseconds delay;
    std::string for_what;
};
/// Something that lived only in memory is gone (the daemon was restarted): undo back to and
/// including row `to`, then go forward again from it. What the row changed in its State before it
/// said so is kept (new outside names, say), and the undo sees it.
struct Rewind {
    std::string_view to;
    std::string why;
};
/// What a row answers; a failure is a thrown bpg::Error (kUnavailable: tried again).
using Progress = std::variant<Done, Wait, Rewind>;

inline constexpr auto nothing_to_undo = nullptr;  ///< said aloud in the table, not by omission
inline constexpr auto nothing_to_record = nullptr;

/// One row of an operation.
template <class Op>
struct Step {
    std::string_view name;
    std::string_view purpose;  ///< for people: "clone it, sharing blocks with its origin"
    asio::awaitable<Progress> (Op::*run)(typename Op::State&);
    asio::awaitable<void> (Op::*undo)(const typename Op::State&);
    void (Op::*record)(const typename Op::State&, Batch&) const;
    /// From this row on the job is not cancelled, and this is why. Empty: it is.
    std::string_view irreversible = {};
};

struct StepName {
    std::string_view name;
    std::string_view purpose;
    std::string_view irreversible;  ///< of the first row up to this one that says so
};

/// What a running step may tell about itself. Lives as long as the attempt.
class JobContext {
  public:
    /// What the queue does with what a step tells. Loop thread; may be called after the attempt.
    struct Hooks {
        std::function<void(StepProgress)> show;
        std::function<void(std::string)> log;
    };

    JobContext(std::string job_id, std::string target, Hooks hooks,
               std::shared_ptr<const Cancellation> cancellation)
        : job_id_(std::move(job_id)),
          target_(std::move(target)),
          hooks_(std::move(hooks)),
          cancellation_(std::move(cancellation)) {}
    const std::string& job_id() const { return job_id_; }
    const std::string& target() const { return target_; }
    /// Shown with the job and its object; committed with the row that said it.
    void warn(std::string text) { warnings_.push_back(std::move(text)); }
    /// How far the row is, for display; forgotten when it ends. Loop thread.
    void show_progress(StepProgress progress) const { hooks_.show(std::move(progress)); }
    /// Puts what a program said into the log of the job. Loop thread.
    void log(std::string output) const { hooks_.log(std::move(output)); }
    /// The same for something that goes on beside the row, and perhaps after it.
    std::function<void(std::string)> log_beside() const { return hooks_.log; }
    std::vector<std::string> take_warnings() { return std::exchange(warnings_, {}); }
    /// Or a deadline has passed. Asked by a row that may take long, wherever it can end early. Any
    /// thread.
    bool is_cancelled() const { return is_reversible_ && cancellation_->is_to_end(); }
    /// Throws what ends the job: that it was cancelled, or that a deadline has passed. Any thread.
    void throw_if_cancelled() const {
        if (is_cancelled()) throw Error(cancellation_->reason());
    }
    /// The row was begun before: it failed or waited, or bpgd ended in it. What it does may have
    /// been done, and nobody knows.
    bool was_begun_before() const { return was_begun_before_; }
    /// Of the row that is about to run; an undo is never cancelled. Said by the engine.
    void begin_row(bool is_reversible, bool was_begun_before) {
        is_reversible_ = is_reversible;
        was_begun_before_ = was_begun_before;
    }
    void begin_undo() { is_reversible_ = false; }

  private:
    std::string job_id_;
    std::string target_;
    Hooks hooks_;
    std::shared_ptr<const Cancellation> cancellation_;
    bool is_reversible_ = true;
    bool was_begun_before_ = false;
    std::vector<std::string> warnings_;
};

/// One attempt at one job, with its type erased. The engine drives it; nobody else does.
class Program {
  public:
    virtual ~Program() = default;
    /// Works on a draft of the State; accept() keeps it, otherwise the next run() starts afresh.
    virtual asio::awaitable<Progress> run(std::size_t row) = 0;
    virtual bool has_undo(std::size_t row) const = 0;
    virtual asio::awaitable<void> undo(std::size_t row) = 0;
    virtual void record(std::size_t row, Batch& batch) const = 0;
    virtual void accept() = 0;
    /// In the commit that ends a failed or cancelled job: releases what its reservation holds.
    virtual void record_failure(const ErrorInfo& error, Batch& batch) const = 0;
    virtual nlohmann::json draft() const = 0;
    /// What the job is for: {"ref": …}. Asked in the last commit of a success.
    virtual nlohmann::json result() const = 0;
};

/// A Program over the table of Op. Op provides: State (with JSON conversion), `kName`, `kSteps`,
/// `record_failure(const State&, const ErrorInfo&, Batch&) const`, `result(const State&) const`.
template <class Op>
class TableProgram final : public Program {
  public:
    TableProgram(std::unique_ptr<Op> op, const nlohmann::json& state)
        : op_(std::move(op)), state_(state.get<typename Op::State>()), draft_(state_) {}
    asio::awaitable<Progress> run(std::size_t row) override {
        draft_ = state_;  // a step that fails leaves no trace in the State
        return (*op_.*Op::steps()[row].run)(draft_);
    }
    bool has_undo(std::size_t row) const override { return Op::steps()[row].undo != nullptr; }
    asio::awaitable<void> undo(std::size_t row) override {
        return (*op_.*Op::steps()[row].undo)(state_);
    }
    void record(std::size_t row, Batch& batch) const override {
        if (const auto record = Op::steps()[row].record) (*op_.*record)(draft_, batch);
    }
    void accept() override { state_ = draft_; }
    void record_failure(const ErrorInfo& error, Batch& batch) const override {
        op_->record_failure(state_, error, batch);
    }
    nlohmann::json draft() const override { return draft_; }
    nlohmann::json result() const override { return op_->result(draft_); }

  private:
    std::unique_ptr<Op> op_;
    typename Op::State state_;
    typename Op::State draft_;
};

/// A table that repeats or forgets a name does not compile.
template <class Op, std::size_t N>
consteval std::span<const Step<Op>> checked(const Step<Op> (&table)[N]) {
    for (std::size_t i = 0; i < N; ++i) {
        if (table[i].name.empty()) throw "a step needs a name";
        for (std::size_t j = 0; j < i; ++j) {
            if (table[i].name == table[j].name) throw "step names must be unique";
        }
    }
    return table;
}

/// Every operation the daemon knows.
class OperationRegistry {
  public:
    struct Entry {
        std::uint32_t version = 1;
        std::vector<StepName> steps;
        std::vector<bool> has_undo;
        std::function<std::unique_ptr<Program>(JobContext&, const nlohmann::json& state)> make;

        /// The number of a row; nothing when the table has no such row.
        std::optional<std::size_t> row_of(std::string_view step) const {
            for (std::size_t row = 0; row < steps.size(); ++row) {
                if (steps[row].name == step) return row;
            }
            return std::nullopt;
        }
    };

    /// `make_op(JobContext&)` returns a std::unique_ptr<Op>.
    template <class Op, class MakeOp>
    void add(MakeOp make_op) {
        Entry entry;
        std::string_view irreversible;
        for (const Step<Op>& step : Op::steps()) {
            if (irreversible.empty()) irreversible = step.irreversible;
            entry.steps.push_back({step.name, step.purpose, irreversible});
            entry.has_undo.push_back(step.undo != nullptr);
        }
        entry.make = [make_op](JobContext& context, const nlohmann::json& state) {
            return std::make_unique<TableProgram<Op>>(make_op(context), state);
        };
        entries_.emplace(std::string(Op::kName), std::move(entry));
    }
    /// nullptr when there is no such operation.
    const Entry* find(const std::string& operation) const {
        const auto found = entries_.find(operation);
        return found == entries_.end() ? nullptr : &found->second;
    }
    const std::map<std::string, Entry>& all() const { return entries_; }

  private:
    std::map<std::string, Entry> entries_;
};

}  // namespace bpg::jobs
