// Clone hygiene.
#include "orchestrator/postgres/hygiene.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <thread>

#include "orchestrator/base/error.h"
#include "orchestrator/postgres/control_file.h"
#include "orchestrator/postgres/settings.h"

namespace bpg::postgres {

namespace {

constexpr const char* kMark = "betterpg.prepared";
constexpr const char* kControlFile = "global/pg_control";
constexpr const char* kAutoConf = "postgresql.auto.conf";
constexpr std::size_t kConfMax = 4U << 20U;
constexpr int kControlReads = 50;
constexpr std::chrono::milliseconds kControlReadPause{2};

/// What says that the directory belongs to a running, recovering or replicating server: the parent.
constexpr std::array<const char*, 14> kStaleFiles = {"postmaster.pid",
                                                     "postmaster.opts",
                                                     "recovery.signal",
                                                     "standby.signal",
                                                     "recovery.conf",
                                                     "recovery.done",
                                                     "backup_label",
                                                     "backup_label.old",
                                                     "tablespace_map",
                                                     "tablespace_map.old",
                                                     "postgresql.auto.conf.tmp",
                                                     "current_logfiles",
                                                     "current_logfiles.tmp",
                                                     "backup_manifest"};

/// Emptied: slots would pin WAL for ever (a logical one even stops the start, E42), archive marks
/// are about the parent's archive, logs may hold the parent's secrets.
constexpr std::array<const char*, 4> kEmptiedDirectories = {"pg_replslot", "pg_wal/archive_status",
                                                            "log", "pg_log"};

/// Directories that PostgreSQL writes to. Any of them as a link would lead into the parent's files.
constexpr std::array<const char*, 15> kWrittenDirectories = {
    "base",        "global",      "pg_commit_ts", "pg_dynshmem",  "pg_logical",
    "pg_notify",   "pg_replslot", "pg_serial",    "pg_snapshots", "pg_stat",
    "pg_subtrans", "pg_tblspc",   "pg_twophase",  "pg_xact",      "pg_multixact"};

bool is_core_file(const std::string& name) {
    return name == "core" || (name.starts_with("core.") &&
                              name.find_first_not_of("0123456789", 5) == std::string::npos);
}

/// "16384_init", "16384_init.1": the fork that an unlogged relation is reset from.
bool is_init_fork(const std::string& name) {
    const auto digits = name.find_first_not_of("0123456789");
    return digits != 0 && digits != std::string::npos &&
           std::string_view(name).substr(digits).starts_with("_init");
}

bool holds_init_fork(const Tree& directory) {
    const auto entries = directory.list();
    return std::any_of(entries.begin(), entries.end(), [](const Entry& entry) {
        return entry.type == EntryType::kFile && is_init_fork(entry.name);
    });
}

/// Whether a directory of some database below `parent` holds an init fork.
bool any_database_unlogged(const Tree& parent) {
    for (const Entry& entry : parent.list()) {
        if (entry.type != EntryType::kDirectory) continue;
        // A database dropped meanwhile is no error.
        const auto database = parent.sub(entry.name);
        if (database && holds_init_fork(*database)) return true;
    }
    return false;
}

void refuse_foreign_tablespaces(const std::string& tablespace_map) {
    std::string_view rest = tablespace_map;
    while (!rest.empty()) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        const auto space = line.find(' ');
        if (space != std::string_view::npos && line.substr(space + 1).starts_with('/')) {
            throw Error(ErrorKind::kInvalid, "tablespace_outside",
                        "the data has a tablespace outside its data directory", std::string(line),
                        "move the tablespace's tables into the default tablespace and drop it");
        }
        rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    }
}

void clean_auto_conf(const Tree& data, FileOwner owner) {
    const auto content = data.read(kAutoConf, kConfMax);
    if (!content) return;
    const std::string kept = without_inherited_settings(*content);
    if (kept != *content) data.replace(kAutoConf, kept, 0600, owner);
}

void write_backup_files(const Tree& data, const CloneSpec& spec) {
    refuse_foreign_tablespaces(spec.backup.tablespace_map);
    data.replace("backup_label", spec.backup.label, 0600, spec.owner);
    if (!spec.backup.tablespace_map.empty()) {
        data.replace("tablespace_map", spec.backup.tablespace_map, 0600, spec.owner);
    }
    const auto control = data.read(kControlFile, 64 * 1024);
    data.replace(kControlFile, without_checkpoint(control.value_or("")), 0600, spec.owner);
}

/// A segment, or the `.backup` that says where a base backup of the parent began.
bool is_of_segment(const std::string& name) {
    constexpr std::size_t kDigits = 24;
    const auto digits = std::min(name.find_first_not_of("0123456789ABCDEF"), name.size());
    return digits == kDigits && (name.size() == kDigits || name.ends_with(".backup"));
}

/// A copy made in backup mode has an empty pg_wal to begin with.
void make_archive_status(const Tree& data, FileOwner owner) {
    const auto wal = data.sub("pg_wal");
    if (!wal) return;
    if (::mkdirat(wal->fd(), "archive_status", 0700) != 0 && errno != EEXIST) {
        throw errno_error("make archive_status in " + wal->shown(), errno);
    }
    if (const auto status = wal->sub("archive_status")) status->own(owner, 0700);
}

/// The WAL a clone begins with is its parent's, which has archived it. Without the marks PostgreSQL
/// would archive it once more, the last segment as `.partial`. A clone that goes on on its parent's
/// timeline goes on in the segment of the checkpoint, which is then its own.
void mark_as_archived(const Tree& data, const CloneSpec& spec, bool new_timeline) {
    std::string own;
    if (!new_timeline) {
        const ControlFile control = read_control_file(data);
        own = segment_name(control.timeline, control.checkpoint, control.segment_size);
    }
    make_archive_status(data, spec.owner);
    for (const Entry& entry : data.list("pg_wal")) {
        const bool is_parents = new_timeline || entry.name < own;
        if (entry.type != EntryType::kFile || !is_of_segment(entry.name) || !is_parents) continue;
        data.replace_unsynced("pg_wal/archive_status/" + entry.name + ".done", "", 0600,
                              spec.owner);
    }
}

}  // namespace

void refuse_links(const Tree& data) {
    const auto refuse = [&](const char* code, const std::string& path, const std::string& hint) {
        throw Error(ErrorKind::kInvalid, code, "this data directory cannot be branched",
                    fmt::format("{}/{} is a symbolic link: a clone would have the same link and "
                                "write into the files of its parent",
                                data.shown(), path),
                    hint);
    };
    if (data.type_of("pg_wal") == EntryType::kLink) {
        refuse("wal_outside", "pg_wal",
               "stop the instance and move its pg_wal into the data directory");
    }
    for (const char* directory : kWrittenDirectories) {
        if (data.type_of(directory) == EntryType::kLink) {
            refuse("link_outside", directory, "stop the instance and move the directory back");
        }
    }
    for (const Entry& entry : data.list("pg_tblspc")) {
        if (entry.type == EntryType::kLink) {
            refuse("tablespace_outside", "pg_tblspc/" + entry.name,
                   "move the tablespace's tables into the default tablespace and drop it");
        }
    }
}

int read_major_version(const Tree& data) {
    const auto content = data.read("PG_VERSION", 64);
    const auto major = content ? parse_pg_version(*content) : std::nullopt;
    if (!major) {
        throw Error(ErrorKind::kCorrupt, "not_a_data_directory",
                    data.shown() + " is no data directory of PostgreSQL 13 to 18",
                    content ? "PG_VERSION says otherwise" : "there is no PG_VERSION in it");
    }
    return *major;
}

ControlFile read_control_file(const Tree& data) {
    for (int attempt = 1;; ++attempt) {
        const auto content = data.read(kControlFile, 64 * 1024);
        if (!content) {
            throw Error(ErrorKind::kCorrupt, "not_a_data_directory",
                        data.shown() + " is no data directory", "there is no global/pg_control");
        }
        // A running server writes the file in one call, but a reader may still see half of it.
        if (attempt == kControlReads || control_file_is_whole(*content)) {
            return parse_control_file(*content);
        }
        std::this_thread::sleep_for(kControlReadPause);  // pool thread: a torn read is read again
    }
}

bool contains_unlogged_relations(const Tree& data) {
    const auto base = data.sub("base");
    if (base && any_database_unlogged(*base)) return true;
    // In-place tablespaces; a linked one is refused before it comes to this.
    for (const Entry& tablespace : data.list("pg_tblspc")) {
        if (tablespace.type != EntryType::kDirectory) continue;
        const std::string path = "pg_tblspc/" + tablespace.name;
        for (const Entry& version : data.list(path)) {
            const auto databases = data.sub(path + "/" + version.name);
            if (databases && any_database_unlogged(*databases)) return true;
        }
    }
    return false;
}

bool is_prepared(const Tree& volume, const std::string& incarnation_id) {
    return volume.read(kMark, 256) == incarnation_id + "\n";
}

void write_mark(const Tree& volume, const std::string& incarnation_id) {
    // An empty one, after a power loss, says nothing: the hygiene is done again.
    volume.replace_unsynced(kMark, incarnation_id + "\n", 0600, FileOwner{0, 0});
    volume.sync();
}

void clean_clone(const Tree& data, const CloneSpec& spec) {
    refuse_links(data);
    read_major_version(data);
    data.own(spec.owner, 0700);
    for (const char* file : kStaleFiles)
        data.remove(file);
    for (const Entry& entry : data.list()) {
        if (entry.type == EntryType::kFile && is_core_file(entry.name)) data.remove(entry.name);
    }
    for (const char* directory : kEmptiedDirectories) {
        // A `log` that is a link leads elsewhere: the link goes, what it names stays.
        if (data.type_of(directory) == EntryType::kLink) {
            data.remove(directory);
        } else {
            data.empty(directory);
        }
    }
    clean_auto_conf(data, spec.owner);

    const bool copied_in_backup_mode = !spec.backup.label.empty();
    if (copied_in_backup_mode) write_backup_files(data, spec);
    // A label without the signal is trouble for PostgreSQL (NA-6), whatever the caller wants.
    const bool new_timeline = spec.new_timeline || copied_in_backup_mode;
    if (spec.archives) mark_as_archived(data, spec, new_timeline);
    if (new_timeline) {
        data.replace_unsynced("recovery.signal", "", 0600, spec.owner);  // its name says it all
    }
    data.sync();
}

}  // namespace bpg::postgres
