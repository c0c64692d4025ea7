// A real Prometheus of a test's own: it runs the configuration and rules of deploy/prometheus from
// a copy, on loopback, once a second instead of every 15.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/harness/ports.h"
#include "tests/harness/scratch_directory.h"

namespace bpg::test {

/// deploy/ of the sources that the tests were built from.
std::filesystem::path deploy_directory();

struct PrometheusSample {
    std::map<std::string, std::string> labels;
    double value = 0;
};

class Prometheus {
  public:
    /// Text of the rules, and what stands there instead: shorter times. All occurrences; each must
    /// occur.
    using Edits = std::vector<std::pair<std::string, std::string>>;

    /// Starts it, scraping bpgd at 127.0.0.1:`target`, and waits until it has done so twice: what
    /// grows from here on is seen to grow. Throws with its log when that takes too long.
    explicit Prometheus(std::uint16_t target, const Edits& edits = {});
    ~Prometheus();
    Prometheus(const Prometheus&) = delete;
    Prometheus& operator=(const Prometheus&) = delete;

    std::string url() const;
    /// The configuration that it runs.
    std::filesystem::path config_file() const { return directory_.path() / "prometheus.yml"; }
    std::string log() const;

    /// An instant query: its samples, without those that are NaN. Throws when it is refused.
    std::vector<PrometheusSample> ask(const std::string& expression) const;
    /// The one sample of an expression; throws when there is none, or more.
    double number(const std::string& expression) const;
    bool fires(const std::string& alert) const;

  private:
    void write_config(std::uint16_t target, const Edits& edits) const;
    void start();
    void stop() noexcept;

    ScratchDirectory directory_{"prometheus"};
    PortSlot ports_;
    pid_t pid_ = -1;
};

}  // namespace bpg::test
