#include "orchestrator/operations/password_rotate.h"

#include "orchestrator/base/error.h"

namespace bpg::operations {

using jobs::Done;
using jobs::Progress;

std::span<const jobs::Step<PasswordRotate>> PasswordRotate::steps() {
    using jobs::nothing_to_record;
    using jobs::nothing_to_undo;
    static constexpr jobs::Step<PasswordRotate> kSteps[] = {
        {"make_password", "make a new password", &PasswordRotate::make_password,
         &PasswordRotate::forget_password, nothing_to_record},
        {"set_password", "let PostgreSQL take it", &PasswordRotate::set_password,
         &PasswordRotate::set_old_password, nothing_to_record},
        {"keep_password", "keep it in place of the old one", &PasswordRotate::keep_password,
         nothing_to_undo, &PasswordRotate::record, "the new password is in force"},
    };
    return jobs::checked(kSteps);
}

std::string PasswordRotate::password_of(const State& state) const {
    if (const auto* found = services_.catalog.branch_by_id(state.branch_id)) {
        return found->password();
    }
    throw Error(ErrorKind::kNotFound, "branch_gone", "the branch of this job is gone");
}

asio::awaitable<Progress> PasswordRotate::make_password(State& state) {
    const SecretStore& secrets = services_.secrets;
    auto work = [&secrets, id = password_of(state)] { secrets.ensure_next_password(id); };
    co_await services_.pool.run(work);
    co_return Done{};
}

asio::awaitable<void> PasswordRotate::forget_password(const State& state) {
    const SecretStore& secrets = services_.secrets;
    auto work = [&secrets, id = password_of(state)] { secrets.remove_next_password(id); };
    co_await services_.pool.run(work);
}

asio::awaitable<Progress> PasswordRotate::set_password(State& state) {
    const SecretStore& secrets = services_.secrets;
    auto work = [&secrets, id = password_of(state)] {
        return postgres::scram_verifier(secrets.ensure_next_password(id));
    };
    std::string verifier = co_await services_.pool.run(work);
    co_await instances_.set_verifier(state.branch_id, std::move(verifier));
    co_return Done{};
}

asio::awaitable<void> PasswordRotate::set_old_password(const State& state) {
    const SecretStore& secrets = services_.secrets;
    auto work = [&secrets, id = password_of(state)] {
        return postgres::scram_verifier(secrets.ensure_password(id));
    };
    std::string verifier = co_await services_.pool.run(work);
    // One that does not run any more gets it with its next start.
    if (!co_await instances_.is_running(state.branch_id)) co_return;
    co_await instances_.set_verifier(state.branch_id, std::move(verifier));
}

asio::awaitable<Progress> PasswordRotate::keep_password(State& state) {
    const SecretStore& secrets = services_.secrets;
    auto work = [&secrets, id = password_of(state)] { secrets.keep_next_password(id); };
    co_await services_.pool.run(work);
    co_return Done{};
}

void PasswordRotate::record(const State& state, jobs::Batch& batch) const {
    const auto* found = services_.catalog.branch_by_id(state.branch_id);
    if (found == nullptr) return;
    catalog::Branch branch = *found;
    branch.last_job = context_.job_id();
    services_.catalog.put(branch, batch);
}

nlohmann::json PasswordRotate::result(const State& state) const {
    return {{"ref", state.ref}, {"branch", state.branch_id}};
}

}  // namespace bpg::operations
