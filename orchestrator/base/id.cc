#include "orchestrator/base/id.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "orchestrator/base/error.h"

namespace bpg {
namespace {

// No i, l, o, u: an id read aloud or copied by hand stays the same id.
constexpr std::string_view kAlphabet = "0123456789abcdefghjkmnpqrstvwxyz";
constexpr std::size_t kIdLength = 16;
constexpr std::size_t kNameMax = 63;
constexpr std::size_t kVolumeNameMax = 2 * kNameMax + 1 + 12;

bool is_lower_alnum(char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

std::vector<unsigned char> random_bytes(std::size_t count) {
    std::vector<unsigned char> bytes(count);
    std::size_t filled = 0;
    while (filled < count) {
        const ssize_t got = getrandom(bytes.data() + filled, count - filled, 0);
        if (got < 0) {
            if (errno == EINTR) continue;
            throw errno_error("read random bytes", errno);
        }
        filled += static_cast<std::size_t>(got);
    }
    return bytes;
}

}  // namespace

std::string new_id() {
    std::string id;
    id.reserve(kIdLength);
    for (const unsigned char byte : random_bytes(kIdLength))
        id += kAlphabet[byte & 31U];
    return id;
}

std::string random_hex(std::size_t bytes) {
    std::string text;
    for (const unsigned char byte : random_bytes(bytes))
        text += fmt::format("{:02x}", byte);
    return text;
}

bool is_valid_name(std::string_view name) {
    if (name.empty() || name.size() > kNameMax) return false;
    if (!is_lower_alnum(name.front()) || !is_lower_alnum(name.back())) return false;
    return std::all_of(name.begin(), name.end(),
                       [](char c) { return is_lower_alnum(c) || c == '_' || c == '-'; });
}

void check_name(std::string_view noun, std::string_view name) {
    if (is_valid_name(name)) return;
    std::string shown;
    for (const char c : name.substr(0, 80)) {
        const auto byte = static_cast<unsigned char>(c);
        shown += byte < 0x20 || byte >= 0x7f ? fmt::format("\\x{:02x}", byte) : std::string(1, c);
    }
    throw Error(ErrorKind::kInvalid, "name_invalid",
                fmt::format("\"{}\" is not a valid {} name", shown, noun),
                "a name has 1 to 63 characters of a-z, 0-9, _ and -, and begins and ends with a "
                "letter or digit",
                "choose another name");
}

void check_volume_name(std::string_view name) {
    const bool characters = std::all_of(name.begin(), name.end(), [](char c) {
        return is_lower_alnum(c) || c == '_' || c == '-' || c == '.';
    });
    if (!name.empty() && name.size() <= kVolumeNameMax && characters &&
        is_lower_alnum(name.front()) && is_lower_alnum(name.back()) &&
        name.find("..") == std::string_view::npos) {
        return;
    }
    throw Error(ErrorKind::kInvalid, "volume_name_invalid", "a volume name is not valid",
                fmt::format("{} characters, not of the form <database>-<branch>", name.size()));
}

bool is_valid_id(std::string_view id) {
    return id.size() == kIdLength && std::all_of(id.begin(), id.end(), [](char c) {
               return kAlphabet.find(c) != std::string_view::npos;
           });
}

}  // namespace bpg
