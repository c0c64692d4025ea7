#include "orchestrator/operations/point_in_time.h"

#include <fmt/format.h>

#include <algorithm>

#include "orchestrator/base/error.h"
#include "orchestrator/operations/wal_holding.h"

namespace bpg::operations {
namespace {

constexpr const char* kSpool = "wal-spool";
/// How bpg-wal begins what it says; PostgreSQL passes it on to its log.
constexpr std::string_view kHelperSays = "bpg-wal: ";

std::string last_helper_line(const std::string& log) {
    const auto at = log.rfind(kHelperSays);
    if (at == std::string::npos) return "";
    const auto begin = at + kHelperSays.size();
    return log.substr(begin, std::min(log.find('\n', begin), log.size()) - begin);
}

std::string gaps_in_words(const std::vector<wal::Gap>& gaps, std::uint32_t segment_size) {
    if (gaps.empty()) return "";
    std::string text = "; missing WAL: ";
    for (const wal::Gap& gap : gaps) {
        if (&gap != &gaps.front()) text += ", ";
        text += wal::segment_name(gap.first, segment_size);
        if (gap.last != gap.first) text += " to " + wal::segment_name(gap.last, segment_size);
    }
    return text;
}

/// "the nearest are A and B": the restorable times next to a target.
std::string nearest(const std::vector<wal::Window>& windows, WallTime target) {
    std::optional<WallTime> before;
    std::optional<WallTime> after;
    for (const wal::Window& window : windows) {
        if (window.to && *window.to < target)
            before = std::max(before.value_or(*window.to), *window.to);
        if (window.from > target) after = std::min(after.value_or(window.from), window.from);
    }
    if (before && after) {
        return fmt::format("the nearest are {} and {}", format_time(*before), format_time(*after));
    }
    if (!before && !after) return "take a snapshot first: bpg snapshot create";
    return "the nearest is " + format_time(before ? *before : *after);
}

std::uint64_t lsn_of(const RestoreTarget& target) {
    const auto parsed = postgres::parse_lsn(target.text);
    return parsed ? parsed->value : 0;
}

/// Where the name of a restore point was found is not asked again: recovery finds it.
std::optional<wal::RestorePlan> plan_for(const RestoreTarget& target, const wal::Holding& holding,
                                         const std::vector<wal::Base>& bases) {
    if (target.time) return wal::plan_time(holding, bases, *target.time);
    if (target.kind == "lsn") return wal::plan_lsn(holding, bases, lsn_of(target));
    return wal::plan_all(holding, bases);
}

}  // namespace

Error source_is_gone() {
    return {ErrorKind::kNotFound, "parent_gone", "what is to be restored is gone",
            "it was destroyed since", "bpg wal info shows what there is"};
}

Error not_restorable(const std::string& ref, const RestoreTarget& target,
                     const std::vector<wal::Window>& windows, const std::vector<wal::Gap>& gaps,
                     std::uint32_t segment_size) {
    return {ErrorKind::kConflict, "not_restorable",
            fmt::format("\"{}\" cannot be restored to {}", ref, target.shown()),
            in_words(windows) + gaps_in_words(gaps, segment_size),
            target.time ? nearest(windows, *target.time)
                        : "bpg wal info " + ref + " shows what there is"};
}

const catalog::Branch& PointInTime::source(const Restore& restore) const {
    if (const auto* found = services_.catalog.branch_of_incarnation(restore.source_incarnation)) {
        return *found;
    }
    throw source_is_gone();
}

asio::awaitable<void> PointInTime::require_source(Restore restore) {
    const std::string volume = source(restore).volume;
    if (!co_await services_.storage.find_volume(volume)) throw source_is_gone();
}

asio::awaitable<std::string> PointInTime::secure_wal(Restore& restore, std::string base_id) {
    const wal::WalServer server = co_await wal_server(services_, source(restore).id);
    std::optional<postgres::Position> fence;
    if (server.runs) {
        const postgres::Endpoint endpoint = Instances(services_).endpoint(source(restore));
        fence = co_await services_.postgres.switch_wal(endpoint);
    }
    const wal::ArchiveRef archive = Instances::archive(source(restore));
    co_await services_.archives.catch_up(archive, server);
    const wal::Holding holding = co_await look_at_wal(services_, source(restore).id);

    const catalog::Branch& incarnation = source(restore);
    const std::vector<wal::Base> all = bases_that_stay(services_, incarnation);
    std::vector<wal::Base> reserved = all;
    std::erase_if(reserved, [&](const wal::Base& base) { return base.snapshot_id != base_id; });
    auto plan = plan_for(restore.target, holding, reserved);
    if (!plan) plan = plan_for(restore.target, holding, all);
    const bool is_ahead =
        restore.target.kind == "lsn" && fence && lsn_of(restore.target) > fence->lsn.value;
    if (!plan || is_ahead) {
        const Error why =
            not_restorable(services_.catalog.ref_of(incarnation), restore.target,
                           wal::windows(holding, all), wal::gaps(holding), holding.segment_size);
        co_await require_source(restore);
        throw why;
    }
    const std::uint64_t size = holding.segment_size;
    wal::SegmentId until = plan->until;
    // The segment that is being written now is not needed: the fence lies in the one before.
    if (fence) until.number = std::min(until.number, (fence->lsn.value - 1) / size);
    restore.timeline = plan->base.first.timeline;
    restore.segment_size = holding.segment_size;
    restore.from = wal::segment_name(plan->base.first, holding.segment_size);
    restore.until = wal::segment_name(until, holding.segment_size);
    restore.bytes = (until.number - std::min(until.number, plan->base.first.number) + 1) * size;
    co_return plan->base.snapshot_id;
}

asio::awaitable<void> PointInTime::bring_tail(Restore restore, std::filesystem::path volume) {
    const wal::WalServer server = co_await wal_server(services_, source(restore).id);
    const wal::ArchiveRef archive = Instances::archive(source(restore));
    const std::filesystem::path spool = volume / kSpool;
    co_await services_.archives.copy_tail(archive, server, spool);
}

asio::awaitable<void> PointInTime::remove_tail(std::filesystem::path volume) {
    const std::filesystem::path spool = volume / kSpool;
    co_await services_.pool.run([&spool] { remove_tree(spool); });
}

Recovery PointInTime::recovery(const Restore& restore, const std::filesystem::path& volume) const {
    Recovery recovery;
    recovery.archive = services_.archives.place(Instances::archive(source(restore)));
    recovery.spool = volume / kSpool;
    recovery.bounds.timelines = {restore.timeline};
    recovery.bounds.from = restore.from;
    recovery.bounds.until = restore.until;
    if (restore.timeline > 1)
        recovery.bounds.history = fmt::format("{:08X}.history", restore.timeline);
    recovery.timeline = restore.timeline;
    if (!restore.is_behind_last) {
        recovery.target = {"recovery_target_" + restore.target.kind, restore.target.value()};
    }
    return recovery;
}

asio::awaitable<void> PointInTime::show_progress(Restore restore, std::filesystem::path data) {
    const auto newest =
        co_await services_.data_directories.newest_wal(data, restore.from, restore.until);
    const auto at = wal::parse_segment_name(newest.value_or(""), restore.segment_size);
    const auto from = wal::parse_segment_name(restore.from, restore.segment_size);
    if (!at || !from || at->number < from->number) co_return;
    const std::uint64_t done = (at->number - from->number) * restore.segment_size;
    context_.show_progress({done, restore.bytes, "bytes"});
}

PointInTime::Verdict PointInTime::verdict(const std::string& log) {
    const auto says = [&log](const char* text) { return log.find(text) != std::string::npos; };
    if (says("requested recovery stop point is before consistent recovery point")) {
        return Verdict::kTargetBeforeBase;
    }
    if (says("maximum number of prepared transactions reached")) return Verdict::kTooFewPlaces;
    // Asked before the next one: where a segment could not be had, PostgreSQL says so and no more.
    if (!last_helper_line(log).empty()) return Verdict::kWalBroken;
    if (says("recovery ended before configured recovery target was reached")) {
        return Verdict::kTargetBehindLast;
    }
    return Verdict::kOther;
}

asio::awaitable<bool> PointInTime::heal(Restore& restore) {
    if (restore.was_healed) co_return false;
    restore.was_healed = true;
    const wal::WalServer server = co_await wal_server(services_, source(restore).id);
    const wal::ArchiveRef archive = Instances::archive(source(restore));
    co_await services_.archives.note_damage(archive);
    co_await services_.archives.catch_up(archive, server);
    co_return true;
}

asio::awaitable<bool> PointInTime::can_make_places(Restore& restore, std::filesystem::path data) {
    const postgres::ControlFile control = co_await services_.data_directories.control_file(data);
    if (control.max_prepared_transactions <= restore.prepared_transactions) co_return false;
    restore.prepared_transactions = control.max_prepared_transactions;
    co_return true;
}

std::string PointInTime::older_base(const Restore& restore, const std::string& base_id) const {
    const std::vector<wal::Base> bases = bases_that_stay(services_, source(restore));
    const auto here = std::find_if(bases.begin(), bases.end(), [&](const wal::Base& base) {
        return base.snapshot_id == base_id;
    });
    if (here == bases.end()) return "";
    const wal::Base* older = nullptr;
    for (const wal::Base& base : bases) {
        if (base.at < here->at && (older == nullptr || base.at > older->at)) older = &base;
    }
    return older == nullptr ? "" : older->snapshot_id;
}

asio::awaitable<Error> PointInTime::broken_wal(Restore restore, std::string log) {
    const wal::ArchiveRef archive = Instances::archive(source(restore));
    co_await services_.archives.note_damage(archive);
    const wal::Holding holding = co_await look_at_wal(services_, source(restore).id);
    const catalog::Branch& incarnation = source(restore);
    const auto windows = wal::windows(holding, bases_that_stay(services_, incarnation));
    co_return Error(ErrorKind::kCorrupt, "wal_broken",
                    fmt::format("\"{}\" cannot be restored to {}",
                                services_.catalog.ref_of(incarnation), restore.target.shown()),
                    last_helper_line(log), in_words(windows));
}

}  // namespace bpg::operations
