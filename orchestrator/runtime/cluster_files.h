// The files around an instance that every runtime prepares in the same way: the data directory that
// initdb fills, and the socket directory. All of it blocks: call it on a pool.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"

namespace bpg::runtime {

bool is_finished_cluster(const std::filesystem::path& data);

/// What carries the name of the data directory is a finished cluster, at every instant and after a
/// power cut: initdb works in a directory beside. This one removes what an earlier attempt left and
/// makes it.
void begin_cluster(const std::filesystem::path& data, FileOwner user);
/// The directory beside.
std::filesystem::path unfinished_cluster(const std::filesystem::path& data);
/// After initdb: one sync of the file system, then the rename.
void finish_cluster(const std::filesystem::path& data);
/// Where the words of an initdb go that may outlive who started it, another file beside. Its first
/// line is boot_id(): of an earlier boot, a power cut may have taken what initdb wrote.
std::filesystem::path init_log(const std::filesystem::path& data);
/// What initdb said in that file, and whether it got through: its last words, and a whole cluster.
struct InitOutcome {
    bool succeeded = false;
    std::string said;
};
InitOutcome init_outcome(const std::filesystem::path& data);

/// The host's boot. What was written in an earlier one and not synced may be gone.
std::string boot_id();

/// The arguments of initdb, without its own name.
std::vector<std::string> initdb_arguments(const std::filesystem::path& data,
                                          const std::string& locale);
/// What it means that initdb failed: `ended` says how ("exit code 1: …"), `text` is its stderr.
Error initdb_failed(const std::string& ended, const std::string& text);

/// kConflict `data_directory_in_use`, naming the process.
Error directory_in_use(const std::filesystem::path& data, pid_t pid);

/// An empty one, the instance's own; the directory above is root's.
void make_socket_directory(const std::filesystem::path& directory, FileOwner user);

}  // namespace bpg::runtime
