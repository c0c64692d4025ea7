// The fixture of tests about archives: a directory with a server's pg_wal, an archive, and files in
// both.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"
#include "orchestrator/wal/archive.h"
#include "orchestrator/wal/archived_file.h"
#include "tests/harness/scratch_directory.h"
#include "tests/unit/wal/wal_builder.h"

namespace bpg::wal::test {

namespace fs = std::filesystem;

inline std::string bytes_of(const fs::path& path) {
    std::ostringstream content;
    content << std::ifstream(path, std::ios::binary).rdbuf();
    return content.str();
}

inline void put(const fs::path& path, std::string_view content) {
    // A new file each time: ext4 writes out one that is truncated and filled again.
    std::error_code ignored;
    fs::remove(path, ignored);
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out << content;
    ASSERT_TRUE(out.flush()) << path;
}

template <class Action>
ErrorInfo error_of(Action action) {
    try {
        action();
    } catch (const Error& error) {
        return error.info();
    }
    return {ErrorKind::kInternal, "nothing thrown", "", "", ""};
}

class WalTest : public testing::Test {
  protected:
    static constexpr std::uint64_t kSystem = 7'300'000'000'000'000'001U;

    void SetUp() override {
        for (const fs::path& made :
             {data(), pg_wal(), data() / "global", archive(), root_ / "spool"})
            fs::create_directories(made);
        put(data() / "global/pg_control", control_file());
    }

    fs::path data() const { return root_ / "data"; }
    fs::path pg_wal() const { return data() / "pg_wal"; }
    fs::path archive() const { return root_ / "archive"; }
    fs::path spool() const { return root_ / "spool"; }
    fs::path stored(const std::string& name) const { return archive() / (name + ".zst"); }

    static std::string control_file(std::uint32_t segment_size = kSmallSegment) {
        std::string content(8192, '\0');
        std::memcpy(content.data(), &kSystem, sizeof kSystem);
        std::memcpy(content.data() + 228, &segment_size, sizeof segment_size);
        return content;
    }

    /// Segments of some commits each, whose records cross the boundaries, in pg_wal.
    WalBuilder write_segments(std::uint64_t number, WalShape shape = {}) const {
        WalBuilder wal(shape);
        for (std::uint64_t index = 0; index < number; ++index) {
            wal.commit(at_second(static_cast<std::int64_t>(10 * index)));
            wal.fill_up_to(32);
            wal.commit(at_second(static_cast<std::int64_t>(10 * index) + 9));
        }
        for (std::uint64_t index = 0; index < number; ++index)
            put(pg_wal() / wal.name(index), wal.segment(index));
        return wal;
    }

    ArchiveResult archive_it(const std::string& name) const {
        const UniqueFd directory = open_directory(pg_wal());
        return archive_file({.source_directory_fd = directory.get(),
                             .source_shown = "pg_wal",
                             .source_name = name,
                             .name = name,
                             .archive = archive(),
                             .server = ServerIdentity{kSystem, kSmallSegment}});
    }

    std::optional<ArchivedFile> open_stored(const std::string& name) const {
        const UniqueFd directory = open_directory(archive());
        return ArchivedFile::open(directory.get(), "archive", *parse_wal_name(name));
    }
    /// The plain bytes of an archived file; throws as it does.
    std::string plain_of(const std::string& name) const {
        const auto file = open_stored(name);
        if (!file) throw Error(ErrorKind::kNotFound, "not_archived", name + " is not archived");
        return file->content(1U << 30U);
    }
    std::vector<std::string> archived() const {
        const UniqueFd directory = open_directory(archive());
        auto names = directory_names(directory.get(), "archive");
        std::sort(names.begin(), names.end());
        return names;
    }

    const bpg::test::ScratchDirectory scratch_{"wal"};
    const fs::path root_ = scratch_.path();
};

}  // namespace bpg::wal::test
