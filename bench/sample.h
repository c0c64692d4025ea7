// What one timed run took and which parts it was made of, and how many such runs are summed up.
#pragma once

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace bpg::bench {

using Steady = std::chrono::steady_clock;

struct Part {
    std::string name;
    double ms = 0;
};

/// Its parts follow one another without gaps: they add up to the total.
struct Sample {
    double total_ms = 0;
    std::vector<Part> parts;
};

double milliseconds_between(Steady::time_point from, Steady::time_point to);

/// Cuts a run into parts, each beginning where the last one ended.
class Laps {
  public:
    void lap(std::string name);
    Sample finish() const;

  private:
    Steady::time_point began_ = Steady::now();
    Steady::time_point last_ = began_;
    std::vector<Part> parts_;
};

struct Spread {
    double median = 0, q1 = 0, q3 = 0, min = 0, max = 0;
};

/// Quartiles between two values are interpolated. Of no values, all are 0.
Spread spread_of(std::vector<double> values);

/// By the name of the variant.
using Round = std::map<std::string, Sample>;

struct PairResult {
    std::string pair;
    std::string baseline;  ///< the variant that ratios are against
    std::int64_t database_bytes = 0;
    std::vector<Round> rounds;

    std::vector<std::string> variants() const;
    Spread totals(const std::string& variant) const;
    /// Of the variant to the baseline, or to another, in the same round each.
    Spread ratios(const std::string& variant) const { return ratios(variant, baseline); }
    Spread ratios(const std::string& variant, const std::string& to) const;
    /// Of the parts called `part`; a sample without it counts as 0.
    Spread part(const std::string& variant, const std::string& part) const;
    /// In the order they come in.
    std::vector<std::string> part_names(const std::string& variant) const;
    /// By the median ratio to the same work by hand. 0 is no limit; a copy of everything has no
    /// target.
    bool is_slower_than(double max_ratio) const;
};

nlohmann::json to_json(const Spread& spread);
nlohmann::json to_json(const PairResult& result);

/// Tables for people: the variants, and where the time of each goes.
std::string tables(const PairResult& result);

}  // namespace bpg::bench
