#include "orchestrator/http/render.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "orchestrator/base/json.h"

namespace bpg::http {
namespace {

using nlohmann::json;

json text_or_null(const std::string& text) {
    return text.empty() ? json(nullptr) : json(text);
}

json parent_json(const catalog::Catalog& catalog, const catalog::Branch& branch) {
    const catalog::Branch* parent = catalog.branch_by_id(branch.parent_id);
    const bool is_there = parent != nullptr && parent->is_visible();
    return is_there ? json(catalog.ref_of(*parent)) : json(nullptr);
}

json created_from_json(const catalog::Branch& branch) {
    const catalog::CreatedFrom& from = branch.created_from;
    if (from.mode.empty()) return nullptr;  // a first branch
    return {{"snapshot", text_or_null(from.snapshot)},
            {"mode", text_or_null(from.mode)},
            {"lsn", text_or_null(from.lsn)},
            {"at", time_json(from.at)}};
}

json storage_json(const catalog::Catalog& catalog, const catalog::Branch& branch) {
    json storage{{"driver", branch.storage_driver}, {"name", branch.volume},
                 {"used_bytes", nullptr},           {"referenced_bytes", nullptr},
                 {"logical_bytes", nullptr},        {"measured_at", nullptr}};
    if (const auto usage = catalog.usage(branch.id)) {
        storage["used_bytes"] = usage->used;
        storage["referenced_bytes"] = usage->referenced;
        storage["logical_bytes"] = usage->logical;
        storage["measured_at"] = format_time(usage->measured_at);
    }
    return storage;
}

json steps_json(const std::vector<jobs::StepRecord>& steps) {
    json list = json::array();
    for (const jobs::StepRecord& step : steps) {
        list.push_back(
            {{"name", step.name},
             {"purpose", step.purpose},
             {"state", step.state},
             {"started_at", time_json(step.started_at)},
             {"duration_ms", step.duration_ms ? json(*step.duration_ms) : json(nullptr)}});
    }
    return list;
}

json progress_json(const std::optional<jobs::StepProgress>& progress) {
    if (!progress) return nullptr;
    return {{"done", progress->done}, {"total", progress->total}, {"unit", progress->unit}};
}

json estimate_json(const std::optional<std::chrono::milliseconds>& left) {
    if (!left) return nullptr;
    return {{"seconds_left", static_cast<double>(left->count()) / 1000}};
}

json error_json(const jobs::Job& job) {
    if (!job.error) return nullptr;
    return {
        {"title", job.error->message},          {"code", job.error->code},
        {"detail", job.error->detail},          {"hint", job.error->hint},
        {"step", text_or_null(job.error_step)}, {"kind", std::string(to_string(job.error->kind))}};
}

/// PostgreSQL's archiver tries again after a minute at the latest: longer is no hiccup.
constexpr std::chrono::minutes kArchivingLate{2};

/// What keeps a branch's WAL from being archived, or has (ARC-6).
std::vector<std::string> wal_warnings(const catalog::Catalog& catalog,
                                      const catalog::Branch& branch) {
    std::vector<std::string> warnings;
    const auto facts = catalog.wal(branch.id);
    if (!facts) return warnings;
    const bool runs = branch.state == catalog::BranchState::kRunning;
    const WallTime now = SystemClock().now();
    if (runs && facts->oldest_pending && now - *facts->oldest_pending > kArchivingLate) {
        warnings.push_back(fmt::format(
            "its WAL is not archived: {} segments wait, the oldest since {}; bpg logs says why",
            facts->pending, format_time(*facts->oldest_pending)));
    }
    if (facts->gaps > 0) {
        warnings.push_back(fmt::format(
            "WAL is missing from its archive in {} places: bpg wal info says what can be restored",
            facts->gaps));
    }
    return warnings;
}

/// As shown: running, but with a condition that somebody should see to, is degraded.
std::string state_of(const catalog::Catalog& catalog, const catalog::Branch& branch) {
    const bool runs = branch.state == catalog::BranchState::kRunning;
    if (runs && !wal_warnings(catalog, branch).empty()) return "degraded";
    return std::string(to_string(branch.state));
}

std::vector<std::string> warnings_of(const catalog::Catalog& catalog,
                                     const catalog::Branch& branch) {
    std::vector<std::string> all = branch.warnings;
    for (std::string& warning : wal_warnings(catalog, branch))
        all.push_back(std::move(warning));
    return all;
}

}  // namespace

std::string branch_url(const catalog::Branch& branch) {
    const bool is_ipv6 = branch.host.find(':') != std::string::npos;
    return fmt::format("postgresql://postgres@{}:{}/postgres",
                       is_ipv6 ? "[" + branch.host + "]" : branch.host, branch.port);
}

json database_json(const catalog::Catalog& catalog, const catalog::Database& database) {
    return {{"id", database.id},
            {"name", database.name},
            {"image", text_or_null(database.image)},
            {"pg_version", text_or_null(database.pg_version)},
            {"created_at", format_time(database.created_at)},
            {"branches", catalog.branches(database.id).size()}};
}

json branch_json(const catalog::Catalog& catalog, const catalog::Branch& branch) {
    const catalog::Database* database = catalog.database_by_id(branch.database_id);
    return {{"id", branch.id},
            {"ref", catalog.ref_of(branch)},
            {"database", database == nullptr ? json(nullptr) : json(database->name)},
            {"name", branch.name},
            {"parent", parent_json(catalog, branch)},
            {"state", state_of(catalog, branch)},
            {"host", branch.host},
            {"port", branch.port},
            {"url", branch_url(branch)},
            {"created_at", format_time(branch.created_at)},
            {"expires_at", time_json(branch.expires_at)},
            {"protected", branch.is_protected},
            {"timeline", branch.timeline == 0 ? json(nullptr) : json(branch.timeline)},
            {"incarnation", {{"id", branch.incarnation_id}, {"number", branch.incarnation_number}}},
            {"created_from", created_from_json(branch)},
            {"storage", storage_json(catalog, branch)},
            {"last_job", text_or_null(branch.last_job)},
            {"warnings", warnings_of(catalog, branch)}};
}

json branch_summary_json(const catalog::Catalog& catalog, const catalog::Branch& branch) {
    const auto usage = catalog.usage(branch.id);
    return {{"ref", catalog.ref_of(branch)},
            {"state", state_of(catalog, branch)},
            {"host", branch.host},
            {"port", branch.port},
            {"url", branch_url(branch)},
            {"used_bytes", usage ? json(usage->used) : json(nullptr)},
            {"created_at", format_time(branch.created_at)},
            {"expires_at", time_json(branch.expires_at)}};
}

json snapshot_json(const catalog::Catalog& catalog, const catalog::Snapshot& snapshot) {
    const catalog::Branch* branch = catalog.branch_by_id(snapshot.branch_id);
    json branches = json::array();
    for (const catalog::Branch* cut : catalog.branches_from(snapshot.id)) {
        if (cut->is_visible()) branches.push_back(catalog.ref_of(*cut));
    }
    return {{"id", snapshot.id},
            {"branch", branch == nullptr ? json(nullptr) : json(catalog.ref_of(*branch))},
            {"incarnation", snapshot.incarnation_id},
            {"kind", snapshot.kind},
            {"label", text_or_null(snapshot.label)},
            {"created_at", format_time(snapshot.created_at)},
            {"consistent_at", time_json(snapshot.consistent_at)},
            {"lsn", text_or_null(snapshot.lsn)},
            {"timeline", snapshot.timeline == 0 ? json(nullptr) : json(snapshot.timeline)},
            {"mode", text_or_null(snapshot.mode)},
            {"size_bytes", nullptr},
            {"pinned", snapshot.pinned},
            {"with_wal", snapshot.pinned_with_wal},
            {"created_by", text_or_null(snapshot.created_by)},
            {"branches", std::move(branches)}};
}

json trash_item_json(const catalog::Catalog& catalog, const catalog::TrashItem& item) {
    json used = nullptr;
    json volumes = json::array();
    for (const std::string& id : item.branch_ids) {
        if (const auto* branch = catalog.branch_by_id(id)) volumes.push_back(branch->volume);
        if (const auto usage = catalog.usage(id)) {
            used = (used.is_null() ? 0 : used.get<std::uint64_t>()) + usage->used;
        }
    }
    return {{"id", item.trash.item},
            {"kind", item.trash.kind},
            {"ref", item.trash.ref},
            {"deleted_at", format_time(item.trash.deleted_at)},
            {"purge_at", format_time(item.trash.purge_at)},
            {"used_bytes", used},
            {"volumes", std::move(volumes)}};
}

json job_json(const jobs::Job& job, const JobView& view) {
    return {{"id", job.id},
            {"operation", job.operation},
            {"target", job.target},
            {"state", std::string(to_string(job.state))},
            {"attempt", job.attempt},
            {"priority", std::string(to_string(job.priority))},
            {"fire", job.fire},
            {"created_at", format_time(job.created_at)},
            {"started_at", time_json(job.started_at)},
            {"finished_at", time_json(job.finished_at)},
            {"waiting_for", text_or_null(job.waiting_for)},
            {"log_path",
             job.has_log ? json((view.log_dir / (job.id + ".log")).string()) : json(nullptr)},
            {"steps", steps_json(job.steps)},
            {"progress", progress_json(job.progress)},
            {"estimate", estimate_json(view.left)},
            {"result", job.result},
            {"warnings", job.warnings},
            {"error", error_json(job)}};
}

namespace {

json retention_of(const scheduler::Schedule& schedule) {
    json rules = json::object();
    for (const auto& [name, member] : scheduler::kKeepRules) {
        const int count = schedule.retention.*member;
        if (count > 0) rules[std::string(name)] = count;
    }
    return rules;
}

json refusal_of(const scheduler::Schedule& schedule) {
    if (!schedule.refusal) return nullptr;
    return {{"code", schedule.refusal->code},
            {"message", schedule.refusal->message},
            {"detail", schedule.refusal->detail},
            {"at", format_time(schedule.refusal->at)}};
}

std::vector<std::string> warnings_of(const scheduler::Schedules::Entry& entry, WallTime now) {
    const scheduler::Schedule& schedule = entry.schedule;
    std::vector<std::string> warnings;
    if (entry.expression) warnings = entry.expression->warnings(entry.zone, now);
    if (!entry.broken.empty()) warnings.push_back("it cannot fire: " + entry.broken);
    if (schedule.op == "snapshot" && !schedule.retention.let_go()) {
        warnings.emplace_back("no --keep rule is given: all its snapshots are kept");
    }
    if (schedule.refusal) {
        warnings.push_back("its last fire became no job: " + schedule.refusal->message);
    }
    return warnings;
}

}  // namespace

json schedule_json(const scheduler::Schedules::Entry& entry, WallTime now) {
    const scheduler::Schedule& schedule = entry.schedule;
    const bool skips = schedule.overlap == scheduler::Overlap::kSkip;
    return {{"name", schedule.name},
            {"cron", schedule.cron},
            {"tz", schedule.tz},
            {"description", entry.expression ? entry.expression->describe() : ""},
            {"op", schedule.op},
            {"target", schedule.target},
            {"parameters", schedule.parameters},
            {"retention", retention_of(schedule)},
            {"days", schedule.days ? json(*schedule.days) : json(nullptr)},
            {"overlap", skips ? "skip" : "queue"},
            {"catch_up", format_duration(schedule.catch_up)},
            {"paused", schedule.paused},
            {"pause_reason", schedule.paused ? json(schedule.pause_reason) : json(nullptr)},
            {"created_at", format_time(schedule.created_at)},
            {"last_fire", time_json(schedule.last_fire)},
            {"next_fire", time_json(schedule.next_fire)},
            {"last_job", text_or_null(schedule.last_job)},
            {"missed", schedule.missed},
            {"overlap_skipped", schedule.overlap_skipped},
            {"refusal", refusal_of(schedule)},
            {"warnings", warnings_of(entry, now)}};
}

}  // namespace bpg::http
