// db-delete: a database with all its branches goes to the trash as one item. Where nothing is to be
// kept, the same job destroys it.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "jobs/step.h"
#include "orchestrator/operations/destruction.h"

namespace bpg::operations {

class DbDelete {
  public:
    static constexpr std::string_view kName = "db-delete";

    struct State {
        std::string database_id;
        std::string name;
        std::vector<std::string> branch_ids;
        std::vector<Doomed> doomed;
        bool purge = true;  ///< nothing is kept
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
    void move_to_trash(const State& state, jobs::Batch& batch) const;
    void release_origins(const State& state, jobs::Batch& batch) const;
    void forget_snapshots(const State& state, jobs::Batch& batch) const;
    void forget(const State& state, jobs::Batch& batch) const;

    Services& services_;
    Destruction destruction_;
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(DbDelete::State, database_id, name, branch_ids,
                                                doomed, purge)

}  // namespace bpg::operations
