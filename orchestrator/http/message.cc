#include "orchestrator/http/message.h"

#include <algorithm>

namespace bpg::http {
namespace {

char lower(char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
}

bool is_same_name(std::string_view left, std::string_view right) {
    return std::equal(left.begin(), left.end(), right.begin(), right.end(),
                      [](char a, char b) { return lower(a) == lower(b); });
}

int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (lower(c) >= 'a' && lower(c) <= 'f') return lower(c) - 'a' + 10;
    return -1;
}

bool is_control(char c) {
    return static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) == 0x7f;
}

enum class Plus { kIsItself, kIsSpace };

/// Nothing when an escape is broken or a control character comes out.
std::optional<std::string> decode(std::string_view text, Plus plus) {
    std::string decoded;
    decoded.reserve(text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
        char c = text[i];
        if (c == '%') {
            if (i + 2 >= text.size()) return {};
            const int high = hex_digit(text[i + 1]);
            const int low = hex_digit(text[i + 2]);
            if (high < 0 || low < 0) return {};
            c = static_cast<char>(high * 16 + low);
            i += 2;
        } else if (c == '+' && plus == Plus::kIsSpace) {
            c = ' ';
        }
        if (is_control(c)) return {};
        decoded += c;
    }
    return decoded;
}

bool parse_query(std::string_view text, std::map<std::string, std::string>& query) {
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('&'), text.size());
        const std::string_view pair = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        if (pair.empty()) continue;
        const std::size_t equals = std::min(pair.find('='), pair.size());
        auto name = decode(pair.substr(0, equals), Plus::kIsSpace);
        auto value = decode(pair.substr(std::min(equals + 1, pair.size())), Plus::kIsSpace);
        if (!name || !value) return false;
        query.insert_or_assign(std::move(*name), std::move(*value));
    }
    return true;
}

}  // namespace

void Headers::add(std::string name, std::string value) {
    fields_.emplace_back(std::move(name), std::move(value));
}

std::optional<std::string> Headers::find(std::string_view name) const {
    for (const auto& [known, value] : fields_) {
        if (is_same_name(known, name)) return value;
    }
    return {};
}

std::optional<std::string> Request::query_value(const std::string& name) const {
    const auto found = query.find(name);
    if (found == query.end()) return {};
    return found->second;
}

bool parse_target(std::string_view target, Request& request) {
    constexpr std::string_view kScheme = "http://";
    if (target.starts_with(kScheme)) {
        target.remove_prefix(std::min(target.find('/', kScheme.size()), target.size()));
        if (target.empty()) target = "/";
    }
    if (!target.starts_with('/') || target.find('#') != std::string_view::npos) return false;
    const std::size_t question = std::min(target.find('?'), target.size());
    std::string_view path = target.substr(0, question);
    request.path = path;
    request.segments.clear();
    request.query.clear();
    path.remove_prefix(1);
    while (request.path != "/") {
        // Split first, decode after: an escaped slash is part of a name, not a border.
        const std::size_t slash = path.find('/');
        auto segment = decode(path.substr(0, slash), Plus::kIsItself);
        if (!segment) return false;
        request.segments.push_back(std::move(*segment));
        if (slash == std::string_view::npos) break;
        path.remove_prefix(slash + 1);
    }
    return parse_query(target.substr(std::min(question + 1, target.size())), request.query);
}

}  // namespace bpg::http
