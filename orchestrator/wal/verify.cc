#include "orchestrator/wal/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "orchestrator/base/files.h"
#include "orchestrator/wal/archived_file.h"
#include "orchestrator/wal/new_file.h"
#include "orchestrator/wal/wal_reader.h"

namespace bpg::wal {
namespace {

Error not_ours(const std::string& file, const std::string& shown) {
    return {ErrorKind::kCorrupt, "wal_foreign_file",
            fmt::format("{} in {} is no archived WAL file", file, shown),
            "no file of ours has such a name"};
}

void read_whole(const ArchivedFile& file, const WalName& name, const std::string& shown) {
    bool is_first = true;
    file.read([&](std::string_view piece) {
        if (!is_first || !name.holds_wal()) return;
        is_first = false;
        const ArchivedMetadata& metadata = file.metadata();
        const std::string fault = fault_of_segment(parse_segment_header(piece), name,
                                                   metadata.plain_size, metadata.system_identifier);
        if (!fault.empty()) throw wal_damaged(name.text, shown, fault);
    });
}

std::optional<ArchiveFault> look_at(int directory_fd, const std::string& shown,
                                    const std::string& file_name,
                                    const std::optional<WalName>& name, bool must_exist) {
    try {
        if (!name) throw not_ours(file_name, shown);
        const auto file = ArchivedFile::open(directory_fd, shown, *name);
        if (file) {
            read_whole(*file, *name, shown);
        } else if (must_exist) {
            throw Error(ErrorKind::kNotFound, "wal_missing",
                        fmt::format("WAL file {} is missing", name->text),
                        fmt::format("it is not in {}", shown));
        }
        return std::nullopt;
    } catch (const Error& error) {
        return ArchiveFault{file_name, error.info()};
    }
}

}  // namespace

std::vector<ArchiveFault> verify_archive(const std::filesystem::path& archive,
                                         const std::vector<std::string>& names) {
    const UniqueFd directory = open_directory(archive);
    std::vector<ArchiveFault> faults;
    const auto add = [&](const std::string& file, const std::optional<WalName>& name) {
        const bool was_named = !names.empty();
        auto fault = look_at(directory.get(), archive.native(), file, name, was_named);
        if (fault) faults.push_back(std::move(*fault));
    };
    for (const std::string& name : names)
        add(name, parse_wal_name(name));
    if (!names.empty()) return faults;
    auto files = directory_names(directory.get(), archive.native());
    std::sort(files.begin(), files.end());
    for (const std::string& file : files) {
        if (!is_temporary_name(file)) add(file, wal_name_of(file));
    }
    return faults;
}

}  // namespace bpg::wal
