// Running `zfs` and `zpool`: an argv without a shell, LC_ALL=C, a deadline, bounded output. What is
// read is asked for in machine form and parsed strictly: an answer of another form is an error and
// never taken for "nothing there". Speaks to OpenZFS 2.x and to pool version 23 (zfs-fuse): no
// `zfs list -p`, no `zpool get -H`. Blocking; every function may be called from several threads.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "orchestrator/base/command_lock.h"
#include "orchestrator/base/error.h"

namespace bpg::storage {

/// What `zfs` complained about, as far as somebody acts on it.
enum class ZfsTrouble {
    kNone,
    kAbsent,        ///< no such dataset, snapshot or pool
    kExists,        ///< the name is taken
    kBusy,          ///< mounted and in use, or still being unmounted: goes away by itself
    kHasChildren,   ///< snapshots or datasets below it
    kHasClones,     ///< a snapshot that clones hang on
    kNoSpace,       ///< out of space or over a quota
    kNoPermission,  ///< not root, nor delegated
    kUnavailable,   ///< no daemon or module, pool gone or suspended, no answer in time
    kOther,
};

struct ZfsAnswer {
    ZfsTrouble trouble = ZfsTrouble::kNone;
    std::string out;
    std::string err;
    std::string why;  ///< what stderr said, or how the command ended; empty when it went well

    bool ok() const { return trouble == ZfsTrouble::kNone; }
};

struct ZfsTools {
    std::filesystem::path command_dir;           ///< where zfs and zpool are; empty: the usual PATH
    std::chrono::milliseconds deadline{60'000};  ///< of one command; then it is killed
    /// Each command begins once those of an earlier bpgd have ended. Null: they are not waited for.
    std::shared_ptr<CommandLock> lock;
};

struct ZfsValue {
    std::string value;
    std::string source;

    /// Set on this very dataset. User properties are inherited by all below it, snapshots too, and
    /// may have been received from another host: neither says anything about this dataset.
    bool local() const { return source == "local"; }
};

/// The properties of one dataset or snapshot by name.
class ZfsRow {
  public:
    void set(const std::string& property, ZfsValue value);
    bool has(const std::string& property) const { return values_.contains(property); }
    /// "" when it is not there.
    const std::string& value(const std::string& property) const;
    /// The value where it is local, else "".
    const std::string& local(const std::string& property) const;
    bool is_local(const std::string& property) const;
    /// Throws kInternal `zfs_answer_invalid` unless it is a plain number.
    std::uint64_t number(const std::string& property) const;
    std::size_t size() const { return values_.size(); }

  private:
    std::map<std::string, ZfsValue> values_;
};

/// By dataset or snapshot name.
using ZfsTable = std::map<std::string, ZfsRow>;

class ZfsCommand {
  public:
    explicit ZfsCommand(ZfsTools tools = {});

    /// Runs one command. Never throws for what it answers; a missing program is kUnavailable.
    ZfsAnswer zfs(std::vector<std::string> arguments) const;
    ZfsAnswer zpool(std::vector<std::string> arguments) const;

    /// Properties of several datasets and snapshots in one call. Those that do not exist are not in
    /// the table.
    ZfsTable get(const std::vector<std::string>& names,
                 const std::vector<std::string>& properties) const;
    /// The same of everything at and below one dataset, snapshots included. With `only_local`, only
    /// values set where they stand are reported, and rows may lack properties.
    ZfsTable get_below(const std::string& dataset, const std::vector<std::string>& properties,
                       bool only_local = false) const;
    /// `zfs list` of some columns, split. The caller's arguments follow `zfs list -H -o COLUMNS`.
    std::vector<std::vector<std::string>> list(const std::vector<std::string>& columns,
                                               std::vector<std::string> arguments) const;
    /// Which native properties this `zfs` knows.
    std::set<std::string> known_properties(const std::string& dataset) const;

  private:
    ZfsAnswer run(const char* program, std::vector<std::string> arguments) const;

    ZfsTools tools_;
};

/// An Error about a command that went wrong; `action` in the form "clone prod-dev".
Error zfs_error(const std::string& action, const ZfsAnswer& answer);

// ---- the parts below are here for tests ---------------------------------------------------------

ZfsTrouble classify_zfs_error(std::string_view err);
/// Rows of `zfs get -Hp -o name,property,value,source`. Throws kInternal `zfs_answer_invalid`.
ZfsTable parse_zfs_table(std::string_view out);
/// Rows of `columns` tab-separated fields. Throws kInternal `zfs_answer_invalid`.
std::vector<std::vector<std::string>> parse_zfs_list(std::string_view out, std::size_t columns);
/// Whether all that `err` says is that some of `names` do not exist.
bool says_only_absent(std::string_view err, const std::vector<std::string>& names);

/// `snapshot -o … a@id b@id`: one call, so that all datasets of an instance are caught at the same
/// instant (pool version 23 takes one only).
std::vector<std::string> snapshot_arguments(const std::vector<std::string>& datasets,
                                            const std::string& id,
                                            const std::map<std::string, std::string>& properties);

/// Pool and dataset names as we put them into commands: letters, digits, `_-.:`, each part
/// beginning with a letter or digit. Throws kInvalid `dataset_name_invalid`.
void check_dataset_name(const std::string& name);

}  // namespace bpg::storage
