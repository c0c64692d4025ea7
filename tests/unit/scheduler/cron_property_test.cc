// Cron against a scan of every minute (and every second) around the clock changes of the zones of
// the world, by a second implementation and by the C library's idea of local time; and random text.
#include <gtest/gtest.h>
#include <time.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <set>

#include "tests/unit/scheduler/scheduler_fixture.h"
#include "tests/unit/scheduler/slow_cron.h"

namespace bpg::scheduler {
namespace {

using namespace std::chrono_literals;
using test::pick;
using test::seed;
using test::SlowCron;

constexpr std::time_t kDay = 86'400;
constexpr std::time_t k2020 = 1'577'836'800;
constexpr std::time_t k2041 = 2'240'611'200;

WallTime wall(std::time_t seconds) {
    return WallTime(std::chrono::seconds(seconds));
}

/// Every name of the system's time zone database.
std::vector<std::string> zone_names() {
    namespace fs = std::filesystem;
    const fs::path root = "/usr/share/zoneinfo";
    std::vector<std::string> names;
    for (auto entry = fs::recursive_directory_iterator(root);
         entry != fs::recursive_directory_iterator(); ++entry) {
        const std::string name = entry->path().lexically_relative(root);
        if (name == "posix" || name == "right") entry.disable_recursion_pending();
        if (!entry->is_regular_file() || name[0] < 'A' || name[0] > 'Z') continue;
        char magic[4] = {};
        std::ifstream(entry->path()).read(magic, sizeof(magic));
        if (std::string_view(magic, 4) == "TZif") names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
}

std::string file_of(const std::string& zone) {
    std::ifstream file("/usr/share/zoneinfo/" + zone, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

/// The C library's local time for one zone at a time.
class LibcZone {
  public:
    explicit LibcZone(const std::string& name) {
        ::setenv("TZ", (":" + name).c_str(), 1);
        ::tzset();
    }
    ~LibcZone() {
        ::unsetenv("TZ");
        ::tzset();
    }
    LibcZone(const LibcZone&) = delete;
    LibcZone& operator=(const LibcZone&) = delete;

    static std::tm local(std::time_t time) {
        std::tm result{};
        ::localtime_r(&time, &result);
        return result;
    }

    /// The seconds at which the offset changes, 2020 to 2040.
    static std::vector<std::time_t> changes() {
        std::vector<std::time_t> found;
        for (std::time_t day = k2020; day < k2041; day += kDay) {
            std::time_t low = day;
            std::time_t high = day + kDay;
            if (local(low).tm_gmtoff == local(high).tm_gmtoff) continue;
            while (high - low > 1) {
                const std::time_t middle = low + (high - low) / 2;
                (local(middle).tm_gmtoff == local(low).tm_gmtoff ? low : high) = middle;
            }
            found.push_back(high);
        }
        return found;
    }
};

/// A scanned range: each step's time and what the clock on the wall shows.
struct Scan {
    std::time_t step = 60;
    std::vector<std::time_t> times;
    std::vector<std::tm> locals;

    Scan(std::time_t from, std::time_t to, std::time_t width) : step(width) {
        for (std::time_t time = from; time <= to; time += step) {
            times.push_back(time);
            locals.push_back(LibcZone::local(time));
        }
    }

    std::time_t civil(std::size_t i) const { return times[i] + locals[i].tm_gmtoff; }

    /// Fires behind the first step: the rules of the specification, word by word.
    std::vector<std::time_t> fires(const SlowCron& cron) const {
        std::vector<std::time_t> found;
        std::time_t shown = civil(0);  // the latest local time there was
        for (std::size_t i = 1; i < times.size(); ++i) {
            bool fits = false;
            if (cron.is_elapsed()) {
                fits = cron.fits(locals[i]);
            } else {
                // What was skipped comes right after the gap, what comes again does not fire again.
                for (std::time_t local = shown + step; local <= civil(i) && !fits; local += step)
                    fits = cron.fits(civil_fields(local));
            }
            shown = std::max(shown, civil(i));
            if (fits) found.push_back(times[i]);
        }
        return found;
    }

  private:
    static std::tm civil_fields(std::time_t local) {
        std::tm result{};
        ::gmtime_r(&local, &result);
        return result;
    }
};

/// Compares all fires of a range, and the next fire after random instants in it.
void expect_same(const std::string& text, const std::string& zone_name, const Scan& scan,
                 std::mt19937_64& random) {
    const auto zone = load_zone(zone_name);
    const auto expression = test::cron(text);
    const auto expected = scan.fires(SlowCron(text));
    std::vector<std::time_t> found;
    auto fire = expression.next_fire_time(wall(scan.times.front()), zone);
    WallTime before = wall(scan.times.front());
    while (fire && *fire <= wall(scan.times.back())) {
        ASSERT_GT(*fire, before) << text << " in " << zone_name << ", seed " << seed();
        before = *fire;
        found.push_back(std::chrono::floor<std::chrono::seconds>(*fire).time_since_epoch().count());
        fire = expression.next_fire_time(*fire, zone);
    }
    ASSERT_EQ(found, expected) << text << " in " << zone_name << " from "
                               << format_time(wall(scan.times.front())) << ", seed " << seed();
    const auto span = static_cast<int>(scan.times.back() - scan.times.front() - 1);
    for (int i = 0; i < 8; ++i) {
        const WallTime after = wall(scan.times.front() + pick(random, 0, span)) +
                               std::chrono::microseconds(pick(random, 0, 1) * 250'000);
        const auto next = std::find_if(expected.begin(), expected.end(),
                                       [after](std::time_t t) { return wall(t) > after; });
        const auto got = expression.next_fire_time(after, zone);
        ASSERT_TRUE(got && *got > after) << text << " in " << zone_name << ", seed " << seed();
        if (next == expected.end()) {
            ASSERT_GT(*got, wall(scan.times.back())) << text << " in " << zone_name;
        } else {
            ASSERT_EQ(*got, wall(*next)) << text << " in " << zone_name << " after "
                                         << format_time(after) << ", seed " << seed();
        }
    }
}

std::string random_hours(std::mt19937_64& random) {
    switch (pick(random, 0, 5)) {
        case 0:
            return "*";
        case 1:
            return std::to_string(pick(random, 0, 4));
        case 2:
            return "*/" + std::to_string(pick(random, 2, 7));
        case 3:
            return "0-" + std::to_string(pick(random, 1, 5));
        case 4:
            return "1,2,3," + std::to_string(pick(random, 20, 23));
        default:
            return std::to_string(pick(random, 0, 3)) + "/3";
    }
}

std::string random_sixtieths(std::mt19937_64& random) {
    switch (pick(random, 0, 4)) {
        case 0:
            return std::to_string(pick(random, 0, 59));
        case 1:
            return "*/" + std::to_string(pick(random, 5, 30));
        case 2:
            return "10-50/" + std::to_string(pick(random, 7, 20));
        case 3:
            return "0,30," + std::to_string(pick(random, 0, 59));
        default:
            return "*";
    }
}

std::string random_days(std::mt19937_64& random) {
    static const std::vector<std::string> kChoices{
        "* * *",   "* * 0",     "* * 1-5",   "L * *",   "LW * *",    "* * 0#1",
        "1-7 * 0", "* 3,10 0L", "25-31 * *", "15W * 6", "*/2 * *",   "* * 7#4,0L",
        "1W * *",  "* 1-11 *",  "*/3 * 0-3", "31W * *", "1,L * 6-7", "* 10 0#5"};
    return kChoices[static_cast<std::size_t>(
        pick(random, 0, static_cast<int>(kChoices.size()) - 1))];
}

const std::vector<std::string> kMinuteExpressions{
    "30 2 * * *",  "0 * * * *",   "*/15 * * * *", "30 1 * * *", "0 0 * * *", "*/20 0-4 * * *",
    "5 */2 * * *", "59 23 * * *", "* 1-2 * * *",  "0 3 L * *",  "45 * * * 0"};
const std::vector<std::string> kSecondExpressions{
    "*/20 30 2 * * *", "* 59 0-3 * * *", "15 */10 * * * *", "0 0 0 * * *", "30 0,30 1-3 * * *"};

void check_change(const std::string& zone, std::time_t change, bool by_seconds,
                  std::mt19937_64& random) {
    const Scan minutes(change - 3 * kDay / 2, change + 3 * kDay / 2, 60);
    for (const std::string& text : kMinuteExpressions)
        expect_same(text, zone, minutes, random);
    for (int i = 0; i < 3; ++i) {
        const std::string text =
            random_sixtieths(random) + " " + random_hours(random) + " " + random_days(random);
        expect_same(text, zone, minutes, random);
    }
    if (!by_seconds) return;
    const Scan seconds(change - 5400, change + 5400, 1);
    for (const std::string& text : kSecondExpressions)
        expect_same(text, zone, seconds, random);
    expect_same(random_sixtieths(random) + " " + random_sixtieths(random) + " " +
                    random_hours(random) + " * * *",
                zone, seconds, random);
}

TEST(CronAroundClockChanges, FiresAsAScanOfEveryMinuteSaysInEveryZone) {
    std::cout << "seed " << seed() << "\n";
    std::mt19937_64 random(seed());
    std::vector<std::string> names = zone_names();
    ASSERT_GT(names.size(), 300U);
    const bool is_long = test::long_mode();
    // The odd ones always: half an hour, midnight, twice in a month, Dublin's negative winter.
    std::vector<std::string> zones{"Australia/Lord_Howe", "America/Santiago", "Africa/Casablanca",
                                   "Europe/Dublin",       "Africa/Cairo",     "Asia/Beirut",
                                   "America/New_York",    "Antarctica/Troll", "UTC"};
    std::shuffle(names.begin(), names.end(), random);
    names.resize(is_long ? names.size() : 12);
    zones.insert(zones.end(), names.begin(), names.end());
    std::size_t checked = 0;
    std::set<std::string> files;  // of a zone with many names all changes are looked at once
    for (const std::string& name : zones) {
        const bool is_whole = is_long && files.insert(file_of(name)).second;
        const LibcZone libc(name);
        std::vector<std::time_t> changes = LibcZone::changes();
        if (changes.empty()) changes.push_back(k2020 + pick(random, 1, 7'000) * kDay);
        std::shuffle(changes.begin(), changes.end(), random);
        if (!is_whole) changes.resize(std::min<std::size_t>(changes.size(), 2));
        for (std::size_t i = 0; i < changes.size(); ++i) {
            check_change(name, changes[i], i < 2, random);
            if (HasFatalFailure()) return;
            ++checked;
        }
    }
    std::cout << zones.size() << " zones, " << checked << " clock changes\n";
}

/// Days only, over years: one look a day is enough.
TEST(CronDays, FitAsTheCalendarSaysForEveryKindOfDay) {
    std::vector<std::string> texts;
    for (int n = 1; n <= 31; ++n) {
        texts.push_back("0 12 " + std::to_string(n) + " * *");
        texts.push_back("0 12 " + std::to_string(n) + "W * *");
        texts.push_back("0 12 " + std::to_string(n) + ",L * " + std::to_string(n % 8));
    }
    for (int day = 0; day <= 7; ++day) {
        const std::string d = std::to_string(day);
        texts.push_back("0 12 * * " + d);
        texts.push_back("0 12 * * " + d + "L");
        texts.push_back("0 12 13 * " + d);
        texts.push_back("0 12 */2 * " + d);
        for (int n = 1; n <= 5; ++n)
            texts.push_back("0 12 * 1-11 " + d + "#" + std::to_string(n));
        for (int last = day; last <= 7; ++last)
            texts.push_back("0 12 * * " + d + "-" + std::to_string(last));
    }
    for (const char* text : {"0 12 L * *", "0 12 LW * *", "0 12 L 2 *", "0 12 29 2 *",
                             "0 12 LW 2 1#1", "0 12 1,15,L * *", "0 12 * 2 1#5", "0 12 31W * *"})
        texts.emplace_back(text);
    for (const std::string& text : texts) {
        const SlowCron slow(text);
        const auto expression = test::cron(text);
        std::vector<WallTime> expected;
        // 28 years hold every weekday for every date.
        for (std::time_t day = k2020 + kDay / 2; day < k2020 + kDay * 366 * 28; day += kDay) {
            std::tm fields{};
            ::gmtime_r(&day, &fields);
            if (slow.fits(fields)) expected.push_back(wall(day));
        }
        ASSERT_FALSE(expected.empty()) << text;
        WallTime after = wall(k2020 - 1);
        for (const WallTime time : expected) {
            const auto next = expression.next_fire_time(after, absl::UTCTimeZone());
            ASSERT_TRUE(next) << text;
            ASSERT_EQ(*next, time) << text << " after " << format_time(after);
            after = time;
        }
    }
}

TEST(CronOrder, NeverGoesBackWhenTimeGoesOn) {
    std::cout << "seed " << seed() << "\n";
    std::mt19937_64 random(seed());
    const std::vector<std::string> zones{"Europe/Berlin", "Australia/Lord_Howe", "UTC",
                                         "America/Havana", "Asia/Kathmandu"};
    const int rounds = test::long_mode() ? 20'000 : 1'000;
    for (int i = 0; i < rounds; ++i) {
        const std::string text = random_sixtieths(random) + " " + random_sixtieths(random) + " " +
                                 random_hours(random) + " " + random_days(random);
        const auto expression = test::cron(text);
        const auto zone = load_zone(zones[static_cast<std::size_t>(pick(random, 0, 4))]);
        const WallTime one = wall(k2020 + pick(random, 0, 600'000'000));
        const WallTime other = one + std::chrono::seconds(pick(random, 0, 10'000'000));
        const auto first = expression.next_fire_time(one, zone);
        const auto second = expression.next_fire_time(other, zone);
        ASSERT_TRUE(first && second) << text;
        ASSERT_GT(*first, one) << text;
        ASSERT_GT(*second, other) << text;
        ASSERT_LE(*first, *second) << text << " in " << zone.name() << ", seed " << seed();
        ASSERT_TRUE(*first > other || *second <= *first || other >= *first);
        const auto newest = expression.last_fire_time(one, other, zone);
        ASSERT_EQ(newest.has_value(), *first <= other) << text;
        if (!newest) continue;
        ASSERT_LE(*newest, other) << text;
        const auto behind = expression.next_fire_time(*newest, zone);
        ASSERT_GT(*behind, other) << text << " in " << zone.name() << ", seed " << seed();
        ASSERT_EQ(expression.next_fire_time(*newest - 1us, zone), newest) << text;
    }
}

/// Random text, most of it made of what the dialect is made of: read or refused, at once.
TEST(CronRandomText, IsReadOrRefusedAndNeverTakesLong) {
    std::cout << "seed " << seed() << "\n";
    std::mt19937_64 random(seed());
    constexpr std::string_view kPieces[] = {
        "*",   "/",    ",",  "-",  "#",   "L",      "W",      "H",   "(",   ")",        "@",
        "?",   " ",    " ",  " ",  " ",   "0",      "1",      "5",   "7",   "31",       "59",
        "mon", "JAN",  "60", "99", "LW",  "@every", "@daily", "1h",  "10s", "99999999", "\t",
        "\n",  "\xff", "é",  "%",  "fri", "-1",     "*/2",    "1-5", "0 0", "sun",      "5L"};
    const int rounds = test::long_mode() ? 3'000'000 : 60'000;
    std::map<std::string, int> outcomes;
    const auto zone = load_zone("Europe/Berlin");
    for (int i = 0; i < rounds; ++i) {
        std::string text;
        const int length = pick(random, 0, i % 50 == 0 ? 400 : 24);
        for (int j = 0; j < length; ++j) {
            if (i % 4 == 0) {
                text += static_cast<char>(pick(random, 0, 255));
            } else {
                text += kPieces[static_cast<std::size_t>(
                    pick(random, 0, static_cast<int>(std::size(kPieces)) - 1))];
            }
        }
        const auto began = std::chrono::steady_clock::now();
        const ErrorInfo error = test::error_of([&] {
            const auto expression = test::cron(text);
            const WallTime after = wall(k2020 + pick(random, 0, 600'000'000));
            const auto next = expression.next_fire_time(after, zone);
            ASSERT_TRUE(next && *next > after) << text;
            ASSERT_FALSE(expression.describe().empty()) << text;
            (void)expression.note(*next, zone);
            (void)expression.warnings(zone, after);
        });
        ASSERT_LT(std::chrono::steady_clock::now() - began, 1s) << text;
        ++outcomes[error.code];
        if (error.code == "none") continue;
        ASSERT_EQ(error.kind, ErrorKind::kInvalid) << text;
        ASSERT_FALSE(error.message.empty() || error.detail.empty() || error.hint.empty()) << text;
        for (const char c : error.message + error.detail + error.hint)
            ASSERT_TRUE(c >= ' ' && c <= '~') << "an unprintable character of " << text;
    }
    EXPECT_GT(outcomes["none"], 0);
    EXPECT_GT(outcomes["cron_invalid"], 0);
    EXPECT_EQ(outcomes.size(), outcomes.count("cron_never_fires") + 2);
}

}  // namespace
}  // namespace bpg::scheduler
