// password-rotate: a new superuser password for a running branch. It is written beside the old one
// first, then PostgreSQL gets its verifier, then it takes the old one's place: at every moment one
// of the two that are kept opens the branch, and a retry knows which to set.
#pragma once

#include <span>
#include <string>

#include "jobs/step.h"
#include "orchestrator/operations/instances.h"
#include "orchestrator/operations/services.h"

namespace bpg::operations {

class PasswordRotate {
  public:
    static constexpr std::string_view kName = "password-rotate";

    struct State {
        std::string branch_id;
        std::string ref;
    };

    PasswordRotate(Services& services, jobs::JobContext& context)
        : services_(services), context_(context), instances_(services, &context) {}

    static std::span<const jobs::Step<PasswordRotate>> steps();
    void record_failure(const State&, const ErrorInfo&, jobs::Batch&) const {}
    nlohmann::json result(const State& state) const;

  private:
    asio::awaitable<jobs::Progress> make_password(State& state);
    asio::awaitable<jobs::Progress> set_password(State& state);
    asio::awaitable<jobs::Progress> keep_password(State& state);
    asio::awaitable<void> forget_password(const State& state);
    asio::awaitable<void> set_old_password(const State& state);
    void record(const State& state, jobs::Batch& batch) const;
    std::string password_of(const State& state) const;

    Services& services_;
    jobs::JobContext& context_;
    Instances instances_;
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(PasswordRotate::State, branch_id, ref)

}  // namespace bpg::operations
