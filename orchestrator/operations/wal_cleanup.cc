#include "orchestrator/operations/wal_cleanup.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "orchestrator/operations/instances.h"
#include "orchestrator/operations/wal_holding.h"

namespace bpg::operations {

using catalog::Branch;
using jobs::Done;
using jobs::Progress;
using nlohmann::json;

std::span<const jobs::Step<WalCleanup>> WalCleanup::steps() {
    using jobs::nothing_to_undo;
    static constexpr jobs::Step<WalCleanup> kSteps[] = {
        {"decide", "see which WAL nobody needs", &WalCleanup::decide, nothing_to_undo,
         &WalCleanup::mark},
        {"remove", "remove it, oldest first", &WalCleanup::remove, nothing_to_undo,
         &WalCleanup::forget_origins, "what it removes does not come back"},
    };
    return jobs::checked(kSteps);
}

asio::awaitable<Progress> WalCleanup::decide(State& state) {
    const WallTime horizon = services_.clock.now() - std::chrono::days(state.days);
    for (const std::string& id : state.incarnations) {
        if (services_.catalog.branch_by_id(id) == nullptr) continue;
        const wal::Holding holding = co_await look_at_wal(services_, id);
        const Branch* incarnation = services_.catalog.branch_by_id(id);
        if (incarnation == nullptr) continue;
        const auto bases = bases_that_stay(services_, *incarnation);
        const wal::CleanupPlan plan = wal::plan_cleanup(holding, bases, horizon);
        if (!plan.keep_from) continue;
        state.parts.push_back({id, wal::segment_name(*plan.keep_from, holding.segment_size),
                               plan.base_snapshot, plan.stranded, plan.remove.size(), plan.bytes});
        for (const std::string& line : cleanup_in_words(*incarnation, plan, holding.segment_size))
            context_.log(line + "\n");
        if (!plan.stranded.empty()) {
            context_.warn(fmt::format("snapshots that reach no later time any more: {}",
                                      fmt::join(plan.stranded, ", ")));
        }
    }
    co_return Done{};
}

void WalCleanup::mark(const State& state, jobs::Batch& batch) const {
    for (const Part& part : state.parts) {
        const Branch* found = services_.catalog.branch_by_id(part.branch_id);
        if (found == nullptr || found->wal_kept_from >= part.keep_from) continue;
        Branch incarnation = *found;
        incarnation.wal_kept_from = part.keep_from;
        services_.catalog.put(incarnation, batch);
    }
}

asio::awaitable<Progress> WalCleanup::remove(State& state) {
    for (const Part& part : state.parts) {
        const Branch* incarnation = services_.catalog.branch_by_id(part.branch_id);
        if (incarnation == nullptr) continue;
        const wal::ArchiveRef archive = Instances::archive(*incarnation);
        co_await services_.archives.remove_before(archive, part.keep_from);
    }
    co_await origins_.destroy();
    co_return Done{};
}

void WalCleanup::forget_origins(const State&, jobs::Batch& batch) const {
    origins_.forget(batch);
}

json WalCleanup::result(const State& state) const {
    std::uint64_t segments = 0;
    std::uint64_t bytes = 0;
    json incarnations = json::array();
    for (const Part& part : state.parts) {
        segments += part.segments;
        bytes += part.bytes;
        incarnations.push_back({{"id", part.branch_id},
                                {"kept_from", part.keep_from},
                                {"base_snapshot", part.base_snapshot},
                                {"stranded_snapshots", part.stranded},
                                {"segments", part.segments},
                                {"bytes", part.bytes}});
    }
    return {{"ref", state.ref},
            {"branch", state.branch_id},
            {"segments", segments},
            {"bytes", bytes},
            {"incarnations", std::move(incarnations)}};
}

json cleanup_json(const Branch& incarnation, const wal::CleanupPlan& plan,
                  std::uint32_t segment_size) {
    json remove = json::array();
    for (const wal::SegmentId segment : plan.remove)
        remove.push_back(wal::segment_name(segment, segment_size));
    return {
        {"incarnation", incarnation.incarnation_id},
        {"incarnation_number", incarnation.incarnation_number},
        {"keep_from",
         plan.keep_from ? json(wal::segment_name(*plan.keep_from, segment_size)) : json(nullptr)},
        {"base_snapshot", plan.base_snapshot.empty() ? json(nullptr) : json(plan.base_snapshot)},
        {"remove", std::move(remove)},
        {"bytes", plan.bytes},
        {"stranded_snapshots", plan.stranded},
        {"restorable", windows_json(plan.windows)}};
}

std::vector<std::string> cleanup_in_words(const Branch& incarnation, const wal::CleanupPlan& plan,
                                          std::uint32_t segment_size) {
    const std::string of = fmt::format("incarnation {}: ", incarnation.incarnation_number);
    if (!plan.keep_from) return {of + "no snapshot to restore from; all WAL stays"};
    std::vector<std::string> lines{
        of + fmt::format("{} segments, {} bytes go; WAL from {} on stays, for snapshot {}",
                         plan.remove.size(), plan.bytes,
                         wal::segment_name(*plan.keep_from, segment_size), plan.base_snapshot)};
    if (!plan.stranded.empty()) {
        lines.push_back(of + fmt::format("these snapshots stay, but reach no later time: {}",
                                         fmt::join(plan.stranded, ", ")));
    }
    lines.push_back(of + in_words(plan.windows));
    return lines;
}

}  // namespace bpg::operations
