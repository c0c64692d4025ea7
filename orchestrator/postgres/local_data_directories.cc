// DataDirectories: each verb is one piece of work on the pool.
#include "orchestrator/postgres/local_data_directories.h"

#include <fmt/format.h>

#include <charconv>

#include "orchestrator/base/error.h"
#include "orchestrator/postgres/hygiene.h"
#include "orchestrator/postgres/settings.h"
#include "orchestrator/postgres/tree.h"
#include "orchestrator/postgres/wal_files.h"

namespace bpg::postgres {

namespace {

constexpr std::size_t kHistoryMax = 4U << 20U;
constexpr std::size_t kConfMax = 4U << 20U;

Tree data_of(const Tree& volume) {
    auto data = volume.sub("data");
    if (!data) {
        throw Error(ErrorKind::kCorrupt, "not_a_data_directory",
                    volume.shown() + " holds no data directory");
    }
    return std::move(*data);
}

void prepare(const CloneSpec& spec) {
    const Tree volume(spec.volume);
    if (is_prepared(volume, spec.incarnation_id)) return;
    clean_clone(data_of(volume), spec);
    // Last, so that a crash before it repeats everything (HYG-5).
    write_mark(volume, spec.incarnation_id);
}

Clients clients_of(const OwnedConfig& config) {
    if (!is_loopback(config.listen)) return Clients::kTls;
    return config.published ? Clients::kPublished : Clients::kLoopback;
}

void write_config(const OwnedConfig& config) {
    const Tree volume(config.volume);
    const int major = read_major_version(data_of(volume));
    const std::filesystem::path conf = config.volume / "conf";
    const FileOwner owner{0, config.owner.gid};
    const std::string postgresql = postgresql_conf(config.volume / "data", config.settings, major);

    ensure_directory(conf, 0750, owner);
    const Tree files(conf);
    // None needs to survive a power loss: all are looked at again before every start. One that is
    // there already is left alone: a server whose start bpgd did not live to see may just be
    // reading it, and on zfs-fuse finds nothing in the place of a file that is being replaced.
    const auto put = [&](const char* name, const std::string& content) {
        if (files.holds(name, content, 0640, owner)) return;
        files.replace_unsynced(name, content, 0640, owner);
    };
    // The closing of the door comes before anything else could go wrong.
    put("pg_hba.conf", pg_hba_conf(config.open, clients_of(config)));
    put("pg_ident.conf", pg_ident_conf());
    put("postgresql.conf", postgresql);
}

void check(const std::filesystem::path& path, bool running) {
    const Tree data(path);
    refuse_links(data);
    const int major = read_major_version(data);
    // From 15 on a label lies in a data directory only while a backup is being restored.
    if (running && major < 15 && data.type_of("backup_label")) {
        throw Error(
            ErrorKind::kConflict, "exclusive_backup", "the parent cannot be branched now",
            "an exclusive backup is in progress on it: there is a backup_label in " + data.shown(),
            "wait for it to end, or end it with pg_stop_backup()");
    }
}

/// As the files say it, the last of them to say anything; files that they include are not looked
/// at.
std::optional<std::string> configured(const Tree& data, const OwnedConfig& config,
                                      const std::string& setting) {
    std::optional<std::string> value;
    const auto read = [&](const char* file) {
        const auto found = setting_in(data.read(file, kConfMax).value_or(""), setting);
        if (found) value = found;
    };
    read("postgresql.conf");
    const auto ours = config.settings.find(setting);
    if (ours != config.settings.end()) value = ours->second;
    read("postgresql.auto.conf");
    return value;
}

StartNeeds needs_of(const Tree& data, const OwnedConfig& config) {
    StartNeeds needs;
    needs.minimal_wal = configured(data, config, "wal_level") == "minimal";
    const ControlFile control = read_control_file(data);
    // A clean stop leaves each of them in a file; after any other they may be in the WAL alone.
    if (control.cleanly_shut_down && data.list("pg_twophase").empty()) return needs;
    const std::string says = configured(data, config, "max_prepared_transactions").value_or("0");
    std::uint32_t places = 0;  // as when it cannot be read
    std::from_chars(says.data(), says.data() + says.size(), places);
    if (places < control.max_prepared_transactions) {
        needs.prepared_transactions = control.max_prepared_transactions;
    }
    return needs;
}

}  // namespace

const BackupExclusions& backup_exclusions() {
    static const BackupExclusions exclusions{
        .empty_directories = {"pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial",
                              "pg_snapshots", "pg_subtrans", "pg_stat_tmp"},
        .skipped_names = {"postmaster.pid", "postmaster.opts", "backup_label", "tablespace_map",
                          "backup_manifest", "current_logfiles", "current_logfiles.tmp",
                          "postgresql.auto.conf.tmp"},
        .skipped_prefixes = {"pgsql_tmp", "pg_internal.init"},
        .last = "global/pg_control",
    };
    return exclusions;
}

asio::awaitable<ControlFile> LocalDataDirectories::control_file(const std::filesystem::path& data) {
    auto work = [data] { return read_control_file(Tree(data)); };
    co_return co_await pool_.run(std::move(work));
}

asio::awaitable<void> LocalDataDirectories::check_source(const std::filesystem::path& data,
                                                         bool running) {
    auto work = [data, running] { check(data, running); };
    co_await pool_.run(std::move(work));
}

asio::awaitable<bool> LocalDataDirectories::has_unlogged_relations(
    const std::filesystem::path& data) {
    auto work = [data] { return contains_unlogged_relations(Tree(data)); };
    co_return co_await pool_.run(std::move(work));
}

asio::awaitable<void> LocalDataDirectories::prepare_clone(const CloneSpec& spec) {
    auto work = [spec] { prepare(spec); };
    co_await pool_.run(std::move(work));
}

asio::awaitable<void> LocalDataDirectories::mark_prepared(const CloneSpec& spec) {
    auto work = [spec] { write_mark(Tree(spec.volume), spec.incarnation_id); };
    co_await pool_.run(std::move(work));
}

asio::awaitable<void> LocalDataDirectories::write_owned_config(const OwnedConfig& config) {
    auto work = [config] { write_config(config); };
    co_await pool_.run(std::move(work));
}

asio::awaitable<StartNeeds> LocalDataDirectories::start_needs(const OwnedConfig& config) {
    auto work = [config] { return needs_of(data_of(Tree(config.volume)), config); };
    co_return co_await pool_.run(std::move(work));
}

asio::awaitable<void> LocalDataDirectories::copy_wal(const std::filesystem::path& source_data,
                                                     const std::filesystem::path& target_data,
                                                     const BackupStart& start, Lsn stop) {
    auto work = [source_data, target_data, start, stop] {
        copy_wal_files(Tree(source_data), Tree(target_data), start, stop);
    };
    co_await pool_.run(std::move(work));
}

asio::awaitable<std::optional<std::string>> LocalDataDirectories::newest_wal(
    const std::filesystem::path& data, const std::string& from, const std::string& until) {
    auto work = [data, from, until]() -> std::optional<std::string> {
        std::optional<std::string> newest;
        for (const Entry& entry : Tree(data).list("pg_wal")) {
            if (entry.name.size() != from.size()) continue;
            const auto position = [](const std::string& name) { return name.substr(8); };
            const bool is_within =
                position(from) <= position(entry.name) && position(entry.name) <= position(until);
            if (is_within && (!newest || position(*newest) < position(entry.name))) {
                newest = entry.name;
            }
        }
        return newest;
    };
    co_return co_await pool_.run(std::move(work));
}

asio::awaitable<std::optional<Lsn>> LocalDataDirectories::fork_point(
    const std::filesystem::path& data, std::uint32_t timeline) {
    auto work = [data, timeline]() -> std::optional<Lsn> {
        if (timeline <= 1) return std::nullopt;
        const auto history =
            Tree(data).read(fmt::format("pg_wal/{:08X}.history", timeline), kHistoryMax);
        if (!history) return std::nullopt;
        return last_switch_point(*history);
    };
    co_return co_await pool_.run(std::move(work));
}

}  // namespace bpg::postgres
