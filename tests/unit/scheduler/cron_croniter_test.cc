// Plain expressions in UTC against python3-croniter, a program other people wrote.
//
// Left out, since croniter 1.3.5 speaks another dialect or is wrong there:
// - a day field with `*/n`, or one that spells out every value, beside a restricted one: croniter
//   takes the first for restricted and the second for `*`, Vixie's cron does the opposite
// - several days of the month with one above 28 among them: it steps over the first days of the
//   month behind a shorter one ("0 0 1,31 * *" after 2 February is 31 March there, not 1 March)
// - a day above 28 beside a weekday: where none of the months has it, it never fires there, though
//   the weekday is there
// - an open range of weekdays (5/2): it counts on to Sunday as 7
// - weekday 7 in six fields: it is never reached
// - # and L of a weekday beside a day of the month: it looks at one of the two
// - nW, LW, H: it has none of them, or others
#include <gtest/gtest.h>

#include <iostream>
#include <sstream>

#include "orchestrator/base/subprocess.h"
#include "tests/unit/scheduler/scheduler_fixture.h"

namespace bpg::scheduler {
namespace {

using test::pick;

constexpr const char* kProgram = R"(
import sys
from croniter import croniter, CroniterBadDateError
for line in sys.stdin:
    text, start = line.rstrip("\n").split("\t")
    try:
        print(int(croniter(text, float(start)).get_next(float)))
    except CroniterBadDateError:
        print("never")
)";

class Cases {
  public:
    explicit Cases(std::mt19937_64& random) : random_(random) {}

    struct Case {
        std::string ours;
        std::string theirs;  ///< seconds come last there, and L before the weekday
        long long start = 0;
    };

    Case next() {
        const std::string minute = field(0, 59);
        const std::string hour = field(0, 23);
        const std::string month = pick(random_, 0, 2) == 0 ? field(1, 12) : "*";
        const bool has_seconds = pick(random_, 0, 3) == 0;
        std::string day = "*";
        std::string weekday = "*";
        std::string their_weekday;
        const int kind = pick(random_, 0, 6);
        if (kind == 1) day = pick(random_, 0, 3) == 0 ? number(29, 31) : days();
        if (kind == 5) day = days();
        if (kind == 2 || kind == 5) weekday = weekdays(has_seconds);
        if (kind == 3) weekday = number(0, 6) + "#" + number(1, 5);
        if (kind == 4) {
            const std::string last = number(0, 6);
            weekday = last + "L";
            their_weekday = "L" + last;
        }
        if (kind == 6) day = "L";
        if (their_weekday.empty()) their_weekday = weekday;
        const std::string common = minute + " " + hour + " " + day + " " + month + " ";
        const long long start = 1'577'836'800LL + pick(random_, 0, 630'000'000);
        if (!has_seconds) return {common + weekday, common + their_weekday, start};
        const std::string second = field(0, 59);
        return {second + " " + common + weekday, common + their_weekday + " " + second, start};
    }

  private:
    std::string number(int low, int high) { return std::to_string(pick(random_, low, high)); }

    std::string field(int low, int high) {
        switch (pick(random_, 0, 5)) {
            case 0:
                return "*";
            case 1:
                return number(low, high);
            case 2:
                return "*/" + number(2, (high - low) / 2);
            case 3:
                return range(low, high) + "/" + number(1, 3);
            case 4:
                return number(low, high) + "," + range(low, high) + "," + number(low, high);
            default:
                return number(low, high) + "/" + number(1, 2);
        }
    }

    /// With room for a step of three.
    std::string range(int low, int high) {
        const int first = pick(random_, low, high - 3);
        return std::to_string(first) + "-" + number(first + 2, high);
    }

    std::string days() {
        switch (pick(random_, 0, 3)) {
            case 0:
                return number(1, 28);
            case 1:
                return range(1, 28);
            case 2:
                return range(1, 28) + "/" + number(1, 3) + "," + number(1, 28);
            default:
                return number(1, 28) + "," + number(1, 28);
        }
    }

    /// Never all seven.
    std::string weekdays(bool has_seconds) {
        static constexpr const char* kNames[] = {"sun", "mon", "tue", "wed", "thu", "fri", "SAT"};
        switch (pick(random_, 0, 3)) {
            case 0:
                return number(0, has_seconds ? 6 : 7);
            case 1:
                return "1-" + number(3, 6);
            case 2:
                return std::string(kNames[pick(random_, 0, 6)]) + "," + number(0, 6);
            default:
                return "mon-fri";
        }
    }

    std::mt19937_64& random_;
};

TEST(CronAndCroniter, AgreeOnPlainExpressionsInUtc) {
    std::cout << "seed " << test::seed() << "\n";
    std::mt19937_64 random(test::seed());
    Cases cases(random);
    const int count = test::long_mode() ? 100'000 : 4'000;
    std::vector<Cases::Case> asked;
    Command command;
    command.argv = {"/usr/bin/python3", "-c", kProgram};
    command.deadline = std::chrono::minutes(30);
    command.output_max = 64U << 20U;
    for (int i = 0; i < count; ++i) {
        asked.push_back(cases.next());
        command.input += asked.back().theirs + "\t" + std::to_string(asked.back().start) + "\n";
    }
    const CommandResult result = run_command(command);
    ASSERT_TRUE(result.ok()) << result.explain(command) << "\n" << result.err;
    std::istringstream answers(result.out);
    std::string answer;
    int never = 0;
    for (const auto& [ours, theirs, start] : asked) {
        ASSERT_TRUE(std::getline(answers, answer)) << "croniter stopped at " << theirs;
        std::string mine = "never";
        const ErrorInfo error = test::error_of([&, text = ours, from = start] {
            const auto next = test::cron(text).next_fire_time(WallTime(std::chrono::seconds(from)),
                                                              absl::UTCTimeZone());
            ASSERT_TRUE(next);
            mine = std::to_string(
                std::chrono::floor<std::chrono::seconds>(*next).time_since_epoch().count());
        });
        if (mine == "never") {
            ASSERT_EQ(error.code, "cron_never_fires") << ours << ": " << error.message;
            ++never;
        }
        ASSERT_EQ(mine, answer) << ours << " after " << start << ", seed " << test::seed();
    }
    std::cout << count << " expressions, " << never << " of them never fire\n";
}

}  // namespace
}  // namespace bpg::scheduler
