#!/usr/bin/env python3
"""House rules as tests: what may include what, what may not be written, how long things may be.

Every rule has a name, can be run alone, and carries a bad sample it must catch and a good one it
must let pass; a rule that no longer catches its own bad sample fails like any other test.

    check.py [--build DIR] [--filter NAME] [--long] [--report FILE] [--list]

--build    a build directory: also looks at compile_commands.json and at the finished programs
--long     also clang-tidy, on every source: minutes
--report   writes the results as JSON for tests/run
Prints one "file:line: what" for each finding; the last line counts. Exit code 1 on any failure.
"""

import argparse
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from source import Tree, blank, line_of, matching_brace

PRODUCT = ("orchestrator/", "jobs/", "metrics/", "scheduler/", "cli/")
CPP = (".cc", ".h")
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


class Rule:
    """`check(tree)` yields (path, line, text). `bad` and `good` are small trees {path: text}."""

    def __init__(self, name, check, bad, good):
        self.name, self.check, self.bad, self.good = name, check, bad, good


class Skipped(Exception):
    """A rule could not look: the reason is the message."""


# ---- who may include whom -----------------------------------------------------------------------

# A folder, and what its files may include besides their own folder: whole folders or single files.
INCLUDES = {
    "orchestrator/base": [],
    "metrics": ["orchestrator/base/"],
    "jobs": ["orchestrator/base/", "metrics/"],
    "scheduler": ["orchestrator/base/", "metrics/", "jobs/"],
    "orchestrator/storage": ["orchestrator/base/"],
    "orchestrator/runtime": ["orchestrator/base/"],
    "orchestrator/postgres": ["orchestrator/base/"],
    "orchestrator/wal": ["orchestrator/base/"],
    "orchestrator/catalog": ["orchestrator/base/", "jobs/store.h"],
    "orchestrator/config": ["orchestrator/base/"],
    "orchestrator/operations": [
        "orchestrator/base/", "orchestrator/catalog/", "jobs/step.h", "jobs/queue.h",
        "scheduler/",
        "orchestrator/storage/", "orchestrator/runtime/", "orchestrator/postgres/",
        "orchestrator/wal/"],
    "orchestrator/http": [
        "orchestrator/base/", "orchestrator/catalog/", "jobs/", "scheduler/", "metrics/",
        "orchestrator/operations/"],
    "cli": ["orchestrator/base/", "orchestrator/http/wire.h"],
}
# What belongs to one driver. Its own folder and the daemon may name it, nobody else.
CONCRETE = re.compile(
    r"orchestrator/(storage/(zfs|btrfs|reflink|copy)|runtime/(docker|process)|postgres/pqxx)"
    r"\w*\.h$")
OURS = re.compile(r"(orchestrator|jobs|metrics|scheduler|cli|tests|bench)/")
# The files of orchestrator/ itself are the daemon: they wire everything and may include all.
WIRING = re.compile(r"orchestrator/\w+\.(cc|h)$")


def includes_of(text):
    """(name, quoted or not, line)"""
    for match in re.finditer(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', text, re.M):
        yield match.group(2), match.group(1) == '"', line_of(text, match.start())


def folder_of(path):
    return max((f for f in INCLUDES if path.startswith(f + "/")), key=len, default=None)


def check_includes(tree):
    for path, text in tree.select(PRODUCT, CPP):
        folder = folder_of(path)
        if WIRING.match(path):
            continue
        if folder is None:
            yield path, 1, "lies in no folder of the include table"
            continue
        for name, quoted, line in includes_of(text):
            own = name.startswith(folder + "/")
            allowed = any(name == item or (item.endswith("/") and name.startswith(item))
                          for item in INCLUDES[folder])
            if OURS.match(name) and not own and not allowed:
                yield path, line, f"{folder} may not include {name}"
            if quoted and "/" not in name:
                yield path, line, f'"{name}" is not written from the root of the repository'


def check_concrete(tree):
    for path, text in tree.select(PRODUCT, CPP):
        if path in ("orchestrator/storage_drivers.cc", "orchestrator/runtime_drivers.cc",
                    "orchestrator/daemon.cc"):  # the daemon: postgres
            continue
        for name, _, line in includes_of(text):
            if CONCRETE.search(name) and os.path.dirname(name) != folder_of(path):
                yield path, line, f"only *_drivers.cc name a concrete driver ({name})"


def check_cli_links(tree):
    """The targets that bpg links, followed through CMakeLists.txt, and the program itself."""
    cmake = tree.text("CMakeLists.txt")
    edges = {}
    for match in re.finditer(r"(target_link_libraries|bpg_library)\((\w+)([^)]*)\)", cmake):
        edges.setdefault(match.group(2), set()).update(match.group(3).split())
    seen, todo = set(), ["bpg"]
    while todo:
        target = todo.pop()
        if target not in seen:
            seen.add(target)
            todo.extend(edges.get(target, ()))
    for target in sorted(seen):
        if re.search(r"rocksdb|pqxx|prometheus|bpg_jobs|bpg_catalog", target, re.I):
            line = line_of(cmake, cmake.find("target_link_libraries(bpg "))
            yield "CMakeLists.txt", line, f"bpg links {target}"
    program = tree.build and os.path.join(tree.build, "bin", "bpg")
    if program and os.path.exists(program):
        needed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
        for library in re.findall(r"^\s*(\S*(?:rocksdb|pqxx|prometheus)\S*)", needed, re.M):
            yield "cli/main.cc", 1, f"the finished bpg needs {library}"


def check_every_source_is_built(tree):
    if tree.commands is None:
        raise Skipped("no build directory given (--build)")
    for path, _ in tree.select(PRODUCT + ("tests/",), (".cc",)):
        if path not in tree.commands:
            yield path, 1, "is in no target: nothing compiles it"


LONG_ONLY = "tests/long_only"


def check_long_only(tree):
    """Each pattern of that list fits a test that there is; a stale one would leave out nothing."""
    instances, names = set(), set()
    for _, text in tree.select(("tests/integration/", "tests/crash/real/"), (".cc",)):
        instances.update(re.findall(r"INSTANTIATE_TEST_SUITE_P\(\s*(\w+),\s*(\w+),", text))
        names.update(re.findall(r"TEST_P\((\w+),\s*(\w+)\)", text))
    tests = [f"{instance}/{suite}.{name}" for instance, suite in instances
             for of, name in names if of == suite]
    for path, text in tree.select((LONG_ONLY,), ("",)):
        for number, line in enumerate(text.split("\n"), 1):
            pattern = line.split("#")[0].strip()
            # What stands behind a second slash is of the parameter, which no source names.
            if pattern and not fnmatch.filter(tests, "/".join(pattern.split("/")[:2])):
                yield path, number, f"{pattern} fits no test"


# ---- how a file looks ---------------------------------------------------------------------------

TEXT = CPP + (".py", ".sh", ".cmake", "CMakeLists.txt", "tests/run", "deploy/quickstart",
              ".ci/run")


def check_line_length(tree):
    for path, text in tree.select(("",), TEXT):
        for number, line in enumerate(text.split("\n"), 1):
            if len(line) > 100:
                yield path, number, f"{len(line)} columns, 100 are allowed"
            if line.rstrip() != line:
                yield path, number, "ends with white space"


def check_opening_comment(tree):
    for path, text in tree.select(("",), TEXT):
        lines = text.split("\n")
        first = lines[1] if lines[0].startswith("#!") and len(lines) > 1 else lines[0]
        # The comment of a pair of files stands on the header.
        header = path[:-3] + ".h" if path.endswith(".cc") else None
        if not first.startswith(("// ", "# ", '"""')) and not (header and tree.has(header)):
            yield path, 1, "does not open with a comment that says what the file is for"
        if path.endswith(".h") and "#pragma once" not in text:
            yield path, 1, "has no #pragma once"


CONTAINER = re.compile(r"\b(namespace|class|struct|union|enum|extern)\b")


def functions_of(code):
    """(first line, last line) of every function body in blanked code."""
    at, head = 0, 0
    while at < len(code):
        char = code[at]
        if char in ";}" or (char == ":" and re.search(r"\b(public|private|protected)\s*$",
                                                      code[head:at])):
            head = at + 1
        elif char == "{":
            signature = re.sub(r"^[ \t]*#.*$", "", code[head:at], flags=re.M)
            plain = re.sub(r"<[^<>{}]*>", "", signature)
            if CONTAINER.search(plain) and "(" not in plain.split("=")[0]:
                head = at + 1
            else:
                end = matching_brace(code, at)
                if "(" in signature:
                    begin = head + len(code[head:at]) - len(code[head:at].lstrip())
                    yield line_of(code, begin), line_of(code, end)
                at = end
                # What follows a braced member initialiser still belongs to the same function.
                following = code[end + 1:end + 200].lstrip()
                if not following.startswith((",", "{")):
                    head = end + 1
        at += 1


def check_function_length(tree):
    for path, text in tree.select(PRODUCT + ("tests/", "bench/"), CPP):
        code = blank(text, strings=True)
        for first, last in functions_of(code):
            if last - first + 1 > 70:
                yield path, first, f"a function of {last - first + 1} lines, 70 are allowed"


# ---- what may not be written --------------------------------------------------------------------

# (pattern, where, what it is looked for in, why). "code" has comments and strings blanked.
FORBIDDEN = [
    (r"\b(TODO|FIXME|XXX)\b", "all", "text", "an open end: finish it or leave it out"),
    (r"\b(system|popen|execlp?|execvp)\s*\(", "cpp", "code", "no shell, no PATH lookup by libc"),
    (r'"(/bin/)?(ba|da)?sh"|\bsh -c\b', "product", "strings", "no shell is ever run"),
    (r"\b(pkill|killall)\b", "all", "text", "a process is ended by the pid we know"),
    (r"(?m)^(?:(?!//)[^\n])*\b(sleep_for|sleep_until|u?sleep\(|nanosleep)"
     r"(?![^\n]*// pool thread)", "product", "comments",
     "the loop never sleeps: use a timer; on a pool's thread say so (// pool thread: why)"),
    (r"\basio::detached\b|\(detached\)", "product", "code",
     "a coroutine whose failure nobody sees"),
    (r'"[^"\n]*(?<![\w.>-])/(root|home|work|tmp)(?=[/"])', "product", "strings",
     "an absolute path of one machine"),
    (r"\b(registry-1\.docker|ghcr|quay|registry\.npmjs)\.(io|org)\b|\bdocker\.io/", "product",
     "strings", "a registry's host"),
    (r"\bcatch\s*\(\s*\.\.\.\s*\)(?![^\n]*//)", "cpp", "comments",
     "catch (...) without a comment on its line that says why"),
    (r"\busing\s+namespace\s+(?!std::)", "cpp", "code",
     "using namespace"),
    (r"\bprintf\s*\(|\bstd::(cout|cerr)\b", "daemon", "code", "the daemon speaks through its log"),
    (r"\b(issue|ticket) #?\d+\b", "all", "text", "history does not belong in the source"),
]


def check_forbidden(tree):
    for path, text in tree.select(("",), TEXT):
        if path.startswith("tests/tidy/"):
            continue  # it has to spell what it forbids
        cpp = path.endswith(CPP)
        product = cpp and path.startswith(PRODUCT)
        scopes = {"all": True, "cpp": cpp, "product": product,
                  "daemon": product and not path.startswith("cli/") and not WIRING.match(path)}
        views = {"text": text}
        if cpp:
            views["code"] = blank(text, strings=True)
            views["strings"] = blank(text, strings=False)
            views["comments"] = blank(text, strings=True, comments=False)
        for pattern, scope, view, why in FORBIDDEN:
            if not scopes[scope]:
                continue
            for match in re.finditer(pattern, views[view]):
                yield path, line_of(text, match.start()), f"{match.group(0).strip()!r}: {why}"


def check_co_await_in_catch(tree):
    for path, text in tree.select(PRODUCT + ("tests/",), CPP):
        code = blank(text, strings=True)
        for match in re.finditer(r"\bcatch\s*\([^)]*\)\s*\{", code):
            body = code[match.end():matching_brace(code, match.end() - 1)]
            for inner in re.finditer(r"\bco_(await|yield)\b", body):
                yield (path, line_of(code, match.end() + inner.start()),
                       "co_await in a catch block: remember the error, leave, then await")


# ---- other tools --------------------------------------------------------------------------------

def check_format(tree):
    tool = shutil.which("clang-format-19")
    if tool is None:
        raise Skipped("clang-format-19 is not installed")
    with tree.on_disk() as folder:
        files = [os.path.join(folder, p)
                 for p, _ in tree.select(PRODUCT + ("tests/", "bench/", "cmake/"), CPP)]
        style = "--style=file:" + os.path.join(ROOT, ".clang-format")
        for part in (files[i:i + 40] for i in range(0, len(files), 40)):
            done = subprocess.run([tool, style, "--dry-run", "-Werror", *part],
                                  capture_output=True, text=True)
            places = {}
            for found in re.finditer(r"^(.+?):(\d+):\d+: error: ", done.stderr, re.M):
                places.setdefault(found.group(1), []).append(int(found.group(2)))
            for path, lines in places.items():
                yield (os.path.relpath(path, folder), lines[0],
                       f"not formatted in {len(lines)} places (clang-format-19 -i)")
            if done.returncode != 0 and not places:
                raise RuntimeError(done.stderr)


def check_clang_tidy(tree):
    tool = shutil.which("clang-tidy-19")
    if tool is None:
        raise Skipped("clang-tidy-19 is not installed")
    if tree.build is None:
        raise Skipped("no build directory given (--build)")
    files = [p for p, _ in tree.select(PRODUCT + ("tests/",), (".cc",)) if p in tree.commands]

    def run(path):
        return subprocess.run([tool, "-p", tree.build, "--quiet", os.path.join(ROOT, path)],
                              capture_output=True, text=True).stdout

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        findings = set()
        for out in pool.map(run, files):
            findings.update(re.findall(r"^(\S+?):(\d+):\d+: (?:error|warning): (.+)$", out, re.M))
    for path, line, what in sorted(findings):
        if tree.has(os.path.relpath(path, ROOT)):  # not what it thinks of the libraries' headers
            yield os.path.relpath(path, ROOT), int(line), what


# ---- the rules and their samples ----------------------------------------------------------------

OPEN = "// Sample.\n"
LONG_BODY = "    step();\n" * 70
CMAKE_GOOD = ("# Sample.\nbpg_library(bpg_base orchestrator/base absl::time)\n"
              "target_link_libraries(bpg_wire PUBLIC bpg_base)\n"
              "target_link_libraries(bpg PRIVATE bpg_wire CLI11::CLI11)\n")

RULES = [
    Rule("include_table", check_includes,
         [{"orchestrator/base/a.cc": '#include "jobs/store.h"\n'},
          {"orchestrator/storage/a.cc": '#include "orchestrator/runtime/runtime.h"\n'},
          {"orchestrator/operations/a.cc": '#include "jobs/engine.h"\n'},
          {"cli/a.cc": '#include "orchestrator/http/server.h"\n'},
          {"orchestrator/catalog/a.cc": '#include "jobs/queue.h"\n'},
          {"orchestrator/stray/a.cc": OPEN},
          {"jobs/a.cc": '#include "b.h"\n'}],
         [{"orchestrator/operations/a.cc": '#include "jobs/step.h"\n#include <vector>\n'},
          {"cli/a.cc": '#include "orchestrator/http/wire.h"\n#include "cli/output.h"\n'},
          {"orchestrator/daemon.cc": '#include "orchestrator/storage/btrfs.h"\n'}]),
    Rule("only_the_daemon_names_concrete_drivers", check_concrete,
         [{"orchestrator/operations/a.cc": '#include "orchestrator/storage/btrfs.h"\n'},
          {"orchestrator/http/a.cc": '#include "orchestrator/runtime/process.h"\n'},
          {"orchestrator/operations/b.cc": '#include "orchestrator/postgres/pqxx_postgres.h"\n'}],
         [{"orchestrator/daemon.cc": '#include "orchestrator/storage/btrfs.h"\n',
           "orchestrator/storage/btrfs.cc": '#include "orchestrator/storage/btrfs.h"\n',
           "orchestrator/operations/a.cc": '#include "orchestrator/storage/storage.h"\n'}]),
    Rule("cli_links_no_server_library", check_cli_links,
         [{"CMakeLists.txt": CMAKE_GOOD.replace("CLI11::CLI11", "RocksDB::rocksdb-shared")},
          {"CMakeLists.txt": CMAKE_GOOD + "target_link_libraries(bpg_wire PUBLIC PkgConfig::PQXX)"},
          {"CMakeLists.txt": CMAKE_GOOD.replace("absl::time", "prometheus-cpp::core")}],
         [{"CMakeLists.txt": CMAKE_GOOD}]),
    Rule("every_source_is_built", check_every_source_is_built,
         [{"jobs/forgotten.cc": OPEN}], [{"jobs/built.cc": OPEN}]),
    Rule("long_only_names_tests_there_are", check_long_only,
         [{LONG_ONLY: "A/Suite.Other*\n", "tests/integration/a.cc":
           "TEST_P(Suite, Name) {}\nINSTANTIATE_TEST_SUITE_P(A, Suite, x);\n"}],
         [{LONG_ONLY: "# All.\nA/Suite.N*  # of them\n", "tests/integration/a.cc":
           "TEST_P(Suite, Name) {}\nINSTANTIATE_TEST_SUITE_P(A, Suite, x);\n"}]),
    Rule("lines_have_at_most_100_columns", check_line_length,
         [{"jobs/a.cc": OPEN + "x" * 101 + "\n"}, {"tests/run": "# s\n" + "x" * 101},
          {"jobs/b.h": OPEN + "int a; \n"}],
         [{"jobs/a.cc": OPEN + "x" * 100 + "\n"}, {"jobs/b.cc": OPEN + "ü" * 100 + "\n"}]),
    Rule("files_open_with_a_comment", check_opening_comment,
         [{"jobs/a.cc": "#include <vector>\n"}, {"jobs/a.h": OPEN},
          {"tests/run": "#!/usr/bin/env bash\nset -e\n"}],
         [{"jobs/a.h": OPEN + "#pragma once\n"}, {"tests/run": "#!/usr/bin/env bash\n# Runs.\n"}]),
    Rule("functions_have_at_most_70_lines", check_function_length,
         [{"jobs/a.cc": OPEN + "void f() {\n" + LONG_BODY + "}\n"},
          {"jobs/b.cc": OPEN + "namespace a {\nclass B {\n  public:\n    int f() const {\n"
                        + LONG_BODY + "    }\n};\n}\n"},
          {"jobs/c.cc": OPEN + "A::A(int x)\n    : b_{x}, c_(x) {\n" + LONG_BODY + "}\n"},
          {"tests/d_test.cc": OPEN + "TEST(A, B) {\n" + LONG_BODY + "}\n"},
          {"jobs/e.cc": OPEN + 'void f() {\n    g("}");\n' + LONG_BODY + "}\n"}],
         [{"jobs/a.cc": OPEN + "void f() {\n" + "    step();\n" * 68 + "}\nint x{1};\n"},
          {"jobs/b.cc": OPEN + "namespace a {\n" + "void f();\n" * 90 + "}\n"},
          {"jobs/c.h": OPEN + "struct S {\n" + "    int a = f();\n" * 90 + "};\n"}]),
    Rule("no_forbidden_words", check_forbidden,
         [{"jobs/a.cc": OPEN + line + "\n"} for line in (
             "sleep_for(1s);  // a moment",
             "// TODO later", "int x = system(y);", 'run({"sh", "-c"});', 'run("sh -c ls");',
             "std::this_thread::sleep_for(1s);", "co_spawn(loop, f(), asio::detached);",
             'path = "/root/x";', 'path = "/tmp";', 'host = "ghcr.io/x";', "} catch (...) {",
             "using namespace bpg;", "std::cout << 1;", "// see issue 12", "popen(x, y);")]
         + [{"tests/run": "# s\npkill bpgd\n"}, {"jobs/b.h": OPEN + "// XXX\n"}],
         [{"jobs/a.cc": OPEN + "} catch (...) {  // the error was told already\n"
                        "using namespace std::chrono_literals;\n// /tmp is full, sleep_for it\n"
                        'x = "/workers"; y = "a/tmp/b"; subsystem(1); file_system(2);\n'},
          {"tests/unit/a_test.cc": OPEN + 'sleep_for(1s); p = "/tmp";\n'},
          {"cli/a.cc": OPEN + "std::cout << 1;\n"}]),
    Rule("no_co_await_in_catch", check_co_await_in_catch,
         [{"jobs/a.cc": OPEN
           + "try { f(); } catch (const E& e) {\n  if (x) { co_await g(); }\n}\n"}],
         [{"jobs/a.cc": OPEN + 'try { co_await f(); } catch (const E& e) { h("co_await"); }\n'
                        "co_await g();\n"}]),
    Rule("sources_are_formatted", check_format,
         [{"jobs/a.cc": OPEN + "int  main(){return 0;}\n"}],
         [{"jobs/a.cc": OPEN + "int main() {\n    return 0;\n}\n"}]),
    Rule("clang_tidy", check_clang_tidy, [], []),
]


def self_test(rule):
    """Sentences about samples the rule got wrong."""
    for number, sample in enumerate(rule.bad):
        if not list(rule.check(Tree.of(sample, commands={}))):
            yield f"the rule does not catch its bad sample {number}: {sample}"
    for number, sample in enumerate(rule.good):
        commands = dict.fromkeys(sample)
        for path, line, what in rule.check(Tree.of(sample, commands=commands)):
            yield f"the rule complains of its good sample {number}: {path}:{line}: {what}"


def run_rule(rule, tree):
    """One test result."""
    began = time.monotonic()
    result = {"suite": "Tidy", "name": rule.name, "state": "passed", "messages": []}
    try:
        findings = list(self_test(rule))
        findings += [f"{path}:{line}: {what}" for path, line, what in rule.check(tree)]
        result["messages"] = findings
        result["state"] = "failed" if findings else "passed"
    except Skipped as reason:
        result.update(state="skipped", messages=[str(reason)])
    result["seconds"] = round(time.monotonic() - began, 3)
    return result


def main():
    parser = argparse.ArgumentParser(description="house rules as tests")
    parser.add_argument("--build")
    parser.add_argument("--filter", default="*")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--report")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    wanted = options.filter.removeprefix("Tidy.")
    rules = [rule for rule in RULES if fnmatch.fnmatch(rule.name, wanted)
             and (options.long or rule.check is not check_clang_tidy)]
    if options.list:
        print("\n".join("Tidy." + rule.name for rule in rules))
        return 0
    tree = Tree.from_disk(ROOT, build=options.build)
    results = []
    for rule in rules:
        result = run_rule(rule, tree)
        results.append(result)
        print(f"{result['state']:8} Tidy.{rule.name} ({result['seconds']} s)")
        for message in result["messages"]:
            print("    " + message)
    if options.report:
        with open(options.report, "w", encoding="utf-8") as file:
            json.dump(results, file)
    count = {s: sum(r["state"] == s for r in results) for s in ("passed", "failed", "skipped")}
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
