#include "metrics/instruments.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <stdexcept>

namespace bpg::metrics {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

const Buckets kOperationBuckets{.01, .025, .05, .1, .25, .5, .75, 1, 1.5, 2, 3, 5, 10, 30, 60};
const Buckets kStepBuckets{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2, 5, 30};
const Buckets kCommitBuckets{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .5, 1};
const Buckets kLagBuckets{.0005, .001, .0025, .005, .01, .025, .05, .1, .5, 1};
const Buckets kHttpBuckets{.001, .005, .01, .025, .05, .1, .25, .5, 1, 5};

struct GaugeSpec {
    const char* name;
    const char* help;
    std::vector<std::string> labels;
};

const std::vector<GaugeSpec>& gauge_specs() {
    static const std::vector<GaugeSpec> specs{
        {"bpg_jobs", "Open jobs by state.", {"state"}},
        {"bpg_queue_oldest_age_seconds", "Age of the oldest job that has not started.", {}},
        {"bpg_branches", "Branches by state.", {"state"}},
        {"bpg_instance_up", "1 while the branch's PostgreSQL runs.", {"database", "branch"}},
        {"bpg_branch_used_bytes",
         "Bytes that would come back if the branch went.",
         {"database", "branch"}},
        {"bpg_branch_referenced_bytes",
         "Bytes the branch points to, shared or not.",
         {"database", "branch"}},
        {"bpg_snapshots", "Snapshots by database.", {"database"}},
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

double resident_bytes() {
    std::FILE* file = std::fopen("/proc/self/statm", "re");
    if (file == nullptr) return 0;
    unsigned long total = 0;
    unsigned long resident = 0;
    const int fields = std::fscanf(file, "%lu %lu", &total, &resident);
    std::fclose(file);
    return fields == 2 ? static_cast<double>(resident) * static_cast<double>(getpagesize()) : 0;
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

    struct GaugeFamily {
        GaugeSpec spec;
        prometheus::Family<prometheus::Gauge>* family;
        std::map<std::vector<std::string>, prometheus::Gauge*> series;
    };
    std::map<std::string, GaugeFamily> gauges;
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
    for (const GaugeSpec& spec : gauge_specs()) {
        auto& family =
            prometheus::BuildGauge().Name(spec.name).Help(spec.help).Register(impl_->registry);
        impl_->gauges.emplace(spec.name, Impl::GaugeFamily{spec, &family, {}});
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
    std::map<std::vector<std::string>, prometheus::Gauge*> current;
    for (const Sample& sample : samples) {
        if (sample.labels.size() != gauge.spec.labels.size()) {
            throw std::logic_error("wrong number of labels for " + name);
        }
        prometheus::Labels labels;
        for (std::size_t i = 0; i < sample.labels.size(); ++i) {
            labels.emplace(gauge.spec.labels[i], sample.labels[i]);
        }
        prometheus::Gauge& series = gauge.family->Add(labels);
        series.Set(sample.value);
        current.emplace(sample.labels, &series);
    }
    for (const auto& [labels, series] : gauge.series) {
        if (!current.contains(labels)) gauge.family->Remove(series);
    }
    gauge.series = std::move(current);
}

void Instruments::before_scrape(std::function<void()> refresh) {
    impl_->refresh = std::move(refresh);
}

std::string Instruments::exposition() {
    if (impl_->refresh) impl_->refresh();
    set_gauge("process_resident_memory_bytes", {{{}, resident_bytes()}});
    set_gauge("process_open_fds", {{{}, open_descriptors()}});
    set_gauge("process_start_time_seconds", {{{}, impl_->started}});
    return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

}  // namespace bpg::metrics
