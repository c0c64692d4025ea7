// Several users work at random on the same few branches at once. Whatever they do to one another,
// nothing fails but what must be refused, in the end the outside world is what the catalog says,
// and bpgd holds no more memory and no more descriptors than before. The same with bpgd killed
// again and again under them: no job that was acknowledged is lost, done twice, or stuck.
//
// BPG_SEED repeats a run's choices (their order among the users is the machine's), BPG_LONG makes
// it two thousand operations and two hundred kills.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <mutex>
#include <random>
#include <set>
#include <sstream>

#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

constexpr std::size_t kUsers = 6;
constexpr int kNames = 8;
constexpr int kRows = 100;
constexpr std::size_t kLongOperations = 2000;
/// What may legitimately be there more at the end: RocksDB's two memtables of 8 MiB fill up, its
/// block cache and table readers grow with the history it keeps on disk, and the allocator keeps
/// what was freed. Jobs that ended are on disk alone.
constexpr std::size_t kGrowthMax = 24U << 20;

/// Refusals that users of the same few names must expect of one another.
const std::set<std::string> kRefusals = {
    "busy",        "branch_exists",      "branch_has_children", "branch_not_found",
    "parent_gone", "branch_not_running", "database_not_found",  "database_exists"};

/// What they must expect too where jobs are cancelled and bpgd is away at times.
const std::set<std::string> kTroubles = {"busy",
                                         "branch_exists",
                                         "branch_has_children",
                                         "branch_not_found",
                                         "job_cancelled",
                                         "job_ended",
                                         "job_irreversible",
                                         "job_not_cancelled",
                                         "job_undoing",
                                         "parent_gone",
                                         "branch_gone",
                                         "database_not_found",
                                         "database_exists",
                                         "daemon_unreachable",
                                         "starting",
                                         "branch_not_running"};

/// What became of the operations, from any thread.
class Tally {
  public:
    explicit Tally(const std::set<std::string>& expected) : expected_(expected) {}
    void note(const std::string& what, const CliResult& result) {
        std::string outcome = "ok";
        if (!result.ok()) {
            const CliError error = result.error();
            outcome = error.code;
            if (!expected_.contains(error.code)) {
                const std::lock_guard lock(mutex_);
                unexpected_.push_back(what + ": " + result.text());
            }
        }
        const std::lock_guard lock(mutex_);
        ++counts_[what.substr(0, what.find(' ')) + " " + outcome];
    }
    std::string text() const {
        std::string text;
        for (const auto& [what, times] : counts_)
            text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", what, times);
        return text;
    }
    const std::vector<std::string>& unexpected() const { return unexpected_; }

  private:
    const std::set<std::string>& expected_;
    std::mutex mutex_;
    std::map<std::string, std::size_t> counts_;
    std::vector<std::string> unexpected_;
};

/// Ids of jobs that bpgd said it has taken, from any thread.
class Acknowledged {
  public:
    void note(const CliResult& result) {
        if (!result.ok()) return;
        const Json job = result.json();
        if (!job.contains("operation")) return;  // the object was there already
        const std::lock_guard lock(mutex_);
        ids_.push_back(job.at("id"));
    }
    /// One of the latest; empty while there is none.
    std::string recent(std::mt19937_64& random) {
        const std::lock_guard lock(mutex_);
        if (ids_.empty()) return "";
        const std::size_t back = std::min<std::size_t>(ids_.size(), 4);
        return ids_[ids_.size() - 1 - random() % back];
    }
    /// Only once nobody notes any more.
    const std::vector<std::string>& ids() const { return ids_; }
    std::size_t count() {
        const std::lock_guard lock(mutex_);
        return ids_.size();
    }

  private:
    std::mutex mutex_;
    std::vector<std::string> ids_;
};

/// One user's next command line, without the global flags.
std::vector<std::string> choose(std::mt19937_64& random) {
    const auto below = [&random](int limit) {
        return std::uniform_int_distribution<int>(0, limit - 1)(random);
    };
    const auto name = [&below] { return fmt::format("soak/b{}", below(kNames)); };
    const int choice = below(100);
    if (choice < 30) {
        const std::string from = below(2) == 0 ? "soak/main" : name();
        std::vector<std::string> words{"branch", "create", name(), "--from", from};
        if (choice < 4) words.insert(words.end(), {"--pitr", "0s"});
        return words;
    }
    if (choice < 52) return {"branch", "delete", name()};
    if (choice < 60) return {"stop", name()};
    if (choice < 70) return {"start", name()};
    if (choice < 77) return {"restart", name()};
    if (choice < 84) return {"branch", "sync", name()};
    if (choice < 87) return {"snapshot", "create", name()};
    if (choice < 90) return {"branch", "rename", name(), name()};
    if (choice < 93) return {"password", "rotate", name()};
    if (choice < 95) return {"db", below(2) == 0 ? "create" : "delete", "side"};
    return {"status"};
}

class Soak : public HostSuite<Soak> {
  protected:
    static std::size_t operations() {
        if (long_mode()) return kLongOperations;
        return host().in_docker() ? 250 : 600;
    }

    static void work(std::size_t operations, std::uint64_t seed, Tally& tally) {
        std::atomic<std::size_t> begun{0};
        at_once(kUsers, [&](std::size_t user) {
            std::mt19937_64 random(seed + user);
            while (begun++ < operations) {
                std::vector<std::string> arguments = choose(random);
                const std::string what = fmt::format("{}", fmt::join(arguments, " "));
                arguments.insert(arguments.begin(), {"-y", "-o", "json"});
                tally.note(arguments[3] == "branch" ? what.substr(7) : what, host().bpg(arguments));
            }
        });
        host().wait_until_idle();
    }

    /// Until `is_over`; half of the commands only hand their job in, and some jobs are cancelled.
    static void work_through_kills(const std::atomic<bool>& is_over, std::uint64_t seed,
                                   Tally& tally, Acknowledged& acknowledged) {
        at_once(kUsers, [&](std::size_t user) {
            std::mt19937_64 random(seed + user);
            while (!is_over) {
                const std::string victim = random() % 8 == 0 ? acknowledged.recent(random) : "";
                if (!victim.empty()) {
                    tally.note("cancel", host().bpg({"-o", "json", "job", "cancel", victim}));
                    continue;
                }
                std::vector<std::string> arguments = choose(random);
                const bool has_verb = arguments.size() > 1 && arguments[0] != "status" &&
                                      arguments[1].find('/') == std::string::npos;
                const std::string verb = has_verb ? arguments[1] : arguments[0];
                const bool hand_in = verb != "status" && random() % 2 == 0;
                arguments.insert(arguments.begin(), {"-y", "-o", "json"});
                if (hand_in) arguments.insert(arguments.begin(), "--no-wait");
                const CliResult result = host().bpg(arguments);
                tally.note(verb, result);
                if (hand_in) acknowledged.note(result);
            }
        });
    }

    /// At least so often, and until there are jobs enough to look at, which takes a slow machine
    /// longer. The longest time from a kill until bpgd answered again.
    static std::chrono::milliseconds kill_again_and_again(int times, Acknowledged& acknowledged,
                                                          std::mt19937_64& random) {
        std::chrono::milliseconds slowest{0};
        const auto enough = static_cast<std::size_t>(times) / 2;
        const auto is_wanted = [&](int kill) {
            return kill < times || (kill < 4 * times && acknowledged.count() <= enough);
        };
        for (int kill = 0; is_wanted(kill); ++kill) {
            // Longer than the longest step, or nothing could ever get done; and where it is not,
            // for the machine has other work, longer and longer.
            const auto more = static_cast<std::uint64_t>(std::max(kill - times, 0)) * 200;
            const std::chrono::milliseconds life(500 + random() % 2000 + more);
            std::this_thread::sleep_for(life);
            const auto began = std::chrono::steady_clock::now();
            host().kill_daemon();
            host().start_daemon();
            const auto away = std::chrono::steady_clock::now() - began;
            slowest =
                std::max(slowest, std::chrono::duration_cast<std::chrono::milliseconds>(away));
        }
        return slowest;
    }

    static void expect_all_ended(const std::vector<std::string>& ids) {
        const std::set<std::string> ends = {"succeeded", "failed", "cancelled"};
        for (const std::string& id : ids) {
            const Json job = host().bpg_json({"job", "get", id});
            EXPECT_TRUE(ends.contains(job.at("state").get<std::string>())) << job.dump(2);
        }
        const Json stuck = host().bpg_json({"job", "list", "--state", "stuck"});
        EXPECT_EQ(stuck.at("items"), Json::array());
        expect_failed_for_want_of_a_parent();
    }

    /// One that was still being made may have been cancelled; what a sync had replaced, and a
    /// restore waited for, is gone with the sync where nothing is kept.
    static void expect_failed_for_want_of_a_parent() {
        const Json failed = host().bpg_json({"job", "list", "--state", "failed"});
        for (const Json& job : failed.at("items"))
            EXPECT_EQ(job.at("error").at("code"), "parent_gone") << job.dump(2);
    }

    /// Every branch that runs is the one it is called, with the rows of its line.
    static void expect_true_branches() {
        const Json list = host().bpg_json({"branch", "list", "soak"});
        for (const Json& branch : list.at("items")) {
            const std::string ref = branch.at("ref");
            if (branch.at("state") == "stopped") continue;
            ASSERT_EQ(branch.at("state"), "running") << branch.dump(2);
            const std::string url = host().url(ref);
            EXPECT_EQ(query_value(url, "SELECT current_setting('bpg.branch_id')"),
                      branch.at("id").get<std::string>());
            EXPECT_EQ(query_number(url, "SELECT count(*) FROM items"), kRows) << ref;
        }
    }

    /// Deletes every branch but main, children first.
    static void delete_branches() {
        for (bool is_left = true; is_left;) {
            is_left = false;
            const Json list = host().bpg_json({"branch", "list", "soak"});
            for (const Json& branch : list.at("items")) {
                if (branch.at("name") == "main") continue;
                is_left = true;
                const CliResult result = host().bpg(
                    {"-y", "-o", "json", "branch", "delete", branch.at("ref").get<std::string>()});
                if (!result.ok()) {
                    ASSERT_EQ(result.error().code, "branch_has_children") << result.text();
                }
            }
        }
        const CliResult side = host().bpg({"-y", "-o", "json", "db", "delete", "side", "--force"});
        if (!side.ok()) EXPECT_EQ(side.error().code, "database_not_found") << side.text();
        // What bpgd empties by itself at this moment is busy.
        EXPECT_TRUE(
            eventually([] { return host().bpg({"-y", "trash", "purge", "--all"}).ok(); }, 60s));
        host().wait_until_idle();
    }

    static Footprint footprint() {
        return footprint_of(host().daemon_pid(), host().base() / "state" / "state");
    }

    /// While bpgd measures no volume, which opens their directory again and files below it.
    static Footprint footprint_at_rest() {
        const std::string volumes = host().volumes().native();
        Footprint found;
        const bool at_rest = eventually(
            [&] {
                found = footprint();
                const auto opened = std::count_if(
                    found.descriptors.begin(), found.descriptors.end(),
                    [&](const std::string& name) { return name.starts_with(volumes); });
                return opened <= 1;
            },
            10s);
        EXPECT_TRUE(at_rest);
        return found;
    }

    /// Warnings and errors that bpgd logged.
    static std::vector<std::string> complaints() {
        std::vector<std::string> complaints;
        std::ifstream log(host().daemon_log());
        for (std::string line; std::getline(log, line);) {
            std::istringstream words(line);
            std::string time;
            std::string level;
            words >> time >> level;
            const bool is_expected = line.find("parent_gone") != std::string::npos;
            if (is_expected) continue;
            if (level == "warning" || level == "error") complaints.push_back(line);
        }
        return complaints;
    }
};

TEST_P(Soak, RandomOperationsOfManyUsersLeaveTheWorldAsTheCatalogSaysAndBpgdAsItWas) {
    database_with_items("soak", kRows);
    const std::uint64_t number = seed();
    const std::size_t warm_up = operations() / 5;
    fmt::print("BPG_SEED={}, {} operations by {} users\n", number, operations(), kUsers);
    const World world_before = host().world();
    const LagWatch lag{host()};
    const std::size_t complaints_before = complaints().size();
    Tally tally(kRefusals);
    work(warm_up, number, tally);
    delete_branches();
    const Footprint before = footprint_at_rest();
    work(operations() - warm_up, number + kUsers, tally);
    fmt::print("{}\n", tally.text());
    EXPECT_EQ(tally.unexpected(), std::vector<std::string>{});
    EXPECT_EQ(host().compare_world_with_catalog(), "");
    expect_true_branches();
    delete_branches();
    EXPECT_EQ(describe_difference(world_before, host().world()), "");
    lag.expect_below_ten_milliseconds();

    const auto is_as_before = [&before] { return footprint().descriptors == before.descriptors; };
    EXPECT_TRUE(eventually(is_as_before, 10s));
    const Footprint after = footprint();
    fmt::print("resident {} KiB, then {} KiB; files of the store {}, then {}\n",
               before.resident_bytes >> 10, after.resident_bytes >> 10, before.store_files,
               after.store_files);
    EXPECT_EQ(after.descriptors, before.descriptors);
    // Under the sanitizer what was freed is kept for a while, by design.
    if (!kUnderSanitizer) {
        EXPECT_LE(after.resident_bytes, before.resident_bytes + kGrowthMax);
    }
    expect_failed_for_want_of_a_parent();
    const auto said = complaints();
    EXPECT_EQ(said.size(), complaints_before) << said.back();
    remove_database("soak");
}

TEST_P(Soak, KillingBpgdAtRandomMomentsLosesDoublesAndLeavesNothing) {
    const std::string main = database_with_items("soak", kRows);
    const pid_t parent = host().postmaster(main).pid;
    const std::uint64_t number = seed();
    const int kills = long_mode() ? 200 : 25;
    fmt::print("BPG_SEED={}, {} kills under {} users\n", number, kills, kUsers);
    const World world_before = host().world();
    Tally tally(kTroubles);
    Acknowledged acknowledged;
    std::atomic<bool> is_over{false};
    std::mt19937_64 random(number + kUsers);
    {
        const std::jthread users([&] { work_through_kills(is_over, number, tally, acknowledged); });
        const auto slowest = kill_again_and_again(kills, acknowledged, random);
        fmt::print("away for {} ms at most\n", slowest.count());
        is_over = true;
    }
    host().wait_until_idle();
    fmt::print("{}\n", tally.text());
    EXPECT_EQ(tally.unexpected(), std::vector<std::string>{});
    EXPECT_GT(acknowledged.ids().size(), static_cast<std::size_t>(kills) / 2);
    expect_all_ended(acknowledged.ids());
    EXPECT_EQ(host().compare_world_with_catalog(), "");
    expect_true_branches();
    EXPECT_EQ(host().postmaster(main).pid, parent);
    delete_branches();
    EXPECT_EQ(describe_difference(world_before, host().world()), "");
    remove_database("soak");
}

INSTANTIATE_TEST_SUITE_P(Btrfs, Soak, ::testing::Values(DriverPair{"btrfs", "process"}), pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, Soak, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);

}  // namespace
}  // namespace bpg::test
