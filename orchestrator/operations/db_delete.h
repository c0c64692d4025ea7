// db-delete: a database with all its branches goes to the trash as one item. Where nothing is to be
// kept, the same job destroys it.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "jobs/step.h"
#include "orchestrator/operations/destruction.h"

namespace bpg::operations {

struct DbDeleteState {
    std::string database_id;
    std::string name;
    std::vector<std::string> branch_ids;
    std::vector<Doomed> doomed;
    bool purge = true;  ///< nothing is kept

    const std::vector<std::string>& all_branch_ids() const { return branch_ids; }
    std::vector<std::string> all_database_ids() const { return {database_id}; }
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(DbDeleteState, database_id, name, branch_ids,
                                                doomed, purge)

class DbDelete : public DestroyingRows<DbDeleteState> {
  public:
    static constexpr std::string_view kName = "db-delete";

    using State = DbDeleteState;

    DbDelete(Services& services, jobs::JobContext& context)
        : DestroyingRows(services, context), services_(services) {}

    static std::span<const jobs::Step<DbDelete>> steps();
    void record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
    nlohmann::json result(const State& state) const;

  private:
    asio::awaitable<jobs::Progress> remove_instances(State& state);
    void move_to_trash(const State& state, jobs::Batch& batch) const;

    Services& services_;
};

}  // namespace bpg::operations
