// db-delete: a database with all its branches, forward only (see branch_delete.h).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "jobs/step.h"
#include "orchestrator/operations/branch_delete.h"
#include "orchestrator/operations/services.h"

namespace bpg::operations {

class DbDelete {
  public:
    static constexpr std::string_view kName = "db-delete";

    struct State {
        std::string database_id;
        std::string name;
        std::vector<std::string> branch_ids;
        std::vector<Doomed> doomed;
    };

    DbDelete(Services& services, jobs::JobContext& context)
        : services_(services), destruction_(services, context) {}

    static std::span<const jobs::Step<DbDelete>> steps();
    void record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
    nlohmann::json result(const State& state) const;

  private:
    asio::awaitable<jobs::Progress> remove_instances(State& state);
    asio::awaitable<jobs::Progress> destroy_volumes(State& state);
    asio::awaitable<jobs::Progress> destroy_snapshots(State& state);
    asio::awaitable<jobs::Progress> remove_files(State& state);
    void forget_snapshots(const State& state, jobs::Batch& batch) const;
    void forget(const State& state, jobs::Batch& batch) const;

    Services& services_;
    Destruction destruction_;
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(DbDelete::State, database_id, name, branch_ids,
                                                doomed)

}  // namespace bpg::operations
