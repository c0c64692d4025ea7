// JSON conversions the records share: optional values as null, times as microseconds since the
// epoch.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "orchestrator/base/clock.h"

template <class T>
struct nlohmann::adl_serializer<std::optional<T>> {
    static void to_json(nlohmann::json& out, const std::optional<T>& value) {
        out = value ? nlohmann::json(*value) : nlohmann::json(nullptr);
    }
    static void from_json(const nlohmann::json& in, std::optional<T>& value) {
        if (in.is_null()) {
            value.reset();
        } else {
            value = in.get<T>();
        }
    }
};

template <>
struct nlohmann::adl_serializer<bpg::WallTime> {
    static void to_json(nlohmann::json& out, const bpg::WallTime& time) {
        out = time.time_since_epoch().count();
    }
    static void from_json(const nlohmann::json& in, bpg::WallTime& time) {
        time = bpg::WallTime(std::chrono::microseconds(in.get<std::int64_t>()));
    }
};

namespace bpg {

/// One line. Bytes that are no UTF-8 (a container's last words) become U+FFFD instead of a throw.
inline std::string json_text(const nlohmann::json& value) {
    return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// The members of a stored record that this version does not know: a later one wrote them, and they
/// are written back as they were. `known` is a record as this version writes it.
inline nlohmann::json unknown_members(const nlohmann::json& record, const nlohmann::json& known) {
    nlohmann::json unknown;
    for (const auto& [name, value] : record.items()) {
        const auto mine = known.find(name);
        if (mine == known.end()) {
            unknown[name] = value;
        } else if (value.is_object() && mine->is_object() && !mine->empty()) {
            nlohmann::json inner = unknown_members(value, *mine);
            if (!inner.is_null()) unknown[name] = std::move(inner);
        }
    }
    return unknown;
}

inline void add_unknown(nlohmann::json& record, const nlohmann::json& unknown) {
    if (unknown.is_object()) record.update(unknown, /*merge_objects=*/true);
}

/// RFC 3339 text, or null: how times look outside.
inline nlohmann::json time_json(const std::optional<WallTime>& time) {
    return time ? nlohmann::json(format_time(*time)) : nlohmann::json(nullptr);
}

}  // namespace bpg
