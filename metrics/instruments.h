// Every number bpgd shows, in one place, each with its help sentence (spec section 7). Counters and
// histograms are fed where things happen; gauges are set just before a scrape by whoever knows
// them. Used on the loop thread, except store_commit(), which the store's writer thread calls; the
// underlying library is thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace bpg::metrics {

/// A gauge's value with its label values, in the order of its label names.
struct Sample {
    std::vector<std::string> labels;
    double value = 0;
};

class Instruments {
  public:
    Instruments();
    ~Instruments();
    Instruments(const Instruments&) = delete;
    Instruments& operator=(const Instruments&) = delete;

    /// Makes the counters and histograms of an operation exist at zero.
    void declare_operation(const std::string& operation, const std::vector<std::string>& modes,
                           const std::vector<std::string>& steps);

    void operation_finished(const std::string& operation, const std::string& mode,
                            const std::string& outcome, double seconds);
    void step_finished(const std::string& operation, const std::string& step, double seconds);
    void attempt_finished(const std::string& operation, const std::string& outcome);
    void job_resumed(const std::string& operation);
    void store_commit(double seconds);
    void loop_lag(double seconds);
    void http_request(const std::string& route, const std::string& method, int code,
                      double seconds);

    /// Replaces all series of a gauge (by its name below) with these; a series not given vanishes.
    /// Known gauges: bpg_jobs{state}, bpg_queue_oldest_age_seconds, bpg_branches{state},
    /// bpg_instance_up{database,branch}, bpg_instance_expected{database,branch},
    /// bpg_branch_used_bytes{database,branch},
    /// bpg_branch_referenced_bytes{database,branch}, bpg_snapshots{database},
    /// bpg_pool_size_bytes{pool}, bpg_pool_free_bytes{pool}, and with {database,branch}:
    /// bpg_wal_archive_bytes, bpg_wal_pending_segments, bpg_wal_gaps,
    /// bpg_wal_last_archived_timestamp_seconds, bpg_restorable_from_timestamp_seconds,
    /// bpg_restorable_to_timestamp_seconds, bpg_snapshot_last_success_timestamp_seconds; with
    /// {schedule}: bpg_schedule_last_fire_timestamp_seconds,
    /// bpg_schedule_next_fire_timestamp_seconds.
    void set_gauge(const std::string& name, const std::vector<Sample>& samples);

    /// The same for what is counted elsewhere and only grows; less than before is a new beginning.
    /// Known: bpg_wal_archived_segments_total{database,branch},
    /// bpg_schedule_missed_total{schedule}, bpg_schedule_overlap_skipped_total{schedule}.
    void set_counter(const std::string& name, const std::vector<Sample>& samples);

    /// Called at the start of every scrape, to set the gauges.
    void before_scrape(std::function<void()> refresh);

    /// The first half of a scrape: asks for the gauges. Loop thread; does not block.
    void refresh();
    /// The other half, which takes long with many series: what there is, in the text exposition
    /// format, version 0.0.4. Any thread.
    std::string text() const;
    /// Both, where nobody waits for the loop.
    std::string exposition() {
        refresh();
        return text();
    }

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace bpg::metrics
