// A model of the outside world for the crash matrices: volumes, snapshots, instances and PostgreSQL
// in memory, behind the real ports. It survives a simulated crash of the daemon and refuses what
// the real thing refuses; what must never happen is noted as a violation.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "orchestrator/postgres/data_directory.h"
#include "orchestrator/postgres/postgres.h"
#include "orchestrator/runtime/runtime.h"
#include "orchestrator/storage/storage.h"
#include "orchestrator/wal/archives.h"

namespace bpg::fakes {

struct FakeVolume {
    storage::Identity identity;
    bool initialised = false;  ///< holds a data directory
    std::string prepared_for;  ///< incarnation whose hygiene is done
    bool has_config = false;
    bool open = false;              ///< hba lets users in
    bool has_own_password = false;  ///< the superuser has not its parent's any more
    bool copied_while_running = false;
    bool has_label = false;
    bool has_spool = false;  ///< WAL of its parent that a recovery needs
    std::pair<std::string, std::string>
        origin;        ///< (volume, id) of the snapshot it was cloned from
    std::string home;  ///< of a snapshot: the volume it lies in, which promote changes
};

struct World {
    bool atomic = true;
    bool snapshots_hold = true;  ///< a snapshot with clones cannot go (zfs; btrfs lets it)
    std::map<std::string, FakeVolume> volumes;
    std::map<std::string, FakeVolume> building;
    std::map<std::pair<std::string, std::string>, FakeVolume> snapshots;  ///< (volume, id)
    std::map<std::string, std::string> running;                           ///< branch id → volume
    std::set<std::string> socket_directories;                             ///< branch ids
    std::set<std::pair<std::string, std::string>> archives;  ///< (volume, incarnation id)
    std::map<std::string, int> backups;  ///< branch id → sessions in backup mode
    std::vector<std::string> violations;
    int changes = 0;            ///< calls that changed it, or found it as they should leave it
    int unanswered_change = 0;  ///< this one takes effect and fails; 0: all are answered
    /// What happens meanwhile, if anything: destroying takes a while.
    std::function<boost::asio::awaitable<void>()> while_a_snapshot_goes = {};

    /// Ends a call that changes the world: nobody may hear that it did.
    void answer();
    /// The volume (finished or being built) that a path lies in; throws when there is none.
    FakeVolume& at(const std::filesystem::path& path);
    void expect(bool holds, const std::string& what) {
        if (!holds) violations.push_back(what);
    }
};

std::unique_ptr<storage::Storage> make_storage(World& world);
std::unique_ptr<runtime::Runtime> make_runtime(World& world);
std::unique_ptr<postgres::Postgres> make_postgres(World& world);
std::unique_ptr<postgres::DataDirectories> make_data_directories(World& world);
std::unique_ptr<wal::Archives> make_archives(World& world);

}  // namespace bpg::fakes
