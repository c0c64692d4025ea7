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
#include <thread>

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

TEST(MonitoringFiles, NamesThatDoNotAgreeAreSaid) {
    Command command;
    command.argv = {"python3", (deploy_directory() / "grafana" / "panels.py").string(), "names",
                    "-"};
    command.input =
        "# TYPE bpg_new gauge\nbpg_new 1\n# TYPE bpg_jobs gauge\nbpg_jobs 1\n"
        "# TYPE bpg_wal_gaps gauge\n";
    const CommandResult result = run_command(command);
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_NE(result.err.find("bpg_new is exported, and neither used nor documented as raw\n"),
              std::string::npos)
        << result.err;
    EXPECT_NE(result.err.find("bpg_branches is used, and not exported\n"), std::string::npos);
    EXPECT_NE(result.err.find("bpg_wal_gaps is used, and not exported\n"), std::string::npos)
        << "a family without a series is not there";
    EXPECT_EQ(result.err.find("bpg_jobs is"), std::string::npos) << result.err;
}

TEST(MonitoringFiles, AnAddressWithoutAPrometheusIsSaidInWords) {
    Command command;
    command.argv = {"python3", (deploy_directory() / "grafana" / "panels.py").string(), "check",
                    "http://127.0.0.1:1"};
    const CommandResult result = run_command(command);
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_EQ(result.err,
              "panels.py: <urlopen error [Errno 111] Connection refused>\n"
              "  METRICS is a file, a URL or -; PROMETHEUS is the URL of one that runs: "
              "panels.py --help\n");
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
            const bool is_one =
                help.find(fmt::format("Usage: bpg {} ", words[0])) != std::string::npos &&
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

// ---- a busy daemon ------------------------------------------------------------------------------

/// A directory that lives in a branch's volume, or a file of it.
fs::path in_volume(TestHost& host, const std::string& ref, const std::string& path) {
    const std::string name = host.branch(ref).at("storage").at("name");
    return host.volumes() / name / "data" / path;
}

/// Without this file PostgreSQL does not start.
class WithoutControlFile {
  public:
    WithoutControlFile(TestHost& host, const std::string& ref)
        : file_(in_volume(host, ref, "global/pg_control")), aside_(file_.string() + ".aside") {
        fs::rename(file_, aside_);
    }
    ~WithoutControlFile() { put_back(); }
    WithoutControlFile(const WithoutControlFile&) = delete;
    WithoutControlFile& operator=(const WithoutControlFile&) = delete;
    void put_back() const {
        if (fs::exists(aside_)) fs::rename(aside_, file_);
    }

  private:
    fs::path file_;
    fs::path aside_;
};

/// A few WAL segments of a branch, finished.
void archive_wal(TestHost& host, const std::string& ref, int segments = 2) {
    const std::string url = host.url(ref);
    for (int count = 0; count < segments; ++count) {
        execute(url,
                "CREATE TABLE IF NOT EXISTS traffic (x int);"
                "INSERT INTO traffic SELECT generate_series(1, 1000)");
        query_value(url, "SELECT pg_switch_wal()");
    }
}

void make_schedule(TestHost& host, const std::string& name, const std::string& target,
                   const std::vector<std::string>& flags = {}) {
    std::vector<std::string> words{"schedule", "create",   name,       "--cron", "@every 1s",
                                   "--op",     "snapshot", "--target", target};
    words.insert(words.end(), flags.begin(), flags.end());
    host.bpg_json(words);
}

void failing_start(TestHost& host, const std::string& ref) {
    host.bpg_json({"stop", ref});
    {
        const WithoutControlFile broken(host, ref);
        EXPECT_NE(host.bpg({"start", ref}).exit_code, 0);
    }
    host.bpg_json({"start", ref});
}

class Monitoring : public HostSuite<Monitoring> {
  protected:
    void adapt(HostOptions& options) const override { options.trash_keep = "24h"; }

    /// Each operation once, and one that fails.
    static void run_each_operation() {
        database_with_items("shop", 2000);
        create("shop/dev");
        create("shop/test", {"--fast"});
        archive_wal(host(), "shop/main");
        host().bpg_json({"snapshot", "create", "shop/main"});
        archive_wal(host(), "shop/main", 1);
        const std::string then = query_value(host().url("shop/main"),
                                             "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC',"
                                             " 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
        create("shop/past", {"--pitr", then});
        host().bpg_json({"branch", "sync", "shop/dev"});
        host().bpg_json({"branch", "promote", "shop/test"});
        host().bpg_json({"password", "rotate", "shop/dev"});
        host().bpg_json({"restart", "shop/dev"});
        failing_start(host(), "shop/past");
        remove("shop/past");
        host().bpg_json({"branch", "undo-delete", "shop/past"});
        const Json spare = host().bpg_json({"snapshot", "create", "shop/dev"});
        host().bpg_json({"snapshot", "delete", spare.at("id")});
        archive_wal(host(), "shop/main");
        host().bpg_json({"snapshot", "create", "shop/main"});
        host().bpg_json({"wal", "cleanup", "shop/main", "--days", "1"});
        host().bpg_json({"db", "create", "passing"});
        remove_database("passing");
        host().bpg_json({"trash", "purge", "--all"});
        // Last, since its jobs are in the way of others'. The third fire prunes.
        make_schedule(host(), "often", "shop/main", {"--keep-last", "2"});
    }
};

TEST_P(Monitoring, EveryExpressionFindsSomethingAndNamesAgreeBothWays) {
    const Prometheus prometheus(host().ports().metrics());
    expect_promtool({"check", "config", prometheus.config_file().string()});
    run_each_operation();
    // Measured and recorded of all of it: volumes when nothing is running, WAL every 5 s.
    ASSERT_TRUE(eventually(
        [&] {
            return prometheus.ask("bpg_branch_used_bytes").size() >= 4 &&
                   !prometheus.ask("bpg:restorable_window_seconds > 0").empty() &&
                   !prometheus.ask("bpg:operation_failures:increase15m > 0").empty() &&
                   !prometheus.ask("bpg_schedule_last_fire_timestamp_seconds").empty();
        },
        60s));
    const std::string exposition = host().metrics();
    expect_panels({"names", "-"}, exposition);
    EXPECT_EQ(findings_of_promtool(exposition), "");
    fmt::print("{}", expect_panels({"check", prometheus.url()}));
    std::vector<std::string> table{"table", prometheus.url()};
    // The table of deploy/grafana/README.md is this one; written only when it is asked for.
    if (std::getenv("BPG_WRITE_PANELS") != nullptr) table.emplace_back("--write");
    expect_panels(table);
    EXPECT_EQ(prometheus.log(), "");
    host().bpg_json({"schedule", "delete", "often"});
    host().wait_until_idle();
}

TEST_P(Monitoring, AnInstanceThatRecoversIsDownAndOneThatWasStoppedIsNotExpected) {
    database("shop");
    host().bpg_json({"branch", "create", "shop/crashing", "--if-not-exists"});
    const Labels labels{{"database", "shop"}, {"branch", "crashing"}};
    const auto shown = [&](const std::string& metric) {
        return MetricsText(host().metrics()).sum(metric, labels);
    };
    EXPECT_EQ(shown("bpg_instance_up"), 1);
    EXPECT_EQ(shown("bpg_instance_expected"), 1);
    ASSERT_EQ(::kill(host().postmaster("shop/crashing").pid, SIGKILL), 0);
    // Its state is "running" all the time: it is started again at once.
    EXPECT_TRUE(eventually([&] { return shown("bpg_instance_up") == 0; }, 10s));
    EXPECT_EQ(shown("bpg_instance_expected"), 1);
    EXPECT_TRUE(eventually([&] { return shown("bpg_instance_up") == 1; }, 20s));
    host().bpg_json({"stop", "shop/crashing"});
    EXPECT_EQ(shown("bpg_instance_up"), 0);
    EXPECT_EQ(shown("bpg_instance_expected"), 0);
    remove("shop/crashing");
}

class Figures : public HostSuite<Figures> {
  protected:
    /// Without a trash everything that is there is a branch.
    void adapt(HostOptions& options) const override { options.trash_keep = "0s"; }

    static std::string labels_of(const Json& branch) {
        return fmt::format(R"({{database="{}",branch="{}"}})",
                           branch.at("database").get<std::string>(),
                           branch.at("name").get<std::string>());
    }
    static std::vector<Json> all(const std::vector<std::string>& words) {
        const Json list = host().bpg_json(words);
        return std::vector<Json>(list.at("items").begin(), list.at("items").end());
    }
    /// How many jobs of the history ended how: "branch-create succeeded" to 3.
    static std::map<std::string, double> ended_jobs() {
        std::map<std::string, double> counts;
        for (const Json& job : all({"job", "list", "--limit", "1000"})) {
            const std::string state = job.at("state");
            ++counts[job.at("operation").get<std::string>() + " " + state];
        }
        return counts;
    }
    static std::map<std::string, double> counted_jobs(const Prometheus& prometheus) {
        std::map<std::string, double> counts;
        for (const auto& sample : prometheus.ask("sum by (operation, outcome) "
                                                 "(bpg_operation_duration_seconds_count) > 0")) {
            counts[sample.labels.at("operation") + " " + sample.labels.at("outcome")] =
                sample.value;
        }
        return counts;
    }
    static void random_step(std::mt19937_64& random, int number) {
        std::vector<std::string> others;
        for (const Json& branch : all({"branch", "list", "shop"})) {
            if (branch.at("name") != "main") others.push_back(branch.at("ref"));
        }
        const std::uint64_t dice = random() % 7;
        const std::string some = others.empty() ? "" : others[random() % others.size()];
        if (dice <= 1 || others.empty()) {
            create(fmt::format("shop/b{}", number), dice == 0 && atomic()
                                                        ? std::vector<std::string>{"--fast"}
                                                        : std::vector<std::string>{});
        } else if (dice == 2) {
            host().bpg_json({"snapshot", "create", some});
        } else if (dice == 3) {
            host().bpg_json({"branch", "sync", some});
        } else if (dice == 4) {
            remove(some);
        } else if (dice == 5) {
            failing_start(host(), some);
        } else {
            execute(host().url(some),
                    fmt::format("CREATE TABLE IF NOT EXISTS more (x int, note text);"
                                "INSERT INTO more SELECT g, repeat('x', 500) FROM"
                                " generate_series(1, {}) g",
                                1000 + random() % 20000));
            archive_wal(host(), some, 1);
        }
    }
    /// {used, referenced} of a volume as the storage's own command says.
    static std::pair<double, double> measured(const std::string& volume) {
        if (host().on_zfs()) {
            const std::string name = host().dataset_base() + "/" + volume;
            std::istringstream lines(
                expect_ok({"zfs", "get", "-Hp", "-o", "value", "usedbydataset,referenced", name}));
            double used = 0;
            double referenced = 0;
            lines >> used >> referenced;
            return {used, referenced};
        }
        // A heading, then total, exclusive, shared and the path.
        std::istringstream lines(expect_ok(
            {"btrfs", "filesystem", "du", "-s", "--raw", (host().volumes() / volume).string()}));
        std::string heading;
        std::getline(lines, heading);
        double total = 0;
        double exclusive = 0;
        lines >> total >> exclusive;
        return {exclusive, total};
    }
    static void expect_bytes_as_measured(const Prometheus& prometheus, const Json& branch) {
        const std::string ref = branch.at("ref");
        SCOPED_TRACE(ref);
        const auto [used, referenced] = measured(branch.at("storage").at("name"));
        EXPECT_GT(referenced, 10e6);
        // btrfs counts whole blocks of small files that lie in the tree differently.
        const double slack = 1e6 + 0.02 * referenced;
        EXPECT_NEAR(prometheus.number("bpg_branch_used_bytes" + labels_of(branch)), used, slack);
        EXPECT_NEAR(prometheus.number("bpg_branch_referenced_bytes" + labels_of(branch)),
                    referenced, slack);
    }
    static void expect_wal_as_in_the_directory(const Prometheus& prometheus, const Json& branch) {
        const std::string ref = branch.at("ref");
        SCOPED_TRACE(ref);
        const Json archive = host().bpg_json({"wal", "info", ref}).at("items").at(0);
        double bytes = 0;
        double segments = 0;
        const std::string directory = archive.at("archive_path");
        if (fs::exists(directory)) {
            for (const auto& entry : fs::recursive_directory_iterator(directory)) {
                if (!entry.is_regular_file()) continue;
                bytes += static_cast<double>(entry.file_size());
                segments += entry.path().filename().string().size() > 24 ? 1 : 0;
            }
        }
        EXPECT_DOUBLE_EQ(prometheus.number("bpg_wal_archive_bytes" + labels_of(branch)), bytes)
            << directory << " holds " << segments << " files";
        EXPECT_EQ(prometheus.number("bpg_wal_gaps" + labels_of(branch)), 0);
        EXPECT_EQ(prometheus.number("bpg_wal_pending_segments" + labels_of(branch)), 0);
    }
    static void expect_counts_of_the_catalog(const Prometheus& prometheus) {
        const auto branches = all({"branch", "list"});
        std::map<std::string, double> states;
        double up = 0;
        for (const Json& branch : branches) {
            const std::string state = branch.at("state");
            ++states[state == "degraded" ? "running" : state];
            up += state == "running" || state == "degraded" ? 1 : 0;
        }
        for (const auto& [state, count] : states) {
            EXPECT_EQ(prometheus.number(fmt::format("bpg_branches{{state=\"{}\"}}", state)), count);
        }
        EXPECT_EQ(prometheus.number("sum(bpg_branches)"), branches.size());
        EXPECT_EQ(prometheus.number("sum(bpg_instance_up)"), up);
        EXPECT_EQ(prometheus.number("sum(bpg_snapshots)"), all({"snapshot", "list"}).size());
    }
};

TEST_P(Figures, AgreeWithTheMachineAfterARandomWorkload) {
    const std::uint64_t seed = bpg::test::seed();
    fmt::print("BPG_SEED={}\n", seed);
    SCOPED_TRACE(fmt::format("BPG_SEED={}", seed));
    std::mt19937_64 random(seed);
    const Prometheus prometheus(host().ports().metrics());
    database_with_items("shop", 2000);
    archive_wal(host(), "shop/main");
    for (int number = 0; number < (long_mode() ? 80 : 10); ++number)
        random_step(random, number);
    host().wait_until_idle();
    // One scrape later everything is counted.
    const bool agrees = eventually([&] { return counted_jobs(prometheus) == ended_jobs(); }, 10s);
    EXPECT_TRUE(agrees) << fmt::format("counted {}\nhistory {}", counted_jobs(prometheus),
                                       ended_jobs());
    EXPECT_GE(counted_jobs(prometheus).size(), 2U);
    // What is stopped does not change while it is measured; a new bpgd measures all anew.
    host().bpg_json({"stop", "shop"});
    host().wait_until_idle();
    ASSERT_EQ(host().stop_daemon(), 0);
    expect_ok({"sync"});
    host().start_daemon();
    const auto branches = all({"branch", "list"});
    const double begun = prometheus.number("vector(time())");
    ASSERT_TRUE(eventually(
        [&] {
            return prometheus
                           .ask(
                               "bpg_branch_used_bytes and on() process_start_time_seconds{job="
                               "\"bpgd\"} > " +
                               fmt::format("{:.3f}", begun - 30))
                           .size() == branches.size() &&
                   prometheus.ask("bpg_wal_archive_bytes").size() == branches.size() &&
                   prometheus.number("vector(time())") > begun + 8;
        },
        60s));
    for (const Json& branch : branches) {
        expect_bytes_as_measured(prometheus, branch);
        expect_wal_as_in_the_directory(prometheus, branch);
    }
    expect_counts_of_the_catalog(prometheus);
}

// ---- alerts that really fire, and end -----------------------------------------------------------

/// Everything that takes minutes or days takes seconds; what is asked for stays.
const Prometheus::Edits kInSeconds{
    {"for: 10m", "for: 1s"},
    {"for: 5m", "for: 1s"},
    {"for: 2m", "for: 1s"},
    {"for: 1m", "for: 1s"},
    {"[5m]", "[4s]"},
    {"[15m]", "[5s]"},
    {"[1h]", "[5s]"},
    {"[1d]", "[5s]"},
    {"offset 1d", "offset 5s"},
    {"26 * 3600", "6"},
    {"> 900", "> 2"},
    {"> 300", "> 2"},
    {"le=\"1\"", "le=\"0.025\""},
    {"increase1h >= 5", "increase1h >= 1"},
};

class Alerts : public HostSuite<Alerts> {
  protected:
    void SetUp() override {
        HostSuite::SetUp();
        if (!prometheus_)
            prometheus_ = std::make_unique<Prometheus>(host().ports().metrics(), kInSeconds);
        database("shop");
        host().bpg_json({"branch", "create", "shop/dev", "--if-not-exists"});
        host().bpg_json({"snapshot", "create", "shop/main"});
        host().wait_until_idle();
    }
    static void TearDownTestSuite() {
        prometheus_.reset();
        HostSuite::TearDownTestSuite();
    }
    void adapt(HostOptions& options) const override {
        options.extra_config = "jobs: { queued_max: 6 }\n";
    }

    static std::string firing() {
        std::string names;
        for (const auto& sample : prometheus_->ask(R"(ALERTS{alertstate="firing"})"))
            names += sample.labels.at("alertname") + " ";
        return names;
    }
    static void expect_quiet(const std::vector<std::string>& alerts) {
        for (const std::string& alert : alerts) {
            EXPECT_TRUE(eventually([&] { return !prometheus_->fires(alert); }, 40s))
                << alert << " fires still; all that do: " << firing();
        }
    }
    /// `while_waiting` keeps the condition true where it would pass.
    static void expect_firing(
        const std::vector<std::string>& alerts,
        const std::function<void()>& while_waiting = [] {}) {
        for (const std::string& alert : alerts) {
            const auto fires = [&] {
                if (prometheus_->fires(alert)) return true;
                while_waiting();
                return false;
            };
            EXPECT_TRUE(eventually(fires, 40s))
                << alert << " does not fire; those that do: " << firing();
        }
    }
    static fs::path archive_of(const std::string& ref) {
        return host()
            .bpg_json({"wal", "info", ref})
            .at("items")[0]
            .at("archive_path")
            .get<std::string>();
    }

    // Each makes conditions true, waits for their alerts, and ends both.
    static void fill_the_pool();
    static void lose_wal();
    static void keep_instances_from_running();

    static inline std::unique_ptr<Prometheus> prometheus_;
};

void Alerts::fill_the_pool() {
    expect_quiet({"PoolNearlyFull", "BranchCreateSlow", "SnapshotTooOld"});
    const fs::path ballast = host().volumes() / ".ballast";
    const fs::space_info space = fs::space(host().volumes());
    const std::uint64_t left = space.capacity / 100 * 9;
    expect_ok({"fallocate", "-l", std::to_string(space.available - left), ballast.string()});
    // The objective is 25 ms here, and nothing is that fast.
    create("shop/slow");
    remove("shop/slow");
    expect_firing({"BranchCreateSlow", "PoolNearlyFull", "SnapshotTooOld"});
    EXPECT_EQ(prometheus_->ask(R"(ALERTS{alertname="PoolNearlyFull",alertstate="firing"})").size(),
              2U)
        << "a warning, and critical";
    fs::remove(ballast);
    host().bpg_json({"snapshot", "create", "shop/main"});
    expect_quiet({"SnapshotTooOld", "PoolNearlyFull", "BranchCreateSlow"});
}

void Alerts::lose_wal() {
    archive_wal(host(), "shop/main", 4);
    expect_quiet({"WalGap", "WalArchiveStalled"});
    const fs::path archive = archive_of("shop/main");
    const auto has_four = [&] { return files_in(archive, ".zst").size() >= 4; };
    ASSERT_TRUE(eventually(has_four, 20s));
    std::vector<std::string> segments;
    for (const std::string& file : files_in(archive, ".zst")) {
        if (fs::path(file).filename().string().size() == 28) segments.push_back(file);
    }
    ASSERT_GE(segments.size(), 3U);
    const fs::path missing = segments[segments.size() - 2];
    const fs::path aside = host().base() / "aside.zst";
    fs::rename(missing, aside);
    // A directory of nobody's: PostgreSQL's user cannot put anything there.
    const fs::perms before = fs::status(archive).permissions();
    create("shop/other");
    archive_wal(host(), "shop/other");
    const fs::path closed = archive_of("shop/other");
    const std::string owner = expect_ok({"stat", "-c", "%u:%g", closed.string()});
    expect_ok({"chown", "0:0", closed.string()});
    fs::permissions(closed, fs::perms::owner_all);
    archive_wal(host(), "shop/other");
    expect_firing({"WalGap", "WalArchiveStalled"});
    fs::rename(aside, missing);
    expect_ok({"chown", owner.substr(0, owner.find('\n')), closed.string()});
    fs::permissions(closed, before);
    // PostgreSQL tries again within a minute, or when another segment is finished.
    archive_wal(host(), "shop/other", 1);
    expect_quiet({"WalGap", "WalArchiveStalled"});
    remove("shop/other");
}

void Alerts::keep_instances_from_running() {
    expect_quiet({"InstanceDown", "OperationErrors", "ScheduleMissed"});
    create("shop/fleeting");
    make_schedule(host(), "orphan", "shop/fleeting");
    EXPECT_TRUE(
        eventually([&] { return !prometheus_->ask("bpg_schedule_missed_total").empty(); }, 10s));
    host().bpg_json({"schedule", "pause", "orphan"});
    host().wait_until_idle();
    remove("shop/fleeting");
    host().bpg_json({"stop", "shop/dev"});
    expect_quiet({"InstanceDown"});
    host().bpg_json({"start", "shop/dev"});
    host().bpg_json({"schedule", "resume", "orphan"});
    const WithoutControlFile broken(host(), "shop/dev");
    ASSERT_EQ(::kill(host().postmaster("shop/dev").pid, SIGKILL), 0);
    expect_firing({"InstanceDown", "OperationErrors", "ScheduleMissed"});
    host().bpg_json({"schedule", "delete", "orphan"});
    broken.put_back();
    host().wait_until_idle();
    host().bpg({"start", "shop/dev"});
    expect_quiet({"InstanceDown", "ScheduleMissed", "OperationErrors"});
}

/// They do not get into one another's way, and waiting is most of it.
TEST_P(Alerts, OfStorageWalInstancesAndSchedulesFireAndEnd) {
    at_once(3, [](std::size_t caller) {
        if (caller == 0) fill_the_pool();
        if (caller == 1) lose_wal();
        if (caller == 2) keep_instances_from_running();
    });
}

TEST_P(Alerts, OfTheQueueFireWhenNothingIsStarted) {
    make_schedule(host(), "waits", "shop/dev");
    expect_quiet({"QueueStuck", "ScheduleLate"});
    host().bpg_json({"job", "pause", "--database", "shop", "--reason", "a test"});
    // The queue is full: fires are put off until there is room.
    for (int count = 0; count < 6; ++count)
        host().bpg({"--no-wait", "snapshot", "create", "shop/main"});
    expect_firing({"QueueStuck", "ScheduleLate"});
    host().bpg_json({"job", "resume", "--database", "shop"});
    expect_quiet({"QueueStuck", "ScheduleLate"});
    host().bpg_json({"schedule", "delete", "waits"});
}

TEST_P(Alerts, OfASlowMachineFireWhenBpgdGetsNoProcessor) {
    expect_quiet({"EventLoopLag", "StoreCommitSlow"});
    // Held up again and again, far longer than the loop's clock waits between two looks, which is
    // no lateness; and where there is always something to write, sooner or later within a write.
    expect_firing({"EventLoopLag", "StoreCommitSlow"}, [] {
        const auto write = [](const std::stop_token& stop) {
            while (!stop.stop_requested()) {
                host().bpg({"branch", "protect", "shop/main"});
                host().bpg({"branch", "unprotect", "shop/main"});
            }
        };
        const std::jthread one(write);
        const std::jthread another(write);
        for (int count = 0; count < 16; ++count) {
            ::kill(host().daemon_pid(), SIGSTOP);
            std::this_thread::sleep_for(250ms);
            ::kill(host().daemon_pid(), SIGCONT);
            std::this_thread::sleep_for(std::chrono::microseconds(500 + 250 * count));
        }
    });
    expect_quiet({"EventLoopLag", "StoreCommitSlow"});
}

TEST_P(Alerts, OfTheDaemonFireWhenItEndsAndWhenAJobIsStuck) {
    expect_quiet({"BpgdDown", "JobsStuck"});
    const std::string point = "branch-create.clone_volume.before_run";
    ASSERT_EQ(host().stop_daemon(), 0);
    expect_firing({"BpgdDown"});
    host().start_daemon({"--crash-at", point});
    const std::string id =
        host().bpg_json({"--no-wait", "branch", "create", "shop/unlucky"}).at("id");
    ASSERT_TRUE(host().wait_for_daemon_end(60s).has_value());
    for (int count = 0; count < 2; ++count) {
        host().spawn_daemon({"--crash-at", point});
        ASSERT_TRUE(host().wait_for_daemon_end(60s).has_value());
    }
    host().start_daemon();
    expect_quiet({"BpgdDown"});
    expect_firing({"JobsStuck"});
    host().bpg_json({"job", "retry", id});
    expect_quiet({"JobsStuck"});
    remove("shop/unlucky");
}

INSTANTIATE_TEST_SUITE_P(Btrfs, Alerts, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Btrfs, Monitoring, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Btrfs, Figures, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Zfs, Figures, ::testing::Values(DriverPair{"zfs", "process"}), pair_name);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Figures);

}  // namespace
}  // namespace bpg::test
