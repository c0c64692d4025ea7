#include "bench/sample.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

namespace bpg::bench {
namespace {

using nlohmann::json;

/// Shown in this order; what was not run is left out.
constexpr std::array kVariants = {
    std::pair{"ours", "bpg branch create"},
    std::pair{"ours_scraped", "bpg branch create, metrics read meanwhile"},
    std::pair{"ours_fast", "bpg branch create --fast"},
    std::pair{"raw", "raw: checkpoint only"},
    std::pair{"raw_backup", "raw: backup mode"},
    std::pair{"raw_backup_beside", "raw: backup mode, stop beside the start"},
    std::pair{"raw_same", "raw: the same, own timeline and password"},
};

std::string title_of(const std::string& variant) {
    for (const auto& [name, title] : kVariants) {
        if (variant == name) return title;
    }
    return variant;
}

double quantile(const std::vector<double>& sorted, double share) {
    const double place = share * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<std::size_t>(std::floor(place));
    const std::size_t above = std::min(below + 1, sorted.size() - 1);
    return sorted[below] + (place - std::floor(place)) * (sorted[above] - sorted[below]);
}

double total_of(const std::vector<Part>& parts, const std::string& name) {
    double sum = 0;
    for (const Part& part : parts)
        sum += part.name == name ? part.ms : 0;
    return sum;
}

/// One column a variant, one row a part.
std::string part_table(const PairResult& result, const std::vector<std::string>& variants) {
    std::vector<std::string> names;
    for (const std::string& variant : variants) {
        for (const std::string& name : result.part_names(variant)) {
            if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
        }
    }
    std::string text = fmt::format("  {:<26}", "where the time goes, ms");
    for (const std::string& variant : variants)
        text += fmt::format("{:>18}", variant);
    text += '\n';
    std::vector<double> sums(variants.size(), 0);
    for (const std::string& name : names) {
        text += fmt::format("    {:<24}", name);
        for (std::size_t i = 0; i < variants.size(); ++i) {
            const double median = result.part(variants[i], name).median;
            sums[i] += median;
            text += fmt::format("{:>18.1f}", median);
        }
        text += '\n';
    }
    // The median of sums is not the sum of medians.
    text += fmt::format("    {:<24}", "(rest of the median)");
    for (std::size_t i = 0; i < variants.size(); ++i)
        text += fmt::format("{:>18.1f}", result.totals(variants[i]).median - sums[i]);
    text += fmt::format("\n    {:<24}", "total");
    for (const std::string& variant : variants)
        text += fmt::format("{:>18.1f}", result.totals(variant).median);
    return text + '\n';
}

}  // namespace

double milliseconds_between(Steady::time_point from, Steady::time_point to) {
    return std::chrono::duration<double, std::milli>(to - from).count();
}

void Laps::lap(std::string name) {
    const auto now = Steady::now();
    parts_.push_back({std::move(name), milliseconds_between(last_, now)});
    last_ = now;
}

Sample Laps::finish() const {
    return {milliseconds_between(began_, last_), parts_};
}

Spread spread_of(std::vector<double> values) {
    if (values.empty()) return {};
    std::sort(values.begin(), values.end());
    return {quantile(values, 0.5), quantile(values, 0.25), quantile(values, 0.75), values.front(),
            values.back()};
}

std::vector<std::string> PairResult::variants() const {
    std::vector<std::string> found;
    for (const auto& [name, title] : kVariants) {
        if (!rounds.empty() && rounds.front().contains(name)) found.emplace_back(name);
    }
    return found;
}

Spread PairResult::totals(const std::string& variant) const {
    std::vector<double> values;
    values.reserve(rounds.size());
    for (const Round& round : rounds)
        values.push_back(round.at(variant).total_ms);
    return spread_of(std::move(values));
}

Spread PairResult::ratios(const std::string& variant, const std::string& to) const {
    std::vector<double> values;
    values.reserve(rounds.size());
    for (const Round& round : rounds)
        values.push_back(round.at(variant).total_ms / round.at(to).total_ms);
    return spread_of(std::move(values));
}

Spread PairResult::part(const std::string& variant, const std::string& part) const {
    std::vector<double> values;
    values.reserve(rounds.size());
    for (const Round& round : rounds)
        values.push_back(total_of(round.at(variant).parts, part));
    return spread_of(std::move(values));
}

std::vector<std::string> PairResult::part_names(const std::string& variant) const {
    std::vector<std::string> names;
    for (const Round& round : rounds) {
        for (const Part& part : round.at(variant).parts) {
            if (std::find(names.begin(), names.end(), part.name) == names.end()) {
                names.push_back(part.name);
            }
        }
    }
    return names;
}

bool PairResult::is_slower_than(double max_ratio) const {
    return max_ratio > 0 && baseline == "raw" && ratios("ours", "raw_same").median > max_ratio;
}

json to_json(const Spread& spread) {
    return {{"median", spread.median},
            {"q1", spread.q1},
            {"q3", spread.q3},
            {"min", spread.min},
            {"max", spread.max}};
}

json to_json(const PairResult& result) {
    json rounds = json::array();
    for (const Round& round : result.rounds) {
        json samples = json::object();
        for (const auto& [variant, sample] : round) {
            json parts = json::array();
            for (const Part& part : sample.parts)
                parts.push_back({{"name", part.name}, {"ms", part.ms}});
            samples[variant] = {{"total_ms", sample.total_ms}, {"parts", parts}};
        }
        rounds.push_back(samples);
    }
    json summary = json::object();
    for (const std::string& variant : result.variants()) {
        summary[variant] = {{"total_ms", to_json(result.totals(variant))},
                            {"ratio", to_json(result.ratios(variant))}};
        if (result.rounds.front().contains("raw_same")) {
            summary[variant]["ratio_to_same"] = to_json(result.ratios(variant, "raw_same"));
        }
    }
    if (summary.contains("ours_scraped")) {
        summary["ours_scraped"]["ratio_to_ours"] = to_json(result.ratios("ours_scraped", "ours"));
    }
    return {{"pair", result.pair},
            {"baseline", result.baseline},
            {"database_bytes", result.database_bytes},
            {"summary", summary},
            {"rounds", rounds}};
}

std::string tables(const PairResult& result) {
    std::string text = fmt::format("{}: {} rounds, database of {} MB\n", result.pair,
                                   result.rounds.size(), result.database_bytes / 1'000'000);
    text += fmt::format("  {:<43}{:>9}{:>17}{:>17}   times {}\n", "ms", "median", "quartiles",
                        "min-max", result.baseline);
    std::vector<std::string> ours;
    std::vector<std::string> raw;
    for (const std::string& variant : result.variants()) {
        const Spread total = result.totals(variant);
        const Spread ratio = result.ratios(variant);
        text += fmt::format(
            "  {:<43}{:>9.1f}{:>17}{:>17}   {:.2f} ({:.2f}-{:.2f})\n", title_of(variant),
            total.median, fmt::format("{:.1f}-{:.1f}", total.q1, total.q3),
            fmt::format("{:.1f}-{:.1f}", total.min, total.max), ratio.median, ratio.q1, ratio.q3);
        (variant.starts_with("ours") ? ours : raw).push_back(variant);
    }
    if (!raw.empty() && raw.back() == "raw_same") {
        const Spread ratio = result.ratios("ours", "raw_same");
        text += fmt::format("  bpg branch create is {:.2f} ({:.2f}-{:.2f}) times raw_same\n",
                            ratio.median, ratio.q1, ratio.q3);
    }
    if (std::find(ours.begin(), ours.end(), "ours_scraped") != ours.end()) {
        const Spread ratio = result.ratios("ours_scraped", "ours");
        text +=
            fmt::format("  while the metrics are read it is {:.2f} ({:.2f}-{:.2f}) times that\n",
                        ratio.median, ratio.q1, ratio.q3);
    }
    return text + part_table(result, ours) + part_table(result, raw);
}

}  // namespace bpg::bench
