#include "orchestrator/operations/wal_holding.h"

#include <fmt/format.h>

#include <algorithm>

#include "orchestrator/base/error.h"
#include "orchestrator/operations/instances.h"
#include "orchestrator/operations/shared_snapshots.h"

namespace bpg::operations {
namespace {

/// What every initdb of ours makes.
constexpr std::uint32_t kSegmentSize = 16U << 20U;

std::uint64_t lsn_of(const std::string& text) {
    const auto lsn = postgres::parse_lsn(text);
    return lsn ? lsn->value : 0;
}

/// Of a snapshot of this incarnation. What its own pg_wal has begins before its start position;
/// where that is not known, what the parent wrote between snapshot and `lsn` may have filled one
/// segment.
wal::Base base_of(const catalog::Snapshot& snapshot) {
    wal::Base base;
    base.snapshot_id = snapshot.id;
    base.at = snapshot.consistent_at.value_or(snapshot.created_at);
    base.lsn = lsn_of(snapshot.lsn);
    const std::uint64_t start = snapshot.start_lsn.empty() ? base.lsn : lsn_of(snapshot.start_lsn);
    base.first = {snapshot.timeline, start / kSegmentSize};
    base.is_durable = snapshot.kind == "base" || snapshot.pinned;
    base.keeps_wal = snapshot.pinned_with_wal;
    return base;
}

}  // namespace

WallTime incarnation_began(const catalog::Branch& incarnation) {
    return incarnation.incarnation_at.value_or(incarnation.created_at);
}

std::vector<const catalog::Branch*> incarnations_of(const catalog::Catalog& catalog,
                                                    const catalog::Branch& branch) {
    std::vector<const catalog::Branch*> found{&branch};
    for (const auto& [id, other] : catalog.all_branches()) {
        const bool is_of_it = other.trash && other.incarnation_of == branch.id;
        if (is_of_it) found.push_back(&other);
    }
    std::sort(found.begin() + 1, found.end(), [](const auto* one, const auto* other) {
        return one->incarnation_number > other->incarnation_number;
    });
    return found;
}

const catalog::Branch* incarnation_at(const catalog::Catalog& catalog,
                                      const catalog::Branch& branch, WallTime time) {
    for (const catalog::Branch* one : incarnations_of(catalog, branch)) {
        if (incarnation_began(*one) <= time) return one;
    }
    return nullptr;
}

std::vector<wal::Base> bases_of(const catalog::Catalog& catalog,
                                const catalog::Branch& incarnation) {
    std::vector<wal::Base> bases;
    for (const auto& [id, snapshot] : catalog.snapshots()) {
        if (snapshot.incarnation_id == incarnation.incarnation_id)
            bases.push_back(base_of(snapshot));
    }
    // What a clone begins with is all in the snapshot it hangs on; of a point in time it is not,
    // and such a branch has a snapshot of its own instead.
    const catalog::CreatedFrom& from = incarnation.created_from;
    const bool is_fork = !from.snapshot.empty() && from.at && from.mode != "pitr";
    if (is_fork && catalog.snapshot_by_id(from.snapshot) != nullptr) {
        const std::uint64_t lsn = lsn_of(from.lsn);
        wal::Base fork;
        fork.snapshot_id = from.snapshot;
        fork.at = *from.at;
        fork.lsn = lsn;
        fork.first = {incarnation.timeline, lsn / kSegmentSize};
        bases.push_back(fork);
    }
    return bases;
}

std::vector<wal::Base> bases_that_stay(const Services& services,
                                       const catalog::Branch& incarnation) {
    std::vector<wal::Base> bases = bases_of(services.catalog, incarnation);
    std::erase_if(bases, [&services](const wal::Base& base) {
        return services.shared_snapshots.is_going(base.snapshot_id);
    });
    return bases;
}

asio::awaitable<wal::WalServer> wal_server(Services& services, std::string branch_id) {
    Instances instances(services);
    const catalog::Branch* found = services.catalog.branch_by_id(branch_id);
    if (found == nullptr) {
        throw Error(ErrorKind::kNotFound, "branch_gone", "the branch of this WAL is gone");
    }
    const bool runs = co_await instances.is_running(branch_id);
    const catalog::Branch* branch = services.catalog.branch_by_id(branch_id);
    if (branch == nullptr) {
        throw Error(ErrorKind::kNotFound, "branch_gone", "the branch of this WAL is gone");
    }
    co_return wal::WalServer{instances.data_directory(*branch), instances.owner(*branch),
                             kSegmentSize, branch->system_identifier, runs};
}

void forget_what_is_going(wal::Holding& holding, const catalog::Branch& incarnation) {
    std::erase_if(holding.segments, [&](const auto& entry) {
        return wal::segment_name(entry.first, holding.segment_size) < incarnation.wal_kept_from;
    });
}

asio::awaitable<wal::Holding> look_at_wal(Services& services, std::string branch_id) {
    const std::optional<wal::WalServer> server = co_await wal_server(services, branch_id);
    const catalog::Branch branch = *services.catalog.branch_by_id(branch_id);
    const wal::ArchiveRef place = Instances::archive(branch);
    wal::Holding holding = co_await services.archives.look(place, server);
    holding.is_live = server->runs && branch.archives;
    forget_what_is_going(holding, branch);
    co_return holding;
}

nlohmann::json windows_json(const std::vector<wal::Window>& windows) {
    nlohmann::json list = nlohmann::json::array();
    for (const wal::Window& window : windows) {
        list.push_back({{"from", format_time(window.from)},
                        {"to", time_json(window.to)},
                        {"base_snapshot", window.base_snapshot}});
    }
    return list;
}

std::string in_words(const std::vector<wal::Window>& windows) {
    if (windows.empty()) return "no time can be restored";
    std::string text = "restorable is ";
    for (const wal::Window& window : windows) {
        if (&window != &windows.front()) text += "; ";
        text += fmt::format("{} to {}", format_time(window.from),
                            window.to ? format_time(*window.to) : "now");
    }
    return text;
}

}  // namespace bpg::operations
