// Catalog and queue records as the JSON objects that users see. Pure: everything comes from memory.
// Times are RFC 3339 in UTC, sizes bytes, and what is not known or not measured is null.
#pragma once

#include <chrono>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "jobs/job.h"
#include "orchestrator/catalog/catalog.h"
#include "scheduler/schedules.h"

namespace bpg::http {

/// postgresql://postgres@host:port/postgres, without a password.
std::string branch_url(const catalog::Branch& branch);

nlohmann::json database_json(const catalog::Catalog& catalog, const catalog::Database& database);
nlohmann::json branch_json(const catalog::Catalog& catalog, const catalog::Branch& branch);
/// The few members of a branch that the status has a row of.
nlohmann::json branch_summary_json(const catalog::Catalog& catalog, const catalog::Branch& branch);
nlohmann::json snapshot_json(const catalog::Catalog& catalog, const catalog::Snapshot& snapshot);
nlohmann::json trash_item_json(const catalog::Catalog& catalog, const catalog::TrashItem& item);
/// What a job's object tells beyond its record.
struct JobView {
    const std::filesystem::path& log_dir;
    std::optional<std::chrono::milliseconds> left;  ///< how long it may still take
};
/// `now`: what its warnings are about.
nlohmann::json schedule_json(const scheduler::Schedules::Entry& entry, WallTime now);
nlohmann::json job_json(const jobs::Job& job, const JobView& view);

}  // namespace bpg::http
