// Times that can be restored stay so: random operations by the CLI, and after each of them every
// commit that could be restored before it still can, unless the plan of that operation said that it
// goes. Now and then one is restored and compared, and a snapshot is branched from.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <random>
#include <set>

#include "orchestrator/base/clock.h"
#include "tests/harness/ledger.h"
#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

struct Window {
    WallTime from;
    WallTime to;
};
using Windows = std::vector<Window>;

WallTime time_in(const Json& value, WallTime otherwise) {
    if (value.is_null()) return otherwise;
    return parse_time(value.get<std::string>()).value();
}

Windows windows_in(const Json& restorable) {
    Windows windows;
    for (const Json& window : restorable) {
        windows.push_back({time_in(window.at("from"), WallTime::min()),
                           time_in(window.at("to"), WallTime::max())});
    }
    return windows;
}

bool holds(const Windows& windows, WallTime time) {
    return std::any_of(windows.begin(), windows.end(), [time](const Window& window) {
        return window.from <= time && time <= window.to;
    });
}

/// What was committed in one incarnation of a branch, and which of it can be restored now.
struct Incarnation {
    std::string ref;
    Ledger ledger;
    std::set<WallTime> restorable;
};

class RestorableTimes : public HostSuite<RestorableTimes> {
  protected:
    void adapt(HostOptions& options) const override { options.trash_keep = "24h"; }
    void SetUp() override {
        HostSuite<RestorableTimes>::SetUp();
        const std::string main = database("shop");
        begin_ledger(host(), main);
        live_ = {main};
        look();
    }
    void TearDown() override {
        EXPECT_EQ(host().compare_world_with_catalog(), "");
        remove_database("shop");
        host().bpg_json({"trash", "purge", "--all"});
        EXPECT_EQ(host().compare_world_with_catalog(), "");
    }

    std::size_t any(std::size_t number) { return random_() % number; }
    const std::string& any_live() { return live_[any(live_.size())]; }
    std::string new_ref() { return fmt::format("shop/b{}", ++made_); }

    /// Reads what is committed and what can be restored.
    void look() {
        for (const std::string& ref : live_) {
            Incarnation& known = known_[host().branch(ref).at("incarnation").at("id")];
            known.ref = ref;
            known.ledger = read_ledger(host().url(ref));
        }
        for (auto& [id, known] : known_)
            known.restorable.clear();
        for (const std::string& ref : live_) {
            const Json items = host().bpg_json({"wal", "info", ref}).at("items");
            for (const Json& item : items) {
                Incarnation& known = known_[item.at("incarnation")];
                const Windows windows = windows_in(item.at("restorable"));
                for (const auto& [row, committed] : known.ledger) {
                    if (holds(windows, committed)) known.restorable.insert(committed);
                }
            }
        }
    }

    /// Does something; then whatever could be restored still can. `goes` says what was announced.
    using Announced = std::function<bool(const std::string& incarnation, WallTime time)>;
    void keeps_all(
        const std::string& what, const std::function<void()>& work,
        const Announced& goes = [](const std::string&, WallTime) { return false; }) {
        story_.push_back(what);
        work();
        const auto before = known_;
        look();
        for (const auto& [id, was] : before) {
            for (const WallTime time : was.restorable) {
                if (known_[id].restorable.contains(time) || goes(id, time)) continue;
                FAIL() << format_time(time) << " of " << was.ref << " (" << id
                       << ") cannot be restored any more after: " << fmt::format("{}", story_);
            }
        }
    }

    void write() { write_to(any_live()); }
    void write_to(const std::string& ref) {
        keeps_all("write " + ref, [&] { write_ledger(host(), ref, 1 + int(any(3))); });
    }
    void switch_segment() {
        const std::string ref = any_live();
        keeps_all("switch " + ref, [&] { execute(host().url(ref), "SELECT pg_switch_wal()"); });
    }
    void restart() {
        const std::string ref = any_live();
        keeps_all("restart " + ref, [&] { host().bpg_json({"restart", ref}); });
    }
    void take_snapshot() { take_snapshot_of(any_live()); }
    void take_snapshot_of(const std::string& ref) {
        keeps_all("snapshot " + ref, [&] { host().bpg_json({"snapshot", "create", ref}); });
    }
    void branch() {
        if (live_.size() >= kBranchesMax) return remove_one();
        const std::string from = any_live();
        const std::string ref = new_ref();
        keeps_all("create " + ref + " from " + from, [&] {
            create(ref, {"--from", from});
            live_.push_back(ref);
        });
    }
    void remove_one() {
        if (live_.size() < 2) return branch();
        const std::string ref = live_[1 + any(live_.size() - 1)];
        if (has_children(ref)) return;
        keeps_all(
            "delete " + ref,
            [&] {
                host().bpg_json({"-y", "branch", "delete", ref, "--purge"});
                std::erase(live_, ref);
            },
            [&](const std::string& id, WallTime) { return known_[id].ref == ref; });
    }
    void sync() {
        if (live_.size() < 2) return branch();
        const std::string ref = live_[1 + any(live_.size() - 1)];
        keeps_all("sync " + ref, [&] { host().bpg_json({"branch", "sync", ref}); });
    }
    void clean() {
        const std::string ref = any_live();
        const Json plan = host().bpg_json({"wal", "cleanup", ref, "--days", "0", "--dry-run"});
        std::map<std::string, Windows> left;
        for (const Json& part : plan.at("incarnations"))
            left[part.at("incarnation")] = windows_in(part.at("restorable"));
        keeps_all(
            "cleanup " + ref, [&] { host().bpg_json({"wal", "cleanup", ref, "--days", "0"}); },
            [&](const std::string& id, WallTime time) {
                return left.contains(id) && !holds(left[id], time);
            });
    }
    void remove_snapshot() {
        const std::string ref = any_live();
        const auto id = any_snapshot(ref);
        if (!id) return;
        Json job;
        keeps_all(
            "delete snapshot " + *id + " of " + ref,
            [&] {
                const CliResult result =
                    host().bpg({"-y", "-o", "json", "snapshot", "delete", *id});
                job = result.ok() ? result.json() : Json{{"warnings", Json::array()}};
            },
            [&](const std::string& incarnation, WallTime) {
                return !job.at("warnings").empty() && known_[incarnation].ref == ref;
            });
    }
    /// Every snapshot that is listed can be branched from.
    void branch_from_snapshot() {
        const std::string ref = any_live();
        const auto id = any_snapshot(ref);
        if (!id) return;
        keeps_all("branch from " + *id + " of " + ref, [&] {
            create("shop/of-snapshot", {"--from", ref, "--snapshot", *id});
            EXPECT_EQ(host().branch("shop/of-snapshot").at("state"), "running");
            host().bpg_json({"-y", "branch", "delete", "shop/of-snapshot", "--purge"});
        });
    }
    void restore() {
        std::vector<std::pair<std::string, WallTime>> targets;
        for (const auto& [id, known] : known_) {
            for (const WallTime time : known.restorable)
                targets.emplace_back(id, time);
        }
        if (targets.empty()) return;
        const auto [id, time] = targets[any(targets.size())];
        const Incarnation known = known_[id];
        keeps_all(fmt::format("restore {} of {}", format_time(time), known.ref), [&] {
            const CliResult made = host().bpg({"branch", "create", "shop/then", "--from", known.ref,
                                               "--pitr", format_time(time)});
            ASSERT_TRUE(made.ok()) << made.text() << fmt::format("{}", story_);
            EXPECT_EQ(rows_in(host().url("shop/then")), rows_until(known.ledger, time))
                << format_time(time) << fmt::format("{}", story_);
            ++restored_;
            host().bpg_json({"-y", "branch", "delete", "shop/then", "--purge"});
        });
    }

    void any_step() {
        using Step = void (RestorableTimes::*)();
        static const std::vector<Step> kSteps = {
            &RestorableTimes::write,          &RestorableTimes::write,
            &RestorableTimes::write,          &RestorableTimes::switch_segment,
            &RestorableTimes::switch_segment, &RestorableTimes::restart,
            &RestorableTimes::take_snapshot,  &RestorableTimes::take_snapshot,
            &RestorableTimes::branch,         &RestorableTimes::branch,
            &RestorableTimes::remove_one,     &RestorableTimes::sync,
            &RestorableTimes::clean,          &RestorableTimes::remove_snapshot,
            &RestorableTimes::restore,        &RestorableTimes::restore,
            &RestorableTimes::restore,        &RestorableTimes::branch_from_snapshot};
        (this->*kSteps[any(kSteps.size())])();
    }

    std::optional<std::string> any_snapshot(const std::string& ref) {
        const Json items = host().bpg_json({"snapshot", "list", ref}).at("items");
        if (items.empty()) return std::nullopt;
        return items[any(items.size())].at("id");
    }
    bool has_children(const std::string& ref) {
        const Json items = host().bpg_json({"branch", "list", "shop"}).at("items");
        return std::any_of(items.begin(), items.end(),
                           [&ref](const Json& branch) { return branch.at("parent") == ref; });
    }

    static constexpr std::size_t kBranchesMax = 4;

    std::mt19937_64 random_;
    std::vector<std::string> live_;
    std::map<std::string, Incarnation> known_;
    std::vector<std::string> story_;
    int made_ = 0;
    int restored_ = 0;
};

TEST_P(RestorableTimes, StayRestorableUnlessAPlanSaidThatTheyGo) {
    const std::uint64_t seed_used = seed();
    fmt::print("BPG_SEED={}\n", seed_used);
    random_.seed(seed_used);
    const int rounds = long_mode() ? 400 : 25;
    for (int round = 0; round < rounds && !HasFatalFailure(); ++round)
        any_step();
    // Chance may have restored nothing among so few.
    const std::string main = live_.front();
    take_snapshot_of(main);
    write_to(main);
    restore();
    fmt::print("{} operations, {} times restored and compared\n", story_.size(), restored_);
    EXPECT_GE(restored_, long_mode() ? 50 : 1);
}

INSTANTIATE_TEST_SUITE_P(Btrfs, RestorableTimes, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, RestorableTimes, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);

}  // namespace
}  // namespace bpg::test
