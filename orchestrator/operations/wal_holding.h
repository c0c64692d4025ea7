// What is held of the WAL of a branch, incarnation by incarnation, and which snapshots recovery can
// begin from.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "orchestrator/operations/services.h"

namespace bpg::operations {

/// The branch itself, then what syncs have replaced and the trash still has: newest first.
std::vector<const catalog::Branch*> incarnations_of(const catalog::Catalog& catalog,
                                                    const catalog::Branch& branch);
/// The one that was current at a time; nullptr when that is not held any more.
const catalog::Branch* incarnation_at(const catalog::Catalog& catalog,
                                      const catalog::Branch& branch, WallTime time);
/// Since when it has been what it is.
WallTime incarnation_began(const catalog::Branch& incarnation);

/// Its own snapshots, and the one it was cloned from.
std::vector<wal::Base> bases_of(const catalog::Catalog& catalog,
                                const catalog::Branch& incarnation);
/// Of these, those that are not being destroyed just now.
std::vector<wal::Base> bases_that_stay(const Services& services,
                                       const catalog::Branch& incarnation);

/// Of the branch record with this id. Loop thread; looks at the runtime, the archive and pg_wal.
asio::awaitable<wal::WalServer> wal_server(Services& services, std::string branch_id);
/// What a cleanup has begun to remove counts as removed (CLN-3).
void forget_what_is_going(wal::Holding& holding, const catalog::Branch& incarnation);
asio::awaitable<wal::Holding> look_at_wal(Services& services, std::string branch_id);

/// [{"from", "to", "base_snapshot"}]; "to" is null where it is now.
nlohmann::json windows_json(const std::vector<wal::Window>& windows);
/// "from … to …; …": the restorable times, for error texts.
std::string in_words(const std::vector<wal::Window>& windows);

}  // namespace bpg::operations
