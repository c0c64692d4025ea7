// What a machine shows of one bpgd, read without asking bpgd: volumes, processes, sockets, secrets,
// ports, mounts and loop devices. Two of these taken around a failed operation must be equal; that
// is what "leaves no trace" means in the tests.
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "orchestrator/base/subprocess.h"
#include "tests/harness/ports.h"

namespace bpg::test {

/// One line a thing, e.g. "volume prod-dev", "postgres 4711 branch 01H…", "port 12003". Lines are
/// comparable between two snapshots of the same host.
struct World {
    std::set<std::string> things;

    bool operator==(const World&) const = default;
    /// Lines of this one that the other does not have.
    std::vector<std::string> without(const World& other) const;
};

/// Where to look.
struct WorldPlaces {
    std::filesystem::path volumes;  ///< storage.root
    std::filesystem::path state;    ///< paths.state
    std::filesystem::path run;      ///< paths.run
    std::filesystem::path archive;  ///< paths.wal_archive
};

World look_at_world(const WorldPlaces& places, const PortSlot& ports);

/// "+ volume x" and "- port y", one a line; empty when both are equal.
std::string describe_difference(const World& before, const World& after);

/// Postmasters whose data directory lies below `root`.
std::vector<ProcessFacts> postmasters_below(const std::filesystem::path& root);
/// Every process that has a path below `root` in its arguments.
std::vector<ProcessFacts> processes_naming(const std::filesystem::path& root);
/// Mount points at or below `root`, innermost first.
std::vector<std::filesystem::path> mounts_below(const std::filesystem::path& root);
/// Loop devices ("/dev/loop3") whose backing file lies below `root`, deleted ones included.
std::vector<std::string> loop_devices_below(const std::filesystem::path& root);

/// The id behind `bpg.branch_id=` in a postmaster's arguments; empty when there is none.
std::string branch_id_of(const ProcessFacts& postmaster);

}  // namespace bpg::test
