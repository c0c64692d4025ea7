// wal-cleanup: removes archived WAL that no restorable time of the last days needs, incarnation by
// incarnation. What is going to go is marked first, in a commit of its own, so that a crash leaves
// a suffix that can be used and nobody restores from what is half gone (CLN-3). Older snapshots
// stay usable as what they are; one that was kept for that WAL alone goes with it.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "jobs/step.h"
#include "orchestrator/operations/services.h"
#include "orchestrator/operations/spare_origins.h"

namespace bpg::operations {

class WalCleanup {
  public:
    static constexpr std::string_view kName = "wal-cleanup";

    /// What goes of one incarnation.
    struct Part {
        std::string branch_id;
        std::string keep_from;  ///< first segment that stays
        std::string base_snapshot;
        std::vector<std::string> stranded;  ///< snapshots that reach no later time any more
        std::uint64_t segments = 0;
        std::uint64_t bytes = 0;
    };
    struct State {
        std::string branch_id;
        std::string ref;
        int days = 0;
        std::vector<std::string> incarnations;  ///< branch records
        std::vector<Part> parts;
    };

    WalCleanup(Services& services, jobs::JobContext& context)
        : services_(services), context_(context), origins_(services, context) {}

    static std::span<const jobs::Step<WalCleanup>> steps();
    void record_failure(const State&, const ErrorInfo&, jobs::Batch&) const {}
    nlohmann::json result(const State& state) const;

    // Its rows, which are those of prune too.
    asio::awaitable<jobs::Progress> decide(State& state);
    asio::awaitable<jobs::Progress> remove(State& state);
    void mark(const State& state, jobs::Batch& batch) const;
    void forget_origins(const State& state, jobs::Batch& batch) const;

  private:
    Services& services_;
    jobs::JobContext& context_;
    SpareOrigins origins_;
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(WalCleanup::Part, branch_id, keep_from,
                                                base_snapshot, stranded, segments, bytes)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(WalCleanup::State, branch_id, ref, days,
                                                incarnations, parts)

/// A plan as `--dry-run` answers it, and in sentences.
nlohmann::json cleanup_json(const catalog::Branch& incarnation, const wal::CleanupPlan& plan,
                            std::uint32_t segment_size);
std::vector<std::string> cleanup_in_words(const catalog::Branch& incarnation,
                                          const wal::CleanupPlan& plan, std::uint32_t segment_size);

}  // namespace bpg::operations
