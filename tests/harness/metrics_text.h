// What bpgd's /metrics says, as numbers: series by name and labels, and histograms between two
// readings. Also what the process itself holds, by what it is, as only the outside can tell.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace bpg::test {

using Labels = std::map<std::string, std::string>;

/// One scrape in the Prometheus text format.
class MetricsText {
  public:
    /// Throws on a line that is neither a comment nor a series.
    explicit MetricsText(const std::string& exposition);

    /// The sum of all series of that name which carry at least these labels. Throws when there is
    /// no series of that name at all: it is misspelt.
    double sum(const std::string& name, const Labels& labels = {}) const;
    /// Samples of a histogram up to each bound, the infinite one last: cumulative, as exposed.
    std::map<double, double> buckets(const std::string& histogram, const Labels& labels = {}) const;

  private:
    struct Series {
        std::string name;
        Labels labels;
        double value = 0;
    };
    std::vector<Series> series_;
};

/// The samples that a histogram took between two scrapes.
class HistogramGrowth {
  public:
    HistogramGrowth(const MetricsText& before, const MetricsText& after,
                    const std::string& histogram, const Labels& labels = {});

    double count() const;
    /// How many were above `bound`, which must be one of the buckets' bounds.
    double above(double bound) const;
    /// "<=0.0005: 812, <=0.001: 3", without the empty ones; not cumulative.
    std::string text() const;

  private:
    std::map<double, double> up_to_;
};

/// Memory and descriptors of a process.
struct Footprint {
    std::size_t resident_bytes = 0;
    std::size_t store_files = 0;  ///< descriptors of files below `store`
    /// Every other descriptor, what it points to, sorted; numbers of sockets and pipes left out.
    std::vector<std::string> descriptors;
};
Footprint footprint_of(pid_t pid, const std::filesystem::path& store);

/// What `promtool check metrics` finds in an exposition; "" when it finds nothing.
std::string findings_of_promtool(const std::string& exposition);

}  // namespace bpg::test
