// The process side of an instance: its command line, and how its processes are found again in
// /proc. All of it blocks shortly (/proc, a bind); call it on a pool.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/base/files.h"
#include "orchestrator/base/subprocess.h"
#include "orchestrator/runtime/runtime.h"

namespace bpg::runtime {

/// `setpriv … -- ARGV`: as that user with its groups, no capability, no way to get one (a setuid
/// program run by COPY … TO PROGRAM stays without its rights). setpriv execs: the pid stays.
std::vector<std::string> as_user(FileOwner user, std::vector<std::string> argv);

/// The arguments of a postmaster, from argv[0] on.
std::vector<std::string> postmaster_arguments(const std::filesystem::path& bin_dir,
                                              const InstanceSpec& spec);

/// Where systemd is PID 1, stopping bpgd's unit would end everything in its control group, so each
/// instance gets a scope of its own. `systemd-run --scope` execs like setpriv, so the pid stays.
std::vector<std::string> in_own_scope(const std::string& branch_id, std::vector<std::string> argv);
bool systemd_runs();

/// The postmaster of this branch on this data directory; a zombie is none. Its children carry the
/// same arguments for an instant after they are made, so it is the oldest of those found.
std::optional<ProcessFacts> find_postmaster(const std::string& branch_id,
                                            const std::filesystem::path& data_directory);

/// Every live process that was told to work on this data directory (`-D`): postmasters, initdb.
std::vector<ProcessFacts> find_servers_of(const std::filesystem::path& data_directory);

/// Every live process that works in this directory, whatever name led it there: postgres processes
/// change into their data directory. Sees into containers, too.
std::vector<pid_t> processes_in(const std::filesystem::path& directory);

/// Throws kConflict `port_taken`, naming who listens, when an address of `listen_addresses` cannot
/// be bound. Another may still be faster than the instance.
void check_port_free(const std::string& listen_addresses, int port);

/// A setting of the spec; "" when it has none.
std::string setting_of(const InstanceSpec& spec, const std::string& name);

/// The last lines of a log; a newline at its end begins no line.
std::string last_lines(std::string_view text, std::size_t lines);

/// Prepares the log of a start: a full one becomes `.1`, a line marks where this start begins.
void begin_log(const std::filesystem::path& log_path, const std::string& branch_id);
void append_log(const std::filesystem::path& log_path, const std::string& text);
/// What stands after the newest mark, at most `lines` and 16 KiB.
/// See Runtime::read_log(). A log that was begun anew since is read from its start.
LogPiece read_log_piece(const std::filesystem::path& log_path, const std::string& from,
                        std::size_t lines);
std::string read_log_tail(const std::filesystem::path& log_path, std::size_t lines);

}  // namespace bpg::runtime
