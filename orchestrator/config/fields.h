// The table of configuration keys: what each is called, the sentence that explains it, how its
// value is read from YAML and shown again. Only config.cc and its tests look at it.
#pragma once

#include <yaml-cpp/yaml.h>

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "orchestrator/config/config.h"

namespace bpg::config {

/// Something wrong at one place of the file; config.cc adds the file's name.
struct Wrong {
    YAML::Mark mark;
    std::string what;
    std::string detail;
    std::string hint;
};

struct Field {
    std::string_view path;  ///< "runtime.limits.pids"
    std::string_view help;  ///< one sentence, for people
    /// Puts the node's value into the config; throws Wrong.
    std::function<void(Config&, const YAML::Node&, const Field&, const OwnedSetting&)> read;
    /// The value as YAML: a scalar, or lines "name: value" for a mapping.
    std::function<std::string(const Config&)> show;
    bool is_mapping = false;
};

/// yaml-cpp reads an open quote as text up to the end of the file. A comment with these words is
/// put there before parsing; a scalar that holds them was never closed.
inline constexpr std::string_view kEndOfText = "here the configuration of bpgd ends";

/// Throws Wrong for such a scalar.
void check_closed(const YAML::Node& node);

/// In the order in which they are shown; keys of one section stand together.
const std::vector<Field>& fields();

}  // namespace bpg::config
