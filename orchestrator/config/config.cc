// Walks the YAML tree along the table of fields; everything in the file that the table does not
// name is an error with its place.
#include "orchestrator/config/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <set>
#include <vector>

#include "orchestrator/base/error.h"
#include "orchestrator/base/words.h"
#include "orchestrator/config/fields.h"

namespace bpg::config {
namespace {

constexpr std::size_t kFileMax = 1 << 20;
constexpr std::size_t kLineMax = 100;

Error invalid(const std::string& file_name, const Wrong& wrong) {
    // A mark that points nowhere counts from -1.
    return {ErrorKind::kInvalid, "config_invalid",
            fmt::format("{}:{}:{}: {}", file_name, std::max(wrong.mark.line, 0) + 1,
                        std::max(wrong.mark.column, 0) + 1, wrong.what),
            wrong.detail, wrong.hint};
}

/// Lower case without '_' and '-', so that datasetBase and dataset_base are alike.
std::string simplified(std::string_view key) {
    std::string text;
    for (const char c : key) {
        if (c == '_' || c == '-') continue;
        text += c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    }
    return text;
}

/// The keys that may stand in section `prefix` ("" or "runtime."), in table order.
std::vector<std::string> known_keys(const std::string& prefix) {
    std::vector<std::string> keys;
    for (const Field& field : fields()) {
        if (!field.path.starts_with(prefix)) continue;
        const std::string_view rest = field.path.substr(prefix.size());
        const std::string key(rest.substr(0, rest.find('.')));
        if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
    }
    return keys;
}

std::string suggestion(const std::string& key, const std::string& prefix) {
    std::string best;
    std::size_t best_distance = std::max<std::size_t>(1, key.size() / 3) + 1;
    for (const std::string& known : known_keys(prefix)) {
        const std::size_t distance = edit_distance(simplified(key), simplified(known));
        if (distance >= best_distance) continue;
        best = known;
        best_distance = distance;
    }
    if (!best.empty()) return fmt::format("did you mean {}?", best);
    for (const Field& field : fields()) {
        const std::string_view last = field.path.substr(field.path.rfind('.') + 1);
        if (last == key) return fmt::format("did you mean {}?", field.path);
    }
    return "remove it; deploy/config.example.yaml lists every key";
}

Wrong unknown_key(const YAML::Node& key, const std::string& prefix) {
    const std::string where = prefix.empty() ? "" : " in " + prefix.substr(0, prefix.size() - 1);
    return {key.Mark(), fmt::format("unknown key {}{}", key.Scalar(), where),
            fmt::format("known here: {}", fmt::join(known_keys(prefix), ", ")),
            suggestion(key.Scalar(), prefix)};
}

/// One reading of one file: what has been set, to tell repeated keys and fill what follows from it.
class Reader {
  public:
    explicit Reader(const OwnedSetting& is_owned) : is_owned_(is_owned) {}

    Config read(const YAML::Node& root) {
        read_section(root, "");
        if (!seen_.contains("storage.root")) config_.storage.root = config_.paths.state / "volumes";
        if (!seen_.contains("paths.wal_archive")) {
            config_.paths.wal_archive = config_.paths.state / "wal-archive";
        }
        if (!seen_.contains("api.socket")) config_.api.socket = config_.paths.run / "bpgd.sock";
        return config_;
    }

  private:
    void read_section(const YAML::Node& section, const std::string& prefix) {
        for (const auto& entry : section)
            read_entry(entry.first, entry.second, prefix);
    }

    void read_entry(const YAML::Node& key, const YAML::Node& value, const std::string& prefix) {
        if (!key.IsScalar()) {
            throw Wrong{key.Mark(), "a key must be a word", "keys here are never lists or mappings",
                        "deploy/config.example.yaml shows the form"};
        }
        check_closed(key);
        check_closed(value);
        // A dot in a key would make it look like a path of the table, and a key set twice.
        if (key.Scalar().find('.') != std::string::npos) throw unknown_key(key, prefix);
        const std::string path = prefix + key.Scalar();
        const auto& all = fields();
        const auto field = std::find_if(all.begin(), all.end(),
                                        [&path](const Field& f) { return f.path == path; });
        const bool is_section = std::any_of(all.begin(), all.end(), [&path](const Field& f) {
            return f.path.starts_with(path + ".");
        });
        if (field == all.end() && !is_section) throw unknown_key(key, prefix);
        if (!seen_.insert(path).second) {
            throw Wrong{key.Mark(), fmt::format("{} is given twice", path),
                        "only one of the two values could count", "remove one of them"};
        }
        if (!is_section) return read_field(*field, key, value);
        if (!value.IsMap() && !value.IsNull()) {
            throw Wrong{value.Mark(),
                        fmt::format("{} must be a section with keys of its own", path),
                        fmt::format("known here: {}", fmt::join(known_keys(path + "."), ", ")),
                        "write one `key: value` a line below it"};
        }
        read_section(value, path + ".");
    }

    void read_field(const Field& field, const YAML::Node& key, const YAML::Node& value) {
        if (value.IsNull() && !field.is_mapping) {
            throw Wrong{key.Mark(), fmt::format("{} has no value", field.path),
                        std::string(field.help),
                        fmt::format("leave it out for the default, {}", field.show(Config()))};
        }
        field.read(config_, value, field, is_owned_);
    }

    const OwnedSetting& is_owned_;
    Config config_;
    std::set<std::string> seen_;
};

Config read_documents(const std::vector<YAML::Node>& documents, const OwnedSetting& is_owned) {
    if (documents.empty() || (documents.size() == 1 && documents[0].IsNull())) {
        return Reader(is_owned).read(YAML::Node(YAML::NodeType::Map));
    }
    if (documents.size() > 1) {
        throw Wrong{documents[1].Mark(), "a second YAML document begins",
                    "the configuration is one document", "remove the line '---'"};
    }
    if (!documents[0].IsMap()) {
        throw Wrong{documents[0].Mark(), "the file must be a mapping of keys to values",
                    "it is a single value or a list", "deploy/config.example.yaml shows the form"};
    }
    return Reader(is_owned).read(documents[0]);
}

/// `# ` and the sentence, broken between words.
std::string comment(std::string_view sentence, std::size_t indent) {
    const std::string start = std::string(indent, ' ') + "#";
    std::string lines;
    std::string line = start;
    while (!sentence.empty()) {
        const std::size_t end = std::min(sentence.find(' '), sentence.size());
        if (line.size() > start.size() && line.size() + 1 + end > kLineMax) {
            lines += line + "\n";
            line = start;
        }
        line += fmt::format(" {}", sentence.substr(0, end));
        sentence.remove_prefix(std::min(end + 1, sentence.size()));
    }
    return lines + line + "\n";
}

std::vector<std::string> split(std::string_view path) {
    std::vector<std::string> parts;
    while (true) {
        const std::size_t dot = path.find('.');
        parts.emplace_back(path.substr(0, dot));
        if (dot == std::string_view::npos) return parts;
        path.remove_prefix(dot + 1);
    }
}

std::string indented(const std::string& lines, std::size_t indent) {
    std::string text;
    for (std::size_t start = 0; start < lines.size();) {
        const std::size_t end = lines.find('\n', start);
        text += std::string(indent, ' ') + lines.substr(start, end - start) + "\n";
        start = end + 1;
    }
    return text;
}

std::string value_lines(const Field& field, const Config& config, std::size_t indent) {
    const std::string value = field.show(config);
    if (!field.is_mapping) return " " + value + "\n";
    return value.empty() ? " {}\n" : "\n" + indented(value, indent + 2);
}

}  // namespace

Config parse(const std::string& text, const std::string& file_name, const OwnedSetting& is_owned) {
    try {
        return read_documents(YAML::LoadAll(fmt::format("{}\n# {}\n", text, kEndOfText)), is_owned);
    } catch (const Wrong& wrong) {
        throw invalid(file_name, wrong);
    } catch (const YAML::Exception& malformed) {
        throw invalid(file_name, {malformed.mark, "this is not YAML", malformed.msg,
                                  "check indentation, colons and quotes here and just above"});
    }
}

Config load(const std::filesystem::path& file, const OwnedSetting& is_owned) {
    std::error_code failure;
    const auto status = std::filesystem::status(file, failure);
    if (status.type() == std::filesystem::file_type::not_found) {
        throw Error(ErrorKind::kNotFound, "config_missing",
                    fmt::format("there is no configuration {}", file.native()),
                    "bpgd takes storage, ports and paths from it and guesses none of them",
                    "`bpg init` writes one; --config or BPG_CONFIG names another");
    }
    std::ifstream stream;
    if (!failure && !std::filesystem::is_directory(status)) stream.open(file, std::ios::binary);
    if (!stream.is_open()) {
        throw Error(ErrorKind::kPermission, "config_unreadable",
                    fmt::format("cannot read the configuration {}", file.native()),
                    failure                                 ? failure.message()
                    : std::filesystem::is_directory(status) ? "it is a directory"
                                                            : "it cannot be opened",
                    "bpgd must be able to read it; check its owner and mode");
    }
    std::string text(kFileMax + 1, '\0');
    stream.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(stream.gcount()));
    if (text.size() > kFileMax) {
        throw invalid(file.native(), {YAML::Mark::null_mark(), "the file is larger than 1 MiB",
                                      "no configuration is that large", "is it the right file?"});
    }
    return parse(text, file.native(), is_owned);
}

std::string to_yaml(const Config& config, Comments comments) {
    const bool with_comments = comments == Comments::kOnEachKey;
    std::string text;
    if (with_comments) {
        text = comment(
            "The configuration of bpgd. Every key may be left out; the values are the "
            "defaults. Durations are like 60s or 1h30m, sizes binary like 512MiB or 10G.",
            0);
    }
    std::vector<std::string> open;  // the sections that the line before stands in
    for (const Field& field : fields()) {
        const std::vector<std::string> parts = split(field.path);
        const std::size_t depth = parts.size() - 1;
        std::size_t common = 0;
        while (common < std::min(depth, open.size()) && open[common] == parts[common])
            ++common;
        if (common == 0 && with_comments) text += "\n";
        for (std::size_t level = common; level < depth; ++level) {
            text += std::string(2 * level, ' ') + parts[level] + ":\n";
        }
        open.assign(parts.begin(), parts.end() - 1);
        if (with_comments) text += comment(field.help, 2 * depth);
        text += std::string(2 * depth, ' ') + parts.back() + ":";
        text += value_lines(field, config, 2 * depth);
    }
    return text;
}

}  // namespace bpg::config
