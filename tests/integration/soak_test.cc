// Several users work at random on the same few branches at once. Whatever they do to one another,
// nothing fails but what must be refused, in the end the outside world is what the catalog says,
// and bpgd holds no more memory and no more descriptors than before.
//
// BPG_SEED repeats a run's choices (their order among the users is the machine's), BPG_LONG makes
// it two thousand operations.
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
const std::set<std::string> kRefusals = {"busy", "branch_exists", "branch_has_children",
                                         "branch_not_found"};

std::uint64_t seed() {
    const char* given = ::getenv("BPG_SEED");
    return given != nullptr ? std::stoull(given) : std::random_device()();
}

/// What became of the operations, from any thread.
class Tally {
  public:
    void note(const std::string& what, const CliResult& result) {
        std::string outcome = "ok";
        if (!result.ok()) {
            const CliError error = result.error();
            outcome = error.code;
            const bool is_expected =
                kRefusals.contains(error.code) && (result.exit_code == 3 || result.exit_code == 5);
            if (!is_expected) {
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
    std::mutex mutex_;
    std::map<std::string, std::size_t> counts_;
    std::vector<std::string> unexpected_;
};

/// One user's next command line, without the global flags.
std::vector<std::string> choose(std::mt19937_64& random) {
    const auto below = [&random](int limit) {
        return std::uniform_int_distribution<int>(0, limit - 1)(random);
    };
    const auto name = [&below] { return fmt::format("soak/b{}", below(kNames)); };
    const int choice = below(100);
    if (choice < 35) {
        const std::string from = below(2) == 0 ? "soak/main" : name();
        return {"branch", "create", name(), "--from", from};
    }
    if (choice < 60) return {"branch", "delete", name()};
    if (choice < 72) return {"stop", name()};
    if (choice < 84) return {"start", name()};
    if (choice < 95) return {"restart", name()};
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

    /// Every branch that runs is the one it is called, with the rows of its line.
    static void expect_true_branches() {
        const Json list = host().bpg_json({"branch", "list"});
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
        host().wait_until_idle();
    }

    static Footprint footprint() {
        return footprint_of(host().daemon_pid(), host().base() / "state" / "state");
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
    Tally tally;
    work(warm_up, number, tally);
    delete_branches();
    const Footprint before = footprint();
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
    EXPECT_EQ(host().bpg_json({"job", "list", "--state", "failed"}).at("items"), Json::array());
    const auto said = complaints();
    EXPECT_EQ(said.size(), complaints_before) << said.back();
    remove_database("soak");
}

INSTANTIATE_TEST_SUITE_P(Btrfs, Soak, ::testing::Values(DriverPair{"btrfs", "process"}), pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, Soak, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);

}  // namespace
}  // namespace bpg::test
