// What happens to branches between their creation and their end, as a user does it: sync, promote,
// rename, protection, TTL, the trash and the way back from it, settings, snapshots, passwords,
// logs. Each command with what it prints and with one wrong use, in its very words.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <regex>
#include <thread>

#include "tests/harness/refusals.h"
#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

constexpr int kRows = 50;

class Lifecycle : public HostSuite<Lifecycle> {
  protected:
    void SetUp() override {
        HostSuite::SetUp();
        database_with_items("shop", kRows);
        made_ = facts();
    }
    void adapt(HostOptions& options) const override { options.trash_keep = "24h"; }
    /// Nothing of a test is there for the next one but the database, if it is what it was.
    void TearDown() override {
        if (!host().daemon_runs()) host().start_daemon();
        host().wait_until_idle();
        const Json databases = host().bpg_json({"db", "list"}).at("items");
        const bool stays = databases.size() == 1 && !HasFailure() && facts() == made_;
        if (stays) {
            delete_branches();
        } else {
            for (const Json& database : databases)
                host().bpg({"-y", "db", "delete", database.at("name"), "--force"});
        }
        const Json snapshots = host().bpg_json({"snapshot", "list"});
        for (const Json& snapshot : snapshots.at("items")) {
            if (stays && snapshot.at("kind") == "base") continue;  // db create's
            host().bpg({"-y", "snapshot", "delete", snapshot.at("id"), "--force"});
        }
        host().bpg_json({"trash", "purge", "--all"});
        EXPECT_EQ(trash(), Json::array());
        EXPECT_EQ(host().compare_world_with_catalog(), "");
    }

    /// What tests change of shop/main; null where there is none.
    static Json facts() {
        const CliResult found = host().bpg({"-o", "json", "branch", "get", "shop/main"});
        if (!found.ok()) return nullptr;
        const Json branch = found.json();
        Json facts{{"url", host().url("shop/main")}};
        for (const char* member : {"id", "incarnation", "state", "protected", "expires_at"})
            facts[member] = branch.at(member);
        return facts;
    }
    static void delete_branches() {
        const Json list = host().bpg_json({"branch", "list", "shop"});
        for (const Json& branch : list.at("items")) {
            const bool is_top = branch.at("parent").is_null() || branch.at("parent") == "shop/main";
            if (branch.at("name") == "main" || !is_top) continue;
            host().bpg_json(
                {"-y", "branch", "delete", branch.at("ref"), "--recursive", "--purge", "--force"});
        }
    }

    static Json trash() { return host().bpg_json({"trash", "list"}).at("items"); }
    static std::int64_t rows(const std::string& ref) {
        return query_number(host().url(ref), "SELECT count(*) FROM items");
    }
    static void add_row(const std::string& ref) {
        execute(host().url(ref), "INSERT INTO items SELECT max(id) + 1, 'new' FROM items");
    }
    static void refused(const std::vector<std::string>& words, const CliError& error) {
        expect_refused(host(), words, error);
    }
    /// bpgd with a step that fails.
    static void restart_failing_at(const std::string& step) {
        ASSERT_EQ(host().stop_daemon(), 0);
        host().start_daemon({"--fail-at", step});
    }
    static void restart() {
        ASSERT_EQ(host().stop_daemon(), 0);
        host().start_daemon();
    }
    static std::string id_of(const std::string& ref) { return host().branch(ref).at("id"); }

  private:
    static inline Json made_;
};

// ---- sync ---------------------------------------------------------------------------------------

TEST_P(Lifecycle, SyncReplacesTheDataAndKeepsTheRest) {
    const Json before = create("shop/dev", {"--ttl", "7d"});
    const std::string url = host().url("shop/dev");
    add_row("shop/main");
    add_row("shop/dev");
    add_row("shop/dev");
    const ParentWatch parent{host(), "shop/main"};
    const Json after = host().bpg_json({"branch", "sync", "shop/dev"});
    EXPECT_EQ(rows("shop/dev"), kRows + 1);
    for (const char* member : {"id", "ref", "port", "parent", "created_at", "expires_at"})
        EXPECT_EQ(after.at(member), before.at(member)) << member;
    EXPECT_EQ(after.at("incarnation").at("number"), 2);
    EXPECT_NE(after.at("incarnation").at("id"), before.at("incarnation").at("id"));
    EXPECT_EQ(host().url("shop/dev"), url) << "port and password stay";
    EXPECT_EQ(after.at("state"), "running");
    EXPECT_EQ(after.at("created_from").at("mode"), "safe");
    parent.expect_undisturbed();
    ASSERT_EQ(trash().size(), 1U);
    EXPECT_EQ(trash()[0].at("kind"), "incarnation");
    EXPECT_EQ(trash()[0].at("ref"), "shop/dev");

    // What it was before can be looked at again, under another name.
    const Json old =
        host().bpg_json({"branch", "undo-delete", trash()[0].at("id"), "--as", "shop/before"});
    EXPECT_EQ(old.at("ref"), "shop/before");
    EXPECT_EQ(host().bpg_json({"start", "shop/before"}).at("state"), "running");
    EXPECT_EQ(rows("shop/before"), kRows + 2);
    EXPECT_NE(password_of(host().url("shop/before")), password_of(url));
    refused({"branch", "sync", "shop/main"},
            {5, "branch_has_no_parent", "branch \"shop/main\" has no parent to sync from",
             "it is the first branch of its database",
             "bpg branch promote makes another branch's data shop/main"});
}

TEST_P(Lifecycle, ASyncThatFailsLeavesTheOldOneServing) {
    create("shop/dev");
    add_row("shop/dev");
    const World world = host().world();
    for (const char* step : {"take_snapshot", "clone_volume", "start_aside", "finish_backup",
                             "await_ready", "stop_old", "swap"}) {
        restart_failing_at(std::string("branch-sync.") + step);
        expect_error(host().bpg_error({"branch", "sync", "shop/dev"}), 1, "failure_injected");
        EXPECT_EQ(rows("shop/dev"), kRows + 1) << step;
        EXPECT_EQ(host().branch("shop/dev").at("incarnation").at("number"), 1) << step;
        EXPECT_EQ(trash(), Json::array()) << step;
        EXPECT_EQ(host().compare_world_with_catalog(), "") << step;
    }
    restart();
    EXPECT_EQ(host().bpg_json({"branch", "sync", "shop/dev"}).at("incarnation").at("number"), 2);
    EXPECT_EQ(rows("shop/dev"), kRows);
}

/// How long a client that connects again and again gets no answer while `work` is done; it counts
/// `before` rows or one more, and never fewer than it has seen.
std::chrono::milliseconds away_during(const std::string& url, std::int64_t before,
                                      const std::function<void()>& work) {
    using Steady = std::chrono::steady_clock;
    std::atomic<bool> is_over{false};
    Steady::duration longest{0};
    std::jthread client([&] {
        auto last_good = Steady::now();
        std::int64_t seen = before;
        while (!is_over) {
            try {
                const std::int64_t count = query_number(url, "SELECT count(*) FROM items");
                EXPECT_TRUE(count == before || count == before + 1) << count;
                EXPECT_GE(count, seen) << "old data came back";
                seen = count;
                longest = std::max(longest, Steady::now() - last_good);
                last_good = Steady::now();
            } catch (const std::exception&) {  // it reconnects
            }
        }
    });
    work();
    is_over = true;
    client.join();
    return std::chrono::duration_cast<std::chrono::milliseconds>(longest);
}

TEST_P(Lifecycle, DuringASyncAClientSeesOldOrNewDataAndWaitsNoLongerThanForARestart) {
    create("shop/dev");
    const std::string url = host().url("shop/dev");
    // A machine that is busy with other things in one of the two may say anything once.
    constexpr int kAttempts = 3;
    bool no_longer = false;
    for (int attempt = 0; attempt < kAttempts && !no_longer; ++attempt) {
        const std::int64_t before = kRows + attempt;
        const auto restart =
            away_during(url, before, [] { host().bpg_json({"restart", "shop/dev"}); });
        add_row("shop/main");
        const auto sync = away_during(url, before, [before] {
            host().bpg_json({"branch", "sync", "shop/dev"});
            EXPECT_EQ(rows("shop/dev"), before + 1);
        });
        fmt::print("away for {} ms; with a restart {} ms\n", sync.count(), restart.count());
        no_longer = sync < 1.3 * restart + 100ms;
    }
    EXPECT_TRUE(no_longer);
}

TEST_P(Lifecycle, SyncTwiceAtOnceIsOneThatRunsAndOneThatWaits) {
    create("shop/dev");
    host().bpg_json({"job", "pause", "--database", "shop"});
    const auto sync = [] {
        return host().bpg_json({"--no-wait", "branch", "sync", "shop/dev"}).at("id");
    };
    const std::string first = sync();
    EXPECT_EQ(sync(), first) << "it has not begun";
    host().bpg_json({"job", "resume", "--database", "shop"});
    EXPECT_EQ(host().outcome(first), "succeeded");
    const std::string second = sync();
    EXPECT_NE(second, first);
    EXPECT_EQ(host().outcome(second), "succeeded");
    EXPECT_EQ(host().branch("shop/dev").at("incarnation").at("number"), 3);
}

TEST_P(Lifecycle, SyncOfAStoppedBranchLeavesItStopped) {
    create("shop/dev");
    add_row("shop/main");
    host().bpg_json({"stop", "shop/dev"});
    EXPECT_EQ(host().bpg_json({"branch", "sync", "shop/dev"}).at("state"), "stopped");
    host().bpg_json({"start", "shop/dev"});
    EXPECT_EQ(rows("shop/dev"), kRows + 1);
}

TEST_P(Lifecycle, SyncOfABranchWithChildrenLeavesThemAlone) {
    create("shop/dev");
    add_row("shop/dev");
    create("shop/child", {"--from", "shop/dev"});
    host().bpg_json({"branch", "sync", "shop/dev"});
    EXPECT_EQ(rows("shop/dev"), kRows);
    EXPECT_EQ(rows("shop/child"), kRows + 1);
    EXPECT_EQ(host().branch("shop/child").at("parent"), "shop/dev");
    EXPECT_EQ(host().bpg_json({"branch", "sync", "shop/child"}).at("state"), "running");
    EXPECT_EQ(rows("shop/child"), kRows);
}

TEST_P(Lifecycle, ADrySyncSaysWhatItWouldDoAndDoesNothing) {
    create("shop/dev");
    const Untouched before(host());
    const Json plan = host().bpg_json({"branch", "sync", "shop/dev", "--dry-run"});
    expect_members(plan, {"plan", "dry_run", "ref", "parent", "replaces", "summary"});
    const CliResult text = host().bpg({"branch", "sync", "shop/dev", "--dry-run"});
    EXPECT_TRUE(text.out.starts_with("shop/dev is cut again from shop/main as it is then\n"))
        << text.out;
    before.expect();
}

// ---- promote ------------------------------------------------------------------------------------

TEST_P(Lifecycle, PromoteMakesABranchMain) {
    create("shop/dev", {"--ttl", "7d"});
    create("shop/child-of-main");
    add_row("shop/dev");
    const std::string main_url = host().url("shop/main");
    const std::string dev_url = host().url("shop/dev");
    const std::string main_id = id_of("shop/main");
    const std::string dev_id = id_of("shop/dev");
    const Json promoted = host().bpg_json({"branch", "promote", "shop/dev", "--old-name", "old"});
    EXPECT_EQ(promoted.at("ref"), "shop/main");
    EXPECT_EQ(promoted.at("id"), dev_id) << "the id goes with the data";
    EXPECT_TRUE(promoted.at("parent").is_null());
    EXPECT_TRUE(promoted.at("expires_at").is_null());
    EXPECT_EQ(host().url("shop/main"), main_url) << "port and password stay with the name";
    EXPECT_EQ(host().url("shop/old"), dev_url);
    EXPECT_EQ(rows("shop/main"), kRows + 1);
    EXPECT_EQ(rows("shop/old"), kRows);
    const Json old = host().branch("shop/old");
    EXPECT_EQ(old.at("id"), main_id);
    EXPECT_EQ(old.at("protected"), true);
    EXPECT_EQ(old.at("parent"), "shop/main");
    EXPECT_EQ(host().branch("shop/child-of-main").at("parent"), "shop/old");
    EXPECT_FALSE(host().branch_exists("shop/dev"));
    EXPECT_EQ(host().compare_world_with_catalog(), "");
    restart();
    EXPECT_EQ(rows("shop/main"), kRows + 1);

    // The old main goes, though main hangs on it in the storage.
    refused({"branch", "delete", "shop/old"},
            {5, "branch_has_children", "branch \"shop/old\" has children",
             "cut from it: shop/child-of-main",
             "delete those first, or pass --recursive to delete them too"});
    host().bpg_json({"branch", "delete", "shop/old", "--recursive", "--force", "--purge"});
    EXPECT_EQ(rows("shop/main"), kRows + 1);
    host().bpg_json({"restart", "shop/main"});
    EXPECT_EQ(rows("shop/main"), kRows + 1);
    create("shop/again");
    EXPECT_EQ(rows("shop/again"), kRows + 1);
    refused({"branch", "promote", "shop/main"},
            {5, "branch_is_main", "branch \"shop/main\" is main already",
             "promote makes another branch's data main", "name the branch that is to become main"});
}

TEST_P(Lifecycle, PromoteOfAGrandchildWithoutANameUsesTheTime) {
    create("shop/dev");
    create("shop/grandchild", {"--from", "shop/dev"});
    add_row("shop/grandchild");
    host().bpg_json({"branch", "promote", "shop/grandchild"});
    EXPECT_EQ(rows("shop/main"), kRows + 1);
    std::string old;
    const Json branches = host().bpg_json({"branch", "list", "shop"});
    for (const Json& branch : branches.at("items")) {
        const std::string name = branch.at("name");
        if (name.starts_with("main-")) old = name;
    }
    EXPECT_TRUE(std::regex_match(old, std::regex(R"(main-\d{14})"))) << old;
    EXPECT_EQ(host().branch("shop/dev").at("parent"), "shop/" + old);
}

TEST_P(Lifecycle, APromoteThatFailsBeforeTheSwitchLeavesBothAsTheyWere) {
    create("shop/dev");
    add_row("shop/dev");
    const std::string main_url = host().url("shop/main");
    const std::string dev_url = host().url("shop/dev");
    for (const char* step : {"stop_both", "switch_names"}) {
        restart_failing_at(std::string("branch-promote.") + step);
        expect_error(host().bpg_error({"branch", "promote", "shop/dev"}), 1, "failure_injected");
        EXPECT_EQ(query_number(main_url, "SELECT count(*) FROM items"), kRows) << step;
        EXPECT_EQ(query_number(dev_url, "SELECT count(*) FROM items"), kRows + 1) << step;
        EXPECT_EQ(host().branch("shop/main").at("state"), "running") << step;
        EXPECT_EQ(host().compare_world_with_catalog(), "") << step;
    }
    restart();
}

TEST_P(Lifecycle, ADryPromoteSaysWhatItWouldDoAndDoesNothing) {
    create("shop/dev");
    const Untouched before(host());
    const Json plan =
        host().bpg_json({"branch", "promote", "shop/dev", "--old-name", "old", "--dry-run"});
    EXPECT_EQ(plan.at("main"), "shop/main");
    EXPECT_EQ(plan.at("old_main"), "shop/old");
    before.expect();
}

// ---- names and protection -----------------------------------------------------------------------

TEST_P(Lifecycle, RenameIsOneCommitAndMovesNothing) {
    create("shop/dev");
    const pid_t postmaster = host().postmaster("shop/dev").pid;
    const std::string volume = host().branch("shop/dev").at("storage").at("name");
    const std::string url = host().url("shop/dev");
    const Json renamed = host().bpg_json({"branch", "rename", "shop/dev", "shop/qa"});
    EXPECT_EQ(renamed.at("ref"), "shop/qa");
    EXPECT_EQ(renamed.at("storage").at("name"), volume);
    EXPECT_EQ(host().url("shop/qa"), url);
    EXPECT_EQ(host().postmaster("shop/qa").pid, postmaster);
    EXPECT_FALSE(host().branch_exists("shop/dev"));
    EXPECT_TRUE(eventually([&] { return host().ref_on_disk(volume) == "shop/qa"; }, 10s))
        << "the volume's own ref did not follow: " << host().ref_on_disk(volume);
    create("shop/dev");  // the old name is free
    EXPECT_NE(host().branch("shop/dev").at("storage").at("name"), volume);
    refused({"branch", "rename", "shop/qa", "shop/dev"},
            {5, "branch_exists", "branch \"shop/dev\" already exists",
             "a name stands for one branch", "choose another name"});
    refused({"branch", "rename", "shop/main", "shop/other"},
            {5, "branch_is_main", "branch \"shop/main\" keeps its name",
             "the first branch of every database is called main",
             "bpg branch promote gives the name to another branch"});
    refused({"branch", "rename", "shop/qa", "other/qa"},
            {2, "usage", "a branch stays in its database", "shop/qa and other/qa are of two",
             "name it shop/qa"});
}

TEST_P(Lifecycle, ADatabaseIsRenamedWithAllItsBranches) {
    create("shop/dev");
    const Json renamed = host().bpg_json({"db", "rename", "shop", "store"});
    EXPECT_EQ(renamed.at("name"), "store");
    EXPECT_EQ(rows("store/dev"), kRows);
    EXPECT_EQ(host().bpg({"db", "get", "shop"}).exit_code, 3);
    database("shop");
    refused(
        {"db", "rename", "store", "shop"},
        {5, "database_exists", "database \"shop\" already exists", "a name stands for one database",
         "choose another name, or pass --if-not-exists to use it"});
}

TEST_P(Lifecycle, AProtectedBranchIsDeletedByForceOnly) {
    create("shop/dev", {"--ttl", "7d"});
    const Json kept = host().bpg_json({"branch", "protect", "shop/dev"});
    EXPECT_EQ(kept.at("protected"), true);
    EXPECT_TRUE(kept.at("expires_at").is_null()) << "a protected branch takes no TTL";
    refused({"branch", "delete", "shop/dev"},
            {5, "branch_protected", "branch \"shop/dev\" is protected",
             "somebody asked that it be kept", "pass --force to delete it"});
    refused({"branch", "sync", "shop/dev"},
            {5, "branch_protected", "branch \"shop/dev\" is protected",
             "a sync replaces its data, and somebody asked that it be kept",
             "bpg branch unprotect shop/dev lets it go on"});
    refused({"branch", "set", "shop/dev", "--ttl", "1h"},
            {5, "branch_protected", "a protected branch takes no TTL", "\"shop/dev\" is to be kept",
             "bpg branch unprotect shop/dev first"});
    EXPECT_EQ(host().bpg_json({"branch", "unprotect", "shop/dev"}).at("protected"), false);
    host().bpg_json({"branch", "protect", "shop/dev"});
    EXPECT_EQ(host().bpg_json({"branch", "delete", "shop/dev", "--force"}).at("state"),
              "succeeded");
}

// ---- time to live -------------------------------------------------------------------------------

TEST_P(Lifecycle, ABranchGoesToTheTrashWhenItsTimeIsOver) {
    create("shop/short", {"--ttl", "2s"});
    ASSERT_TRUE(eventually([] { return !host().branch_exists("shop/short"); }, 30s));
    host().wait_until_idle();
    ASSERT_EQ(trash().size(), 1U);
    EXPECT_EQ(trash()[0].at("ref"), "shop/short");
    const Json jobs = host().bpg_json({"job", "list", "--limit", "1"});
    EXPECT_EQ(jobs.at("items")[0].at("operation"), "branch-delete");
    EXPECT_EQ(jobs.at("items")[0].at("priority"), "housekeeping");
    const Json back = host().bpg_json({"branch", "undo-delete", "shop/short"});
    EXPECT_TRUE(back.at("expires_at").is_null()) << "it would go again at once";
}

TEST_P(Lifecycle, ABranchWithChildrenOutlivesItsTime) {
    create("shop/parent");
    create("shop/child", {"--from", "shop/parent"});
    EXPECT_TRUE(host().branch("shop/child").at("expires_at").is_null()) << "it inherits none";
    host().bpg_json({"branch", "set", "shop/parent", "--ttl", "1s"});
    ASSERT_TRUE(
        eventually([] { return !host().branch("shop/parent").at("warnings").empty(); }, 30s));
    const std::string warning = host().branch("shop/parent").at("warnings")[0];
    EXPECT_NE(warning.find("it goes with the last of them"), std::string::npos) << warning;
    host().bpg_json({"branch", "delete", "shop/child"});
    ASSERT_TRUE(eventually([] { return !host().branch_exists("shop/parent"); }, 90s));
    host().wait_until_idle();
}

TEST_P(Lifecycle, ATtlIsSetAndTakenBack) {
    create("shop/dev");
    EXPECT_TRUE(
        host().bpg_json({"branch", "set", "shop/dev", "--ttl", "1h"}).at("expires_at").is_string());
    EXPECT_TRUE(
        host().bpg_json({"branch", "set", "shop/dev", "--ttl", "none"}).at("expires_at").is_null());
    refused({"branch", "set", "shop/dev", "--ttl", "soon"},
            {2, "usage", "\"soon\" is no duration for --ttl",
             "a duration is a number with ms, s, m, h, d or w, or none", "for example --ttl 7d"});
    refused({"branch", "set", "shop/main", "--ttl", "1h"},
            {5, "branch_is_main", "main takes no TTL", "it goes only with its database",
             "leave out --ttl"});
    refused({"branch", "set", "shop/dev"}, {2, "usage", "there is nothing to set",
                                            "no option was given", "give --ttl, --port or --pg"});
}

// ---- settings -----------------------------------------------------------------------------------

TEST_P(Lifecycle, PortAndSettingsOfABranchAreItsOwn) {
    const Json before = create("shop/dev");
    const Json after =
        host().bpg_json({"branch", "set", "shop/dev", "--port", "auto", "--pg", "work_mem=12MB"});
    EXPECT_NE(after.at("port"), before.at("port"));
    EXPECT_EQ(query_value(host().url("shop/dev"), "SHOW work_mem"), "12MB");
    EXPECT_EQ(query_value(host().url("shop/main"), "SHOW work_mem"), "4MB");
    EXPECT_TRUE(port_is_free(before.at("port").get<std::uint16_t>()));
    host().bpg_json({"branch", "set", "shop/dev", "--pg", "work_mem="});
    EXPECT_EQ(query_value(host().url("shop/dev"), "SHOW work_mem"), "4MB");
    host().bpg_json({"stop", "shop/dev"});
    host().bpg_json({"branch", "set", "shop/dev", "--pg", "work_mem=13MB"});
    EXPECT_EQ(host().branch("shop/dev").at("state"), "stopped");
    host().bpg_json({"start", "shop/dev"});
    EXPECT_EQ(query_value(host().url("shop/dev"), "SHOW work_mem"), "13MB");
    const std::string port = std::to_string(host().branch("shop/main").at("port").get<int>());
    refused({"branch", "set", "shop/dev", "--port", port},
            {5, "port_taken", "port " + port + " is taken", "another branch holds it",
             "choose another one, or --port auto"});
    refused({"branch", "set", "shop/dev", "--pg", "archive_command=rm"},
            {2, "setting_owned", "'archive_command' cannot be set",
             "bpgd decides it for every instance",
             "bpg branch set --pg takes settings of PostgreSQL like work_mem=64MB"});
}

TEST_P(Lifecycle, ASettingThatPostgresRefusesIsTakenBack) {
    create("shop/dev");
    expect_error(host().bpg_error({"branch", "set", "shop/dev", "--pg", "shared_buffers=999999GB"}),
                 1, "postgres_refused");
    ASSERT_TRUE(eventually([] { return host().branch("shop/dev").at("state") == "running"; }, 60s));
    host().wait_until_idle();
    EXPECT_EQ(rows("shop/dev"), kRows);
}

// ---- the trash ----------------------------------------------------------------------------------

TEST_P(Lifecycle, ADeletedBranchComesBack) {
    create("shop/dev");
    add_row("shop/dev");
    const Json before = host().branch("shop/dev");
    const std::string url = host().url("shop/dev");
    const Json job = host().bpg_json({"branch", "delete", "shop/dev"});
    EXPECT_EQ(job.at("operation"), "branch-delete");
    EXPECT_TRUE(port_is_free(before.at("port").get<std::uint16_t>()));
    EXPECT_EQ(host().bpg({"branch", "get", "shop/dev"}).exit_code, 3);
    ASSERT_EQ(trash().size(), 1U);
    expect_members(trash()[0], {"id", "kind", "ref", "deleted_at", "purge_at", "used_bytes"});
    EXPECT_EQ(trash()[0].at("kind"), "branch");
    const CliResult table = host().bpg({"trash", "list"});
    EXPECT_NE(table.out.find("shop/dev"), std::string::npos) << table.out;
    const Json back = host().bpg_json({"branch", "undo-delete", "shop/dev"});
    EXPECT_EQ(back.at("id"), before.at("id"));
    EXPECT_EQ(back.at("state"), "running");
    EXPECT_EQ(host().url("shop/dev"), url) << "its port was free, its password stays";
    EXPECT_EQ(rows("shop/dev"), kRows + 1);
    EXPECT_EQ(trash(), Json::array());
    refused({"branch", "undo-delete", "shop/never"},
            {3, "trash_item_not_found", "there is no \"shop/never\" in the trash",
             "it was never deleted, or it is gone for good",
             "bpg trash list shows what can be brought back"});
}

TEST_P(Lifecycle, DeletedAndMadeAgainTheOldOneComesBackUnderAnotherName) {
    create("shop/dev");
    add_row("shop/dev");
    host().bpg_json({"branch", "delete", "shop/dev"});
    create("shop/dev");
    refused({"branch", "undo-delete", "shop/dev"},
            {5, "branch_exists", "branch \"shop/dev\" already exists", "the name was taken since",
             "give another one: --as shop/NAME"});
    const Json back =
        host().bpg_json({"branch", "undo-delete", "shop/dev", "--as", "shop/dev-before"});
    EXPECT_EQ(back.at("ref"), "shop/dev-before");
    EXPECT_EQ(rows("shop/dev-before"), kRows + 1);
    EXPECT_EQ(rows("shop/dev"), kRows);
    EXPECT_NE(back.at("port"), host().branch("shop/dev").at("port"));
}

TEST_P(Lifecycle, ABranchOfWhatIsInTheTrash) {
    create("shop/dev");
    add_row("shop/dev");
    const std::string id = id_of("shop/dev");
    host().bpg_json({"branch", "delete", "shop/dev"});
    const Json made = create("shop/from-trash", {"--from", id});
    EXPECT_EQ(rows("shop/from-trash"), kRows + 1);
    EXPECT_EQ(made.at("created_from").at("mode"), "clean");
    EXPECT_TRUE(made.at("parent").is_null());
    host().bpg_json({"trash", "purge", id});
    EXPECT_EQ(rows("shop/from-trash"), kRows + 1);
    host().bpg_json({"restart", "shop/from-trash"});
    EXPECT_EQ(rows("shop/from-trash"), kRows + 1);
}

TEST_P(Lifecycle, AFamilyIsDeletedTogetherAndComesBackOneByOne) {
    create("shop/one");
    create("shop/two", {"--from", "shop/one"});
    create("shop/three", {"--from", "shop/two"});
    add_row("shop/three");
    refused({"branch", "delete", "shop/one"},
            {5, "branch_has_children", "branch \"shop/one\" has children", "cut from it: shop/two",
             "delete those first, or pass --recursive to delete them too"});
    const Untouched before(host());
    const Json plan = host().bpg_json({"branch", "delete", "shop/one", "--recursive", "--dry-run"});
    ASSERT_EQ(plan.at("branches").size(), 3U);
    EXPECT_EQ(plan.at("branches")[0].at("ref"), "shop/three") << "children first";
    EXPECT_TRUE(plan.at("bytes").is_number());
    before.expect();
    host().bpg_json({"branch", "delete", "shop/one", "--recursive"});
    EXPECT_EQ(trash().size(), 3U);
    EXPECT_EQ(host().bpg_json({"branch", "list", "shop"}).at("items").size(), 1U);
    host().bpg_json({"branch", "undo-delete", "shop/three"});
    EXPECT_EQ(rows("shop/three"), kRows + 1);
    EXPECT_TRUE(host().branch("shop/three").at("parent").is_null()) << "it is in the trash";
    refused({"branch", "sync", "shop/three"},
            {5, "parent_gone", "the parent of branch \"shop/three\" is gone",
             "shop/two is in the trash",
             "bring it back (bpg trash list), or create the branch from another one"});
    host().bpg_json({"trash", "purge", "--all"});
    EXPECT_EQ(trash(), Json::array());
    EXPECT_EQ(rows("shop/three"), kRows + 1) << "it hung on what was destroyed";
    host().bpg_json({"restart", "shop/three"});
    EXPECT_EQ(rows("shop/three"), kRows + 1);
}

TEST_P(Lifecycle, APurgedBranchDoesNotComeBack) {
    create("shop/dev");
    const std::string volume = host().branch("shop/dev").at("storage").at("name");
    host().bpg_json({"branch", "delete", "shop/dev", "--purge"});
    EXPECT_EQ(trash(), Json::array());
    EXPECT_EQ(host().compare_world_with_catalog(), "");
    create("shop/dev");
    host().bpg_json({"branch", "delete", "shop/dev"});
    const std::string id = trash()[0].at("id");
    const Json job = host().bpg_json({"trash", "purge", id});
    EXPECT_EQ(job.at("operation"), "trash-purge");
    EXPECT_EQ(trash(), Json::array());
    refused({"trash", "purge"}, {2, "usage", "it takes an id, or --all", "none was given",
                                 "bpg trash list shows the ids"});
    refused({"trash", "purge", id},
            {3, "trash_item_not_found", "there is no \"" + id + "\" in the trash",
             "it was never deleted, or it is gone for good",
             "bpg trash list shows what can be brought back"});
}

TEST_P(Lifecycle, IncarnationsThatShareAPasswordMayBePurgedAtOnceAndLeaveNone) {
    const World world_before = host().world();
    for (int round = 0; round < 2; ++round) {
        create("shop/dev");
        for (int i = 0; i < 2; ++i)
            host().bpg_json({"branch", "sync", "shop/dev"});
        host().bpg_json({"branch", "delete", "shop/dev"});
        const Json items = trash();
        ASSERT_EQ(items.size(), 3U);
        std::vector<std::string> jobs;
        for (const Json& item : items) {
            const Json job = host().bpg_json({"--no-wait", "trash", "purge", item.at("id")});
            jobs.push_back(job.at("id"));
        }
        for (const std::string& job : jobs)
            EXPECT_EQ(host().outcome(job), "succeeded");
    }
    host().wait_until_idle();
    EXPECT_EQ(describe_difference(world_before, host().world()), "");
}

TEST_P(Lifecycle, ADatabaseGoesToTheTrashWholeAndComesBackWhole) {
    create("shop/dev");
    create("shop/resting");
    host().bpg_json({"stop", "shop/resting"});
    add_row("shop/dev");
    const std::string url = host().url("shop/dev");
    host().bpg_json({"db", "delete", "shop", "--force"});
    EXPECT_EQ(host().bpg_json({"db", "list"}).at("items"), Json::array());
    ASSERT_EQ(trash().size(), 1U);
    EXPECT_EQ(trash()[0].at("kind"), "database");
    EXPECT_EQ(trash()[0].at("ref"), "shop");
    const Json back = host().bpg_json({"db", "undo-delete", "shop"});
    EXPECT_EQ(back.at("branches"), 3);
    EXPECT_EQ(rows("shop/dev"), kRows + 1);
    EXPECT_EQ(host().url("shop/dev"), url);
    EXPECT_EQ(host().branch("shop/resting").at("state"), "stopped");
    host().bpg_json({"db", "delete", "shop", "--force"});
    database("shop");
    refused(
        {"db", "undo-delete", "shop"},
        {5, "database_exists", "database \"shop\" already exists", "a name stands for one database",
         "choose another name, or pass --if-not-exists to use it"});
}

// ---- create -------------------------------------------------------------------------------------

TEST_P(Lifecycle, ABranchCanBeMadeStopped) {
    const Json made = create("shop/later", {"--stopped"});
    EXPECT_EQ(made.at("state"), "stopped");
    EXPECT_TRUE(port_is_free(made.at("port").get<std::uint16_t>()));
    EXPECT_EQ(host().compare_world_with_catalog(), "");
    host().bpg_json({"start", "shop/later"});
    EXPECT_EQ(rows("shop/later"), kRows);
}

TEST_P(Lifecycle, BranchesOfBranchesOfBranches) {
    std::string parent = "shop/main";
    for (int depth = 1; depth <= 3; ++depth) {
        add_row(parent);
        const std::string ref = fmt::format("shop/d{}", depth);
        create(ref, {"--from", parent});
        EXPECT_EQ(rows(ref), kRows + depth);
        parent = ref;
    }
    EXPECT_EQ(rows("shop/d1"), kRows + 2) << "what was added for its child";
    const CliResult tree = host().bpg({"branch", "list", "--tree"});
    EXPECT_NE(tree.out.find("shop/d3"), std::string::npos) << tree.out;
}

// ---- snapshots ----------------------------------------------------------------------------------

TEST_P(Lifecycle, SnapshotsAreTakenListedAndBranchedFrom) {
    const Json taken =
        host().bpg_json({"snapshot", "create", "shop/main", "--label", "before the migration"});
    expect_members(taken,
                   {"id", "branch", "incarnation", "kind", "label", "created_at", "consistent_at",
                    "lsn", "timeline", "mode", "size_bytes", "pinned", "created_by", "branches"});
    EXPECT_EQ(taken.at("branch"), "shop/main");
    EXPECT_EQ(taken.at("kind"), "base");
    EXPECT_EQ(taken.at("label"), "before the migration");
    EXPECT_EQ(taken.at("created_by"), "user");
    EXPECT_EQ(taken.at("mode"), "safe");
    EXPECT_EQ(taken.at("pinned"), false);
    const std::string id = taken.at("id");
    add_row("shop/main");
    create("shop/then", {"--snapshot", id.substr(0, 12)});
    EXPECT_EQ(rows("shop/then"), kRows) << "as it was when the snapshot was taken";
    EXPECT_EQ(host().branch("shop/then").at("created_from").at("snapshot"), id);
    EXPECT_EQ(host().bpg_json({"snapshot", "get", id}).at("branches"), Json({"shop/then"}));
    const CliResult table = host().bpg({"snapshot", "list", "shop/main"});
    EXPECT_NE(table.out.find("before the migration"), std::string::npos) << table.out;
    refused({"snapshot", "delete", id}, {5, "snapshot_in_use", "snapshot " + id + " is in use",
                                         "cut from it: shop/then", "delete those first"});
    host().bpg_json({"branch", "delete", "shop/then", "--purge"});
    EXPECT_EQ(host().bpg_json({"snapshot", "get", id}).at("branches"), Json::array())
        << "a snapshot of its own stays";
    EXPECT_EQ(host().bpg_json({"snapshot", "delete", id}).at("state"), "succeeded");
    refused({"snapshot", "get", id},
            {3, "snapshot_not_found", "there is no snapshot \"" + id + "\"",
             "it was never taken, or it was deleted",
             "bpg snapshot list shows the snapshots there are"});
    refused({"snapshot", "create", "shop/main", "--label", std::string(129, 'x')},
            {2, "label_invalid", "this is no label", "it has 129 bytes, 128 are the most",
             "choose another one"});
}

TEST_P(Lifecycle, APinnedSnapshotIsDeletedByForceOnly) {
    host().bpg_json({"stop", "shop/main"});
    const Json taken = host().bpg_json({"snapshot", "create", "shop/main"});
    EXPECT_EQ(taken.at("mode"), "clean");
    host().bpg_json({"start", "shop/main"});
    const std::string id = taken.at("id");
    EXPECT_EQ(host().bpg_json({"snapshot", "pin", id}).at("pinned"), true);
    refused({"snapshot", "delete", id},
            {5, "snapshot_pinned", "snapshot " + id + " is pinned",
             "somebody asked that it be kept", "bpg snapshot unpin " + id + ", or pass --force"});
    EXPECT_EQ(host().bpg_json({"snapshot", "unpin", id}).at("pinned"), false);
    host().bpg_json({"snapshot", "pin", id, "--with-wal"});
    host().bpg_json({"snapshot", "delete", id, "--force"});
}

TEST_P(Lifecycle, SnapshotsOfTheReplacedIncarnationStayUsable) {
    create("shop/dev");
    add_row("shop/dev");
    const std::string id = host().bpg_json({"snapshot", "create", "shop/dev"}).at("id");
    host().bpg_json({"branch", "sync", "shop/dev"});
    EXPECT_EQ(rows("shop/dev"), kRows);
    create("shop/before", {"--from", "shop/dev", "--snapshot", id});
    EXPECT_EQ(rows("shop/before"), kRows + 1);
    const std::string item = trash()[0].at("id");
    refused({"trash", "purge", item},
            {5, "trash_item_in_use", "what shop/dev was before its sync is in use",
             "snapshots of it are kept, or branches hang on it",
             "delete these snapshots first: bpg snapshot list shop/dev"});
    host().bpg_json({"branch", "delete", "shop/before", "--purge"});
    host().bpg_json({"snapshot", "delete", id});
    host().bpg_json({"trash", "purge", item});
    EXPECT_EQ(trash(), Json::array());
}

TEST_P(Lifecycle, ASnapshotAskedForWhileItsBranchIsDeletedIsRefusedOrTaken) {
    constexpr std::size_t kBranches = 8;
    const auto ref = [](std::size_t number) { return fmt::format("shop/b{}", number % kBranches); };
    at_once(kBranches, [&](std::size_t number) { create(ref(number), {"--stopped"}); });
    std::vector<CliResult> results(2 * kBranches);
    at_once(results.size(), [&](std::size_t number) {
        const char* noun = number < kBranches ? "snapshot" : "branch";
        const char* verb = number < kBranches ? "create" : "delete";
        results[number] = host().bpg({"-y", "-o", "json", noun, verb, ref(number)});
    });
    for (const CliResult& result : results) {
        if (result.ok()) continue;
        const std::string code = result.error().code;
        EXPECT_TRUE(code == "busy" || code == "branch_not_found") << result.text();
    }
    const Json failed = host().bpg_json({"job", "list", "--state", "failed"});
    for (const Json& job : failed.at("items"))
        EXPECT_NE(job.at("operation"), "snapshot") << job;
}

// ---- password and log ---------------------------------------------------------------------------

TEST_P(Lifecycle, APasswordIsRotated) {
    create("shop/dev");
    const std::string old_url = host().url("shop/dev");
    host().bpg_json({"password", "rotate", "shop/dev"});
    const std::string url = host().url("shop/dev");
    EXPECT_NE(password_of(url), password_of(old_url));
    EXPECT_EQ(query_number(url, "SELECT 1"), 1);
    EXPECT_ANY_THROW(query_number(old_url, "SELECT 1"));
    restart_failing_at("password-rotate.set_password");
    expect_error(host().bpg_error({"password", "rotate", "shop/dev"}), 1, "failure_injected");
    EXPECT_EQ(host().url("shop/dev"), url);
    EXPECT_EQ(query_number(url, "SELECT 1"), 1) << "the old one is set again";
    restart();
    host().bpg_json({"stop", "shop/dev"});
    refused({"password", "rotate", "shop/dev"},
            {5, "branch_not_running", "branch \"shop/dev\" does not run",
             "only PostgreSQL itself can change a password", "start it first: bpg start shop/dev"});
}

TEST_P(Lifecycle, LogsAreWhatPostgresWrote) {
    create("shop/dev");
    const std::string url = host().url("shop/dev");
    const CliResult before = host().bpg({"logs", "shop/dev"});
    ASSERT_TRUE(before.ok()) << before.text();
    EXPECT_NE(before.out.find("ready to accept connections"), std::string::npos) << before.out;
    CliResult followed;
    std::thread follower(
        [&] { followed = host().bpg({"--timeout", "4s", "logs", "shop/dev", "-f"}, 30s); });
    std::this_thread::sleep_for(1500ms);
    EXPECT_ANY_THROW(query_number(url, "SELECT no_such_column"));
    follower.join();
    EXPECT_EQ(followed.exit_code, 7) << "it follows until it is told to stop";
    const auto mark = followed.out.find("no_such_column");
    ASSERT_NE(mark, std::string::npos) << followed.text();
    EXPECT_EQ(followed.out.find("column \"no_such_column\" does not exist"),
              followed.out.rfind("column \"no_such_column\" does not exist"))
        << "a line was told twice: " << followed.out;
    refused({"logs", "shop/nobody"}, {3, "branch_not_found", "there is no branch \"shop/nobody\"",
                                      "it was never created, or it was deleted",
                                      "bpg branch list shop shows the branches there are"});
}

TEST_P(Lifecycle, AWholeDatabaseIsStoppedAndStarted) {
    create("shop/dev");
    const Json stopped = host().bpg_json({"stop", "shop"});
    ASSERT_EQ(stopped.at("items").size(), 2U);
    for (const Json& branch : stopped.at("items"))
        EXPECT_EQ(branch.at("state"), "stopped");
    const Json started = host().bpg_json({"start", "shop"});
    for (const Json& branch : started.at("items"))
        EXPECT_EQ(branch.at("state"), "running");
    refused({"restart", "nowhere"}, {3, "database_not_found", "there is no database \"nowhere\"",
                                     "it was never created here, or it was deleted",
                                     "bpg db list shows the databases there are"});
}

TEST_P(Lifecycle, ARepeatedKeyChangesARecordOnce) {
    create("shop/dev");
    const std::vector<std::string> rename = {"--idempotency-key", "rename-1", "branch", "rename",
                                             "shop/dev",          "shop/qa"};
    EXPECT_EQ(host().bpg_json(rename).at("ref"), "shop/qa");
    EXPECT_EQ(host().bpg_json(rename).at("ref"), "shop/qa") << "the answer may have been lost";
    refused({"--idempotency-key", "rename-1", "branch", "rename", "shop/qa", "shop/x"},
            {2, "idempotency_key_reused", "this Idempotency-Key was used for another request",
             "a key stands for exactly one request", "send a new key"});
}

/// A trash that is never allowed to keep anything for long.
class Housekeeping : public HostSuite<Housekeeping> {
  protected:
    void SetUp() override {
        HostSuite::SetUp();
        database_with_items("shop", kRows);
    }
    void adapt(HostOptions& options) const override {
        options.trash_keep = "24h";
        options.storage_reserve = "1000G";  // more than there is: space is always short
    }
};

TEST_P(Housekeeping, TheTrashIsEmptiedWhereSpaceIsShort) {
    create("shop/one");
    create("shop/two", {"--from", "shop/one"});
    create("shop/kept", {"--from", "shop/two"});
    host().bpg_json({"branch", "delete", "shop/kept"});
    host().bpg_json({"branch", "delete", "shop/one", "--recursive"});
    ASSERT_TRUE(
        eventually([] { return host().bpg_json({"trash", "list"}).at("items").empty(); }, 60s));
    host().wait_until_idle();
    EXPECT_EQ(host().compare_world_with_catalog(), "");
    EXPECT_EQ(host().bpg_json({"snapshot", "list"}).at("items").size(), 1U) << "only the first";
    EXPECT_EQ(query_number(host().url("shop/main"), "SELECT count(*) FROM items"), kRows);
    const Json jobs = host().bpg_json({"job", "list", "--limit", "1"});
    EXPECT_EQ(jobs.at("items")[0].at("operation"), "trash-purge");
    EXPECT_EQ(jobs.at("items")[0].at("priority"), "housekeeping");
    remove_database("shop");
    ASSERT_TRUE(
        eventually([] { return host().bpg_json({"trash", "list"}).at("items").empty(); }, 60s));
    host().wait_until_idle();
}

INSTANTIATE_TEST_SUITE_P(Btrfs, Housekeeping, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, Housekeeping, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);

/// A trash that keeps things for a moment.
class ShortTrash : public HostSuite<ShortTrash> {
  protected:
    void adapt(HostOptions& options) const override { options.trash_keep = "3s"; }
};

TEST_P(ShortTrash, WhatHasWaitedLongEnoughGoesByItself) {
    database_with_items("shop", kRows);
    create("shop/dev");
    host().bpg_json({"branch", "sync", "shop/dev"});
    create("shop/gone");
    host().bpg_json({"branch", "delete", "shop/gone"});
    EXPECT_EQ(host().bpg_json({"trash", "list"}).at("items").size(), 2U);
    // Also of what was deleted while bpgd was away when its time was over.
    ASSERT_EQ(host().stop_daemon(), 0);
    std::this_thread::sleep_for(3s);
    host().start_daemon();
    ASSERT_TRUE(
        eventually([] { return host().bpg_json({"trash", "list"}).at("items").empty(); }, 60s));
    host().wait_until_idle();
    EXPECT_EQ(host().compare_world_with_catalog(), "");
    EXPECT_EQ(query_number(host().url("shop/dev"), "SELECT count(*) FROM items"), kRows);
    remove_database("shop");
    ASSERT_TRUE(
        eventually([] { return host().bpg_json({"trash", "list"}).at("items").empty(); }, 60s));
    host().wait_until_idle();
}

INSTANTIATE_TEST_SUITE_P(Btrfs, ShortTrash, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);

/// Nothing is kept: a delete destroys.
class Deletes : public HostSuite<Deletes> {};

TEST_P(Deletes, AParentMayFollowItsChildBeforeThatIsDestroyed) {
    database("shop");
    const int rounds = long_mode() ? 8 : 4;
    for (int round = 0; round < rounds; ++round) {
        create("shop/parent");
        create("shop/child", {"--from", "shop/parent"});
        const std::string child =
            host().bpg_json({"--no-wait", "branch", "delete", "shop/child"}).at("id");
        CliResult parent;
        // Refused for as long as the child has its name.
        ASSERT_TRUE(eventually(
            [&] {
                parent = host().bpg({"-y", "-o", "json", "branch", "delete", "shop/parent"});
                return parent.ok() || parent.error().code != "branch_has_children";
            },
            30s));
        EXPECT_TRUE(parent.ok()) << "round " << round << ": " << parent.text();
        EXPECT_EQ(host().outcome(child), "succeeded") << "round " << round;
        if (HasFailure()) break;
    }
    host().wait_until_idle();
    EXPECT_EQ(host().compare_world_with_catalog(), "");
    remove_database("shop");
}

INSTANTIATE_TEST_SUITE_P(Zfs, Deletes, ::testing::Values(DriverPair{"zfs", "process"}), pair_name);

INSTANTIATE_TEST_SUITE_P(Btrfs, Lifecycle, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, Lifecycle, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);

}  // namespace
}  // namespace bpg::test
