// See metrics_text.h.
#include "tests/harness/metrics_text.h"

#include "orchestrator/base/subprocess.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <stdexcept>

namespace bpg::test {

namespace fs = std::filesystem;

namespace {

/// `name="value",name="value"`; our label values hold no quote and no backslash.
Labels parse_labels(const std::string& text) {
    Labels labels;
    for (std::size_t at = 0; at < text.size();) {
        const auto equals = text.find("=\"", at);
        const auto end = equals == std::string::npos ? equals : text.find('"', equals + 2);
        if (end == std::string::npos) throw std::runtime_error("labels expected: " + text);
        labels.emplace(text.substr(at, equals - at), text.substr(equals + 2, end - equals - 2));
        at = end + 1 < text.size() && text[end + 1] == ',' ? end + 2 : end + 1;
    }
    return labels;
}

bool has_all(const Labels& labels, const Labels& wanted) {
    return std::all_of(wanted.begin(), wanted.end(), [&labels](const auto& one) {
        const auto found = labels.find(one.first);
        return found != labels.end() && found->second == one.second;
    });
}

}  // namespace

MetricsText::MetricsText(const std::string& exposition) {
    std::istringstream lines(exposition);
    for (std::string line; std::getline(lines, line);) {
        if (line.empty() || line.starts_with('#')) continue;
        const auto space = line.rfind(' ');
        if (space == std::string::npos) throw std::runtime_error("a series expected: " + line);
        const std::string id = line.substr(0, space);
        const auto brace = id.find('{');
        Series series;
        series.name = id.substr(0, brace);
        if (brace != std::string::npos) {
            series.labels = parse_labels(id.substr(brace + 1, id.size() - brace - 2));
        }
        series.value = std::stod(line.substr(space + 1));
        series_.push_back(std::move(series));
    }
}

double MetricsText::sum(const std::string& name, const Labels& labels) const {
    double total = 0;
    bool is_known = false;
    for (const Series& series : series_) {
        if (series.name != name) continue;
        is_known = true;
        if (has_all(series.labels, labels)) total += series.value;
    }
    if (!is_known) throw std::runtime_error("there is no series " + name);
    return total;
}

std::map<double, double> MetricsText::buckets(const std::string& histogram,
                                              const Labels& labels) const {
    std::map<double, double> up_to;
    for (const Series& series : series_) {
        if (series.name != histogram + "_bucket" || !has_all(series.labels, labels)) continue;
        up_to[std::stod(series.labels.at("le"))] += series.value;
    }
    if (up_to.empty()) throw std::runtime_error("there is no histogram " + histogram);
    return up_to;
}

HistogramGrowth::HistogramGrowth(const MetricsText& before, const MetricsText& after,
                                 const std::string& histogram, const Labels& labels)
    : up_to_(after.buckets(histogram, labels)) {
    for (const auto& [bound, samples] : before.buckets(histogram, labels))
        up_to_.at(bound) -= samples;
}

double HistogramGrowth::count() const {
    return up_to_.at(std::numeric_limits<double>::infinity());
}

double HistogramGrowth::above(double bound) const {
    return count() - up_to_.at(bound);
}

std::string HistogramGrowth::text() const {
    std::string text;
    double below = 0;
    for (const auto& [bound, samples] : up_to_) {
        if (samples > below) {
            text += fmt::format("{}<={}: {}", text.empty() ? "" : ", ", bound, samples - below);
        }
        below = samples;
    }
    return text;
}

Footprint footprint_of(pid_t pid, const fs::path& store) {
    Footprint found;
    const std::string process = fmt::format("/proc/{}/", pid);
    std::size_t pages = 0;
    std::ifstream(process + "statm") >> pages >> found.resident_bytes;
    found.resident_bytes *= static_cast<std::size_t>(::getpagesize());
    for (const auto& entry : fs::directory_iterator(process + "fd")) {
        std::error_code closed_meanwhile;
        const std::string target = fs::read_symlink(entry.path(), closed_meanwhile).string();
        if (closed_meanwhile) continue;
        if (target.starts_with(store.string() + "/")) {
            ++found.store_files;
        } else {
            found.descriptors.push_back(target.substr(0, target.find(":[")));
        }
    }
    std::sort(found.descriptors.begin(), found.descriptors.end());
    return found;
}

std::string findings_of_promtool(const std::string& exposition) {
    Command promtool;
    promtool.argv = {"promtool", "check", "metrics"};
    promtool.input = exposition;
    const CommandResult checked = run_command(promtool);
    return checked.out + checked.err + (checked.ok() ? "" : checked.explain(promtool));
}

}  // namespace bpg::test
