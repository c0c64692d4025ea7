// What deploy/ has for Prometheus and Grafana, with a real Prometheus on a busy bpgd: the rules and
// their tests pass promtool, every expression of a panel or rule finds something, names agree with
// what is exported both ways, and the figures with the machine.
#include "tests/harness/prometheus.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <random>
#include <regex>
#include <set>
#include <sstream>

#include "orchestrator/base/subprocess.h"
#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

namespace fs = std::filesystem;

std::string text_of(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

std::vector<std::string> files_in(const fs::path& directory, const std::string& ending) {
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator(directory)) {
        if (entry.path().string().ends_with(ending)) found.insert(entry.path().string());
    }
    return {found.begin(), found.end()};
}

/// Runs a program to its end; its output.
std::string expect_ok(const std::vector<std::string>& argv, const std::string& input = "") {
    Command command;
    command.argv = argv;
    command.input = input;
    const CommandResult result = run_command(command);
    EXPECT_TRUE(result.ok()) << fmt::format("{}", fmt::join(argv, " ")) << "\n"
                             << result.out << result.err;
    return result.out + result.err;
}

std::string expect_promtool(const std::vector<std::string>& words,
                            const std::vector<std::string>& files = {}) {
    std::vector<std::string> argv{"promtool"};
    argv.insert(argv.end(), words.begin(), words.end());
    argv.insert(argv.end(), files.begin(), files.end());
    return expect_ok(argv);
}

std::string expect_panels(const std::vector<std::string>& words, const std::string& input = "") {
    std::vector<std::string> argv{"python3",
                                  (deploy_directory() / "grafana" / "panels.py").string()};
    argv.insert(argv.end(), words.begin(), words.end());
    return expect_ok(argv, input);
}

// ---- without a daemon ---------------------------------------------------------------------------

TEST(MonitoringFiles, RulesTheirTestsAndTheConfigurationPassPromtool) {
    const fs::path prometheus = deploy_directory() / "prometheus";
    const auto rules = files_in(prometheus, ".rules.yml");
    const auto tests = files_in(prometheus / "tests", ".test.yml");
    ASSERT_GE(rules.size(), 2U);
    ASSERT_GE(tests.size(), 3U);
    expect_promtool({"check", "config", (prometheus / "prometheus.yml").string()});
    expect_promtool({"check", "rules", "--lint=all", "--lint-fatal"}, rules);
    expect_promtool({"test", "rules"}, tests);
}

TEST(MonitoringFiles, EveryAlertAndEveryRecordingRuleHasATest) {
    const fs::path prometheus = deploy_directory() / "prometheus";
    std::string tests;
    for (const std::string& file : files_in(prometheus / "tests", ".test.yml"))
        tests += text_of(file);
    const std::regex head(R"(- (record|alert): (\S+))");
    for (const std::string& file : files_in(prometheus, ".rules.yml")) {
        const std::string rules = text_of(file);
        for (std::sregex_iterator at(rules.begin(), rules.end(), head), end; at != end; ++at) {
            const std::string name = (*at)[2];
            if ((*at)[1] == "record") {
                EXPECT_NE(tests.find(name), std::string::npos) << name << " is not tested";
                continue;
            }
            const std::regex fires("alertname: " + name + R"(\s+exp_alerts:\s+- )");
            EXPECT_TRUE(std::regex_search(tests, fires)) << name << " never fires in a test";
            const std::regex quiet("alertname: " + name + R"(, exp_alerts: \[\])");
            EXPECT_TRUE(std::regex_search(tests, quiet)) << name << " is never quiet in a test";
        }
    }
}

TEST(MonitoringFiles, DashboardsAndRunbooksKeepTheConventions) {
    expect_panels({"lint"});
}

/// The lines of a runbook that an operator types.
std::vector<std::string> commands_in(const std::string& page) {
    std::vector<std::string> commands;
    std::istringstream lines(page);
    bool is_code = false;
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with("```")) is_code = !is_code;
        if (is_code && line.starts_with("bpg ")) commands.push_back(line.substr(4));
    }
    return commands;
}

/// Everything a command's help mentions, by the words that it begins with.
std::string help_of(const std::vector<std::string>& words) {
    std::vector<std::string> argv{(bin_dir() / "bpg").string()};
    argv.insert(argv.end(), words.begin(), words.end());
    argv.emplace_back("--help");
    return expect_ok(argv);
}

TEST(MonitoringFiles, RunbooksNameCommandsAndFlagsThatExist) {
    std::size_t seen = 0;
    for (const std::string& file :
         files_in(deploy_directory() / "prometheus" / "runbooks", ".md")) {
        for (const std::string& command : commands_in(text_of(file))) {
            SCOPED_TRACE(file + ": bpg " + command);
            ++seen;
            std::istringstream split(command);
            const std::vector<std::string> words{std::istream_iterator<std::string>(split), {}};
            // A command is one word or two: what one word leaves open has subcommands.
            const std::vector<std::string> two(words.begin(),
                                               words.begin() + std::min<int>(2, words.size()));
            const std::string help = help_of(two);
            const bool is_one = help.find(fmt::format("Usage: bpg {} ", words[0])) != std::string::npos &&
                                help.find("[SUBCOMMAND]") == std::string::npos;
            const bool is_two =
                help.find(fmt::format("Usage: bpg {} ", fmt::join(two, " "))) != std::string::npos;
            EXPECT_TRUE(is_one || is_two) << help;
            for (const std::string& word : words) {
                if (!word.starts_with("--")) continue;
                EXPECT_NE(help.find(word), std::string::npos) << word << " is not in\n" << help;
            }
        }
    }
    EXPECT_GE(seen, 40U);
}

}  // namespace
}  // namespace bpg::test
