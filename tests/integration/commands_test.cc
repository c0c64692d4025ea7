// Every command as a user types it: the JSON it prints, its exit codes, and what it says when it is
// used wrongly. A refusal has four parts: what failed, why, how to fix it, and a stable code.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <regex>

#include "orchestrator/base/subprocess.h"
#include "tests/harness/refusals.h"
#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

class Commands : public HostSuite<Commands> {
  protected:
    void SetUp() override {
        HostSuite::SetUp();
        database("shop");
    }
};

const std::regex kTime(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)");
const std::regex kLsn("[0-9A-F]{1,8}/[0-9A-F]{1,8}");

void expect_time(const Json& value) {
    ASSERT_TRUE(value.is_string()) << value.dump();
    EXPECT_TRUE(std::regex_match(value.get<std::string>(), kTime)) << value.dump();
}

void expect_branch_shape(const Json& branch) {
    expect_members(branch, {"id", "ref", "database", "name", "parent", "state", "host", "port",
                            "url", "created_at", "expires_at", "protected", "timeline",
                            "incarnation", "created_from", "storage", "last_job", "warnings"});
    expect_members(branch.at("incarnation"), {"id", "number"});
    expect_members(branch.at("storage"), {"driver", "name", "used_bytes", "referenced_bytes",
                                          "logical_bytes", "measured_at"});
    expect_time(branch.at("created_at"));
    EXPECT_TRUE(branch.at("warnings").is_array());
    EXPECT_TRUE(branch.at("port").is_number_integer());
    EXPECT_TRUE(branch.at("protected").is_boolean());
}

TEST_P(Commands, DatabaseHasTheShapeOfTheContract) {
    const Json database = host().bpg_json({"db", "get", "shop"});
    expect_members(database, {"id", "name", "image", "pg_version", "created_at", "branches"});
    EXPECT_EQ(database.at("name"), "shop");
    EXPECT_EQ(database.at("branches"), 1);
    EXPECT_TRUE(database.at("pg_version").get<std::string>().starts_with("15"));
    expect_time(database.at("created_at"));
    const Json list = host().bpg_json({"db", "list"});
    ASSERT_TRUE(list.at("items").is_array());
    EXPECT_EQ(list.at("items").at(0).at("name"), "shop");
}

TEST_P(Commands, NewDatabaseIsUtf8WithChecksumsInTheCLocale) {
    const std::string url = host().url("shop/main");
    EXPECT_EQ(query_value(url, "SHOW server_encoding"), "UTF8");
    EXPECT_EQ(query_value(url, "SHOW data_checksums"), "on");
    EXPECT_EQ(query_value(url, "SELECT datcollate FROM pg_database WHERE datname = 'postgres'"),
              "C.UTF-8");
    EXPECT_EQ(query_value(url, "SELECT current_user"), "postgres");
    EXPECT_EQ(query_value(url, "SHOW fsync"), "on");
}

TEST_P(Commands, BranchHasTheShapeOfTheContract) {
    const Json made = create("shop/shape");
    expect_branch_shape(made);
    const Json branch = host().branch("shop/shape");
    expect_branch_shape(branch);
    EXPECT_EQ(branch.at("ref"), "shop/shape");
    EXPECT_EQ(branch.at("database"), "shop");
    EXPECT_EQ(branch.at("name"), "shape");
    EXPECT_EQ(branch.at("parent"), "shop/main");
    EXPECT_EQ(branch.at("state"), "running");
    EXPECT_EQ(branch.at("host"), "127.0.0.1");
    EXPECT_EQ(branch.at("storage").at("driver"), GetParam().storage);
    EXPECT_EQ(branch.at("storage").at("name"), "shop-shape");
    EXPECT_TRUE(branch.at("expires_at").is_null());
    EXPECT_EQ(branch.at("incarnation").at("number"), 1);
    EXPECT_GE(branch.at("timeline"), 2);
    const Json& from = branch.at("created_from");
    expect_members(from, {"snapshot", "mode", "lsn", "at"});
    EXPECT_EQ(from.at("mode"), "safe");
    EXPECT_TRUE(std::regex_match(from.at("lsn").get<std::string>(), kLsn)) << from.dump();
    expect_time(from.at("at"));
    EXPECT_EQ(from.at("snapshot").is_null(), !atomic()) << from.dump();
    const std::string url = branch.at("url");
    EXPECT_EQ(url.find(password_of(host().url("shop/shape"))), std::string::npos)
        << "the password is in the branch object";
    remove("shop/shape");
}

TEST_P(Commands, BranchListHasMainFirstThenByName) {
    create("shop/zebra");
    create("shop/ant");
    std::vector<std::string> refs;
    const Json branch_list = host().bpg_json({"branch", "list", "shop"});
    for (const auto& branch : branch_list.at("items")) {
        expect_branch_shape(branch);
        refs.push_back(branch.at("ref"));
    }
    EXPECT_EQ(refs, (std::vector<std::string>{"shop/main", "shop/ant", "shop/zebra"}));
    const auto names = host().bpg({"-o", "name", "branch", "list", "shop"});
    EXPECT_EQ(names.out, "shop/main\nshop/ant\nshop/zebra\n") << names.text();
    const auto table = host().bpg({"branch", "list", "shop"});
    EXPECT_NE(table.out.find("shop/ant"), std::string::npos) << table.text();
    EXPECT_EQ(table.out.find('\033'), std::string::npos) << "colours without a terminal";
    remove("shop/zebra");
    remove("shop/ant");
}

TEST_P(Commands, JobTellsItsStepsAndResult) {
    const Json accepted = host().bpg_json({"--no-wait", "branch", "create", "shop/job"});
    const std::string id = accepted.at("id");
    const Json job = host().finished_job(id);
    expect_members(job, {"id", "operation", "target", "state", "attempt", "priority", "created_at",
                         "started_at", "finished_at", "waiting_for", "log_path", "steps",
                         "progress", "result", "warnings", "error"});
    EXPECT_EQ(job.at("operation"), "branch-create");
    EXPECT_EQ(job.at("target"), "shop/job");
    EXPECT_EQ(job.at("state"), "succeeded");
    EXPECT_EQ(job.at("attempt"), 1);
    EXPECT_TRUE(job.at("error").is_null());
    expect_time(job.at("finished_at"));
    ASSERT_GE(job.at("steps").size(), 3U);
    for (const auto& step : job.at("steps")) {
        expect_members(step, {"name", "purpose", "state", "started_at", "duration_ms"});
        EXPECT_FALSE(step.at("purpose").get<std::string>().empty()) << step.dump();
    }
    const Json jobs = host().bpg_json({"job", "list"});
    EXPECT_EQ(std::count_if(jobs.at("items").begin(), jobs.at("items").end(),
                            [&](const Json& one) { return one.at("id") == id; }),
              1);
    EXPECT_EQ(host().bpg_json({"job", "get", id.substr(0, id.size() - 1)}).at("id"), id)
        << "a unique prefix is accepted";
    remove("shop/job");
}

TEST_P(Commands, JobSubmitDoesWhatTheCommandDoes) {
    const Json job = host().bpg_json({"job", "submit", "branch-create", "--param",
                                      "target=shop/handed", "--param", "from=shop/main"});
    EXPECT_EQ(job.at("operation"), "branch-create");
    EXPECT_EQ(job.at("state"), "succeeded");
    EXPECT_EQ(host().branch("shop/handed").at("state"), "running");
    const Json stop = host().bpg_json({"job", "submit", "stop", "--param", "target=shop/handed"});
    EXPECT_EQ(stop.at("result").at("ref"), "shop/handed");
    EXPECT_EQ(host().branch("shop/handed").at("state"), "stopped");
    const std::vector<std::string> submit = {"job", "submit", "branch-delete", "--param",
                                             "target=shop/handed"};
    EXPECT_EQ(host().bpg_json(submit).at("state"), "succeeded");
    EXPECT_EQ(host().bpg_error(submit).code, "branch_not_found");
}

TEST_P(Commands, JobSubmitSaysWhatAnOperationTakes) {
    const auto refused = [](std::vector<std::string> words, const CliError& expected) {
        words.insert(words.begin(), {"job", "submit"});
        expect_refused(host(), words, expected);
    };
    refused({"sync"}, {2, "operation_unknown", "there is no operation \"sync\"",
                       "there are db-create, db-delete, branch-create, branch-sync, "
                       "branch-promote, branch-delete, undo-delete, snapshot, snapshot-delete, "
                       "start, stop, restart, wal-cleanup, prune, password-rotate, trash-purge",
                       "correct its name"});
    refused({"stop"}, {2, "parameter_missing", "stop needs the parameter target",
                       "it was not given", "add --param target=…"});
    refused({"stop", "--param", "target=shop/main", "--param", "fast=true"},
            {2, "parameter_unknown", "stop has no parameter fast", "it takes target, force",
             "parameters are the long flags of the command, without dashes"});
    refused({"stop", "--param", "target=shop/main", "--param", "force=maybe"},
            {2, "parameter_invalid", "the parameter force of stop has no valid value",
             "\"maybe\" is neither true nor false", "give force=true, or leave it out"});
    refused({"stop", "--param", "target"},
            {2, "usage", "\"target\" is no parameter", "a parameter has a name and a value",
             "write it like --param target=prod/dev"});
}

TEST_P(Commands, JobLogHasWhatProgramsSaid) {
    const Json job =
        host().bpg_json({"job", "submit", "branch-create", "--param", "target=shop/logged"});
    const std::string id = job.at("id");
    const CliResult log = host().bpg({"job", "tail", id, "--log"});
    ASSERT_TRUE(log.ok()) << log.text();
    EXPECT_NE(log.out.find("branch-create shop/logged succeeded"), std::string::npos) << log.out;
    EXPECT_NE(log.out.find("database system is ready to accept connections"), std::string::npos)
        << "what PostgreSQL said at its start is missing: " << log.out;
    EXPECT_EQ(host().bpg({"job", "tail", id, "--log", "-f"}).out, log.out);
    std::ifstream file(job.at("log_path").get<std::string>());
    EXPECT_EQ(std::string((std::istreambuf_iterator<char>(file)), {}), log.out);
    expect_refused(host(), {"job", "tail", id, "--log", "--from-event", "2"},
                   {2, "usage", "--log and --from-event do not go together",
                    "a log is lines of text, not events", "leave one of them out"});
    remove("shop/logged");
}

TEST_P(Commands, JobGetExplainsWhereTheJobStands) {
    const Json made = create("shop/told");
    const Json job = host().bpg_json({"job", "get", made.at("last_job")});
    const Json& explained = job.at("explanation");
    expect_members(explained, {"done", "step", "next", "held_by", "world"});
    EXPECT_EQ(explained.at("done").size(), job.at("steps").size());
    EXPECT_EQ(explained.at("next"), "nothing: it has ended");
    bool is_seen = false;
    for (const Json& line : explained.at("world")) {
        const std::string text = line;
        if (!text.starts_with("shop/told (running): volume ")) continue;
        is_seen = true;
        EXPECT_NE(text.find("is there, PostgreSQL runs as process"), std::string::npos) << text;
    }
    EXPECT_TRUE(is_seen) << explained.dump(2);
    remove("shop/told");
}

TEST_P(Commands, APausedDatabaseTakesJobsAndDoesNone) {
    const Json paused =
        host().bpg_json({"job", "pause", "--database", "shop", "--reason", "moving disks"});
    EXPECT_EQ(paused.at("reason"), "moving disks");
    const std::string id = host().bpg_json({"--no-wait", "branch", "create", "shop/calm"}).at("id");
    ASSERT_EQ(host().stop_daemon(), 0);
    host().start_daemon();  // a pause is durable
    const Json waiting = host().bpg_json({"job", "get", id});
    EXPECT_EQ(waiting.at("state"), "queued");
    EXPECT_EQ(waiting.at("waiting_for"), "database shop is paused: moving disks");
    const Json warnings = host().bpg_json({"status"}).at("warnings");
    EXPECT_NE(warnings.dump().find("database shop is paused"), std::string::npos)
        << warnings.dump();
    const CliResult resumed = host().bpg({"job", "resume", "--database", "shop"});
    EXPECT_EQ(resumed.out, "database shop goes on\n") << resumed.text();
    EXPECT_EQ(host().outcome(id), "succeeded");
    expect_refused(host(), {"job", "resume", "--database", "shop"},
                   {5, "not_paused", "database shop is not paused",
                    "nobody paused it, or it was resumed already", "there is nothing to do"});
    expect_refused(host(), {"job", "pause"},
                   {2, "usage", "it takes a lane or a database", "none was given",
                    "give --lane interactive|scheduled|housekeeping, or --database DB"});
    expect_refused(host(), {"job", "pause", "--lane", "fast"},
                   {2, "lane_unknown", "there is no lane \"fast\"",
                    "the lanes are interactive, scheduled and housekeeping", "correct its name"});
    remove("shop/calm");
}

TEST_P(Commands, StatusNamesDriversBranchesAndPorts) {
    const Json status = host().bpg_json({"status"});
    expect_members(status,
                   {"daemon", "storage", "runtime", "databases", "jobs", "schedules", "warnings"});
    expect_members(status.at("daemon"), {"version", "uptime_seconds"});
    expect_members(status.at("storage"), {"driver", "pool", "size_bytes", "free_bytes", "health"});
    EXPECT_EQ(status.at("storage").at("driver"), GetParam().storage);
    EXPECT_EQ(status.at("runtime").at("driver"), GetParam().runtime);
    expect_members(status.at("jobs"), {"queued", "running", "failed_24h"});
    const Json& branch = status.at("databases").at(0).at("branches").at(0);
    expect_members(
        branch, {"ref", "state", "host", "port", "url", "used_bytes", "created_at", "expires_at"});
    EXPECT_EQ(branch.at("ref"), "shop/main");
    const auto table = host().bpg({"status"});
    EXPECT_NE(table.out.find(std::to_string(branch.at("port").get<int>())), std::string::npos)
        << table.text();
}

TEST_P(Commands, StatusTellsHowFullThePoolIsAndWhatCouldBeBroughtBack) {
    const bool has_snapshots = GetParam().storage != "copy";
    const auto protection = [] {
        return host().bpg_json({"status"}).at("databases").at(0).at("protection");
    };
    // bpgd looks at WAL every few seconds.
    EXPECT_TRUE(eventually(
        [&] {
            const Json seen = protection();
            return seen.at(has_snapshots ? "restorable_from" : "gaps") != nullptr;
        },
        30s));
    const Json facts = protection();
    expect_members(facts, {"newest_snapshot_at", "restorable_from", "restorable_to", "gaps",
                           "last_archived_at", "pending_segments", "oldest_pending_at"});
    EXPECT_EQ(facts.at("newest_snapshot_at").is_string(), has_snapshots) << facts.dump();
    EXPECT_EQ(facts.at("gaps"), 0);
    const std::string text = host().bpg({"status"}).out;
    const std::regex pool(R"(storage: .*\[#*-*\] .* free of )");
    EXPECT_TRUE(std::regex_search(text, pool)) << text;
    const std::string restorable = R"(newest snapshot \S+ ago, restorable \S+ ago to )";
    const std::string nothing = "no snapshot, no time restorable";
    const std::regex line("shop: +" + (has_snapshots ? restorable : nothing));
    EXPECT_TRUE(std::regex_search(text, line)) << text;
}

TEST_P(Commands, UrlEnvAndPsqlReachTheBranch) {
    const std::string url = host().url("shop/main");
    EXPECT_EQ(host().bpg({"url", "shop/main"}).out, url + "\n");
    const auto without = host().bpg({"url", "shop/main", "--no-password"});
    EXPECT_EQ(without.out.find(password_of(url)), std::string::npos);
    EXPECT_EQ(without.out, with_password(url, "") + "\n");
    execute_alone(url, "CREATE DATABASE other");
    const std::string other = host().bpg_json({"url", "shop/main", "--dbname", "other"}).at("url");
    EXPECT_EQ(query_value(other, "SELECT current_database()"), "other");
    const Json environment = host().bpg_json({"env", "shop/main"});
    expect_members(environment, {"PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"});
    EXPECT_EQ(environment.at("PGPASSWORD"), password_of(url));
    const auto psql = host().bpg({"psql", "shop/main", "--", "-Atc", "SELECT 6 * 7"});
    EXPECT_EQ(psql.exit_code, 0) << psql.text();
    EXPECT_EQ(psql.out, "42\n");
    execute_alone(url, "DROP DATABASE other");
}

TEST_P(Commands, DeletePrintsTheFinalJob) {
    create("shop/short");
    const Json job = host().bpg_json({"-y", "branch", "delete", "shop/short"});
    EXPECT_EQ(job.at("operation"), "branch-delete");
    EXPECT_EQ(job.at("state"), "succeeded");
}

TEST_P(Commands, StdoutIsDataOnlyAndStepsGoToStderr) {
    const auto made = host().bpg({"branch", "create", "shop/quietly"});
    ASSERT_TRUE(made.ok()) << made.text();
    EXPECT_NE(made.err.find("ms"), std::string::npos) << "no step with its time: " << made.text();
    remove("shop/quietly");
    const auto quiet = host().bpg({"-q", "branch", "create", "shop/quietly"});
    ASSERT_TRUE(quiet.ok()) << quiet.text();
    EXPECT_EQ(quiet.err, "");
    remove("shop/quietly");
}

TEST_P(Commands, IfNotExistsAnswersWithTheExistingObject) {
    const Json first = create("shop/once");
    const Json second = create("shop/once", {"--if-not-exists"});
    EXPECT_EQ(second.at("id"), first.at("id"));
    const Json database = host().bpg_json({"db", "create", "shop", "--if-not-exists"});
    EXPECT_EQ(database.at("id"), host().bpg_json({"db", "get", "shop"}).at("id"));
    // While it is being made, it waits for that job.
    host().bpg_json({"--no-wait", "branch", "create", "shop/soon"});
    EXPECT_EQ(create("shop/soon", {"--if-not-exists"}).at("state"), "running");
    remove("shop/once");
    remove("shop/soon");
}

TEST_P(Commands, TimeoutExitsSevenAndTheJobGoesOn) {
    // Long enough to hand the job in, far too short for a branch.
    const auto waited = host().bpg({"--timeout", "50ms", "branch", "create", "shop/slow"});
    EXPECT_EQ(waited.exit_code, 7) << waited.text();
    host().wait_until_idle();
    EXPECT_EQ(host().branch("shop/slow").at("state"), "running");
    remove("shop/slow");
}

TEST_P(Commands, VersionAndHelpWorkWithoutADaemon) {
    const auto version = host().bpg({"--version"});
    EXPECT_EQ(version.exit_code, 0);
    EXPECT_TRUE(std::regex_search(version.out, std::regex(R"(\d+\.\d+\.\d+)"))) << version.text();
    const auto help = host().bpg({"branch", "create", "--help"});
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_NE(help.out.find("--from"), std::string::npos) << help.text();
}

// ---- wrong uses
// ----------------------------------------------------------------------------------

TEST_P(Commands, RefusesANameThatIsTaken) {
    create("shop/taken");
    expect_error(host().bpg_error({"branch", "create", "shop/taken"}), 5, "branch_exists");
    expect_error(host().bpg_error({"db", "create", "shop"}), 5, "database_exists");
    remove("shop/taken");
}

TEST_P(Commands, SaysWhatIsNotThere) {
    expect_error(host().bpg_error({"branch", "get", "shop/nobody"}), 3, "branch_not_found");
    expect_error(host().bpg_error({"db", "get", "nowhere"}), 3, "database_not_found");
    expect_error(host().bpg_error({"branch", "create", "shop/x", "--from", "shop/nobody"}), 3,
                 "branch_not_found");
    expect_error(host().bpg_error({"branch", "create", "nowhere/x"}), 3, "database_not_found");
    expect_error(host().bpg_error({"url", "shop/nobody"}), 3, "branch_not_found");
    expect_error(host().bpg_error({"psql", "shop/nobody", "--", "-c", "SELECT 1"}), 3,
                 "branch_not_found");
    expect_error(host().bpg_error({"job", "get", "nojob"}), 3, "job_not_found");
    if (host().in_docker()) {
        expect_error(host().bpg_error({"db", "create", "old", "--pg-version", "9"}), 2,
                     "version_unsupported");
    } else {
        expect_error(host().bpg_error({"db", "create", "old", "--pg-version", "9"}), 3,
                     "postgres_not_found");
    }
}

TEST_P(Commands, RefusesNamesOutsideTheGrammar) {
    for (const char* bad : {"shop/Upper", "shop/-x", "shop/x-", "shop/a b", "shop/a.b", "shop/ü",
                            "shop/../x", "shop", "shop/a/b", "shop/"}) {
        const auto refused = host().bpg_error({"branch", "create", bad});
        EXPECT_EQ(refused.exit_code, 2) << bad << ": " << refused.what;
        EXPECT_FALSE(refused.code.empty()) << bad;
    }
    expect_error(host().bpg_error({"db", "create", "Bad Name"}), 2, "name_invalid");
}

TEST_P(Commands, RefusesUnknownCommandsAndFlags) {
    EXPECT_EQ(host().bpg({"branch", "explode", "shop/main"}).exit_code, 2);
    EXPECT_EQ(host().bpg({"branch", "create", "shop/x", "--frm", "shop/main"}).exit_code, 2);
    EXPECT_EQ(host().bpg({"branch", "create"}).exit_code, 2);
    EXPECT_EQ(host().bpg({}).exit_code, 2);
    EXPECT_EQ(host().bpg({"-o", "xml", "db", "list"}).exit_code, 2);
}

TEST_P(Commands, RefusesToDeleteABranchWithChildren) {
    create("shop/parent");
    create("shop/child", {"--from", "shop/parent"});
    const auto refused = host().bpg_error({"-y", "branch", "delete", "shop/parent"});
    expect_error(refused, 5, "branch_has_children");
    EXPECT_NE((refused.why + refused.what).find("shop/child"), std::string::npos)
        << "the children are not listed";
    EXPECT_EQ(query_number(host().url("shop/child"), "SELECT 1"), 1);
    EXPECT_EQ(query_number(host().url("shop/parent"), "SELECT 1"), 1);
    remove("shop/child");
    remove("shop/parent");
    host().wait_until_idle();
    EXPECT_EQ(host().compare_world_with_catalog(), "");
}

TEST_P(Commands, MainGoesOnlyWithItsDatabase) {
    const auto refused = host().bpg_error({"-y", "branch", "delete", "shop/main"});
    expect_error(refused, 5, "branch_is_main");
    EXPECT_NE(refused.fix.find("db delete"), std::string::npos) << refused.fix;
    database("crowd");
    create("crowd/one");
    expect_error(host().bpg_error({"-y", "db", "delete", "crowd"}), 5, "database_has_branches");
    EXPECT_EQ(query_number(host().url("crowd/one"), "SELECT 1"), 1);
    remove_database("crowd");
    EXPECT_EQ(host().bpg({"db", "get", "crowd"}).exit_code, 3);
}

TEST_P(Commands, InitIsSafeToRepeatAndRefusesToContradictTheConfig) {
    const auto again = host().bpg({"init", "--no-start", "--storage", GetParam().storage});
    EXPECT_EQ(again.exit_code, 0) << again.text();
    const std::string other = GetParam().storage == "copy" ? "btrfs" : "copy";
    const auto refused = host().bpg({"init", "--no-start", "--storage", other});
    EXPECT_EQ(refused.exit_code, 5) << refused.text();
    EXPECT_EQ(host().bpg_json({"status"}).at("storage").at("driver"), GetParam().storage);
}

INSTANTIATE_TEST_SUITE_P(Btrfs, Commands, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Copy, Commands, ::testing::Values(DriverPair{"copy", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Zfs, Commands, ::testing::Values(DriverPair{"zfs", "process"}), pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, Commands, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(BtrfsDocker, Commands, ::testing::Values(DriverPair{"btrfs", "docker"}),
                         pair_name);

}  // namespace
}  // namespace bpg::test
