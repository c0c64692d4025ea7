#include "orchestrator/wal/commands.h"

namespace bpg::wal {
namespace {

/// One word for the shell, in which PostgreSQL finds no placeholder.
std::string word(const std::string& text) {
    std::string quoted = "'";
    for (const char c : text) {
        if (c == '\'') {
            quoted += "'\\''";
        } else if (c == '%') {
            quoted += "%%";
        } else {
            quoted += c;
        }
    }
    return quoted + "'";
}

std::string joined(const std::vector<std::uint32_t>& numbers) {
    std::string text;
    for (const std::uint32_t number : numbers) {
        if (!text.empty()) text += ',';
        text += std::to_string(number);
    }
    return text;
}

}  // namespace

// PostgreSQL puts a path and a name of its own for %p and %f, which need no quotes.

std::string archive_command(const std::filesystem::path& helper,
                            const std::filesystem::path& archive) {
    return word(helper.native()) + " archive --archive " + word(archive.native()) + " %p %f";
}

std::string restore_command(const std::filesystem::path& helper,
                            const std::filesystem::path& archive,
                            const std::filesystem::path& spool, const RestoreBounds& bounds) {
    std::string command = word(helper.native()) + " restore --archive " + word(archive.native()) +
                          " --spool " + word(spool.native()) + " --timelines " +
                          joined(bounds.timelines);
    if (!bounds.from.empty()) command += " --from " + word(bounds.from);
    if (!bounds.until.empty()) command += " --until " + word(bounds.until);
    if (!bounds.history.empty()) command += " --need-history " + word(bounds.history);
    return command + " %f %p";
}

}  // namespace bpg::wal
