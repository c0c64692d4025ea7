// The requests that need the WAL archive: a branch at a point in time, and the cleanup of WAL.
#include <fmt/format.h>

#include "orchestrator/base/id.h"
#include "orchestrator/operations/request_parts.h"
#include "orchestrator/operations/requests.h"
#include "orchestrator/operations/wal_cleanup.h"
#include "orchestrator/operations/wal_holding.h"

namespace bpg::operations {
namespace {

using catalog::Branch;
using nlohmann::json;

constexpr int kDaysMax = 36'500;
/// What PostgreSQL replays in a second, when nothing better is known; and a start.
constexpr double kReplayRate = 100e6;
constexpr double kStartSeconds = 1;

}  // namespace

/// Checked as a create is, and as often.
Branch Requests::parent_for(const BranchCreateRequest& request, const std::string& from) const {
    const auto [database_name, branch_name] = catalog::split_ref(request.ref);
    const catalog::Database& database = services_.catalog.database(database_name);
    const Branch& parent = parent_named(from);
    if (parent.database_id != database.id) {
        throw Error(ErrorKind::kInvalid, "parent_elsewhere",
                    "a branch stays in the database of its parent",
                    "\"" + request.ref + "\" cannot be cut from \"" + from + "\"",
                    "name it " + from.substr(0, from.find('/')) + "/…");
    }
    refuse(services_.catalog.can_create_branch(request.ref, parent));
    if (!request.snapshot.empty()) given_snapshot(services_, request.snapshot, parent);
    if (request.target.is_set() && (request.fast || !request.snapshot.empty())) {
        throw Error(ErrorKind::kInvalid, "target_not_alone",
                    "a point in time does not go with --fast or --snapshot",
                    "which snapshot it is restored from follows from the point",
                    "leave out the other");
    }
    return parent;
}

/// The incarnation of the parent whose WAL has the target.
const Branch& Requests::source_of(const Branch& parent, const RestoreTarget& target) const {
    refuse_in_between(parent, services_.catalog.ref_of(parent));
    const Branch* source = &parent;
    if (target.time) source = incarnation_at(services_.catalog, parent, *target.time);
    // Before everything that is held: what the oldest has is said then.
    if (source == nullptr) source = incarnations_of(services_.catalog, parent).back();
    if (source->archives) return *source;
    const std::string ref = services_.catalog.ref_of(parent);
    throw Error(ErrorKind::kConflict, "archive_off", "\"" + ref + "\" keeps no WAL archive",
                "it was made with --no-archive", "branch from it as it is, or from a snapshot");
}

asio::awaitable<Requests::RestoreChoice> Requests::choose_restore(std::string parent_id,
                                                                  RestoreTarget target) {
    const auto source = [this, &parent_id, &target]() -> const Branch& {
        const Branch* parent = services_.catalog.branch_by_id(parent_id);
        if (parent == nullptr) {
            throw Error(ErrorKind::kNotFound, "branch_not_found", "the branch is gone", parent_id);
        }
        return source_of(*parent, target);
    };
    RestoreChoice choice;
    choice.restore.target = target;
    const std::string source_id = source().id;
    choice.restore.source_incarnation = source().incarnation_id;
    std::uint64_t lsn = 0;
    if (target.kind == "lsn") lsn = postgres::parse_lsn(target.text)->value;
    if (target.kind == "name") {
        // It may be in WAL that is not archived yet.
        const wal::WalServer server = co_await wal_server(services_, source_id);
        if (server.runs) {
            const postgres::Endpoint endpoint = Instances(services_).endpoint(source());
            co_await services_.postgres.switch_wal(endpoint);
        }
        const wal::ArchiveRef archive = Instances::archive(source());
        co_await services_.archives.catch_up(archive, server);
        const auto found = co_await services_.archives.find_restore_point(archive, target.text);
        if (!found) {
            throw Error(ErrorKind::kConflict, "restore_point_unknown",
                        "there is no " + target.shown(),
                        "the archived WAL of \"" + services_.catalog.ref_of(source()) +
                            "\" has none of that name",
                        "make one with pg_create_restore_point(), or give a time");
        }
        lsn = *found;
    }
    const wal::Holding holding = co_await look_at_wal(services_, source_id);
    const Branch& incarnation = source();
    const std::vector<wal::Base> bases = bases_that_stay(services_, incarnation);
    choice.windows = wal::windows(holding, bases);
    const auto plan = target.time ? wal::plan_time(holding, bases, *target.time)
                                  : wal::plan_lsn(holding, bases, lsn);
    if (!plan) {
        throw not_restorable(services_.catalog.ref_of(incarnation), target, choice.windows,
                             wal::gaps(holding), holding.segment_size);
    }
    choice.base_id = plan->base.snapshot_id;
    choice.restore.bytes = plan->segments * holding.segment_size;
    co_return choice;
}

void Requests::add_restore_locks(std::vector<jobs::Lock>& locks, const Branch& parent,
                                 const Restore& restore) const {
    const Branch* found = services_.catalog.branch_of_incarnation(restore.source_incarnation);
    if (found == nullptr) throw source_is_gone();
    const Branch& source = *found;
    const std::string ref = services_.catalog.ref_of(source);
    if (source.id != parent.id) {
        locks.push_back(lock_of(source, ref, jobs::LockMode::kShared));
        locks.back().until_step = BranchCreate::kLastStepOnSource;
    }
    locks.push_back(archive_lock(source, ref, jobs::LockMode::kShared));
    locks.back().until_step = BranchCreate::kLastStepOnArchive;
}

asio::awaitable<json> Requests::plan_branch_restore(BranchCreateRequest request) {
    const std::string database = catalog::split_ref(request.ref).first;
    const std::string from =
        request.from.empty() ? database + "/" + std::string(catalog::kMain) : request.from;
    const std::string parent_id = parent_for(request, from).id;
    const RestoreChoice choice = co_await choose_restore(parent_id, request.target);
    const catalog::Snapshot& base = services_.catalog.snapshot(choice.base_id);
    const double seconds = kStartSeconds + static_cast<double>(choice.restore.bytes) / kReplayRate;
    json summary = json::array();
    summary.push_back(fmt::format("{} is made from {} as it was at {}", request.ref, from,
                                  request.target.shown()));
    summary.push_back(fmt::format("from snapshot {} of {}, with {} MiB of WAL, in about {:.0f} s",
                                  base.id,
                                  format_time(base.consistent_at.value_or(base.created_at)),
                                  choice.restore.bytes >> 20U, seconds));
    co_return json{{"plan", "branch-create"},
                   {"dry_run", true},
                   {"ref", request.ref},
                   {"from", from},
                   {"target", request.target.shown()},
                   {"base_snapshot", choice.base_id},
                   {"wal_bytes", choice.restore.bytes},
                   {"estimated_seconds", seconds},
                   {"nearest", request.target.shown()},
                   {"restorable", windows_json(choice.windows)},
                   {"summary", std::move(summary)}};
}

// --- cleanup -------------------------------------------------------------------------------------

namespace {

void check_days(int days) {
    if (days >= 0 && days <= kDaysMax) return;
    throw Error(ErrorKind::kInvalid, "days_invalid", fmt::format("{} is no number of days", days),
                fmt::format("it is 0 to {}", kDaysMax), "for example --days 7");
}

}  // namespace

asio::awaitable<jobs::Job> Requests::wal_cleanup(std::string ref, int days, RequestKey key) {
    check_days(days);
    const json params{{"ref", ref}, {"days", days}};
    const auto open = co_await attach(std::string(WalCleanup::kName), ref, params);
    if (open) co_return *open;
    const Branch& branch = services_.catalog.branch(ref);
    const WalCleanup::State state = cleanup_state(services_.catalog, branch, days);
    jobs::Submission job = submission(WalCleanup::kName, ref, params, state, std::move(key));
    add_cleanup_locks(job.locks, services_.catalog, state);
    co_return co_await queue_.submit(std::move(job), jobs::Batch{});
}

asio::awaitable<json> Requests::plan_wal_cleanup(std::string ref, int days) {
    check_days(days);
    std::vector<std::string> ids;
    for (const Branch* one : incarnations_of(services_.catalog, services_.catalog.branch(ref)))
        ids.push_back(one->id);
    const WallTime horizon = services_.clock.now() - std::chrono::days(days);
    json items = json::array();
    json summary = json::array();
    std::uint64_t bytes = 0;
    for (const std::string& id : ids) {
        const wal::Holding holding = co_await look_at_wal(services_, id);
        const Branch* incarnation = services_.catalog.branch_by_id(id);
        if (incarnation == nullptr) continue;
        const auto bases = bases_that_stay(services_, *incarnation);
        const wal::CleanupPlan plan = wal::plan_cleanup(holding, bases, horizon);
        bytes += plan.bytes;
        items.push_back(cleanup_json(*incarnation, plan, holding.segment_size));
        for (std::string& line : cleanup_in_words(*incarnation, plan, holding.segment_size))
            summary.push_back(std::move(line));
    }
    co_return json{{"plan", "wal-cleanup"},
                   {"dry_run", true},
                   {"ref", ref},
                   {"days", days},
                   {"bytes", bytes},
                   {"incarnations", std::move(items)},
                   {"summary", std::move(summary)}};
}

}  // namespace bpg::operations
