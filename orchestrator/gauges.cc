#include "orchestrator/gauges.h"

#include <algorithm>
#include <map>
#include <vector>

#include "scheduler/schedules.h"

namespace bpg {
namespace {

using metrics::Sample;

std::vector<Sample> samples_of(const std::map<std::string, double>& values) {
    std::vector<Sample> samples;
    for (const auto& [label, value] : values)
        samples.push_back({{label}, value});
    return samples;
}

}  // namespace

void Gauges::set(const storage::Space& space) {
    set_jobs();
    set_branches();
    set_snapshots();
    set_schedules();
    wal_watch_.set_gauges(metrics_, most_);
    metrics_.set_gauge("bpg_pool_size_bytes", {{{pool_}, static_cast<double>(space.size)}});
    metrics_.set_gauge("bpg_pool_free_bytes", {{{pool_}, static_cast<double>(space.free)}});
}

void Gauges::set_jobs() {
    std::map<std::string, double> jobs;
    double oldest = 0;
    for (const char* state : {"queued", "waiting", "running", "retrying", "undoing", "stuck"})
        jobs[state] = 0;
    for (const auto& [number, job] : queue_.open_jobs()) {
        ++jobs[std::string(jobs::to_string(job->state))];
        const std::chrono::duration<double> age = services_.clock.now() - job->created_at;
        if (!job->started_at) oldest = std::max(oldest, age.count());
    }
    metrics_.set_gauge("bpg_jobs", samples_of(jobs));
    metrics_.set_gauge("bpg_queue_oldest_age_seconds", {{{}, oldest}});
}

void Gauges::set_branches() {
    std::map<std::string, double> states;
    for (const char* state : {"creating", "running", "stopped", "failed", "deleting"})
        states[state] = 0;
    std::vector<Sample> up;
    std::vector<Sample> expected;
    std::vector<Sample> used;
    std::vector<Sample> referenced;
    for (const catalog::Branch* branch : services_.catalog.branches()) {
        ++states[std::string(catalog::to_string(branch->state))];
        const auto* database = services_.catalog.database_by_id(branch->database_id);
        if (database == nullptr || up.size() >= most_) continue;
        const std::vector<std::string> labels{database->name, branch->name};
        const bool is_running = branch->state == catalog::BranchState::kRunning;
        const bool is_up = is_running && !supervisor_.has_ended(branch->id);
        up.push_back({labels, is_up ? 1.0 : 0.0});
        const bool has_failed = branch->state == catalog::BranchState::kFailed;
        expected.push_back({labels, is_running || has_failed ? 1.0 : 0.0});
        if (const auto usage = services_.catalog.usage(branch->id)) {
            used.push_back({labels, static_cast<double>(usage->used)});
            referenced.push_back({labels, static_cast<double>(usage->referenced)});
        }
    }
    metrics_.set_gauge("bpg_branches", samples_of(states));
    metrics_.set_gauge("bpg_instance_up", up);
    metrics_.set_gauge("bpg_instance_expected", expected);
    metrics_.set_gauge("bpg_branch_used_bytes", used);
    metrics_.set_gauge("bpg_branch_referenced_bytes", referenced);
}

void Gauges::set_snapshots() {
    std::map<std::string, double> counts;
    for (const catalog::Database* database : services_.catalog.databases())
        counts[database->name] = 0;
    std::map<std::string, WallTime> newest;  // by branch id
    for (const auto& [id, snapshot] : services_.catalog.snapshots()) {
        const catalog::Branch* branch = services_.catalog.branch_by_id(snapshot.branch_id);
        if (branch == nullptr || !branch->is_visible()) continue;
        const auto* database = services_.catalog.database_by_id(branch->database_id);
        if (database != nullptr) ++counts[database->name];
        WallTime& time = newest[branch->id];
        time = std::max(time, snapshot.created_at);
    }
    std::vector<Sample> last;
    for (const auto& [id, time] : newest) {
        const catalog::Branch* branch = services_.catalog.branch_by_id(id);
        const auto* database = services_.catalog.database_by_id(branch->database_id);
        if (database == nullptr || last.size() >= most_) continue;
        last.push_back({{database->name, branch->name}, seconds_of(time)});
    }
    metrics_.set_gauge("bpg_snapshots", samples_of(counts));
    metrics_.set_gauge("bpg_snapshot_last_success_timestamp_seconds", last);
}

void Gauges::set_schedules() {
    std::vector<Sample> last;
    std::vector<Sample> next;
    std::vector<Sample> missed;
    std::vector<Sample> skipped;
    for (const auto& [name, entry] : services_.schedules.all()) {
        const scheduler::Schedule& schedule = entry.schedule;
        if (schedule.last_fire) last.push_back({{name}, seconds_of(*schedule.last_fire)});
        if (schedule.next_fire) next.push_back({{name}, seconds_of(*schedule.next_fire)});
        missed.push_back({{name}, static_cast<double>(schedule.missed)});
        skipped.push_back({{name}, static_cast<double>(schedule.overlap_skipped)});
    }
    metrics_.set_gauge("bpg_schedule_last_fire_timestamp_seconds", last);
    metrics_.set_gauge("bpg_schedule_next_fire_timestamp_seconds", next);
    metrics_.set_counter("bpg_schedule_missed_total", missed);
    metrics_.set_counter("bpg_schedule_overlap_skipped_total", skipped);
}

}  // namespace bpg
