// The data directory of an instance, seen from outside: hygiene of a clone before its first start,
// the files bpgd owns beside it, and what pg_control says. The content is hostile input: nothing
// here follows a symbolic link, every read is bounded (SEC-12).
//
// Layout of a volume: `data/` is PGDATA (0700, the instance's user); `conf/` (0750 root, group of
// the instance's user) holds postgresql.conf, pg_hba.conf and pg_ident.conf that the command line
// names.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/base/files.h"
#include "orchestrator/postgres/lsn.h"
#include "orchestrator/postgres/postgres.h"

namespace bpg::postgres {

/// From global/pg_control, read by our own parser for PostgreSQL 13 to 18 (CRC checked).
struct ControlFile {
    std::string system_identifier;
    std::uint32_t version = 0;  ///< pg_control_version, e.g. 1300
    bool cleanly_shut_down = false;
    Lsn checkpoint;
    Lsn redo;
    std::uint32_t timeline = 0;
    std::uint32_t segment_size = 0;
    bool wal_level_minimal = false;
    std::uint32_t max_prepared_transactions = 0;  ///< that the server ran with
};

/// What a clone's first start is told.
struct CloneSpec {
    std::filesystem::path volume;
    std::string incarnation_id;  ///< marks the hygiene as done; another incarnation's mark is none
    FileOwner owner;
    /// Recovery onto a new timeline (HYG-1). False only for a cleanly stopped parent with unlogged
    /// relations (E70): a plain start keeps their rows.
    bool new_timeline = true;
    /// Its WAL is archived: what it has of its parent's is not to be archived again.
    bool archives = true;
    BackupStop backup;  ///< non-atomic copies only: label and tablespace_map to write; else empty
};

/// The files bpgd owns in `conf/`.
struct OwnedConfig {
    std::filesystem::path volume;
    FileOwner owner;
    std::map<std::string, std::string> settings;  ///< postgres.config; ALTER SYSTEM wins over it
    bool open = false;  ///< false: only our own unix socket; true: SCRAM over TCP too
    std::string listen = "127.0.0.1";  ///< network.listen; beyond loopback takes TLS only
    /// The runtime publishes the port on `listen`, and clients appear to come from its gateway.
    bool published = false;
};

/// What the files of a data directory demand of its next start.
struct StartNeeds {
    /// It will run with wal_level=minimal, and PostgreSQL then refuses to start with archiving on.
    bool minimal_wal = false;
    /// As max_prepared_transactions, where its files say less and prepared transactions may be left
    /// of the server that wrote them: PostgreSQL neither recovers nor starts with too few places
    /// (HYG-3). 0: its files say enough.
    std::uint32_t prepared_transactions = 0;
};

class DataDirectories {
  public:
    virtual ~DataDirectories() = default;

    virtual asio::awaitable<ControlFile> control_file(const std::filesystem::path& data) = 0;

    /// Throws kInvalid `tablespace_outside` or `wal_outside` when a link in pg_tblspc or pg_wal
    /// leads out of the data directory: a clone would write into the parent's files (SNAP-4, E60);
    /// kConflict `exclusive_backup` for a foreign backup_label of a running 13 or 14 (SNAP-7).
    /// `running`: the instance of this directory is up.
    virtual asio::awaitable<void> check_source(const std::filesystem::path& data, bool running) = 0;

    /// Whether any relation has an init fork, i.e. is unlogged. Walks base/ and pg_tblspc.
    virtual asio::awaitable<bool> has_unlogged_relations(const std::filesystem::path& data) = 0;

    /// Hygiene (reference: clone hygiene table), then the mark, fsynced, last (HYG-5): with the
    /// mark of this incarnation present it does nothing at all, so a used branch keeps its slots.
    virtual asio::awaitable<void> prepare_clone(const CloneSpec& spec) = 0;
    /// Marks a freshly initialised directory, so that no later step treats it as a clone.
    virtual asio::awaitable<void> mark_prepared(const CloneSpec& spec) = 0;

    /// Writes conf/; safe to repeat. The settings are checked: an owned or malformed one is
    /// kInvalid `setting_owned`, `setting_invalid`.
    virtual asio::awaitable<void> write_owned_config(const OwnedConfig& config) = 0;

    virtual asio::awaitable<StartNeeds> start_needs(const OwnedConfig& config) = 0;

    /// NA-5: copies the WAL segments from `start` up to `stop` of `timeline` from the source's
    /// pg_wal into the target's, verifying size and page address of each; kCorrupt `wal_missing`
    /// names one that is not there.
    virtual asio::awaitable<void> copy_wal(const std::filesystem::path& source_data,
                                           const std::filesystem::path& target_data,
                                           const BackupStart& start, Lsn stop) = 0;

    /// The newest segment in pg_wal that is no older than `from` and no newer than `until`, on
    /// whatever timeline: how far a recovery from an archive is.
    virtual asio::awaitable<std::optional<std::string>> newest_wal(
        const std::filesystem::path& data, const std::string& from, const std::string& until) = 0;

    /// LSN at which this data directory's timeline began: last line of its .history file; nothing
    /// on timeline 1 or when the file is absent.
    virtual asio::awaitable<std::optional<Lsn>> fork_point(const std::filesystem::path& data,
                                                           std::uint32_t timeline) = 0;
};

/// What a copy of a running data directory leaves out (NA-3), relative to the data directory. The
/// storage port takes it as a CopyPlan.
struct BackupExclusions {
    std::vector<std::string> empty_directories;  ///< kept, without their content
    std::vector<std::string> skipped_names;
    std::vector<std::string> skipped_prefixes;
    std::string last;  ///< "global/pg_control", copied after everything else
};
const BackupExclusions& backup_exclusions();
/// Whether these are the bytes of a pg_control file with a valid CRC (reads may be torn).
bool control_file_is_whole(const std::string& content);

/// Where an instance's WAL goes to, and where recovery takes WAL from.
struct WalSettings {
    std::string archive_command;              ///< empty: nothing is archived
    std::chrono::seconds archive_timeout{0};  ///< 0: a segment is archived once it is full
    /// Exit code 1 says "end of archive": recovery ends with what is in pg_wal.
    std::string restore_command = "exit 1";
    /// Never the default `latest`: it would follow a stranger's history file (LIN-3).
    std::string target_timeline = "current";
    /// "recovery_target_time" … with its value; nothing: to the end of the WAL. At most one is
    /// allowed (PITR-7).
    std::optional<std::pair<std::string, std::string>> target;
};

/// The names of settings that bpgd owns and a config file may not set (port, listen_addresses …).
bool is_owned_setting(const std::string& name);

/// The `-c` settings of every start: what no SQL user may change (reference: owned settings).
std::vector<std::pair<std::string, std::string>> owned_settings(
    const std::filesystem::path& volume, const Endpoint& endpoint, const std::string& listen,
    const std::string& cluster_name, int version_major, const WalSettings& wal = {});

}  // namespace bpg::postgres
