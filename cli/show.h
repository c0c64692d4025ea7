// How the API's objects look on a terminal: one field block for an object, one table for a list.
// With `-o json` the object is printed as it came, with `-o name` its ref, name or id.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "cli/session.h"

namespace bpg::cli {

/// Prints a database, a branch, a snapshot, a plan or a job, told apart by its members, in the
/// chosen format.
void show_object(const Session& session, const nlohmann::json& object);

/// Prints {"items":[…]}; `table` renders the items for people.
void show_list(const Session& session, const nlohmann::json& list,
               std::string (*table)(const Session&, const nlohmann::json& items));

/// The ref, name or id of an object, whichever it has first.
std::string name_of(const nlohmann::json& object);

std::string database_table(const Session& session, const nlohmann::json& items);
std::string branch_table(const Session& session, const nlohmann::json& items);
/// The same, children below their parents.
std::string branch_tree(const Session& session, const nlohmann::json& items);
std::string snapshot_table(const Session& session, const nlohmann::json& items);
std::string wal_table(const Session& session, const nlohmann::json& items);
std::string schedule_table(const Session& session, const nlohmann::json& items);
/// When something fires next.
std::string fire_table(const Session& session, const nlohmann::json& items);
std::string retention_table(const Session& session, const nlohmann::json& items);
std::string trash_table(const Session& session, const nlohmann::json& items);
std::string job_table(const Session& session, const nlohmann::json& items);
/// One row a branch over all databases, and a few lines about the daemon.
std::string status_text(const Session& session, const nlohmann::json& status);

}  // namespace bpg::cli
