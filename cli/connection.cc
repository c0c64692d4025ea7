#include "cli/connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/reference.h"
#include "orchestrator/base/error.h"

namespace bpg::cli {
namespace {

std::string or_else(std::string text, const char* fallback) {
    return text.empty() ? fallback : text;
}

/// In a password file a colon ends a field and a backslash takes its meaning from the next
/// character.
std::string escape_field(const std::string& text) {
    std::string out;
    for (const char c : text) {
        if (c == ':' || c == '\\') out += '\\';
        out += c;
    }
    return out;
}

}  // namespace

Credentials credentials_from(const nlohmann::json& object) {
    const nlohmann::json& port = member(object, "port");
    Credentials result;
    result.host = text_of(object, "host");
    if (result.host.empty() || !port.is_number_integer() || port.get<std::int64_t>() < 1 ||
        port.get<std::int64_t>() > 65535) {
        throw Error(ErrorKind::kConflict, "no_endpoint", "the branch has no address yet",
                    "bpgd names no host and port for it", "wait until it is created: bpg job list");
    }
    result.port = port.get<std::uint16_t>();
    result.user = or_else(text_of(object, "user"), "postgres");
    result.password = Secret(text_of(object, "password"));
    result.dbname = or_else(text_of(object, "dbname"), "postgres");
    return result;
}

std::string connection_url(const Credentials& credentials) {
    const bool ipv6 = credentials.host.find(':') != std::string::npos;
    std::string user = percent_encode(credentials.user);
    if (!credentials.password.empty()) user += ":" + percent_encode(credentials.password.reveal());
    return fmt::format("postgresql://{}@{}:{}/{}", user,
                       ipv6 ? "[" + credentials.host + "]" : percent_encode(credentials.host),
                       credentials.port, percent_encode(credentials.dbname));
}

std::vector<std::pair<std::string, std::string>> connection_variables(
    const Credentials& credentials) {
    return {{"PGHOST", credentials.host},
            {"PGPORT", std::to_string(credentials.port)},
            {"PGUSER", credentials.user},
            {"PGPASSWORD", credentials.password.reveal()},
            {"PGDATABASE", credentials.dbname}};
}

std::string shell_assignment(const std::string& name, const std::string& value) {
    const bool plain = !value.empty() && std::all_of(value.begin(), value.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               std::string_view("_-./:@%+,").find(c) != std::string_view::npos;
    });
    if (plain) return name + "=" + value;
    std::string quoted;
    for (const char c : value)
        quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return name + "='" + quoted + "'";
}

std::string password_file_line(const Credentials& credentials) {
    return fmt::format("{}:{}:*:{}:{}\n", escape_field(credentials.host), credentials.port,
                       escape_field(credentials.user), escape_field(credentials.password.reveal()));
}

}  // namespace bpg::cli
