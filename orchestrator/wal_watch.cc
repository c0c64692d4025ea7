#include "orchestrator/wal_watch.h"

#include <fmt/format.h>

#include "orchestrator/base/error.h"
#include "orchestrator/base/log.h"
#include "orchestrator/base/signal.h"
#include "orchestrator/operations/instances.h"
#include "orchestrator/operations/wal_holding.h"

namespace bpg {
namespace {

constexpr std::chrono::seconds kLookEvery{5};
constexpr double kNearlyFull = 0.9;

double filled(const std::filesystem::path& root) {
    std::error_code failure;
    const auto space = std::filesystem::space(root, failure);
    if (failure || space.capacity == 0) return 0;
    return 1 - static_cast<double>(space.available) / static_cast<double>(space.capacity);
}

}  // namespace

asio::awaitable<void> WalWatch::run() {
    while (true) {
        std::vector<std::string> ids;
        for (const auto& [id, branch] : services_.catalog.all_branches()) {
            const bool is_made = branch.state == catalog::BranchState::kRunning ||
                                 branch.state == catalog::BranchState::kStopped;
            if (branch.is_visible() && is_made && branch.archives) ids.push_back(id);
        }
        for (const std::string& id : ids) {
            try {
                co_await look_at(id);
            } catch (const Error& error) {
                // Deleted meanwhile, most often; the next round knows.
                log::debug("the WAL of a branch could not be looked at", {{"why", error.what()}});
            }
        }
        filled_ = co_await pool_.run([this] { return filled(root_); });
        co_await pause_for(kLookEvery);
    }
}

asio::awaitable<void> WalWatch::look_at(std::string branch_id) {
    const catalog::Branch* found = services_.catalog.branch_by_id(branch_id);
    if (found == nullptr) co_return;
    const operations::Instances instances(services_);
    wal::WalServer server;
    server.data_directory = instances.data_directory(*found);
    server.owner = instances.owner(*found);
    server.runs = found->state == catalog::BranchState::kRunning;
    const wal::ArchiveRef archive = operations::Instances::archive(*found);
    wal::Holding holding = co_await archives_.look(archive, server);
    const catalog::Branch* branch = services_.catalog.branch_by_id(branch_id);
    if (branch == nullptr || branch->incarnation_id != archive.incarnation_id) co_return;
    holding.is_live = server.runs;
    operations::forget_what_is_going(holding, *branch);

    catalog::ArchiveFacts facts;
    facts.stored_bytes = holding.stored_bytes;
    const auto before = services_.catalog.wal(branch_id).value_or(catalog::ArchiveFacts{});
    facts.archived = before.archived;
    facts.incarnation_id = archive.incarnation_id;
    if (before.incarnation_id == facts.incarnation_id) {
        facts.newest_archived = before.newest_archived;
    }
    for (const auto& [segment, held] : holding.segments) {
        const std::string name = wal::segment_name(segment, holding.segment_size);
        if (!held.archived || name <= facts.newest_archived) continue;
        ++facts.archived;
        facts.newest_archived = name;
    }
    facts.pending = holding.pending;
    facts.oldest_pending = holding.oldest_pending;
    facts.last_archived_at = holding.last_archived_at;
    facts.gaps = wal::gaps(holding).size();
    const auto windows = wal::windows(holding, operations::bases_of(services_.catalog, *branch));
    if (!windows.empty()) {
        facts.restorable_from = windows.front().from;
        facts.restorable_to = windows.back().to.value_or(services_.clock.now());
    }
    services_.catalog.set_wal(branch_id, facts);
}

void WalWatch::set_gauges(metrics::Instruments& metrics, std::size_t most) const {
    std::map<std::string, std::vector<metrics::Sample>> gauges;
    for (const char* name :
         {"bpg_wal_archive_bytes", "bpg_wal_pending_segments", "bpg_wal_gaps",
          "bpg_wal_last_archived_timestamp_seconds", "bpg_restorable_from_timestamp_seconds",
          "bpg_restorable_to_timestamp_seconds"}) {
        gauges[name];
    }
    std::vector<metrics::Sample> archived;
    std::size_t shown = 0;
    for (const catalog::Branch* branch : services_.catalog.branches()) {
        const auto* database = services_.catalog.database_by_id(branch->database_id);
        const auto facts = services_.catalog.wal(branch->id);
        if (database == nullptr || !facts || ++shown > most) continue;
        const std::vector<std::string> labels{database->name, branch->name};
        const auto add = [&](const char* name, double value) {
            gauges[name].push_back({labels, value});
        };
        archived.push_back({labels, static_cast<double>(facts->archived)});
        add("bpg_wal_archive_bytes", static_cast<double>(facts->stored_bytes));
        add("bpg_wal_pending_segments", static_cast<double>(facts->pending));
        add("bpg_wal_gaps", static_cast<double>(facts->gaps));
        if (facts->last_archived_at) {
            add("bpg_wal_last_archived_timestamp_seconds", seconds_of(*facts->last_archived_at));
        }
        if (facts->restorable_from) {
            add("bpg_restorable_from_timestamp_seconds", seconds_of(*facts->restorable_from));
            add("bpg_restorable_to_timestamp_seconds", seconds_of(*facts->restorable_to));
        }
    }
    for (const auto& [name, samples] : gauges)
        metrics.set_gauge(name, samples);
    metrics.set_counter("bpg_wal_archived_segments_total", archived);
}

std::vector<std::string> WalWatch::warnings() const {
    if (filled_ < kNearlyFull) return {};
    return {
        fmt::format("the file system of {} is {:.0f} % full: when it is full, archiving fails "
                    "and WAL piles up in the branches",
                    root_.string(), filled_ * 100)};
}

}  // namespace bpg
