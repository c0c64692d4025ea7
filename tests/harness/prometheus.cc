// See prometheus.h.
#include "tests/harness/prometheus.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>

#include <cctype>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <stdexcept>

#include "orchestrator/base/subprocess.h"
#include "tests/harness/host.h"
#include "tests/harness/http.h"

namespace bpg::test {

namespace fs = std::filesystem;

namespace {

std::string slurp(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

/// How often `from` was there.
std::size_t replace_all(std::string& text, const std::string& from, const std::string& to) {
    std::size_t count = 0;
    for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
        text.replace(at, from.size(), to);
        ++count;
    }
    return count;
}

std::string percent_encoded(const std::string& text) {
    std::string encoded;
    for (const char byte : text) {
        const auto code = static_cast<unsigned char>(byte);
        if (std::isalnum(code) != 0) {
            encoded += byte;
        } else {
            encoded += fmt::format("%{:02X}", code);
        }
    }
    return encoded;
}

}  // namespace

fs::path deploy_directory() {
    return (fs::path(__FILE__).parent_path() / "../../deploy").lexically_normal();
}

Prometheus::Prometheus(std::uint16_t target, const Edits& edits) {
    write_config(target, edits);
    start();
}

Prometheus::~Prometheus() {
    stop();
}

void Prometheus::write_config(std::uint16_t target, const Edits& edits) const {
    std::set<std::string> unused;
    for (const auto& [from, to] : edits)
        unused.insert(from);
    for (const auto& entry : fs::directory_iterator(deploy_directory() / "prometheus")) {
        const std::string name = entry.path().filename();
        if (entry.path().extension() != ".yml") continue;
        std::string text = slurp(entry.path());
        if (name == "prometheus.yml") {
            const auto edited =
                replace_all(text, "_interval: 15s", "_interval: 1s") == 2 &&
                replace_all(text, "127.0.0.1:9732", fmt::format("127.0.0.1:{}", target)) == 1;
            if (!edited) throw std::runtime_error("prometheus.yml is not as expected:\n" + text);
        }
        for (const auto& [from, to] : edits) {
            if (replace_all(text, from, to) > 0) unused.erase(from);
        }
        std::ofstream(directory_.path() / name) << text;
    }
    if (!unused.empty()) throw std::runtime_error("no rule says: " + *unused.begin());
}

void Prometheus::start() {
    DetachedCommand command;
    command.argv = {"prometheus", "--config.file=" + config_file().string(),
                    "--storage.tsdb.path=" + (directory_.path() / "data").string(),
                    fmt::format("--web.listen-address=127.0.0.1:{}", ports_.first()),
                    "--log.level=warn"};
    command.log_path = directory_.path() / "prometheus.log";
    pid_ = spawn_detached(command);
    const bool is_ready = eventually(
        [this] {
            try {
                return !ask("count_over_time((up == 1)[1m:1s]) > 2").empty();
            } catch (const std::runtime_error&) {
                return false;
            }
        },
        20s);
    if (is_ready) return;
    const std::string said = log();
    stop();
    throw std::runtime_error("prometheus does not scrape bpgd:\n" + said);
}

void Prometheus::stop() noexcept {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGTERM);
    const auto ended = [this] { return ::waitpid(pid_, nullptr, WNOHANG) == pid_; };
    if (!eventually(ended, 10s)) {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    pid_ = -1;
}

std::string Prometheus::url() const {
    return fmt::format("http://127.0.0.1:{}", ports_.first());
}

std::string Prometheus::log() const {
    return slurp(directory_.path() / "prometheus.log");
}

std::vector<PrometheusSample> Prometheus::ask(const std::string& expression) const {
    const Json answer =
        Json::parse(http_get(ports_.first(), "/api/v1/query?query=" + percent_encoded(expression)));
    std::vector<PrometheusSample> samples;
    for (const Json& item : answer.at("data").at("result")) {
        PrometheusSample sample;
        item.at("metric").get_to(sample.labels);
        sample.value = std::stod(item.at("value").at(1).get<std::string>());
        if (!std::isnan(sample.value)) samples.push_back(std::move(sample));
    }
    return samples;
}

double Prometheus::number(const std::string& expression) const {
    const auto samples = ask(expression);
    if (samples.size() != 1) {
        throw std::runtime_error(fmt::format("{} has {} samples", expression, samples.size()));
    }
    return samples.front().value;
}

bool Prometheus::fires(const std::string& alert) const {
    return !ask(fmt::format(R"(ALERTS{{alertstate="firing",alertname="{}"}})", alert)).empty();
}

}  // namespace bpg::test
