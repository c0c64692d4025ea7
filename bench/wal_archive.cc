// What bpg-wal costs: whether archiving keeps up with the WAL that pgbench makes, and how long a
// recovery takes from its archive against plain cp from an uncompressed directory, interleaved.
// bench/README.md says how to read it.
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <stdexcept>
#include <thread>

#include "bench/main.h"
#include "bench/sample.h"
#include "orchestrator/postgres/control_file.h"
#include "orchestrator/wal/archived_file.h"
#include "orchestrator/wal/commands.h"
#include "tests/harness/host.h"
#include "tests/harness/load.h"
#include "tests/integration/drivers/instance_fixture.h"

namespace bpg::bench {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using test::Drivers;
using test::Instance;
using test::Place;
using Settings = std::vector<std::pair<std::string, std::string>>;

constexpr std::uint64_t kSegment = 16U << 20U;
constexpr double kMiB = 1U << 20U;
/// Of the time that cp takes.
constexpr double kRestoreRatioMax = 1.15;
/// Segments that wait: the one that is being archived, and one that became full meanwhile.
constexpr std::size_t kBacklogMax = 3;

struct Options {
    int scale = 20;
    int seconds = 20;
    int clients = 8;
    std::uint64_t wal_mib = 1024;
    int rounds = 5;
    bool check = false;
};

std::uint64_t lsn_of(const Instance& server, const std::string& expression) {
    return postgres::parse_lsn(server.sql("SELECT " + expression))->value;
}

void run_pgbench(const Instance& server, std::vector<std::string> arguments) {
    Command command;
    command.argv = {test::pgbench_program(), "-n"};
    command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
    command.environment = {"PGHOST=" + server.endpoint().socket_directory.native(),
                           fmt::format("PGPORT={}", server.port()), "PGUSER=postgres",
                           "PGDATABASE=postgres"};
    command.deadline = 600s;
    const CommandResult result = run_command(command);
    if (!result.ok()) throw std::runtime_error(result.explain(command) + "\n" + result.err);
}

/// Directories of our own that instances can use, with the helper beside them.
class Bench {
  public:
    explicit Bench(Options options) : options_(options) {
        const FileOwner owner = Place::get().engine().user;
        ensure_directory(root_, 0711);
        ensure_directory(archive_, 0700, owner);
        ensure_directory(raw_, 0700, owner);
        fs::copy_file(test::bin_dir() / "bpg-wal", helper_);
    }

    ExitCode run() {
        Instance server(drivers_);
        server.start_ready(archiving());
        run_pgbench(server, {"-i", "-q", "-s", std::to_string(options_.scale)});
        const bool keeps_up = archive_under_load(server);
        server.stop();
        Instance base(drivers_, Instance::From::kNothing);
        base.copy_data(server.data());
        server.start_ready(archiving());
        make_wal(server);
        const std::string rows = server.sql("SELECT sum(tbalance) FROM pgbench_tellers");
        server.kill();
        const bool is_fast = restore(base, rows);
        if (keeps_up && is_fast) return kGood;
        fmt::print("NOT AS PROMISED\n");
        return options_.check ? kTooSlow : kGood;
    }

  private:
    Settings archiving() const {
        return {{"archive_mode", "on"},
                {"archive_command", wal::archive_command(helper_, archive_)},
                {"max_wal_size", "4GB"},
                {"wal_keep_size", "8GB"},
                {"checkpoint_timeout", "1h"}};
    }
    std::vector<std::string> segments() const {
        std::vector<std::string> names;
        for (const auto& entry : fs::directory_iterator(archive_)) {
            const auto name = wal::wal_name_of(entry.path().filename().native());
            if (name && name->kind == wal::WalKind::kSegment) names.push_back(name->text);
        }
        std::sort(names.begin(), names.end());
        return names;
    }
    static std::size_t waiting(const Instance& server) {
        std::size_t number = 0;
        for (const auto& entry : fs::directory_iterator(server.data() / "pg_wal/archive_status"))
            number += entry.path().extension() == ".ready" ? 1 : 0;
        return number;
    }

    bool archive_under_load(const Instance& server) {
        const std::uint64_t from = lsn_of(server, "pg_current_wal_lsn()");
        const auto began = Steady::now();
        std::size_t most = 0;
        {
            const std::jthread watch([&](const std::stop_token& stop) {
                while (!stop.stop_requested()) {
                    most = std::max(most, waiting(server));
                    std::this_thread::sleep_for(20ms);
                }
            });
            run_pgbench(server, {"-c", std::to_string(options_.clients), "-j", "2", "-T",
                                 std::to_string(options_.seconds)});
        }
        const double seconds = milliseconds_between(began, Steady::now()) / 1000;
        const double made =
            static_cast<double>(lsn_of(server, "pg_current_wal_lsn()") - from) / kMiB / seconds;
        server.sql("SELECT pg_switch_wal()");
        wait_until_archived(server);
        const double rate = archive_one_after_the_other(server);
        fmt::print("pgbench makes {:.1f} MiB/s of WAL; at most {} segments waited; {} failed\n",
                   made, most, server.sql("SELECT failed_count FROM pg_stat_archiver"));
        fmt::print("bpg-wal archives {:.1f} MiB/s, {:.1f} times that\n", rate, rate / made);
        return most <= kBacklogMax && rate >= made;
    }

    static void wait_until_archived(const Instance& server) {
        const auto is_done = [&server] { return waiting(server) == 0; };
        if (!test::eventually(is_done, 60s)) throw std::runtime_error("WAL was not archived");
    }

    /// MiB of WAL in a second, by one process a segment.
    double archive_one_after_the_other(const Instance& server) {
        const fs::path other = root_ / "other";
        ensure_directory(other, 0700, server.owner());
        const auto names = segments();
        const auto began = Steady::now();
        for (const std::string& name : names) {
            test::shell_free({helper_.native(), "archive", "--archive", other.native(),
                              (server.data() / "pg_wal" / name).native(), name});
        }
        const double seconds = milliseconds_between(began, Steady::now()) / 1000;
        remove_tree(other);
        return static_cast<double>(names.size() * kSegment) / kMiB / seconds;
    }

    /// As a busy server makes it, with whole pages after each of many checkpoints; what it costs to
    /// make is not looked at.
    void make_wal(const Instance& server) {
        server.sql("ALTER SYSTEM SET synchronous_commit = off");
        server.sql("SELECT pg_reload_conf()");
        from_ = lsn_of(server, "pg_current_wal_lsn()");
        const std::uint64_t until = from_ + options_.wal_mib * (1U << 20U);
        while (lsn_of(server, "pg_current_wal_lsn()") < until) {
            run_pgbench(server, {"-c", std::to_string(options_.clients), "-j", "2", "-t", "500"});
            server.sql("CHECKPOINT");
        }
        until_ = wal::segment_name(
            wal::segment_at(1, lsn_of(server, "pg_switch_wal() - 1"), kSegment), kSegment);
        wait_until_archived(server);
        const UniqueFd directory = open_directory(archive_);
        for (const std::string& name : segments()) {
            const auto file = wal::ArchivedFile::open(directory.get(), archive_.native(),
                                                      *wal::parse_wal_name(name));
            write_file_durably(raw_ / name, file->content(kSegment), 0600, server.owner());
        }
    }

    bool restore(const Instance& base, const std::string& rows) {
        const std::string first = wal::segment_name(wal::segment_at(1, from_, kSegment), kSegment);
        const std::string cp = "cp '" + raw_.native() + "/%f' %p";
        const std::string ours =
            wal::restore_command(helper_, archive_, {}, {{1}, first, until_, ""});
        std::vector<double> by_cp;
        std::vector<double> by_us;
        std::vector<double> ratios;
        for (int round = 0; round < options_.rounds; ++round) {
            // Each is first in every second round.
            if (round % 2 == 0) by_cp.push_back(recover(base, cp, rows));
            by_us.push_back(recover(base, ours, rows));
            if (round % 2 != 0) by_cp.push_back(recover(base, cp, rows));
            ratios.push_back(by_us.back() / by_cp.back());
        }
        const Spread ratio = spread_of(ratios);
        fmt::print("recovery over {} MiB of WAL: cp {:.2f} s, bpg-wal {:.2f} s\n", options_.wal_mib,
                   spread_of(by_cp).median, spread_of(by_us).median);
        fmt::print("bpg-wal takes {:.3f} times as long ({:.3f}-{:.3f})\n", ratio.median, ratio.q1,
                   ratio.q3);
        return ratio.median <= kRestoreRatioMax;
    }

    /// Seconds from the start of the server until it takes connections.
    double recover(const Instance& base, const std::string& restore_command,
                   const std::string& rows) {
        Instance instance(drivers_, Instance::From::kNothing);
        instance.copy_data(base.data());
        fs::remove(instance.data() / "postgresql.auto.conf");
        write_file_durably(instance.data() / "recovery.signal", "", 0600, instance.owner());
        ::sync();  // what copying it left to write is no part of the recovery
        const auto began = Steady::now();
        instance.start({{"restore_command", restore_command},
                        {"recovery_target_timeline", "1"},
                        {"max_wal_size", "4GB"}});
        instance.ready(600s);
        const double seconds = milliseconds_between(began, Steady::now()) / 1000;
        if (instance.sql("SELECT sum(tbalance) FROM pgbench_tellers") != rows) {
            throw std::runtime_error("the recovery did not reach the end: " + restore_command);
        }
        return seconds;
    }

    Options options_;
    Drivers drivers_;
    const fs::path root_ = Place::get().base() / "bench";
    const fs::path archive_ = root_ / "archive";
    const fs::path raw_ = root_ / "raw";
    const fs::path helper_ = root_ / "bpg-wal";
    std::uint64_t from_ = 0;
    std::string until_;
};

int main_of(int argc, char** argv) {
    Options options;
    CLI::App app("what archiving WAL costs, and recovering from what was archived");
    app.add_option("--scale", options.scale, "of pgbench's tables")->check(CLI::Range(1, 1000));
    app.add_option("--seconds", options.seconds, "of pgbench while WAL is archived")
        ->check(CLI::Range(1, 3600));
    app.add_option("--clients", options.clients, "of pgbench")->check(CLI::Range(1, 100));
    app.add_option("--wal", options.wal_mib, "MiB of WAL to recover")
        ->check(CLI::Range(16, 100'000));
    app.add_option("--rounds", options.rounds, "recoveries of each kind")
        ->check(CLI::Range(1, 1000));
    app.add_flag("--check", options.check, "exit code 1 when it is not as promised");
    return run_main(app, argc, argv, [&options] { return Bench(options).run(); });
}

}  // namespace
}  // namespace bpg::bench

int main(int argc, char** argv) {
    return bpg::bench::main_of(argc, argv);
}
