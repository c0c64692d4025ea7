#include "cli/show.h"
#include "cli/reference.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

namespace bpg::cli {
namespace {

using nlohmann::json;
using Fields = std::vector<std::pair<std::string, std::string>>;
using Align = Table::Align;

WallTime now() {
    return SystemClock().now();
}

std::string dash(std::string text) {
    return text.empty() ? "-" : text;
}

const json& storage_of(const json& branch) {
    return member(branch, "storage");
}

std::string bytes_or_empty(const json& value) {
    const std::string text = size_of(value);
    return text == "-" ? std::string() : text;
}

std::string time_and_age(const json& object, std::string_view name) {
    const std::string time = text_of(object, name);
    if (time.empty()) return {};
    const std::string age = age_of(member(object, name), now());
    return fmt::format("{} ({})", time, age.starts_with("in ") ? age : age + " ago");
}

std::string origin_of(const json& branch) {
    const json& from = member(branch, "created_from");
    if (!from.is_object()) return {};
    std::string text = text_of(from, "mode");
    if (const std::string at = text_of(from, "at"); !at.empty()) text += " at " + at;
    if (const std::string lsn = text_of(from, "lsn"); !lsn.empty()) text += ", LSN " + lsn;
    return text;
}

/// The id or ref of a job, wherever it stands.
std::string job_name(const json& value) {
    return value.is_string() ? value.get<std::string>() : text_of(value, "id");
}

std::string address_of(const json& branch) {
    const std::string port = scalar_of(branch, "port");
    return port.empty() ? std::string() : text_of(branch, "host") + ":" + port;
}

std::string branch_fields(const json& branch) {
    const json& storage = storage_of(branch);
    return render_fields({
        {"branch", text_of(branch, "ref")},
        {"id", text_of(branch, "id")},
        {"state", text_of(branch, "state")},
        {"parent", text_of(branch, "parent")},
        {"address", address_of(branch)},
        {"url", text_of(branch, "url")},
        {"created", time_and_age(branch, "created_at")},
        {"created from", origin_of(branch)},
        {"expires", time_and_age(branch, "expires_at")},
        {"protected", member(branch, "protected") == true ? "yes" : ""},
        {"timeline", scalar_of(branch, "timeline")},
        {"incarnation", scalar_of(member(branch, "incarnation"), "number")},
        {"storage", dash(text_of(storage, "driver")) + " " + text_of(storage, "name")},
        {"used", bytes_or_empty(member(storage, "used_bytes"))},
        {"referenced", bytes_or_empty(member(storage, "referenced_bytes"))},
        {"logical", bytes_or_empty(member(storage, "logical_bytes"))},
        {"last job", job_name(member(branch, "last_job"))},
    });
}

std::string database_fields(const json& database) {
    return render_fields({
        {"database", text_of(database, "name")},
        {"id", text_of(database, "id")},
        {"image", text_of(database, "image")},
        {"PostgreSQL", scalar_of(database, "pg_version")},
        {"branches", scalar_of(database, "branches")},
        {"created", time_and_age(database, "created_at")},
    });
}

/// "1.2 GiB of 3.4 GiB"
std::string progress_of(const json& job) {
    const json& progress = member(job, "progress");
    if (!progress.is_object()) return {};
    const bool bytes = text_of(progress, "unit") == "bytes";
    const auto amount = [&](const char* name) {
        return bytes ? size_of(member(progress, name))
                     : scalar_of(progress, name) + " " + text_of(progress, "unit");
    };
    const json& total = member(progress, "total");
    return amount("done") + (total.is_number() && total > 0 ? " of " + amount("total") : "");
}

std::string time_left_of(const json& job) {
    const json& seconds = member(member(job, "estimate"), "seconds_left");
    if (!seconds.is_number()) return {};
    const auto left =
        std::chrono::milliseconds(static_cast<std::int64_t>(seconds.get<double>() * 1000));
    return "about " + human_duration(left);
}

std::string holder_of(const json& holder) {
    if (!holder.is_object()) return {};
    return fmt::format("job {} ({} {}, step {}, {})", text_of(holder, "job"),
                       text_of(holder, "operation"), text_of(holder, "target"),
                       text_of(holder, "step"), text_of(holder, "state"));
}

/// What is there outside.
std::string world_lines(const json& world) {
    std::string lines;
    for (const json& line : world) {
        if (line.is_string()) lines += "  " + one_line(line.get<std::string>()) + "\n";
    }
    return lines.empty() ? lines : "\nnow there:\n" + lines;
}

std::string job_fields(const Session& session, const json& job) {
    std::string text = render_fields({
        {"job", text_of(job, "id")},
        {"operation", text_of(job, "operation")},
        {"target", text_of(job, "target")},
        {"state", text_of(job, "state")},
        {"attempt", scalar_of(job, "attempt")},
        {"created", time_and_age(job, "created_at")},
        {"started", time_and_age(job, "started_at")},
        {"finished", time_and_age(job, "finished_at")},
        {"waiting for", scalar_of(job, "waiting_for")},
        {"progress", progress_of(job)},
        {"time left", time_left_of(job)},
        {"log", text_of(job, "log_path")},
        {"next", text_of(member(job, "explanation"), "next")},
        {"held by", holder_of(member(member(job, "explanation"), "held_by"))},
    });
    text += world_lines(member(member(job, "explanation"), "world"));
    Table steps({{"STEP"}, {"STATE"}, {"TIME", Align::kRight}, {"PURPOSE", Align::kLeft, true}});
    const json& list = member(job, "steps");
    if (list.is_array() && !list.empty()) {
        for (const json& step : list) {
            const json& ms = member(step, "duration_ms");
            const std::string state = text_of(step, "state");
            steps.add({text_of(step, "name"),
                       {state, style_of_state(state)},
                       ms.is_number()
                           ? human_duration(std::chrono::milliseconds(ms.get<std::int64_t>()))
                           : std::string("-"),
                       text_of(step, "purpose")});
        }
        text += "\n" + steps.render(session.terminal().width, session.terminal().out_colour);
    }
    const json& error = member(job, "error");
    if (error.is_object()) {
        ErrorInfo info;
        info.message = text_of(error, "title");
        if (info.message.empty()) info.message = "failed";
        info.detail = text_of(error, "detail");
        info.hint = text_of(error, "hint");
        info.code = text_of(error, "code");
        text += "\n" + render_error(info, session.terminal().out_colour);
    }
    return text;
}

std::string snapshot_fields(const json& snapshot) {
    std::string branches;
    for (const json& ref : member(snapshot, "branches")) {
        if (ref.is_string()) branches += (branches.empty() ? "" : ", ") + ref.get<std::string>();
    }
    const bool pinned = member(snapshot, "pinned") == true;
    const bool with_wal = member(snapshot, "with_wal") == true;
    return render_fields({
        {"snapshot", text_of(snapshot, "id")},
        {"branch", text_of(snapshot, "branch")},
        {"incarnation", text_of(snapshot, "incarnation")},
        {"kind", text_of(snapshot, "kind")},
        {"label", one_line(text_of(snapshot, "label"))},
        {"created", time_and_age(snapshot, "created_at")},
        {"created by", text_of(snapshot, "created_by")},
        {"consistent at", text_of(snapshot, "consistent_at")},
        {"mode", text_of(snapshot, "mode")},
        {"LSN", text_of(snapshot, "lsn")},
        {"timeline", scalar_of(snapshot, "timeline")},
        {"size", bytes_or_empty(member(snapshot, "size_bytes"))},
        {"pinned", pinned ? (with_wal ? "yes, with its WAL" : "yes") : ""},
        {"branches", branches},
    });
}

std::string retention_of(const json& schedule) {
    std::string text;
    for (const std::string_view rule : kKeepRules) {
        const std::string count = scalar_of(member(schedule, "retention"), rule);
        if (!count.empty()) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, rule);
    }
    return text;
}

std::string schedule_fields(const json& schedule) {
    const bool is_paused = member(schedule, "paused") == true;
    const std::string reason = text_of(schedule, "pause_reason");
    return render_fields({
        {"schedule", text_of(schedule, "name")},
        {"fires", text_of(schedule, "description")},
        {"cron", text_of(schedule, "cron")},
        {"zone", text_of(schedule, "tz")},
        {"operation", text_of(schedule, "op")},
        {"target", text_of(schedule, "target")},
        {"keeps", retention_of(schedule)},
        {"days of WAL", scalar_of(schedule, "days")},
        {"overlap", text_of(schedule, "overlap")},
        {"catches up", text_of(schedule, "catch_up")},
        {"paused", is_paused ? (reason.empty() ? "yes" : "yes: " + one_line(reason)) : ""},
        {"last fire", time_and_age(schedule, "last_fire")},
        {"last job", text_of(schedule, "last_job")},
        {"next fire", time_and_age(schedule, "next_fire")},
        {"missed", scalar_of(schedule, "missed")},
        {"skipped", scalar_of(schedule, "overlap_skipped")},
    });
}

/// What a dry run says, a sentence a line.
std::string plan_text(const json& plan) {
    std::string text;
    for (const json& line : member(plan, "summary")) {
        if (line.is_string()) text += one_line(line.get<std::string>()) + "\n";
    }
    return text;
}

std::vector<Table::Cell> branch_row(const json& branch, const std::string& shown) {
    const std::string state = text_of(branch, "state");
    const json& storage = storage_of(branch);
    return {shown,
            {dash(state), style_of_state(state)},
            dash(scalar_of(branch, "port")),
            dash(text_of(branch, "parent")),
            size_of(member(storage, "used_bytes")),
            age_of(member(branch, "created_at"), now()),
            age_of(member(branch, "expires_at"), now())};
}

Table empty_branch_table() {
    return Table({{"BRANCH", Align::kLeft, true},
                  {"STATE"},
                  {"PORT", Align::kRight},
                  {"PARENT", Align::kLeft, true},
                  {"USED", Align::kRight},
                  {"AGE", Align::kRight},
                  {"EXPIRES", Align::kRight}});
}

/// "2.1 GiB free of 10 GiB"
std::string space_of(const json& storage) {
    const std::string size = size_of(member(storage, "size_bytes"));
    const std::string free = size_of(member(storage, "free_bytes"));
    return size == "-" ? std::string() : fmt::format("{} free of {}", free, size);
}

/// "[######----]", how much of the pool is used.
std::string bar_of(const json& storage) {
    constexpr std::size_t kWidth = 10;
    const json& size = member(storage, "size_bytes");
    const json& free = member(storage, "free_bytes");
    if (!size.is_number() || !free.is_number() || size.get<double>() <= 0) return {};
    const double used = 1 - std::clamp(free.get<double>() / size.get<double>(), 0.0, 1.0);
    const auto filled = static_cast<std::size_t>(std::lround(used * kWidth));
    return "[" + std::string(filled, '#') + std::string(kWidth - filled, '-') + "]";
}

std::string spaced_by(std::string_view between, std::initializer_list<std::string> parts) {
    std::string out;
    for (const std::string& part : parts) {
        if (part.empty()) continue;
        if (!out.empty()) out += between;
        out += part;
    }
    return out;
}

std::string spaced(std::initializer_list<std::string> parts) {
    return spaced_by(", ", parts);
}

/// "nightly in 5h, sync in 2d"
std::string next_fires_of(const json& fires) {
    std::string text;
    for (const json& fire : fires) {
        text += fmt::format("{}{} {}", text.empty() ? "" : ", ", text_of(fire, "name"),
                            age_of(member(fire, "at"), now()));
    }
    return text;
}

/// "newest snapshot 3h ago, restorable 2d ago to 5s ago, 2 segments of WAL wait (the oldest 1m)"
std::string protection_of(const json& facts) {
    if (!facts.is_object()) return {};
    const auto ago = [&facts](const char* name) {
        const std::string age = age_of(member(facts, name), now());
        return age == "-" ? age : age + " ago";
    };
    const std::string snapshot = ago("newest_snapshot_at");
    const std::string from = ago("restorable_from");
    const json& pending = member(facts, "pending_segments");
    const json& gaps = member(facts, "gaps");
    const auto count_of = [](const json& value) {
        return value.is_number_unsigned() ? value.get<std::uint64_t>() : 0;
    };
    std::string waits;
    if (const auto count = count_of(pending); count > 0) {
        waits = fmt::format("{} {} of WAL (the oldest {} old)", count,
                            count == 1 ? "segment waits" : "segments wait",
                            age_of(member(facts, "oldest_pending_at"), now()));
    }
    std::string holes;
    if (const auto count = count_of(gaps); count > 0) {
        holes = fmt::format("{} {} in the WAL", count, count == 1 ? "gap" : "gaps");
    }
    std::string times = fmt::format("restorable {} to {}", from, ago("restorable_to"));
    // Without a number of gaps nobody has looked yet.
    if (from == "-") times = gaps.is_null() ? "" : "no time restorable";
    return spaced(
        {snapshot == "-" ? "no snapshot" : "newest snapshot " + snapshot, times, holes, waits});
}

std::string daemon_lines(const json& status) {
    const json& daemon = member(status, "daemon");
    const json& storage = member(status, "storage");
    const json& runtime = member(status, "runtime");
    const json& jobs = member(status, "jobs");
    const json& uptime = member(daemon, "uptime_seconds");
    const std::string version = scalar_of(runtime, "version");
    std::vector<std::pair<std::string, std::string>> lines = {
        {"bpgd", spaced({text_of(daemon, "version"),
                         uptime.is_number()
                             ? "up " + human_age(std::chrono::seconds(uptime.get<std::int64_t>()))
                             : ""})},
        {"storage", spaced({text_of(storage, "driver"), text_of(storage, "pool"),
                            spaced_by(" ", {bar_of(storage), space_of(storage)}),
                            text_of(storage, "health")})},
        {"runtime", spaced({text_of(runtime, "driver"), version})},
        {"jobs", jobs.is_object() ? fmt::format("{} queued, {} running, {} failed in 24 h",
                                                dash(scalar_of(jobs, "queued")),
                                                dash(scalar_of(jobs, "running")),
                                                dash(scalar_of(jobs, "failed_24h")))
                                  : ""},
        {"next", next_fires_of(member(member(status, "schedules"), "next"))},
    };
    for (const json& database : member(status, "databases")) {
        lines.emplace_back(text_of(database, "name"),
                           protection_of(member(database, "protection")));
    }
    return render_fields(lines);
}

}  // namespace

std::string name_of(const json& object) {
    for (const char* key : {"ref", "name", "id"}) {
        std::string text = text_of(object, key);
        if (!text.empty()) return text;
    }
    return {};
}

void show_object(const Session& session, const json& object) {
    if (session.json()) return print_out(render_json(object));
    if (session.names()) return print_out(name_of(object) + "\n");
    if (member(object, "dry_run") == true) return print_out(plan_text(object));
    if (!text_of(object, "operation").empty()) return print_out(job_fields(session, object));
    if (object.contains("pinned")) return print_out(snapshot_fields(object));
    const bool is_branch = !text_of(object, "ref").empty();
    const bool is_schedule = object.contains("cron");
    print_out(is_schedule ? schedule_fields(object)
              : is_branch ? branch_fields(object)
                          : database_fields(object));
    session.warn_all(member(object, "warnings"));
}

void show_list(const Session& session, const json& list,
               std::string (*table)(const Session&, const json& items)) {
    if (session.json()) return print_out(render_json(list));
    const json& items = member(list, "items");
    if (!session.names()) return print_out(table(session, items));
    std::string names;
    for (const json& item : items)
        names += name_of(item) + "\n";
    print_out(names);
}

std::string database_table(const Session& session, const json& items) {
    Table table({{"DATABASE", Align::kLeft, true},
                 {"BRANCHES", Align::kRight},
                 {"POSTGRESQL"},
                 {"IMAGE", Align::kLeft, true},
                 {"AGE", Align::kRight}});
    for (const json& item : items) {
        table.add({text_of(item, "name"), dash(scalar_of(item, "branches")),
                   dash(scalar_of(item, "pg_version")), dash(text_of(item, "image")),
                   age_of(member(item, "created_at"), now())});
    }
    return table.render(session.terminal().width, session.terminal().out_colour);
}

std::string branch_table(const Session& session, const json& items) {
    Table table = empty_branch_table();
    for (const json& item : items)
        table.add(branch_row(item, text_of(item, "ref")));
    return table.render(session.terminal().width, session.terminal().out_colour);
}

std::string snapshot_table(const Session& session, const json& items) {
    Table table({{"SNAPSHOT"},
                 {"BRANCH", Align::kLeft, true},
                 {"KIND"},
                 {"MODE"},
                 {"BY"},
                 {"AGE", Align::kRight},
                 {"PINNED"},
                 {"LABEL", Align::kLeft, true}});
    for (const json& item : items) {
        table.add({text_of(item, "id"), dash(text_of(item, "branch")), dash(text_of(item, "kind")),
                   dash(text_of(item, "mode")), dash(text_of(item, "created_by")),
                   age_of(member(item, "created_at"), now()),
                   std::string(member(item, "pinned") == true ? "yes" : "-"),
                   dash(one_line(text_of(item, "label")))});
    }
    return table.render(session.terminal().width, session.terminal().out_colour);
}

/// A row a restorable range; of an archive that has none, one row.
std::string wal_table(const Session& session, const json& items) {
    Table table({{"BRANCH", Align::kLeft, true},
                 {"INC", Align::kRight},
                 {"SEGMENTS", Align::kRight},
                 {"SIZE", Align::kRight},
                 {"PENDING", Align::kRight},
                 {"GAPS", Align::kRight},
                 {"RESTORABLE FROM"},
                 {"TO"}});
    for (const json& item : items) {
        json ranges = member(item, "restorable");
        if (ranges.empty()) ranges.push_back(json::object());
        for (const json& range : ranges) {
            const bool is_range = range.contains("from");
            const std::string to = text_of(range, "to");
            table.add({text_of(item, "branch"), dash(scalar_of(item, "incarnation_number")),
                       dash(scalar_of(item, "segments")), size_of(member(item, "compressed_bytes")),
                       dash(scalar_of(item, "pending")),
                       std::to_string(member(item, "gaps").size()), dash(text_of(range, "from")),
                       std::string(!is_range    ? "-"
                                   : to.empty() ? "now"
                                                : to)});
        }
    }
    return table.render(session.terminal().width, session.terminal().out_colour);
}

std::string schedule_table(const Session& session, const json& items) {
    Table table({{"SCHEDULE"},
                 {"CRON"},
                 {"ZONE"},
                 {"OPERATION"},
                 {"TARGET", Align::kLeft, true},
                 {"LAST", Align::kRight},
                 {"NEXT", Align::kRight}});
    for (const json& item : items) {
        const bool is_paused = member(item, "paused") == true;
        table.add({text_of(item, "name"), text_of(item, "cron"), text_of(item, "tz"),
                   text_of(item, "op"), dash(text_of(item, "target")),
                   age_of(member(item, "last_fire"), now()),
                   is_paused ? std::string("paused") : age_of(member(item, "next_fire"), now())});
    }
    return table.render(session.terminal().width, session.terminal().out_colour);
}

std::string fire_table(const Session& session, const json& items) {
    Table table({{"AT"}, {"LOCAL"}, {"NOTE", Align::kLeft, true}});
    for (const json& item : items)
        table.add({text_of(item, "at"), text_of(item, "local"), dash(text_of(item, "note"))});
    return table.render(session.terminal().width, session.terminal().out_colour);
}

std::string retention_table(const Session& session, const json& items) {
    Table table({{"SNAPSHOT"}, {"OF"}, {"BY"}, {"KEPT BY", Align::kLeft, true}, {"UNTIL"}});
    for (const json& item : items) {
        std::string rules;
        for (const json& keeper : member(item, "rules"))
            rules += (rules.empty() ? "" : ", ") + text_of(keeper, "rule");
        table.add({text_of(item, "snapshot"), text_of(item, "at"), text_of(item, "created_by"),
                   rules.empty() ? std::string("nothing: it goes") : rules,
                   dash(text_of(item, "until"))});
    }
    return table.render(session.terminal().width, session.terminal().out_colour);
}

std::string trash_table(const Session& session, const json& items) {
    Table table({{"ID"},
                 {"KIND"},
                 {"REF", Align::kLeft, true},
                 {"DELETED", Align::kRight},
                 {"GOES", Align::kRight},
                 {"USED", Align::kRight}});
    for (const json& item : items) {
        table.add({text_of(item, "id"), dash(text_of(item, "kind")), dash(text_of(item, "ref")),
                   age_of(member(item, "deleted_at"), now()),
                   age_of(member(item, "purge_at"), now()), size_of(member(item, "used_bytes"))});
    }
    return table.render(session.terminal().width, session.terminal().out_colour);
}

std::string branch_tree(const Session& session, const json& items) {
    std::set<std::string> refs;
    for (const json& item : items)
        refs.insert(text_of(item, "ref"));
    Table table = empty_branch_table();
    std::set<std::string> shown;
    const std::function<void(const std::string&, const std::string&)> add_children =
        [&](const std::string& parent, const std::string& indent) {
            std::vector<const json*> children;
            for (const json& item : items) {
                std::string above = text_of(item, "parent");
                if (!refs.contains(above)) above.clear();  // listed with another database, or gone
                if (above == parent) children.push_back(&item);
            }
            for (std::size_t i = 0; i < children.size(); ++i) {
                const std::string ref = text_of(*children[i], "ref");
                if (!shown.insert(ref).second) continue;
                const bool last = i + 1 == children.size();
                const std::string knee = parent.empty() ? "" : last ? "└─ " : "├─ ";
                table.add(branch_row(*children[i], indent + knee + ref));
                add_children(ref, indent + (parent.empty() ? "" : last ? "   " : "│  "));
            }
        };
    add_children("", "");
    return table.render(session.terminal().width, session.terminal().out_colour);
}

std::string job_table(const Session& session, const json& items) {
    Table table({{"JOB"},
                 {"OPERATION"},
                 {"TARGET", Align::kLeft, true},
                 {"STATE"},
                 {"AGE", Align::kRight},
                 {"TIME", Align::kRight}});
    for (const json& item : items) {
        const std::string state = text_of(item, "state");
        const auto begun = parse_time(text_of(item, "started_at"));
        const auto ended = parse_time(text_of(item, "finished_at"));
        const std::string time =
            begun && ended ? human_duration(std::chrono::duration_cast<std::chrono::milliseconds>(
                                 *ended - *begun))
                           : "-";
        table.add({text_of(item, "id"),
                   text_of(item, "operation"),
                   dash(text_of(item, "target")),
                   {state, style_of_state(state)},
                   age_of(member(item, "created_at"), now()),
                   time});
    }
    return table.render(session.terminal().width, session.terminal().out_colour);
}

std::string status_text(const Session& session, const json& status) {
    Table table({{"BRANCH", Align::kLeft, true},
                 {"STATE"},
                 {"PORT", Align::kRight},
                 {"USED", Align::kRight},
                 {"AGE", Align::kRight},
                 {"EXPIRES", Align::kRight},
                 {"URL", Align::kLeft, true}});
    for (const json& database : member(status, "databases")) {
        for (const json& branch : member(database, "branches")) {
            const std::string state = text_of(branch, "state");
            table.add({text_of(branch, "ref"),
                       {dash(state), style_of_state(state)},
                       dash(scalar_of(branch, "port")),
                       size_of(member(branch, "used_bytes")),
                       age_of(member(branch, "created_at"), now()),
                       age_of(member(branch, "expires_at"), now()),
                       dash(text_of(branch, "url"))});
        }
    }
    return table.render(session.terminal().width, session.terminal().out_colour) + "\n" +
           daemon_lines(status);
}

}  // namespace bpg::cli
