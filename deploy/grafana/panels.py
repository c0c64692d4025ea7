#!/usr/bin/env python3
"""What the dashboards and rules ask Prometheus, and what it answers.

    panels.py lint                      dashboards, rules and runbooks keep the conventions
    panels.py names METRICS             every metric exported is used or documented as raw, and
                                        every metric used is exported; METRICS: a file, a URL or -
    panels.py check PROMETHEUS          every expression runs there and finds something
    panels.py table PROMETHEUS [--write]
                                        every panel with the value it shows; --write puts the table
                                        into README.md, between its markers

PROMETHEUS is the URL of one that has loaded deploy/prometheus and scrapes a busy bpgd, for example
http://127.0.0.1:9090. Findings are lines on stderr; the exit code is 1 when there are any.
"""

import argparse
import json
import math
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime, timezone

HERE = os.path.dirname(os.path.abspath(__file__))
DASHBOARDS = os.path.join(HERE, "dashboards")
README = os.path.join(HERE, "README.md")
PROMETHEUS = os.path.join(os.path.dirname(HERE), "prometheus")
RUNBOOKS = os.path.join(PROMETHEUS, "runbooks")
# What a runbook has to say, in this order.
RUNBOOK_PARTS = ["## What it means", "## How to look", "## How to mend"]


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


# ---- what there is ------------------------------------------------------------------------------


def dashboards():
    """(file name, dashboard) of each, in a fixed order."""
    for name in sorted(os.listdir(DASHBOARDS)):
        if name.endswith(".json"):
            yield name, json.loads(read(os.path.join(DASHBOARDS, name)))


def panels_of(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


class Query:
    """One expression of a dashboard, with what is needed to show its value."""

    def __init__(self, dashboard, title, settings, legend, expr):
        self.dashboard, self.title, self.settings = dashboard, title, settings
        self.unit = settings.get("unit", "")
        self.legend, self.expr = legend, expr


def settings_of(panel, target):
    """(unit and so on, column): of a column of a table, else of the panel."""
    names = {}
    for step in panel.get("transformations", []):
        names.update(step["options"].get("renameByName", {}))
    column = names.get("Value #" + target["refId"])
    settings = dict(panel["fieldConfig"]["defaults"])
    for override in panel["fieldConfig"]["overrides"]:
        if column is not None and override["matcher"]["options"] == column:
            settings.update((item["id"], item["value"]) for item in override["properties"])
    return settings, column


def queries():
    for _, dashboard in dashboards():
        for panel in panels_of(dashboard):
            for target in panel["targets"]:
                settings, column = settings_of(panel, target)
                title = panel["title"] + (f": {column}" if column else "")
                yield Query(dashboard["title"], title, settings, target.get("legendFormat", ""),
                            target["expr"])
        for item in dashboard["annotations"]["list"]:
            if "expr" in item:
                yield Query(dashboard["title"], "annotation " + item["name"], {"unit": "none"},
                            item["titleFormat"], item["expr"])


def rules():
    """(kind, name, expression) of every rule in the files; kind is record or alert."""
    for name in sorted(os.listdir(PROMETHEUS)):
        if not name.endswith(".rules.yml"):
            continue
        found, lines = None, read(os.path.join(PROMETHEUS, name)).split("\n")
        for number, line in enumerate(lines):
            head = re.match(r"\s+- (record|alert): (\S+)$", line)
            expr = re.match(r"(\s+)expr: (.*)$", line)
            if head:
                found = head.groups()
            elif expr and found:
                parts = [expr.group(2)] if expr.group(2) != ">-" else []
                for more in lines[number + 1:]:
                    if parts and expr.group(2) != ">-":
                        break
                    if not more.startswith(expr.group(1) + "  "):
                        break
                    parts.append(more.strip())
                yield (*found, " ".join(parts))
                found = None


def without_strings(expr):
    return re.sub(r'"(\\.|[^"\\])*"', '""', expr)


def names_in(expr):
    """The metrics of ours that an expression asks for."""
    return set(re.findall(r"\b(?:bpg[_:]|process_)[\w:]+", without_strings(expr)))


def selectors_in(expr):
    """Every series selector of an expression, without ranges and offsets."""
    return re.findall(r'\b(?:(?:bpg[_:]|process_)[\w:]+|up\b)(?:\{[^}]*\})?', expr)


def raw_metrics():
    """Those that README.md documents as exported for whoever wants them."""
    part = read(README).split("<!-- raw metrics -->")[1].split("<!-- end -->")[0]
    return set(re.findall(r"^- `(\w+)`:", part, re.M))


# ---- lint ---------------------------------------------------------------------------------------


def lint_panel(panel):
    if not panel.get("description"):
        yield "has no description"
    if not panel["fieldConfig"]["defaults"].get("unit"):
        yield "has no unit"
    if panel.get("datasource", {}).get("uid") != "${datasource}":
        yield "does not use the data source variable"
    for target in panel["targets"]:
        expr = target["expr"]
        if target.get("datasource", {}).get("uid") != "${datasource}":
            yield f"target {target['refId']} does not use the data source variable"
        for match in re.finditer(r"\$(\w+)", expr):
            is_ours = not match.group(1).startswith("__")
            if is_ours and not expr[:match.start()].endswith('=~"'):
                yield f"${match.group(1)} is not used as label=~\"$var\""
        if re.search(r"rate\(.*\[\d", expr) and "[$__rate_interval]" not in expr:
            yield "a rate over a fixed range instead of $__rate_interval"


def lint_layout(dashboard):
    taken, ids = {}, set()
    for panel in dashboard["panels"]:
        if panel["id"] in ids:
            yield f"panel id {panel['id']} is used twice"
        ids.add(panel["id"])
        grid = panel["gridPos"]
        if grid["x"] + grid["w"] > 24:
            yield f"panel \"{panel['title']}\" is wider than the dashboard"
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                if (x, y) in taken:
                    yield f"panels \"{panel['title']}\" and \"{taken[x, y]}\" overlap"
                    return
                taken[x, y] = panel["title"]


def lint_dashboard(name, dashboard):
    text = read(os.path.join(DASHBOARDS, name))
    if text != json.dumps(dashboard, indent=2, ensure_ascii=False, sort_keys=True) + "\n":
        yield "is not written with two spaces and sorted keys"
    if dashboard["id"] is not None or not 0 < len(dashboard["uid"]) <= 40:
        yield "id must be null and uid fixed, at most 40 characters"
    if "__inputs" in dashboard:
        yield "__inputs breaks provisioning"
    if not any(link["type"] == "dashboards" and link["tags"] == dashboard["tags"]
               for link in dashboard["links"]):
        yield "has no links to the others"
    known = {variable["name"] for variable in dashboard["templating"]["list"]}
    yield from lint_layout(dashboard)
    for panel in panels_of(dashboard):
        for finding in lint_panel(panel):
            yield f"panel \"{panel['title']}\": {finding}"
        used = {v for t in panel["targets"] for v in re.findall(r"\$([a-z]\w*)", t["expr"])}
        for variable in sorted(used - known):
            yield f"panel \"{panel['title']}\": there is no variable ${variable}"


def lint_runbooks():
    alerts = {name for kind, name, _ in rules() if kind == "alert"}
    pages = {name[:-3] for name in os.listdir(RUNBOOKS) if name.endswith(".md")}
    for name in sorted(alerts ^ pages):
        yield f"{name}: " + ("has no runbook" if name in alerts else "is a runbook of no alert")
    for name in sorted(alerts & pages):
        text = read(os.path.join(RUNBOOKS, name + ".md"))
        if not text.startswith(f"# {name}\n"):
            yield f"runbooks/{name}.md does not begin with its name"
        heads = re.findall(r"^## .*$", text, re.M)
        if heads != RUNBOOK_PARTS:
            yield f"runbooks/{name}.md has parts {heads}, expected {RUNBOOK_PARTS}"
        for part in re.split(r"^## .*$", text, flags=re.M)[1:]:
            if len(part.strip()) < 40:
                yield f"runbooks/{name}.md has a part that says nothing"


def lint():
    uids = {}
    for name, dashboard in dashboards():
        yield from (f"{name}: {finding}" for finding in lint_dashboard(name, dashboard))
        if dashboard["uid"] in uids:
            yield f"{name}: has the uid of {uids[dashboard['uid']]}"
        uids[dashboard["uid"]] = name
    if len(uids) < 3:
        yield f"only {len(uids)} dashboards were found"
    yield from lint_runbooks()


# ---- names --------------------------------------------------------------------------------------


def text_of(source):
    if source == "-":
        return sys.stdin.read()
    if re.match(r"https?://", source):
        with urllib.request.urlopen(source, timeout=10) as answer:
            return answer.read().decode()
    return read(source)


def exported(exposition):
    """{family: type}; a family counts when it has at least one series."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", exposition, re.M))
    shown = set(re.findall(r"^([a-zA-Z_:][\w:]*)", exposition, re.M))
    return {name: kind for name, kind in types.items()
            if name in shown or name + "_bucket" in shown}


def family(name, types):
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return base if types.get(base) == "histogram" else name


def compare_names(exposition):
    types = exported(exposition)
    recorded = {name for kind, name, _ in rules() if kind == "record"}
    expressions = [expr for _, _, expr in rules()] + [query.expr for query in queries()]
    used = {family(name, types) for expr in expressions for name in names_in(expr)}
    raw = raw_metrics()
    for name in sorted(set(types) - used - raw):
        yield f"{name} is exported, and neither used nor documented as raw"
    for name in sorted(used - set(types) - recorded):
        yield f"{name} is used, and not exported"
    for name in sorted(raw - set(types)):
        yield f"{name} is documented as raw, and not exported"
    for name in sorted(raw & used):
        yield f"{name} is documented as raw, and used"
    for name in sorted(recorded - used):
        yield f"{name} is recorded, and used by nothing"
    print(f"{len(types)} metrics exported, {len(used)} names used, {len(raw)} raw")


# ---- a live Prometheus --------------------------------------------------------------------------


class Live:
    """One Prometheus, over its HTTP API."""

    def __init__(self, url, rate_interval, display_range):
        self.url = url.rstrip("/")
        self.values = {"__rate_interval": rate_interval, "__range": display_range}

    def get(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}{path}?{query}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error).get("error", str(error))) from None

    def fill_in(self, expr):
        return re.sub(r"\$(\w+)", lambda match: self.values.get(match.group(1), ".*"), expr)

    def ask(self, expr):
        """[(labels, value)] right now, without those that are no number."""
        data = self.get("/api/v1/query", query=self.fill_in(expr))
        if data["resultType"] == "scalar":
            samples = [({}, float(data["result"][1]))]
        else:
            samples = [(item["metric"], float(item["value"][1])) for item in data["result"]]
        return sorted((s for s in samples if not math.isnan(s[1])), key=lambda s: str(s[0]))

    def rules(self):
        for group in self.get("/api/v1/rules")["groups"]:
            for rule in group["rules"]:
                yield rule


def look_for(live, what, expr):
    """Findings about one expression."""
    try:
        if not live.ask(expr):
            yield f"{what}: finds nothing: {live.fill_in(expr)}"
    except ValueError as error:
        yield f"{what}: {error}: {live.fill_in(expr)}"


def check(live):
    count = 0
    for query in queries():
        count += 1
        yield from look_for(live, f"{query.dashboard}, {query.title}", query.expr)
    loaded = set()
    for rule in live.rules():
        count += 1
        kind = "alert" if rule["type"] == "alerting" else "record"
        loaded.add((kind, rule["name"]))
        if rule["health"] != "ok":
            yield f"{kind} {rule['name']}: {rule['health']}: {rule.get('lastError', '')}"
        if kind == "record":
            yield from look_for(live, f"record {rule['name']}", rule["name"])
            yield from look_for(live, f"record {rule['name']}", rule["query"])
            continue
        # The condition of an alert is rarely true; what it is about has to be there.
        for selector in selectors_in(rule["query"]):
            yield from look_for(live, f"alert {rule['name']}", selector)
    for kind, name, _ in rules():
        if (kind, name) not in loaded:
            yield f"{kind} {name} is not loaded"
    print(f"{count} expressions asked")


# ---- the table ----------------------------------------------------------------------------------


def scaled(value, base, units):
    for unit in units[:-1]:
        if abs(value) < base:
            return f"{value:.3g} {unit}".strip()
        value /= base
    return f"{value:.3g} {units[-1]}"


def seconds(value):
    size = abs(value)
    if size == 0:
        return "0 s"
    if size < 1e-3:
        return f"{value * 1e6:.3g} µs"
    if size < 1:
        return f"{value * 1e3:.3g} ms"
    for limit, length, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if size < limit:
            return f"{value / length:.3g} {unit}"
    return f"{value / 86400:.3g} d"


def moment(value):
    return datetime.fromtimestamp(value / 1000, timezone.utc)


def shown(value, settings):
    """A value as its panel shows it, as nearly as matters to somebody who reads the table."""
    unit = settings["unit"]
    if unit == "short" and settings.get("decimals") == 0:
        return f"{value:.0f}"
    if unit == "s":
        return seconds(value)
    if unit == "bytes":
        return scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"])
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit in ("ops", "reqps", "wps"):
        return f"{value:.3g} a second"
    if unit == "dateTimeFromNow":
        away = (moment(value) - datetime.now(timezone.utc)).total_seconds()
        return f"in {seconds(away)}" if away > 0 else f"{seconds(-away)} ago"
    if unit == "dateTimeAsIso":
        return moment(value).strftime("%Y-%m-%d %H:%M:%S")
    return scaled(value, 1000, ["", "k", "M", "G"]) if abs(value) >= 1000 else f"{value:.3g}"


def legend(query, labels):
    if query.legend:
        return re.sub(r"\{\{(\w+)\}\}", lambda m: labels.get(m.group(1), ""), query.legend)
    hidden = ("__name__", "job", "instance")
    return " ".join(value for name, value in sorted(labels.items()) if name not in hidden)


def table(live):
    """Markdown: one row an expression; of many series, the one with the largest value."""
    lines, dashboard = [], None
    for query in queries():
        if query.dashboard != dashboard:
            dashboard = query.dashboard
            lines += ["", f"### {dashboard.split(' / ')[-1]}", "",
                      "| panel | unit | series | the largest, or the only one |",
                      "|---|---|---|---|"]
        samples = live.ask(query.expr)
        labels, value = max(samples, key=lambda s: s[1]) if samples else ({}, math.nan)
        name = "`" + legend(query, labels).strip() + "`: " if samples else ""
        value = shown(value, query.settings) if samples else "EMPTY"
        lines.append(f"| {query.title} | {query.unit} | {len(samples)} | {name}{value} |")
    # The port and the place of a pool file are others in each run.
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:9732", "\n".join(lines).strip())
    return re.sub(r"/\S+/(pool\.\w+)", r"\1", text) + "\n"


def write_table(text):
    before, rest = read(README).split("<!-- table of panels -->")
    after = rest.split("<!-- end -->", 1)[1]
    with open(README, "w", encoding="utf-8") as file:
        file.write(f"{before}<!-- table of panels -->\n{text}<!-- end -->{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("lint")
    commands.add_parser("names").add_argument("metrics")
    for name in ("check", "table"):
        command = commands.add_parser(name)
        command.add_argument("prometheus")
        command.add_argument("--rate-interval", default="1m", help="for $__rate_interval")
        command.add_argument("--range", default="1h", help="for $__range")
    commands.choices["table"].add_argument("--write", action="store_true")
    options = parser.parse_args()
    findings = []
    if options.command == "lint":
        findings = list(lint())
    elif options.command == "names":
        findings = list(compare_names(text_of(options.metrics)))
    else:
        live = Live(options.prometheus, options.rate_interval, options.range)
        if options.command == "check":
            findings = list(check(live))
        else:
            text = table(live)
            findings = [line for line in text.split("\n") if line.endswith("EMPTY |")]
            if options.write:
                write_table(text)
            else:
                print(text, end="")
    for finding in findings:
        print(finding, file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as failure:
        sys.exit(f"panels.py: {failure}\n  METRICS is a file, a URL or -; PROMETHEUS is the URL of "
                 "one that runs: panels.py --help")
