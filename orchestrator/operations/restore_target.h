// The point that a branch is restored to: as a user writes it, and as PostgreSQL takes it. Pure.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "orchestrator/base/clock.h"
#include "orchestrator/base/json.h"

namespace bpg::operations {

/// Exactly one of a time, a position and the name of a restore point (PITR-7).
struct RestoreTarget {
    std::string kind;              ///< "time", "lsn", "name"; empty: none
    std::optional<WallTime> time;  ///< of kind "time", to the microsecond
    std::string text;              ///< of the others: the LSN, the name

    bool is_set() const { return !kind.empty(); }
    /// As a setting of PostgreSQL: a time in UTC with its zone, or the server's own would be
    /// taken (E6, PITR-6).
    std::string value() const;
    /// As users read it.
    std::string shown() const;
    bool operator==(const RestoreTarget&) const = default;
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(RestoreTarget, kind, time, text)

/// The three ways to say a point, as they were given.
struct TargetTexts {
    std::optional<std::string> time;
    std::optional<std::string> lsn;
    std::optional<std::string> name;
};
/// Unset when none was given. Throws kInvalid `target_not_alone` for more than one, and what the
/// functions below throw.
RestoreTarget parse_target(const TargetTexts& texts, WallTime now);

/// ISO 8601 with a zone ("2025-10-07T14:30:00Z", "2025-10-07 16:30:00.5+02:00"), or how long ago
/// ("90m", "1h30m ago", "2 hours ago"). Throws kInvalid `time_unparsable`, `time_without_zone`,
/// `time_in_future`.
WallTime parse_past_time(const std::string& text, WallTime now);

/// "0/3000060". Throws kInvalid `lsn_invalid`.
RestoreTarget parse_lsn_target(const std::string& text);
/// As pg_create_restore_point takes it. Throws kInvalid `restore_point_invalid`.
RestoreTarget parse_name_target(const std::string& text);

}  // namespace bpg::operations
