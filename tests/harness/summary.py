#!/usr/bin/env python3
"""Adds up what the test programs reported: a table of suites with their time budgets, what failed
with what it said, what was skipped with its reason, and as the last line "N passed, N failed,
N skipped".

    summary.py DIRECTORY [--filtered]

DIRECTORY holds <preset>.<kind>.<program>.xml (GoogleTest's; .json: a list from tests/tidy) and
<preset>.<kind>.<program>.exit with "<exit code> <seconds>". Exit code 1 when anything failed, when
a test of kind "real" was skipped, or when no test ran.
"""

import json
import os
import sys
import xml.etree.ElementTree

# Seconds a program may take; more is shown, since a suite nobody waits for is a suite nobody runs.
BUDGETS = {"tidy": 30, "unit": 60, "crash": 240, "real": 600}
# Tests that are named with their time.
SHOWN = 15
# Characters of what a failed test said. Who reads only the end of a log finds it there.
SAID_MAX = 3000


class Program:
    def __init__(self, directory, name):
        self.preset, self.kind, self.program = name.split(".", 2)
        self.passed, self.failed, self.skipped = 0, [], []
        self.times = []
        with open(os.path.join(directory, name + ".exit"), encoding="utf-8") as file:
            code, seconds = file.read().split()
        self.code, self.seconds = int(code), int(seconds)
        rules, report = (os.path.join(directory, name + end) for end in (".json", ".xml"))
        if os.path.exists(rules):
            with open(rules, encoding="utf-8") as file:
                self.add_rules(json.load(file))
        if os.path.exists(report) and os.path.getsize(report) > 0:
            self.add_gtest(xml.etree.ElementTree.parse(report))
        if self.code != 0 and not self.failed:
            # It crashed, or failed outside a test (a suite that leaves something behind).
            name = f"{self.program} ended with code {self.code} outside its tests"
            self.failed.append((name, ""))

    def add_rules(self, results):
        for result in results:
            name = f"{result['suite']}.{result['name']}"
            if result["state"] == "passed":
                self.passed += 1
            elif result["state"] == "failed":
                self.failed.append((name, "\n".join(result["messages"])))
            else:
                self.skipped.append((name, " ".join(result["messages"])))

    def add_gtest(self, report):
        for test in report.iter("testcase"):
            name = f"{test.get('classname')}.{test.get('name')}"
            self.times.append((float(test.get("time") or 0), name))
            skipped = test.find("skipped")
            failures = [one.get("message", "") for one in test.findall("failure")]
            if failures:
                self.failed.append((name, "\n".join(failures)))
            elif skipped is not None:
                self.skipped.append((name, skipped.get("message", "").split("\n")[-1].strip()))
            elif test.get("result") == "completed":
                self.passed += 1
            elif test.get("name").startswith("DISABLED_"):
                self.skipped.append((name, "disabled"))

    def ran(self):
        return self.passed + len(self.failed) + len(self.skipped)


def print_table(programs):
    print(f"\n{'suite':<28}{'build':<9}{'passed':>7}{'failed':>7}{'skipped':>8}{'seconds':>9}"
          f"{'budget':>8}")
    for one in programs:
        budget = BUDGETS[one.kind] * (4 if one.preset == "asan" or "BPG_LONG" in os.environ else 1)
        over = "  over its budget" if one.seconds > budget else ""
        print(f"{one.program:<28}{one.preset:<9}{one.passed:>7}{len(one.failed):>7}"
              f"{len(one.skipped):>8}{one.seconds:>9}{budget:>8}{over}")


def print_slowest(programs):
    times = sorted((time for one in programs for time in one.times), reverse=True)[:SHOWN]
    print("\nwhere the time goes, seconds:")
    for seconds, name in times:
        print(f"{seconds:>9.1f}  {name}")


def main():
    directory = sys.argv[1]
    names = sorted(f[:-len(".exit")] for f in os.listdir(directory) if f.endswith(".exit"))
    programs = [Program(directory, name) for name in names]
    if "--filtered" in sys.argv:
        programs = [one for one in programs if one.ran()]
    print_table(programs)
    if "--filtered" not in sys.argv:
        print_slowest(programs)
    real_skipped = False
    for one in programs:
        for name, said in one.failed:
            print(f"failed: {name} ({one.preset})")
            for line in said[:SAID_MAX].splitlines():
                print(f"    {line}")
        for name, reason in one.skipped:
            print(f"skipped: {name} ({one.preset}): {reason or 'no reason given'}")
            real_skipped = real_skipped or one.kind == "real"
    passed = sum(one.passed for one in programs)
    failed = sum(len(one.failed) for one in programs)
    skipped = sum(len(one.skipped) for one in programs)
    if real_skipped:
        print("a test of real components was skipped: that counts as a failure of this run")
    if passed + failed + skipped == 0:
        print("no test ran: is the name right? Test programs list theirs with --gtest_list_tests")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or real_skipped or passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
