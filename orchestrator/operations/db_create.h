// db-create: a new database with its first branch, main: the PostgreSQL it runs, an empty volume,
// initdb, a running instance with its own password, and on atomic drivers a first snapshot.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "jobs/step.h"
#include "orchestrator/operations/instances.h"
#include "orchestrator/operations/services.h"

namespace bpg::operations {

class DbCreate {
  public:
    static constexpr std::string_view kName = "db-create";

    struct State {
        std::string database_id;
        std::string branch_id;
        std::string snapshot_id;
        std::string pg_version;  ///< as asked for
        std::string image;
        std::uint32_t timeline = 0;
        std::string system_identifier;
    };

    DbCreate(Services& services, jobs::JobContext& context)
        : services_(services), context_(context), instances_(services, &context) {}

    static std::span<const jobs::Step<DbCreate>> steps();
    void record_failure(const State& state, const ErrorInfo& error, jobs::Batch& batch) const;
    nlohmann::json result(const State& state) const;

  private:
    asio::awaitable<jobs::Progress> prepare_engine(State& state);
    asio::awaitable<jobs::Progress> create_volume(State& state);
    asio::awaitable<jobs::Progress> init_data_directory(State& state);
    asio::awaitable<jobs::Progress> start_instance(State& state);
    asio::awaitable<jobs::Progress> await_ready(State& state);
    asio::awaitable<jobs::Progress> open_to_users(State& state);
    asio::awaitable<jobs::Progress> take_first_snapshot(State& state);
    asio::awaitable<jobs::Progress> publish(State& state);

    asio::awaitable<void> destroy_volume(const State& state);
    asio::awaitable<void> abandon_engine(const State& state);
    asio::awaitable<void> abandon_init(const State& state);
    asio::awaitable<void> remove_instance(const State& state);
    asio::awaitable<void> forget_password(const State& state);
    asio::awaitable<void> destroy_snapshot(const State& state);

    void record_engine(const State& state, jobs::Batch& batch) const;
    void record_snapshot(const State& state, jobs::Batch& batch) const;
    void record_database(const State& state, jobs::Batch& batch) const;
    const catalog::Branch& branch(const State& state) const;
    storage::Identity identity(const State& state) const;

    Services& services_;
    jobs::JobContext& context_;
    Instances instances_;
    std::optional<runtime::Engine> engine_;
    std::optional<catalog::Snapshot> snapshot_;
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(DbCreate::State, database_id, branch_id,
                                                snapshot_id, pg_version, image, timeline,
                                                system_identifier)

}  // namespace bpg::operations
