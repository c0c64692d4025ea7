#include "cli/settings.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "orchestrator/base/error.h"

namespace bpg::cli {
namespace {

Error invalid(const std::filesystem::path& file, const YAML::Exception& failure) {
    return {ErrorKind::kInvalid, "config_invalid",
            fmt::format("{}:{}:{}: not valid YAML", file.string(), failure.mark.line + 1,
                        failure.mark.column + 1),
            failure.msg, "correct the file; bpgd would not start with it either"};
}

/// Where line `number` (0 is the first) begins.
std::size_t offset_of_line(const std::string& text, int number) {
    std::size_t offset = 0;
    for (int i = 0; i < number; ++i)
        offset = text.find('\n', offset) + 1;
    return offset;
}

/// Puts one key into a section that may or may not be there.
std::string with_setting(std::string text, const std::string& section, const std::string& name,
                         const std::string& value) {
    const YAML::Node root = YAML::Load(text);
    const YAML::Node map = root.IsMap() ? root[section] : YAML::Node(YAML::NodeType::Undefined);
    const std::string entry = fmt::format("{}: {}", name, yaml_scalar(value));
    if (map.IsDefined() && map.IsMap() && map.size() > 0) {
        const YAML::Mark mark = map.begin()->first.Mark();
        const std::size_t at =
            offset_of_line(text, mark.line) + static_cast<std::size_t>(mark.column);
        if (map.Style() == YAML::EmitterStyle::Flow) return text.insert(at, entry + ", ");
        return text.insert(at,
                           entry + "\n" + std::string(static_cast<std::size_t>(mark.column), ' '));
    }
    if (map.IsDefined()) {
        throw Error(ErrorKind::kInvalid, "config_invalid",
                    fmt::format("line {} of the configuration: \"{}\" is empty",
                                map.Mark().line + 1, section),
                    fmt::format("\"{}\" has to be put in there", entry),
                    "put it in by hand, or take the empty section out");
    }
    if (!text.empty() && !text.ends_with('\n')) text += '\n';
    return text + fmt::format("{}:\n  {}\n", section, entry);
}

}  // namespace

Settings Settings::parse(std::string text, const std::filesystem::path& file) {
    Settings settings;
    settings.text_ = std::move(text);
    try {
        const YAML::Node root = YAML::Load(settings.text_);
        if (!root.IsMap()) return settings;
        for (const auto& section : root) {
            if (!section.second.IsMap()) continue;
            for (const auto& entry : section.second) {
                if (!entry.second.IsScalar()) continue;
                const std::string key =
                    section.first.as<std::string>() + "." + entry.first.as<std::string>();
                settings.values_[key] = {entry.second.Scalar(), entry.first.Mark().line + 1};
            }
        }
    } catch (const YAML::Exception& failure) {
        throw invalid(file, failure);
    }
    return settings;
}

std::optional<Settings> Settings::read(const std::filesystem::path& file) {
    errno = 0;
    std::ifstream in(file);
    if (!in) {
        if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
        throw errno_error(fmt::format("read {}", file.string()), errno);
    }
    std::ostringstream text;
    text << in.rdbuf();
    return parse(text.str(), file);
}

std::optional<Setting> Settings::find(const std::string& key) const {
    const auto found = values_.find(key);
    if (found == values_.end()) return std::nullopt;
    return found->second;
}

std::filesystem::path Settings::socket() const {
    if (const auto socket = find("api.socket")) return socket->value;
    const auto run = find("paths.run");
    return std::filesystem::path(run ? run->value : "/run/betterpg") / "bpgd.sock";
}

std::filesystem::path Settings::state_directory() const {
    const auto state = find("paths.state");
    return state ? state->value : kDefaultStateDirectory;
}

std::string with_settings(std::string text, const std::map<std::string, std::string>& additions) {
    for (const auto& [key, value] : additions) {
        const auto dot = key.find('.');
        if (dot == std::string::npos || Settings::parse(text, "configuration").find(key)) continue;
        text = with_setting(std::move(text), key.substr(0, dot), key.substr(dot + 1), value);
    }
    return text;
}

std::string yaml_scalar(const std::string& value) {
    const auto plain = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '/' || c == '_' || c == '.' || c == '-';
    };
    const bool starts_well = !value.empty() && (value[0] == '/' || value[0] == '_' ||
                                                (value[0] >= 'a' && value[0] <= 'z'));
    constexpr std::array<std::string_view, 8> kWords{"true", "false", "yes",  "no",
                                                     "on",   "off",   "null", "y"};
    const bool is_word = std::find(kWords.begin(), kWords.end(), value) != kWords.end();
    if (starts_well && !is_word && std::all_of(value.begin(), value.end(), plain)) return value;
    return nlohmann::json(value).dump();  // a JSON string is a YAML double-quoted one
}

std::filesystem::path config_file(const std::optional<std::string>& option) {
    if (option) return std::filesystem::absolute(*option);
    const char* from_environment = std::getenv("BPG_CONFIG");
    if (from_environment != nullptr && *from_environment != '\0') {
        return std::filesystem::absolute(from_environment);
    }
    return kDefaultConfigFile;
}

}  // namespace bpg::cli
