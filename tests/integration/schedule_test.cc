// Schedules as a user has them: made, shown, paused and run by the command line, firing real
// snapshots by themselves, pruning them, over kills of bpgd; and what wrong use is told.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <thread>

#include "orchestrator/base/clock.h"
#include "tests/harness/loop.h"
#include "tests/harness/refusals.h"
#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

constexpr int kRows = 20;

class Schedules : public HostSuite<Schedules> {
  protected:
    void SetUp() override {
        HostSuite::SetUp();
        database_with_items("shop", kRows);
    }
    void adapt(HostOptions& options) const override { options.trash_keep = "24h"; }
    void TearDown() override {
        if (!host().daemon_runs()) host().start_daemon();
        const Json schedules = host().bpg_json({"schedule", "list"});
        for (const Json& schedule : schedules.at("items"))
            host().bpg_json({"schedule", "delete", schedule.at("name")});
        host().wait_until_idle();
        const Json databases = host().bpg_json({"db", "list"});
        for (const Json& database : databases.at("items"))
            host().bpg({"-y", "db", "delete", database.at("name"), "--force"});
        host().bpg_json({"trash", "purge", "--all"});
        EXPECT_EQ(host().compare_world_with_catalog(), "");
    }

    static Json make(const std::string& name, const std::string& cron,
                     std::vector<std::string> flags = {}, const std::string& op = "snapshot") {
        std::vector<std::string> words{"schedule", "create", name,       "--cron",   cron,
                                       "--op",     op,       "--target", "shop/main"};
        words.insert(words.end(), flags.begin(), flags.end());
        return host().bpg_json(words);
    }
    static Json get(const std::string& name) { return host().bpg_json({"schedule", "get", name}); }
    static Json run(const std::string& name) { return host().bpg_json({"schedule", "run", name}); }
    static void refused(const std::vector<std::string>& words, const CliError& error) {
        expect_refused(host(), words, error);
    }
    /// Ids of the snapshots of shop/main that `maker` made, newest first.
    static std::vector<std::string> snapshots_by(const std::string& maker) {
        std::vector<std::string> ids;
        const Json list = host().bpg_json({"snapshot", "list", "shop/main"});
        for (const Json& snapshot : list.at("items")) {
            if (snapshot.at("created_by") == maker) ids.push_back(snapshot.at("id"));
        }
        return ids;
    }
    /// Jobs that fires of a schedule became, newest first.
    static std::vector<Json> fires_of(const std::string& name) {
        std::vector<Json> fires;
        const Json jobs = host().bpg_json({"job", "list", "--limit", "1000"});
        for (const Json& job : jobs.at("items")) {
            if (!job.at("fire").is_null() && job.at("fire").at("schedule") == name)
                fires.push_back(job);
        }
        return fires;
    }
    static Json plan() { return host().bpg_json({"retention", "plan", "shop/main"}); }
    static std::string now_in_postgres() {
        return query_value(host().url("shop/main"),
                           "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC',"
                           " 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
    }
};

TEST_P(Schedules, AScheduleIsMadeShownPausedRunAndDeleted) {
    const Json made = make("nightly", "30 2 * * *",
                           {"--tz", "Europe/Berlin", "--keep-daily", "7", "--keep-weekly", "4",
                            "--keep-monthly", "6", "--days", "7"});
    EXPECT_EQ(made.at("name"), "nightly");
    EXPECT_EQ(made.at("cron"), "30 2 * * *");
    EXPECT_EQ(made.at("tz"), "Europe/Berlin");
    EXPECT_EQ(made.at("op"), "snapshot");
    EXPECT_EQ(made.at("target"), "shop/main");
    EXPECT_EQ(made.at("retention"), (Json{{"daily", 7}, {"weekly", 4}, {"monthly", 6}}));
    EXPECT_EQ(made.at("days"), 7);
    EXPECT_EQ(made.at("overlap"), "skip");
    EXPECT_EQ(made.at("catch_up"), "1d");
    EXPECT_EQ(made.at("paused"), false);
    EXPECT_TRUE(made.at("last_fire").is_null());
    EXPECT_TRUE(parse_time(made.at("next_fire").get<std::string>()));
    EXPECT_EQ(get("nightly"), made);
    EXPECT_EQ(host().bpg_json({"schedule", "list"}).at("items"), Json::array({made}));
    const std::string table = host().bpg({"schedule", "list"}).out;
    EXPECT_NE(table.find("SCHEDULE  CRON"), std::string::npos) << table;
    EXPECT_NE(table.find("nightly   30 2 * * *  Europe/Berlin  snapshot   shop/main"),
              std::string::npos)
        << table;
    const std::string shown = host().bpg({"schedule", "get", "nightly"}).out;
    EXPECT_NE(shown.find("7 daily, 4 weekly, 6 monthly"), std::string::npos) << shown;

    const Json paused =
        host().bpg_json({"schedule", "pause", "nightly", "--reason", "we move house"});
    EXPECT_EQ(paused.at("paused"), true);
    EXPECT_EQ(paused.at("pause_reason"), "we move house");
    EXPECT_TRUE(paused.at("next_fire").is_null());
    const Json job = run("nightly");
    EXPECT_EQ(job.at("state"), "succeeded");
    EXPECT_EQ(job.at("operation"), "snapshot");
    EXPECT_EQ(job.at("priority"), "scheduled");
    EXPECT_EQ(get("nightly").at("last_job"), job.at("id"));
    EXPECT_EQ(snapshots_by("schedule:nightly").size(), 1U);
    EXPECT_EQ(host().bpg_json({"schedule", "resume", "nightly"}).at("next_fire"),
              made.at("next_fire"));
    host().bpg_json({"schedule", "delete", "nightly"});
    EXPECT_EQ(host().bpg_json({"schedule", "list"}).at("items"), Json::array());
    EXPECT_EQ(snapshots_by("schedule:nightly").size(), 1U) << "what it made stays";
}

TEST_P(Schedules, TheNextTimesAreShownWithWhatDaylightSavingDoes) {
    const Json next =
        host().bpg_json({"schedule", "next", "--cron", "30 2 * * *", "--tz", "Europe/Berlin", "-n",
                         "2", "--after", "2027-03-27T12:00:00Z"});
    ASSERT_EQ(next.at("items").size(), 2U);
    EXPECT_EQ(next.at("items")[0].at("at"), "2027-03-28T01:00:00.000000Z");
    EXPECT_EQ(next.at("items")[0].at("local"), "2027-03-28 03:00:00 CEST");
    EXPECT_NE(next.at("items")[0].at("note"), "");
    EXPECT_EQ(next.at("items")[1].at("note"), "");
    make("nightly", "30 2 * * *");
    EXPECT_EQ(host().bpg_json({"schedule", "next", "nightly", "-n", "1"}).at("items")[0].at("at"),
              get("nightly").at("next_fire"));
    refused({"schedule", "next"},
            {2, "usage", "it takes a name, or --cron", "neither was given",
             "for example bpg schedule next --cron '30 2 * * *' --tz Europe/Berlin"});
}

TEST_P(Schedules, WrongUseIsToldAndMakesNothing) {
    refused({"schedule", "create", "x", "--op", "snapshot", "--target", "shop/main"},
            {2, "usage", "--cron is missing", "it says when the schedule fires",
             "for example --cron '30 2 * * *'"});
    const auto make_with = [](std::vector<std::string> flags) {
        std::vector<std::string> words{"schedule", "create", "x"};
        words.insert(words.end(), flags.begin(), flags.end());
        return words;
    };
    refused(make_with({"--cron", "@daily", "--op", "snapshot", "--target", "shop/mian"}),
            {3, "branch_not_found", "there is no branch \"shop/mian\"",
             "it was never created, or it was deleted",
             "bpg branch list shop shows the branches there are"});
    refused(make_with({"--cron", "@daily", "--op", "snapshot", "--target", "shop/main", "--tz",
                       "Europe/Berlim"}),
            {2, "timezone_unknown", "there is no time zone \"Europe/Berlim\"",
             "it is in the system's time zone database by no such name",
             "write an IANA name, for example Europe/Berlin or UTC"});
    refused(make_with({"--cron", "@daily", "--op", "wal-cleanup", "--target", "shop/main"}),
            {2, "days_invalid", "wal-cleanup needs --days",
             "it says for how long every point in time stays restorable", "for example --days 7"});
    refused(
        make_with({"--cron", "@daily", "--op", "branch-sync", "--target", "shop/main",
                   "--keep-last", "3"}),
        {2, "keep_invalid", "branch-sync takes no --keep rules",
         "a schedule removes only snapshots that it made itself", "give them with --op snapshot"});
    refused(
        make_with({"--cron", "@daily", "--op", "snapshot", "--target", "shop/main", "--overlap",
                   "replace"}),
        {2, "overlap_invalid", "\"replace\" is no way to overlap",
         "a fire skips, or queues, while the job of the one before is open", "give skip or queue"});
    EXPECT_EQ(host()
                  .bpg_error(make_with(
                      {"--cron", "0 0 30 2 *", "--op", "snapshot", "--target", "shop/main"}))
                  .code,
              "cron_never_fires");
    EXPECT_EQ(host()
                  .bpg_error(make_with(
                      {"--cron", "61 * * * *", "--op", "snapshot", "--target", "shop/main"}))
                  .code,
              "cron_invalid");
    EXPECT_EQ(
        host()
            .bpg_error(make_with({"--cron", "@daily", "--op", "backup", "--target", "shop/main"}))
            .code,
        "operation_unknown");
    refused({"schedule", "get", "nigthly"},
            {3, "schedule_not_found", "there is no schedule \"nigthly\"",
             "it was never made, or it was deleted", "bpg schedule list shows what there is"});
    EXPECT_EQ(host().bpg_json({"schedule", "list"}).at("items"), Json::array());
    make("nightly", "@daily");
    refused({"schedule", "create", "nightly", "--cron", "@daily", "--op", "snapshot", "--target",
             "shop/main"},
            {5, "schedule_exists", "schedule \"nightly\" exists already", "names are unique",
             "choose another name, or delete it first"});
    refused({"schedule", "resume", "nightly"},
            {5, "not_paused", "schedule \"nightly\" is not paused",
             "nobody paused it, or it was resumed already", "there is nothing to do"});
}

TEST_P(Schedules, SnapshotsAppearOldOnesGoAndEveryTimeOfTheWindowIsRestorable) {
    const std::string own = host().bpg_json({"snapshot", "create", "shop/main"}).at("id");
    execute(host().url("shop/main"), "CREATE TABLE ticks (at timestamptz)");
    const std::string began = now_in_postgres();
    make("often", "@every 2s", {"--keep-last", "3", "--days", "1"});
    // A row now and then, and a time behind each.
    std::vector<std::pair<std::string, std::int64_t>> times;
    for (std::int64_t row = 1; row <= 12; ++row) {
        execute(host().url("shop/main"), "INSERT INTO ticks VALUES (clock_timestamp())");
        times.emplace_back(now_in_postgres(), row);
        std::this_thread::sleep_for(1s);
    }
    host().bpg_json({"schedule", "pause", "often"});
    host().wait_until_idle();
    EXPECT_GE(fires_of("often").size(), 4U);
    const std::vector<std::string> left = snapshots_by("schedule:often");
    EXPECT_GE(left.size(), 3U);
    EXPECT_LE(left.size(), 4U) << "three by the rule";
    EXPECT_EQ(snapshots_by("user"), std::vector<std::string>{own}) << "never those of others";
    const Json verdict = plan();
    EXPECT_EQ(verdict.at("wal").at("days"), 1);
    EXPECT_EQ(verdict.at("remove"), Json::array()) << verdict.dump(2);
    for (const std::size_t i : {std::size_t{0}, times.size() / 2, times.size() - 1}) {
        const auto& [time, rows] = times.at(i);
        create("shop/then", {"--pitr", time});
        EXPECT_EQ(query_number(host().url("shop/then"), "SELECT count(*) FROM ticks"), rows)
            << time;
        host().bpg_json({"branch", "delete", "shop/then", "--purge"});
    }
    EXPECT_EQ(host().compare_world_with_catalog(), "");
}

TEST_P(Schedules, WalGoesWithTheSnapshotsThatNeededIt) {
    make("nightly", "@yearly", {"--keep-last", "1", "--days", "0"});
    for (int round = 0; round < 3; ++round) {
        run("nightly");
        execute(host().url("shop/main"), "INSERT INTO items SELECT max(id) + 1 FROM items");
        execute(host().url("shop/main"), "SELECT pg_switch_wal()");
        host().wait_until_idle();
    }
    const std::vector<std::string> left = snapshots_by("schedule:nightly");
    ASSERT_EQ(left.size(), 1U);
    const Json wal = host().bpg_json({"wal", "info", "shop/main"}).at("items")[0];
    ASSERT_EQ(wal.at("restorable").size(), 1U) << wal.dump(2);
    EXPECT_EQ(wal.at("restorable")[0].at("base_snapshot"), left[0]);
    EXPECT_EQ(wal.at("gaps"), Json::array());
    create("shop/then", {"--pitr", now_in_postgres()});
    EXPECT_EQ(query_number(host().url("shop/then"), "SELECT count(*) FROM items"), kRows + 3);
    const Json prunes = host().bpg_json({"job", "list", "--limit", "100"});
    std::size_t snapshots = 0;
    std::size_t segments = 0;
    for (const Json& job : prunes.at("items")) {
        const bool is_of_this =
            job.at("operation") == "prune" &&
            job.at("result").at("branch") == host().branch("shop/main").at("id");
        if (!is_of_this) continue;
        EXPECT_EQ(job.at("state"), "succeeded") << job.dump(2);
        snapshots += job.at("result").at("snapshots").size();
        segments += job.at("result").at("wal").at("segments").get<std::size_t>();
    }
    EXPECT_EQ(snapshots, 2U);
    EXPECT_GE(segments, 2U);
}

TEST_P(Schedules, APruneThatWouldTakeTooMuchStopsAndSaysSo) {
    make("many", "@yearly");
    for (int i = 0; i < 12; ++i)
        run("many");
    EXPECT_EQ(plan().at("notes"),
              Json::array({"schedule many: no --keep rule is given: all snapshots are kept"}));
    host().bpg_json({"schedule", "delete", "many"});
    make("many", "@yearly", {"--keep-last", "1"});
    const Json verdict = plan();
    EXPECT_EQ(verdict.at("remove").size(), 11U);
    EXPECT_EQ(verdict.at("refusal").at("code"), "retention_too_many");
    const std::vector<std::string> prune{"job", "submit", "prune", "--param", "target=shop/main"};
    refused(prune, {5, "retention_too_many", "the prune would remove 11 of 12 snapshots",
                    "more than retention.max_fraction (0.5) of them and more than 10 go at once",
                    "look at bpg retention plan; if it is meant: bpg schedule run --force"});
    // As the fire of a schedule is told.
    run("many");
    ASSERT_TRUE(eventually([] { return !get("many").at("refusal").is_null(); }, 10s));
    EXPECT_EQ(get("many").at("refusal").at("code"), "retention_too_many");
    EXPECT_EQ(snapshots_by("schedule:many").size(), 13U);
    host().bpg_json({"schedule", "run", "many", "--force"});
    ASSERT_TRUE(eventually([] { return snapshots_by("schedule:many").size() == 1; }, 60s));
    EXPECT_TRUE(get("many").at("refusal").is_null());
}

TEST_P(Schedules, APlanThatWasAgreedToIsExecutedOrRefusedAndNeverAnother) {
    make("some", "@yearly", {"--keep-last", "1"});
    host().bpg_json({"schedule", "pause", "some"});
    host().bpg_json({"schedule", "run", "some"});
    host().wait_until_idle();
    host().bpg_json({"snapshot", "pin", snapshots_by("schedule:some")[0]});
    host().bpg_json({"schedule", "run", "some"});
    host().wait_until_idle();
    const std::vector<std::string> both = snapshots_by("schedule:some");
    ASSERT_EQ(both.size(), 2U) << "a pinned one is never removed";
    const Json before = plan();
    EXPECT_EQ(before.at("remove"), Json::array());
    EXPECT_EQ(before.at("items").back().at("rules")[0].at("rule"), "last 1 of 1");
    host().bpg_json({"snapshot", "unpin", both[1]});
    const Json after = plan();
    EXPECT_EQ(after.at("remove"), Json::array({both[1]}));
    const std::string hash = before.at("plan");
    const std::string now = after.at("plan");
    refused(
        {"job", "submit", "prune", "--param", "target=shop/main", "--param", "plan=" + hash},
        {5, "retention_plan_changed", "the plan has changed since it was agreed to",
         fmt::format("it was {}, and is {} now", hash, now), "look at bpg retention plan again"});
    const Json job = host().bpg_json(
        {"job", "submit", "prune", "--param", "target=shop/main", "--param", "plan=" + now});
    EXPECT_EQ(job.at("result").at("snapshots"), Json::array({both[1]}));
    EXPECT_EQ(snapshots_by("schedule:some"), std::vector<std::string>{both[0]});
}

TEST_P(Schedules, AScheduleFollowsARenameAndSaysWhenItsTargetIsGone) {
    // Its jobs may be at work on the branch just then.
    const auto between_its_jobs = [](std::vector<std::string> words) {
        words.insert(words.begin(), "-y");
        EXPECT_TRUE(eventually([&] { return host().bpg(words).ok(); }, 30s));
    };
    create("shop/dev");
    host().bpg_json({"schedule", "create", "sync", "--cron", "@every 1s", "--op", "start",
                     "--target", "shop/dev"});
    between_its_jobs({"branch", "rename", "shop/dev", "shop/test"});
    EXPECT_EQ(get("sync").at("target"), "shop/test");
    between_its_jobs({"db", "rename", "shop", "store"});
    EXPECT_EQ(get("sync").at("target"), "store/test");
    ASSERT_TRUE(eventually([] { return !fires_of("sync").empty(); }, 10s));
    between_its_jobs({"branch", "delete", "store/test"});
    ASSERT_TRUE(eventually([] { return !get("sync").at("refusal").is_null(); }, 10s));
    const Json gone = get("sync");
    EXPECT_EQ(gone.at("refusal").at("code"), "branch_not_found");
    EXPECT_FALSE(gone.at("paused"));
    host().bpg_json({"branch", "undo-delete", "store/test"});
    EXPECT_TRUE(eventually([] { return get("sync").at("refusal").is_null(); }, 10s))
        << "it is back, and the schedule goes on";
}

/// The nominal times of "@every 2s" since the schedule was made.
TEST_P(Schedules, EveryFireHappensExactlyOnceThroughKillsOfBpgd) {
    const std::uint64_t number = seed();
    const auto duration = long_mode() ? 120s : 16s;
    fmt::print("BPG_SEED={}\n", number);
    std::mt19937_64 random(number);
    const Json made = make("tick", "@every 2s", {"--overlap", "queue"});
    const WallTime created = *parse_time(made.at("created_at").get<std::string>());
    const auto end = std::chrono::steady_clock::now() + duration;
    int kills = 0;
    while (std::chrono::steady_clock::now() < end) {
        const int pause = std::uniform_int_distribution<int>(20, 4000)(random);
        std::this_thread::sleep_for(std::chrono::milliseconds(pause));
        host().kill_daemon();
        ++kills;
        host().start_daemon();
    }
    const Json last = host().bpg_json({"schedule", "pause", "tick"});
    host().wait_until_idle();
    std::set<std::string> nominal;
    std::uint64_t accounted =
        last.at("missed").get<std::uint64_t>() + last.at("overlap_skipped").get<std::uint64_t>();
    EXPECT_EQ(last.at("missed"), 0) << "all are within the catch-up";
    const std::vector<Json> fires = fires_of("tick");
    for (const Json& job : fires) {
        const Json& fire = job.at("fire");
        const std::string at = fire.at("at");
        EXPECT_TRUE(nominal.insert(at).second) << at << " fired twice";
        EXPECT_EQ((*parse_time(at) - created).count() % 2'000'000, 0)
            << at << " is no nominal time";
        EXPECT_EQ(job.at("state"), "succeeded") << job.dump(2);
        accounted += fire.at("stands_for").get<std::uint64_t>();
    }
    // A fire that waited for the job of the one before may have been passed by the pause.
    const WallTime newest = *parse_time(*nominal.rbegin());
    const auto expected = static_cast<std::uint64_t>((newest - created).count() / 2'000'000);
    fmt::print("{} kills, {} fires for {} times, {} skipped\n", kills, fires.size(), expected,
               last.at("overlap_skipped").dump());
    EXPECT_GE(accounted, expected);
    EXPECT_LE(accounted, expected + 1);
    EXPECT_EQ(snapshots_by("schedule:tick").size(), fires.size()) << "one each";
}

INSTANTIATE_TEST_SUITE_P(Btrfs, Schedules, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, Schedules, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);

}  // namespace
}  // namespace bpg::test
