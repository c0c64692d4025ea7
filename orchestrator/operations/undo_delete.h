// undo-delete: brings an item of the trash back, a branch or a whole database. What ran runs again,
// on its old port where that is free. A failure leaves it in the trash.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "jobs/step.h"
#include "orchestrator/operations/instances.h"
#include "orchestrator/operations/services.h"

namespace bpg::operations {

class UndoDelete {
  public:
    static constexpr std::string_view kName = "undo-delete";

    /// The reservation has taken the branches out of the trash, as being created.
    struct Returning {
        std::string branch_id;
        std::string name;  ///< before it came back, perhaps under another
        std::string password_id;
        catalog::Trashed trash;
    };
    struct State {
        std::string ref;
        std::vector<Returning> branches;
        std::string database_id;  ///< of a whole database
        std::optional<catalog::Trashed> database_trash;
    };

    UndoDelete(Services& services, jobs::JobContext& context)
        : services_(services), context_(context), instances_(services, &context) {}

    static std::span<const jobs::Step<UndoDelete>> steps();
    void record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
    nlohmann::json result(const State& state) const;

  private:
    asio::awaitable<jobs::Progress> start_instances(State& state);
    asio::awaitable<jobs::Progress> await_ready(State& state);
    asio::awaitable<jobs::Progress> open_to_users(State& state);
    asio::awaitable<void> forget_passwords(const State& state);
    asio::awaitable<void> remove_instances(const State& state);
    void record(const State& state, jobs::Batch& batch) const;

    Services& services_;
    jobs::JobContext& context_;
    Instances instances_;
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(UndoDelete::Returning, branch_id, name, password_id,
                                                trash)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(UndoDelete::State, ref, branches, database_id,
                                                database_trash)

}  // namespace bpg::operations
