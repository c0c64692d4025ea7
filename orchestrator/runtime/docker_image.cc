#include "orchestrator/runtime/docker_image.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "orchestrator/runtime/docker_wire.h"
#include "orchestrator/runtime/instance_process.h"

namespace bpg::runtime {
namespace {

using nlohmann::json;

constexpr std::size_t kReferenceMax = 255;
constexpr std::size_t kTagMax = 128;
constexpr std::size_t kDigestHex = 64;
constexpr std::size_t kTarBlock = 512;
constexpr std::size_t kFrameHeader = 8;
constexpr std::size_t kLayersMax = 1024;
constexpr std::size_t kLineMax = 64 << 10;

bool is_lower_alnum(char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}
bool is_alnum(char c) {
    return is_lower_alnum(c) || (c >= 'A' && c <= 'Z');
}

/// Runs of [a-z0-9], joined by '.', '_', '__' or any number of '-'.
bool is_path_component(std::string_view text) {
    if (text.empty() || !is_lower_alnum(text.front()) || !is_lower_alnum(text.back())) return false;
    for (std::size_t at = 0; at < text.size(); ++at) {
        if (is_lower_alnum(text[at])) continue;
        const std::size_t begin = at;
        while (text[at + 1] == text[begin])
            ++at;
        const std::size_t length = at + 1 - begin;
        const char c = text[begin];
        const bool fits = c == '-' || (c == '.' && length == 1) || (c == '_' && length <= 2);
        if (!fits || !is_lower_alnum(text[at + 1])) return false;
    }
    return true;
}

/// "localhost", "host.name", with or without ":port"; an IPv6 address in brackets.
bool is_registry(std::string_view text) {
    const auto colon = text.rfind(':');
    if (colon != std::string_view::npos && text.back() != ']') {
        const std::string_view port = text.substr(colon + 1);
        const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
        if (port.empty() || port.size() > 5 || !std::all_of(port.begin(), port.end(), is_digit)) {
            return false;
        }
        text = text.substr(0, colon);
    }
    if (text.starts_with('[') && text.ends_with(']') && text.size() > 2) {
        const std::string_view inner = text.substr(1, text.size() - 2);
        return inner.find_first_not_of("0123456789abcdefABCDEF:") == std::string_view::npos;
    }
    if (text.empty() || !is_alnum(text.front()) || !is_alnum(text.back())) return false;
    return std::all_of(text.begin(), text.end(),
                       [](char c) { return is_alnum(c) || c == '.' || c == '-'; }) &&
           text.find("..") == std::string_view::npos;
}

bool is_repository(std::string_view text) {
    const auto slash = text.find('/');
    if (slash != std::string_view::npos) {
        const std::string_view first = text.substr(0, slash);
        // As Docker tells a registry from the first part of a path.
        if (first == "localhost" || first.find_first_of(".:") != std::string_view::npos) {
            if (!is_registry(first)) return false;
            text = text.substr(slash + 1);
        }
    }
    while (true) {
        const auto next = text.find('/');
        if (!is_path_component(text.substr(0, next))) return false;
        if (next == std::string_view::npos) return true;
        text = text.substr(next + 1);
    }
}

bool is_tag(std::string_view text) {
    if (text.empty() || text.size() > kTagMax) return false;
    if (!is_alnum(text.front()) && text.front() != '_') return false;
    return std::all_of(text.begin(), text.end(),
                       [](char c) { return is_alnum(c) || c == '_' || c == '.' || c == '-'; });
}

bool is_digest(std::string_view text) {
    constexpr std::string_view kPrefix = "sha256:";
    if (!text.starts_with(kPrefix)) return false;
    text.remove_prefix(kPrefix.size());
    return text.size() == kDigestHex &&
           text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

Error image_invalid(std::string_view text, std::string why) {
    return {ErrorKind::kInvalid, "image_invalid",
            fmt::format("'{}' is no name of an image", text.substr(0, kReferenceMax)),
            std::move(why), "write it as in docker pull: postgres:16, registry/name:tag"};
}

std::string text_at(const json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

std::uint64_t octal(std::string_view field) {
    std::uint64_t value = 0;
    for (const char c : field) {
        if (c == ' ' && value == 0) continue;
        if (c < '0' || c > '7') break;
        value = value * 8 + static_cast<std::uint64_t>(c - '0');
    }
    return value;
}

std::string_view until_nul(std::string_view field) {
    return field.substr(0, field.find('\0'));
}

}  // namespace

bool is_image_id(std::string_view text) {
    return is_digest(text);
}

std::string ImageReference::pull_query() const {
    const std::string& version = !digest.empty() ? digest : tag;
    return fmt::format("fromImage={}&tag={}", url_escape(repository),
                       url_escape(version.empty() ? "latest" : version));
}

ImageReference parse_image_reference(std::string_view text) {
    if (text.empty()) throw image_invalid(text, "it is empty");
    if (text.size() > kReferenceMax) {
        throw image_invalid(text, fmt::format("it is longer than {} bytes", kReferenceMax));
    }
    ImageReference reference;
    std::string_view rest = text;
    const auto at = rest.find('@');
    if (at != std::string_view::npos) {
        reference.digest = rest.substr(at + 1);
        if (!is_digest(reference.digest)) {
            throw image_invalid(text, "what follows the @ is no sha256 digest");
        }
        rest = rest.substr(0, at);
    }
    const auto colon = rest.rfind(':');
    if (colon != std::string_view::npos && rest.find('/', colon) == std::string_view::npos) {
        reference.tag = rest.substr(colon + 1);
        if (!is_tag(reference.tag)) throw image_invalid(text, "its tag cannot be one");
        rest = rest.substr(0, colon);
    }
    reference.repository = rest;
    if (!is_repository(rest)) {
        throw image_invalid(text, "a name is lower-case words joined by . _ - and /");
    }
    return reference;
}

ImageFacts read_image_facts(std::string_view text) {
    const auto image = json::parse(text, nullptr, /*allow_exceptions=*/false);
    ImageFacts facts;
    if (image.is_object()) facts.id = text_at(image, "Id");
    if (!is_digest(facts.id)) {
        throw Error(ErrorKind::kInternal, "docker_answer_invalid",
                    "the Docker daemon describes an image in an unknown way");
    }
    if (const auto& digests = image.value("RepoDigests", json()); digests.is_array()) {
        for (const auto& one : digests) {
            if (one.is_string()) facts.repo_digests.push_back(one.get<std::string>());
        }
    }
    const auto config = image.value("Config", json::object());
    if (!config.is_object()) return facts;
    if (const auto& variables = config.value("Env", json()); variables.is_array()) {
        for (const auto& one : variables) {
            if (!one.is_string()) continue;
            const auto line = one.get<std::string>();
            if (line.starts_with("PATH=")) facts.path = line.substr(5);
        }
    }
    if (const auto& volumes = config.value("Volumes", json()); volumes.is_object()) {
        for (const auto& [path, options] : volumes.items())
            facts.volumes.push_back(path);
    }
    return facts;
}

std::string digest_of(const ImageFacts& facts, const ImageReference& reference) {
    std::string shortened;
    for (const std::string& one : facts.repo_digests) {
        const auto at = one.find('@');
        if (at == std::string::npos) continue;
        if (!reference.digest.empty() && one.substr(at + 1) != reference.digest) continue;
        const std::string repository = one.substr(0, at);
        if (repository == reference.repository) return one;
        // Docker leaves the registry away that goes without saying, whoever wrote it.
        if (reference.repository.ends_with("/" + repository)) shortened = one;
    }
    return shortened;
}

void PullProgress::feed(std::string_view piece) {
    rest_ += piece;
    std::size_t begin = 0;
    for (auto end = rest_.find('\n'); end != std::string::npos; end = rest_.find('\n', begin)) {
        read_line(std::string_view(rest_).substr(begin, end - begin));
        begin = end + 1;
    }
    rest_.erase(0, begin);
    if (rest_.size() > kLineMax) rest_.clear();  // what this would be is no progress
}

void PullProgress::read_line(std::string_view line) {
    const auto record = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!record.is_object()) return;
    if (record.contains("error") || record.contains("errorDetail")) {
        error_ = text_at(record, "error");
        if (error_.empty()) error_ = "the pull failed without saying why";
        return;
    }
    const std::string status = text_at(record, "status");
    const std::string id = text_at(record, "id");
    const auto known = layers_.find(id);
    if (status == "Download complete" || status == "Pull complete") {
        if (known != layers_.end()) known->second.done = known->second.total;
        return;
    }
    const auto detail = record.find("progressDetail");
    if (status != "Downloading" || detail == record.end() || !detail->is_object()) return;
    if (known == layers_.end() && layers_.size() >= kLayersMax) return;
    const auto number = [&](const char* key) {
        const auto found = detail->find(key);
        const bool fits = found != detail->end() && found->is_number_unsigned();
        return fits ? found->get<std::uint64_t>() : std::uint64_t{0};
    };
    Layer& layer = layers_[id];
    layer.total = std::max(layer.total, number("total"));
    layer.done = std::max(layer.done, number("current"));
}

std::uint64_t PullProgress::done() const {
    std::uint64_t sum = 0;
    for (const auto& [id, layer] : layers_)
        sum += layer.done;
    return sum;
}

std::uint64_t PullProgress::total() const {
    std::uint64_t sum = 0;
    for (const auto& [id, layer] : layers_)
        sum += layer.total;
    return sum;
}

Error pull_failed(const std::string& image, const std::string& message) {
    const auto says = [&](std::string_view part) {
        return message.find(part) != std::string::npos;
    };
    if (says("no space left on device")) {
        return {ErrorKind::kExhausted, "no_space", "there is no space for image " + image, message,
                "make room where Docker keeps its data"};
    }
    // Before the next: a registry that cannot be reached can also "not be found", by its name. For
    // who asked the image is not to be had; trying again by itself would only make them wait.
    for (const std::string_view sign :
         {"dial tcp", "connection refused", "no such host", "i/o timeout", "TLS handshake timeout",
          "Client.Timeout", "unexpected EOF", "toomanyrequests", "server misbehaving",
          "network is unreachable", "connection reset"}) {
        if (!says(sign)) continue;
        return {ErrorKind::kNotFound, "image_not_found",
                "image " + image + " is not here, and its registry does not answer", message,
                "correct the name, load the image by hand (docker load), or let this machine reach "
                "the registry"};
    }
    for (const std::string_view sign :
         {"manifest unknown", "not found", "access denied", "does not exist",
          "repository name not known", "unauthorized", "no matching manifest"}) {
        if (!says(sign)) continue;
        return {
            ErrorKind::kNotFound, "image_not_found", "there is no image " + image, message,
            "correct the name, or pull the image by hand where it needs a login (docker login)"};
    }
    return {ErrorKind::kUnavailable, "pull_failed", "cannot fetch image " + image, message,
            "try docker pull by hand"};
}

std::optional<TarMember> first_tar_member(std::string_view archive) {
    while (archive.size() >= kTarBlock) {
        const std::string_view header = archive.substr(0, kTarBlock);
        if (header.front() == '\0') return std::nullopt;
        const std::uint64_t size = octal(header.substr(124, 12));
        const char type = header[156];
        archive.remove_prefix(kTarBlock);
        if (type == '2') return TarMember{"", std::string(until_nul(header.substr(157, 100)))};
        if (size > archive.size()) return std::nullopt;
        if (type == '0' || type == '\0') return TarMember{std::string(archive.substr(0, size)), ""};
        if (type != 'x' && type != 'g' && type != 'L' && type != 'K') return std::nullopt;
        const std::uint64_t blocks = (size + kTarBlock - 1) / kTarBlock;
        archive.remove_prefix(std::min<std::uint64_t>(blocks * kTarBlock, archive.size()));
    }
    return std::nullopt;
}

std::optional<FileOwner> owner_in_passwd(std::string_view passwd, std::string_view user) {
    while (!passwd.empty()) {
        std::string_view line = passwd.substr(0, passwd.find('\n'));
        passwd.remove_prefix(std::min(line.size() + 1, passwd.size()));
        std::vector<std::string_view> fields;
        while (fields.size() < 4) {
            const auto colon = line.find(':');
            fields.push_back(line.substr(0, colon));
            if (colon == std::string_view::npos) break;
            line.remove_prefix(colon + 1);
        }
        if (fields.size() < 4 || fields[0] != user) continue;
        const auto number = [](std::string_view text) -> std::optional<std::uint32_t> {
            std::uint32_t value = 0;
            const auto [end, failure] =
                std::from_chars(text.data(), text.data() + text.size(), value);
            if (failure != std::errc() || end != text.data() + text.size()) return std::nullopt;
            return value;
        };
        const auto uid = number(fields[2]);
        const auto gid = number(fields[3]);
        if (uid && gid) return FileOwner{*uid, *gid};
    }
    return std::nullopt;
}

std::optional<std::string> version_in(std::string_view text) {
    constexpr std::string_view kMark = "(PostgreSQL) ";
    const auto at = text.find(kMark);
    if (at == std::string_view::npos) return std::nullopt;
    text.remove_prefix(at + kMark.size());
    const std::string_view version = text.substr(0, text.find_first_of(" \r\n"));
    if (version.empty() || version.size() > 32 || version[0] < '0' || version[0] > '9') {
        return std::nullopt;
    }
    const bool plain =
        std::all_of(version.begin(), version.end(), [](char c) { return is_alnum(c) || c == '.'; });
    if (!plain) return std::nullopt;
    return std::string(version);
}

void LogCollector::feed(std::string_view piece) {
    while (!piece.empty()) {
        if (frame_left_ == 0) {
            const std::size_t missing = kFrameHeader - header_.size();
            header_ += piece.substr(0, missing);
            piece.remove_prefix(std::min(missing, piece.size()));
            if (header_.size() < kFrameHeader) return;
            for (std::size_t at = 4; at < kFrameHeader; ++at) {
                frame_left_ = (frame_left_ << 8U) | static_cast<unsigned char>(header_[at]);
            }
            header_.clear();
            continue;
        }
        const std::size_t part = std::min(frame_left_, piece.size());
        keep(piece.substr(0, part));
        piece.remove_prefix(part);
        frame_left_ -= part;
    }
}

void LogCollector::keep(std::string_view text) {
    text_ += text;
    if (text_.size() <= max_ * 2) return;  // not for every piece
    text_.erase(0, text_.size() - max_);
    was_cut_ = true;
}

std::string LogCollector::tail(std::size_t lines) const {
    std::string_view text = text_;
    bool is_cut = was_cut_;
    if (text.size() > max_) {
        text.remove_prefix(text.size() - max_);
        is_cut = true;
    }
    if (is_cut) text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1);
    return last_lines(text, lines);
}

}  // namespace bpg::runtime
