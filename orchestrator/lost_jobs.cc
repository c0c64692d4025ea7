#include "orchestrator/lost_jobs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "orchestrator/base/error.h"

namespace bpg {

boost::asio::awaitable<void> require_nothing_lost(const catalog::Catalog& catalog,
                                                  storage::Storage& storage,
                                                  const std::filesystem::path& kept) {
    std::set<std::string> there;
    std::vector<std::string> lost;
    for (const storage::Found& found : co_await storage.list()) {
        if (found.snapshot || !found.identity) continue;
        there.insert(found.volume);
        const auto& known = catalog.all_branches();
        const bool is_known = std::any_of(known.begin(), known.end(), [&found](const auto& entry) {
            return entry.second.volume == found.volume;
        });
        if (!is_known) {
            lost.push_back(
                fmt::format("volume {} of {} is not known", found.volume, found.identity->ref));
        }
    }
    for (const auto& [id, branch] : catalog.all_branches()) {
        const bool is_done = branch.state == catalog::BranchState::kRunning ||
                             branch.state == catalog::BranchState::kStopped ||
                             branch.state == catalog::BranchState::kFailed;
        // What is in the trash may be on its way out.
        if (is_done && !branch.trash && !there.contains(branch.volume)) {
            lost.push_back(fmt::format("{} has no volume", catalog.ref_of(branch)));
        }
    }
    if (lost.empty()) co_return;
    throw Error(ErrorKind::kCorrupt, "store_lost_jobs",
                "the damaged store has lost jobs that were acknowledged",
                fmt::format("{}", fmt::join(lost, "; ")),
                fmt::format("nothing outside was changed; the store is kept as it was in {}. Bring "
                            "back a state directory from before, or remove what is named and the "
                            "file {}, and start bpgd again",
                            kept.string(), (kept.parent_path() / "cut").string()));
}

}  // namespace bpg
