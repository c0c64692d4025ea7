// Real servers that archive into, and recover from, an archive of the test's own by bpg-wal.
#pragma once

#include "orchestrator/postgres/control_file.h"
#include "orchestrator/wal/archive.h"
#include "orchestrator/wal/commands.h"
#include "orchestrator/wal/segment_name.h"
#include "orchestrator/wal/verify.h"
#include "tests/harness/host.h"
#include "tests/integration/drivers/instance_fixture.h"

namespace bpg::test {

using Settings = std::vector<std::pair<std::string, std::string>>;

class WalServers : public InstanceTest {
  protected:
    static constexpr std::uint32_t kSegment = 16U << 20U;

    void SetUp() override {
        // The instances' user must be able to run it, wherever the build is.
        helper_ = Place::get().base() / "bpg-wal";
        if (!fs::exists(helper_)) fs::copy_file(bin_dir() / "bpg-wal", helper_);
        root_ = Place::get().base() / ("wal-" + random_hex(4));
        ensure_directory(root_, 0711);
        ensure_directory(archive(), 0700, Place::get().engine().user);
        ensure_directory(spool(), 0700, Place::get().engine().user);
    }
    void TearDown() override { remove_tree(root_); }

    fs::path archive() const { return root_ / "archive"; }
    fs::path spool() const { return root_ / "spool"; }
    fs::path stored(const std::string& name) const { return archive() / (name + ".zst"); }

    Settings archiving() const {
        return {{"archive_mode", "on"},
                {"archive_command", wal::archive_command(helper_, archive())}};
    }
    Settings recovering(const wal::RestoreBounds& bounds) const {
        return {{"restore_command", wal::restore_command(helper_, archive(), spool(), bounds)},
                {"recovery_target_timeline", std::to_string(bounds.timelines.back())}};
    }

    static postgres::ControlFile control_of(const Instance& instance) {
        return postgres::parse_control_file(content_of(instance.data() / "global/pg_control"));
    }
    static std::string segment(std::uint32_t timeline, std::uint64_t lsn) {
        return wal::segment_name(wal::segment_at(timeline, lsn, kSegment), kSegment);
    }
    static std::uint64_t lsn(const Instance& instance, const std::string& expression) {
        return postgres::parse_lsn(instance.sql("SELECT " + expression))->value;
    }
    /// Ends the current segment and waits until it is archived; its name.
    std::string switch_and_archive(const Instance& instance, std::uint32_t timeline) const {
        instance.sql("SELECT pg_logical_emit_message(true, 'test', 'x')");
        const std::string name = segment(timeline, lsn(instance, "pg_switch_wal() - 1"));
        wait_for([&] { return fs::exists(stored(name)); });
        return name;
    }
    static void wait_for(const std::function<bool()>& happened,
                         std::chrono::seconds deadline = 30s) {
        ASSERT_TRUE(test::eventually(happened, deadline)) << "it did not happen";
    }

    struct Recovery {
        bool is_open = false;  ///< it ended, and the database takes connections
        std::uint32_t timeline = 0;
        std::string log;
    };
    /// Starts it with these settings in archive recovery and waits for its end.
    Recovery recover(Instance& instance, const Settings& settings) {
        shell_free({"rm", "-f", (instance.data() / "postmaster.pid").native()});
        write_file_durably(instance.data() / "recovery.signal", "", 0600, instance.owner());
        instance.start(settings);
        Recovery result;
        try {
            result.timeline = drivers_.run(instance.await_ready(60s)).timeline;
            result.is_open = true;
        } catch (const Error&) {
            result.is_open = false;
        }
        result.log = content_of(instance.log());
        return result;
    }

    wal::ArchiveResult put_into_spool(const Instance& server, const std::string& name) const {
        const fs::path pg_wal = server.data() / "pg_wal";
        const UniqueFd directory = open_directory(pg_wal);
        const UniqueFd data = open_directory(server.data());
        wal::ArchiveRequest request;
        request.source_directory_fd = directory.get();
        request.source_shown = pg_wal.native();
        request.source_name = name;
        request.name = name;
        request.archive = spool();
        request.server = wal::read_server_identity(data.get());
        return wal::archive_file(request);
    }

    fs::path helper_;
    fs::path root_;
};

}  // namespace bpg::test
