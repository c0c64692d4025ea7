// What the command line reads of the configuration: the socket of bpgd and, for `bpg init`, which
// line says what. bpgd alone checks the file as a whole; here a key is "section.name" and a value
// the text of a scalar. Edits are textual, so that comments and layout of the user stay.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

namespace bpg::cli {

inline constexpr const char* kDefaultConfigFile = "/etc/betterpg/config.yaml";
inline constexpr const char* kDefaultStateDirectory = "/var/lib/betterpg";

struct Setting {
    std::string value;
    int line = 0;  ///< 1 is the first
};

class Settings {
  public:
    /// Parses YAML; throws kInvalid `config_invalid` with file, line and column.
    static Settings parse(std::string text, const std::filesystem::path& file);
    /// Nothing when there is no such file; throws kPermission, or as parse().
    static std::optional<Settings> read(const std::filesystem::path& file);

    std::optional<Setting> find(const std::string& key) const;
    /// api.socket, else <paths.run>/bpgd.sock, else the default.
    std::filesystem::path socket() const;
    std::filesystem::path state_directory() const;
    const std::string& text() const { return text_; }

  private:
    std::string text_;
    std::map<std::string, Setting> values_;
};

/// The text with `additions` ("section.name" → value) put in. Keys that are there stay as they are.
std::string with_settings(std::string text, const std::map<std::string, std::string>& additions);

/// A scalar as YAML: plain where it cannot be mistaken for a number, a boolean or null.
std::string yaml_scalar(const std::string& value);

/// --config, else BPG_CONFIG, else the default; absolute.
std::filesystem::path config_file(const std::optional<std::string>& option);

}  // namespace bpg::cli
