#include "metrics/instruments.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <unordered_map>

namespace bpg::metrics {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

const Buckets kOperationBuckets{.01, .025, .05, .1, .25, .5, .75, 1, 1.5, 2, 3, 5, 10, 30, 60};
const Buckets kStepBuckets{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2, 5, 30};
const Buckets kCommitBuckets{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .5, 1};
const Buckets kLagBuckets{.0005, .001, .0025, .005, .01, .025, .05, .1, .5, 1};
const Buckets kHttpBuckets{.001, .005, .01, .025, .05, .1, .25, .5, 1, 5};

/// Of a gauge, or of a counter that is counted elsewhere.
struct FamilySpec {
    const char* name;
    const char* help;
    std::vector<std::string> labels;
};

const std::vector<FamilySpec>& gauge_specs() {
    static const std::vector<FamilySpec> specs{
        {"bpg_jobs", "Open jobs by state.", {"state"}},
        {"bpg_queue_oldest_age_seconds", "Age of the oldest job that has not started.", {}},
        {"bpg_branches", "Branches by state.", {"state"}},
        {"bpg_instance_up", "1 while the branch's PostgreSQL runs.", {"database", "branch"}},
        {"bpg_instance_expected",
         "1 while the branch's PostgreSQL is meant to run: nobody stopped it.",
         {"database", "branch"}},
        {"bpg_branch_used_bytes",
         "Bytes that would come back if the branch went.",
         {"database", "branch"}},
        {"bpg_branch_referenced_bytes",
         "Bytes the branch points to, shared or not.",
         {"database", "branch"}},
        {"bpg_snapshots", "Snapshots by database.", {"database"}},
        {"bpg_snapshot_last_success_timestamp_seconds",
         "When the newest snapshot of the branch was taken.",
         {"database", "branch"}},
        {"bpg_schedule_last_fire_timestamp_seconds",
         "The time of the last fire of the schedule that became a job.",
         {"schedule"}},
        {"bpg_schedule_next_fire_timestamp_seconds",
         "When the schedule fires next; there is none while it is paused.",
         {"schedule"}},
        {"bpg_wal_archive_bytes",
         "Bytes of the branch's WAL archive, as stored.",
         {"database", "branch"}},
        {"bpg_wal_pending_segments",
         "WAL segments that wait to be archived.",
         {"database", "branch"}},
        {"bpg_wal_gaps",
         "Places where WAL is missing between archived segments.",
         {"database", "branch"}},
        {"bpg_wal_last_archived_timestamp_seconds",
         "When the newest file of the WAL archive was archived.",
         {"database", "branch"}},
        {"bpg_restorable_from_timestamp_seconds",
         "The earliest time the branch can be restored to.",
         {"database", "branch"}},
        {"bpg_restorable_to_timestamp_seconds",
         "The latest time the branch can be restored to.",
         {"database", "branch"}},
        {"bpg_pool_size_bytes", "Size of the storage pool.", {"pool"}},
        {"bpg_pool_free_bytes", "Free bytes in the storage pool.", {"pool"}},
        {"process_resident_memory_bytes", "Resident memory of bpgd.", {}},
        {"process_open_fds", "Open file descriptors of bpgd.", {}},
        {"process_start_time_seconds", "When bpgd started, seconds since the epoch.", {}},
    };
    return specs;
}

const std::vector<FamilySpec>& counter_specs() {
    static const std::vector<FamilySpec> specs{
        {"bpg_wal_archived_segments_total",
         "WAL segments that were archived since bpgd knows the branch.",
         {"database", "branch"}},
        {"bpg_schedule_missed_total",
         "Fires that ran neither on time nor late, since the schedule was made.",
         {"schedule"}},
        {"bpg_schedule_overlap_skipped_total",
         "Fires skipped because the job of the one before was open, since the schedule was made.",
         {"schedule"}},
        {"process_cpu_seconds_total", "Processor time that bpgd has used, user and system.", {}},
    };
    return specs;
}

/// Labels and values of a sample, in the order of the family's labels.
prometheus::Labels labels_of(const FamilySpec& spec, const Sample& sample) {
    if (sample.labels.size() != spec.labels.size()) {
        throw std::logic_error(std::string("wrong number of labels for ") + spec.name);
    }
    prometheus::Labels labels;
    for (std::size_t i = 0; i < sample.labels.size(); ++i)
        labels.emplace(spec.labels[i], sample.labels[i]);
    return labels;
}

struct HashOfLabels {
    std::size_t operator()(const std::vector<std::string>& labels) const {
        std::size_t hash = 0;
        for (const std::string& label : labels)
            hash = hash * 31 + std::hash<std::string>{}(label);
        return hash;
    }
};

/// The series of one family that exist now, by their label values. With a branch for each of
/// hundreds of series this is most of what a scrape costs the loop: one look at each, no copies.
template <class Metric>
struct Series {
    struct Entry {
        Metric* metric = nullptr;
        std::uint64_t round = 0;  ///< in which it was last given
    };
    FamilySpec spec;
    prometheus::Family<Metric>* family = nullptr;
    std::unordered_map<std::vector<std::string>, Entry, HashOfLabels> current;
    std::uint64_t round = 0;

    /// Those that are given now are all there are from end() on.
    void begin() { ++round; }
    Metric& at(const Sample& sample) {
        auto [found, is_new] = current.try_emplace(sample.labels);
        Entry& entry = found->second;
        if (is_new) entry.metric = &family->Add(labels_of(spec, sample));
        entry.round = round;
        return *entry.metric;
    }
    void end() {
        std::erase_if(current, [&](const auto& entry) {
            if (entry.second.round == round) return false;
            family->Remove(entry.second.metric);
            return true;
        });
    }
    Metric& anew(const Sample& sample) {
        family->Remove(&at(sample));
        current.erase(sample.labels);
        return at(sample);
    }
};

double resident_bytes() {
    std::FILE* file = std::fopen("/proc/self/statm", "re");
    if (file == nullptr) return 0;
    unsigned long total = 0;
    unsigned long resident = 0;
    const int fields = std::fscanf(file, "%lu %lu", &total, &resident);
    std::fclose(file);
    return fields == 2 ? static_cast<double>(resident) * static_cast<double>(getpagesize()) : 0;
}

double processor_seconds() {
    struct rusage used{};
    if (::getrusage(RUSAGE_SELF, &used) != 0) return 0;
    const auto seconds = [](const timeval& time) {
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
    };
    return seconds(used.ru_utime) + seconds(used.ru_stime);
}

double open_descriptors() {
    std::error_code error;
    double count = 0;
    for (std::filesystem::directory_iterator it("/proc/self/fd", error), end; it != end;
         it.increment(error)) {
        if (error) break;
        ++count;
    }
    return count;
}

}  // namespace

struct Instruments::Impl {
    prometheus::Registry registry;
    prometheus::Family<prometheus::Histogram>& operation =
        prometheus::BuildHistogram()
            .Name("bpg_operation_duration_seconds")
            .Help("Time from submission of a job to its end.")
            .Register(registry);
    prometheus::Family<prometheus::Histogram>& step = prometheus::BuildHistogram()
                                                          .Name("bpg_step_duration_seconds")
                                                          .Help("Time of one step of a job.")
                                                          .Register(registry);
    prometheus::Family<prometheus::Counter>& attempts =
        prometheus::BuildCounter()
            .Name("bpg_job_attempts_total")
            .Help("Attempts of jobs that ended, by outcome.")
            .Register(registry);
    prometheus::Family<prometheus::Counter>& resumes =
        prometheus::BuildCounter()
            .Name("bpg_job_resumes_total")
            .Help("Jobs that went on after a restart of bpgd.")
            .Register(registry);
    prometheus::Family<prometheus::Histogram>& http = prometheus::BuildHistogram()
                                                          .Name("bpg_http_request_duration_seconds")
                                                          .Help("Time to answer an HTTP request.")
                                                          .Register(registry);
    prometheus::Histogram& commit = prometheus::BuildHistogram()
                                        .Name("bpg_store_commit_seconds")
                                        .Help("Time of one synced write to the store.")
                                        .Register(registry)
                                        .Add({}, kCommitBuckets);
    prometheus::Histogram& lag = prometheus::BuildHistogram()
                                     .Name("bpg_event_loop_lag_seconds")
                                     .Help("How late the event loop ran a timer.")
                                     .Register(registry)
                                     .Add({}, kLagBuckets);

    std::map<std::string, Series<prometheus::Gauge>> gauges;
    std::map<std::string, Series<prometheus::Counter>> counters;
    std::function<void()> refresh;
    double started =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
};

Instruments::Instruments() : impl_(std::make_unique<Impl>()) {
    prometheus::BuildGauge()
        .Name("bpg_build_info")
        .Help("Version of bpgd; the value is always 1.")
        .Register(impl_->registry)
        .Add({{"version", BPG_VERSION}})
        .Set(1);
    for (const FamilySpec& spec : gauge_specs()) {
        auto& family =
            prometheus::BuildGauge().Name(spec.name).Help(spec.help).Register(impl_->registry);
        impl_->gauges.emplace(spec.name, Series<prometheus::Gauge>{spec, &family, {}});
    }
    for (const FamilySpec& spec : counter_specs()) {
        auto& family =
            prometheus::BuildCounter().Name(spec.name).Help(spec.help).Register(impl_->registry);
        impl_->counters.emplace(spec.name, Series<prometheus::Counter>{spec, &family, {}});
    }
}

Instruments::~Instruments() = default;

void Instruments::declare_operation(const std::string& operation,
                                    const std::vector<std::string>& modes,
                                    const std::vector<std::string>& steps) {
    for (const char* outcome : {"succeeded", "failed", "cancelled"}) {
        for (const std::string& mode : modes) {
            impl_->operation.Add({{"operation", operation}, {"mode", mode}, {"outcome", outcome}},
                                 kOperationBuckets);
        }
    }
    for (const char* outcome : {"succeeded", "failed", "cancelled", "retried", "stuck"}) {
        impl_->attempts.Add({{"operation", operation}, {"outcome", outcome}});
    }
    impl_->resumes.Add({{"operation", operation}});
    for (const std::string& step : steps) {
        impl_->step.Add({{"operation", operation}, {"step", step}}, kStepBuckets);
    }
}

void Instruments::operation_finished(const std::string& operation, const std::string& mode,
                                     const std::string& outcome, double seconds) {
    impl_->operation
        .Add({{"operation", operation}, {"mode", mode}, {"outcome", outcome}}, kOperationBuckets)
        .Observe(seconds);
}

void Instruments::step_finished(const std::string& operation, const std::string& step,
                                double seconds) {
    impl_->step.Add({{"operation", operation}, {"step", step}}, kStepBuckets).Observe(seconds);
}

void Instruments::attempt_finished(const std::string& operation, const std::string& outcome) {
    impl_->attempts.Add({{"operation", operation}, {"outcome", outcome}}).Increment();
}

void Instruments::job_resumed(const std::string& operation) {
    impl_->resumes.Add({{"operation", operation}}).Increment();
}

void Instruments::store_commit(double seconds) {
    impl_->commit.Observe(seconds);
}

void Instruments::loop_lag(double seconds) {
    impl_->lag.Observe(seconds);
}

void Instruments::http_request(const std::string& route, const std::string& method, int code,
                               double seconds) {
    impl_->http
        .Add({{"route", route}, {"method", method}, {"code", std::to_string(code)}}, kHttpBuckets)
        .Observe(seconds);
}

void Instruments::set_gauge(const std::string& name, const std::vector<Sample>& samples) {
    auto& gauge = impl_->gauges.at(name);
    gauge.begin();
    for (const Sample& sample : samples)
        gauge.at(sample).Set(sample.value);
    gauge.end();
}

void Instruments::set_counter(const std::string& name, const std::vector<Sample>& samples) {
    auto& counter = impl_->counters.at(name);
    counter.begin();
    for (const Sample& sample : samples) {
        prometheus::Counter* series = &counter.at(sample);
        if (series->Value() > sample.value) series = &counter.anew(sample);
        series->Increment(sample.value - series->Value());
    }
    counter.end();
}

void Instruments::before_scrape(std::function<void()> refresh) {
    impl_->refresh = std::move(refresh);
}

void Instruments::refresh() {
    if (impl_->refresh) impl_->refresh();
    set_gauge("process_resident_memory_bytes", {{{}, resident_bytes()}});
    set_counter("process_cpu_seconds_total", {{{}, processor_seconds()}});
    set_gauge("process_open_fds", {{{}, open_descriptors()}});
    set_gauge("process_start_time_seconds", {{{}, impl_->started}});
}

std::string Instruments::text() const {
    return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

}  // namespace bpg::metrics
