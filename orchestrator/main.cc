// bpgd's command line: `bpgd --config FILE` runs the daemon in the foreground, `bpgd init` prepares
// storage and store for it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "orchestrator/base/error.h"
#include "orchestrator/base/log.h"
#include "orchestrator/config/config.h"
#include "orchestrator/daemon.h"
#include "orchestrator/init.h"
#include "orchestrator/postgres/data_directory.h"

namespace {

constexpr const char* kDefaultConfig = "/etc/betterpg/config.yaml";

/// Exit codes of bpgd (spec section 2): 2 config, 5 another bpgd on this state or pool, 1 else.
int exit_code_of_start(const bpg::Error& error) {
    if (error.code() == "config_invalid" || error.code() == "config_missing") return 2;
    return error.code() == "bpgd_running" ? 5 : 1;
}

/// `bpgd init` says by its exit code what `bpg init` will.
int exit_code_of(const bpg::Error& error) {
    if (error.code() == "config_invalid" || error.code() == "config_missing") return 2;
    switch (error.kind()) {
        case bpg::ErrorKind::kInvalid:
            return 2;
        case bpg::ErrorKind::kNotFound:
            return 3;
        case bpg::ErrorKind::kPermission:
            return 4;
        case bpg::ErrorKind::kConflict:
            return 5;
        case bpg::ErrorKind::kExhausted:
            return 8;
        default:
            return 1;
    }
}

void report(const bpg::Error& error, bool as_json) {
    const bpg::ErrorInfo& info = error.info();
    if (as_json) {
        fmt::print(stderr, "{}\n", nlohmann::json(info).dump());
    } else {
        fmt::print(stderr, "error: {}\n", info.message);
        if (!info.detail.empty()) fmt::print(stderr, "  why:  {}\n", info.detail);
        if (!info.hint.empty()) fmt::print(stderr, "  fix:  {}\n", info.hint);
        fmt::print(stderr, "  code: {}\n", info.code);
    }
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("bpgd: the daemon of BetterPG");
    std::string config_path;
    bpg::DaemonOptions options;
    std::string crash_points;
    bool json_errors = false;
    app.set_version_flag("--version", std::string("bpgd ") + BPG_VERSION);
    app.add_option("--config", config_path, "configuration file")->envname("BPG_CONFIG");
    app.add_flag("--json-errors", json_errors)->group("");
    app.add_option("--crash-at", options.crash_at)->group("");
    app.add_option("--fail-at", options.fail_at)->group("");
    auto* list = app.add_option("--list-crash-points", crash_points)->expected(0, 1)->group("");
    auto* init = app.add_subcommand("init", "prepare storage and store; safe to repeat");
    app.fallthrough();
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    try {
        if (list->count() > 0) {
            for (const std::string& point : bpg::list_crash_points(crash_points)) {
                fmt::print("{}\n", point);
            }
            return 0;
        }
        if (config_path.empty()) config_path = kDefaultConfig;
        const bpg::config::Config config =
            bpg::config::load(config_path, bpg::postgres::is_owned_setting);
        if (init->parsed()) {
            fmt::print("{}\n", bpg::initialise(config).dump(2));
            return 0;
        }
        options.start_failed = [json_errors](const bpg::Error& error) {
            report(error, json_errors);
            return exit_code_of_start(error);
        };
        bpg::run_daemon(config, options);
    } catch (const bpg::Error& error) {
        report(error, json_errors);
        return init->parsed() ? exit_code_of(error) : exit_code_of_start(error);
    } catch (const std::exception& error) {
        bpg::log::error("bpgd cannot go on", {{"why", error.what()}});
        return 1;
    }
}
