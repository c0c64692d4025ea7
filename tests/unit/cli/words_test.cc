// What is read from a command line and what leaves as text: names, commands, URLs, exit codes.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/app.h"
#include "cli/connection.h"
#include "cli/failure.h"
#include "cli/follow.h"
#include "cli/reference.h"
#include "cli/settings.h"
#include "orchestrator/http/wire.h"

namespace bpg::cli {
namespace {

using nlohmann::json;

ErrorInfo usage_error(const std::vector<std::string>& words) {
    try {
        parse_command_line(words);
    } catch (const Failure& failure) {
        EXPECT_EQ(failure.exit(), ExitCode::kUsage);
        return failure.info();
    }
    ADD_FAILURE() << "the command line was accepted";
    return {};
}

TEST(BranchRef, IsADatabaseAndABranch) {
    EXPECT_EQ(parse_branch_ref("prod/pr-42"), (BranchRef{"prod", "pr-42"}));
    EXPECT_EQ(parse_branch_ref("prod/pr-42").text(), "prod/pr-42");
}

TEST(BranchRef, RefusesEveryOtherShapeWithExitCode2) {
    for (const char* text : {"", "prod", "prod/", "/dev", "prod/dev/x", "Prod/dev", "prod/-dev",
                             "prod/../etc", "prod/d%2fv", "prod/d v", "prod/dev\n"}) {
        try {
            parse_branch_ref(text);
            ADD_FAILURE() << text << " was accepted";
        } catch (const Error& error) {
            EXPECT_EQ(http::exit_code(error.kind()), ExitCode::kUsage) << text;
        }
    }
}

TEST(DidYouMean, FindsATypoASwapAndABeginning) {
    const std::vector<std::string> verbs{"create", "list", "get", "delete"};
    EXPECT_EQ(did_you_mean("creat", verbs), "create");
    EXPECT_EQ(did_you_mean("lsit", verbs), "list");
    EXPECT_EQ(did_you_mean("del", verbs), "delete");
}

TEST(DidYouMean, SaysNothingWhereNothingIsNear) {
    EXPECT_EQ(did_you_mean("zzz", {"create", "list"}), "");
    EXPECT_EQ(did_you_mean("", {"create", "list"}), "");
    EXPECT_EQ(did_you_mean("x", {}), "");
}

TEST(CommandLine, TakesGlobalOptionsBeforeAndAfterTheCommand) {
    for (const auto& words : std::vector<std::vector<std::string>>{
             {"-o", "json", "branch", "create", "p/d", "--fast"},
             {"branch", "-o", "json", "create", "--fast", "p/d"},
             {"branch", "create", "p/d", "--fast", "--output=json"}}) {
        const Invocation invocation = parse_command_line(words);
        ASSERT_NE(invocation.command, nullptr);
        EXPECT_EQ(invocation.command->path, "branch create");
        EXPECT_EQ(invocation.globals.format, OutputFormat::kJson);
        EXPECT_EQ(invocation.arguments.at("DB/BR"), "p/d");
        EXPECT_TRUE(invocation.arguments.has("--fast"));
        EXPECT_FALSE(invocation.arguments.has("--stopped"));
    }
}

TEST(CommandLine, PassesWhatFollowsTwoDashesToPsqlUntouched) {
    const Invocation invocation =
        parse_command_line({"psql", "p/d", "--", "-c", "select 1", "--", "-o", "x"});
    EXPECT_EQ(invocation.arguments.rest,
              (std::vector<std::string>{"-c", "select 1", "--", "-o", "x"}));
    EXPECT_EQ(invocation.globals.format, OutputFormat::kTable);
}

TEST(CommandLine, SuggestsTheCommandThatWasMeant) {
    const ErrorInfo info = usage_error({"branch", "creat", "p/d"});
    EXPECT_EQ(info.message, "there is no command \"bpg branch creat\"");
    EXPECT_EQ(info.hint, "did you mean \"bpg branch create\"?");
    EXPECT_EQ(info.code, "usage");
    EXPECT_EQ(usage_error({"statsu"}).hint, "did you mean \"bpg status\"?");
}

TEST(CommandLine, SuggestsTheOptionThatWasMeant) {
    EXPECT_EQ(usage_error({"branch", "create", "p/d", "--form=p/main"}).hint,
              "did you mean --from?");
    EXPECT_EQ(usage_error({"db", "list", "--quite"}).hint, "did you mean --quiet?");
}

TEST(CommandLine, RefusesWhatIsMissingOrTooMuch) {
    EXPECT_EQ(usage_error({}).message, "bpg needs a command");
    EXPECT_EQ(usage_error({"branch"}).message, "bpg branch needs a command");
    EXPECT_EQ(usage_error({"db", "get", "a", "b"}).message, "\"b\" is one word too many");
    usage_error({"db", "get"});
    usage_error({"branch", "create", "p/d", "--from"});
    usage_error({"branch", "create", "p/d", "--from", "a/b", "--from", "c/d"});
    usage_error({"-o", "yaml", "db", "list"});
    usage_error({"--timeout", "soon", "db", "list"});
    usage_error({"--timeout", "0s", "db", "list"});
}

TEST(CommandLine, PrintsHelpAndVersionWithoutACommand) {
    EXPECT_EQ(parse_command_line({"--version"}).text, "bpg " BPG_VERSION "\n");
    EXPECT_NE(parse_command_line({"--help"}).text.find("branches of a database"),
              std::string::npos);
    EXPECT_NE(parse_command_line({"branch", "create", "--help"}).text.find("--from"),
              std::string::npos);
}

TEST(CommandTable, SaysWhatEveryCommandIsFor) {
    for (const Command* command : all_commands()) {
        EXPECT_FALSE(command->summary.empty()) << command->path;
        EXPECT_NE(command->run, nullptr) << command->path;
        for (const Option& option : command->options)
            EXPECT_FALSE(option.help.empty());
    }
}

TEST(ConnectionUrl, EncodesWhateverAPasswordOrNameHolds) {
    const Credentials credentials{"127.0.0.1", 5433, "postgres", Secret("a:b/c@d#e?f%g é"),
                                  "my db/1"};
    EXPECT_EQ(
        connection_url(credentials),
        "postgresql://postgres:a%3Ab%2Fc%40d%23e%3Ff%25g%20%C3%A9@127.0.0.1:5433/my%20db%2F1");
}

TEST(ConnectionUrl, LeavesThePasswordOutWithItsColon) {
    EXPECT_EQ(connection_url({"127.0.0.1", 5433, "postgres", Secret(), "postgres"}),
              "postgresql://postgres@127.0.0.1:5433/postgres");
}

TEST(ConnectionUrl, PutsBracketsAroundIpv6) {
    EXPECT_EQ(connection_url({"::1", 5433, "u", Secret("p"), "d"}),
              "postgresql://u:p@[::1]:5433/d");
}

TEST(Credentials, RefuseABranchWithoutAnAddress) {
    EXPECT_THROW(credentials_from({{"host", "127.0.0.1"}, {"port", nullptr}}), Error);
    EXPECT_THROW(credentials_from({{"port", 5432}}), Error);
    EXPECT_THROW(credentials_from({{"host", "h"}, {"port", 70000}}), Error);
    EXPECT_EQ(credentials_from({{"host", "h"}, {"port", 1}}).user, "postgres");
}

TEST(ShellAssignment, QuotesWhatAShellWouldRead) {
    EXPECT_EQ(shell_assignment("PGHOST", "127.0.0.1"), "PGHOST=127.0.0.1");
    EXPECT_EQ(shell_assignment("PGPASSWORD", "a'b $c"), "PGPASSWORD='a'\\''b $c'");
    EXPECT_EQ(shell_assignment("PGPASSWORD", ""), "PGPASSWORD=''");
}

TEST(PasswordFile, EscapesColonsAndBackslashesAndNamesOneServerOnly) {
    EXPECT_EQ(password_file_line({"::1", 5433, "postgres", Secret("a:b\\c"), "x"}),
              "\\:\\:1:5433:*:postgres:a\\:b\\\\c\n");
}

TEST(ExitCodes, FollowTheKindOfTheError) {
    using http::exit_code;
    EXPECT_EQ(exit_code(ErrorKind::kInvalid), ExitCode::kUsage);
    EXPECT_EQ(exit_code(ErrorKind::kNotFound), ExitCode::kNotFound);
    EXPECT_EQ(exit_code(ErrorKind::kPermission), ExitCode::kPermission);
    EXPECT_EQ(exit_code(ErrorKind::kConflict), ExitCode::kConflict);
    EXPECT_EQ(exit_code(ErrorKind::kUnavailable), ExitCode::kUnreachable);
    EXPECT_EQ(exit_code(ErrorKind::kExhausted), ExitCode::kExhausted);
    for (const ErrorKind kind :
         {ErrorKind::kTimeout, ErrorKind::kCancelled, ErrorKind::kCorrupt, ErrorKind::kInternal}) {
        EXPECT_EQ(exit_code(kind), ExitCode::kFailed);
    }
}

TEST(ExitCodes, FollowTheHttpStatus) {
    const std::vector<std::pair<int, int>> table{{400, 2}, {422, 2}, {404, 3}, {401, 4},
                                                 {403, 4}, {409, 5}, {503, 6}, {429, 8},
                                                 {507, 8}, {500, 1}, {502, 1}, {418, 1}};
    for (const auto& [status, code] : table) {
        EXPECT_EQ(static_cast<int>(http::exit_code_of_status(status)), code) << status;
    }
}

TEST(ExitCodes, AreTheSameThroughAProblemObject) {
    for (const ErrorKind kind :
         {ErrorKind::kInvalid, ErrorKind::kNotFound, ErrorKind::kPermission, ErrorKind::kConflict,
          ErrorKind::kExhausted, ErrorKind::kUnavailable, ErrorKind::kTimeout,
          ErrorKind::kCancelled, ErrorKind::kCorrupt, ErrorKind::kInternal}) {
        const ErrorInfo info{kind, "some_code", "what", "why", "fix"};
        EXPECT_EQ(http::error_from_problem(http::http_status(kind), http::problem(info)), info);
    }
}

TEST(Problem, IsMadeUpFromTheStatusWhereTheBodyIsNone) {
    for (const json& body : {json(nullptr), json("text"), json::array(), json{{"title", 7}}}) {
        const ErrorInfo info = http::error_from_problem(404, body);
        EXPECT_EQ(info.kind, ErrorKind::kNotFound);
        EXPECT_EQ(info.code, "http_404");
        EXPECT_FALSE(info.message.empty());
    }
}

TEST(FailedJob, ExitsByTheKindOfItsErrorButNeverAsUnreachable) {
    const auto exit_of = [](const char* kind) {
        return failure_of_job({{"id", "7k3m"},
                               {"operation", "branch-create"},
                               {"target", "p/d"},
                               {"state", "failed"},
                               {"error", {{"kind", kind}, {"code", "c"}, {"title", "t"}}}})
            .exit();
    };
    EXPECT_EQ(exit_of("invalid"), ExitCode::kUsage);
    EXPECT_EQ(exit_of("not_found"), ExitCode::kNotFound);
    EXPECT_EQ(exit_of("permission"), ExitCode::kPermission);
    EXPECT_EQ(exit_of("conflict"), ExitCode::kConflict);
    EXPECT_EQ(exit_of("exhausted"), ExitCode::kExhausted);
    EXPECT_EQ(exit_of("unavailable"), ExitCode::kFailed);
    EXPECT_EQ(exit_of("timeout"), ExitCode::kFailed);
    EXPECT_EQ(exit_of("internal"), ExitCode::kFailed);
}

TEST(FailedJob, NamesStepAndJobWhateverElseIsMissing) {
    const Failure failure = failure_of_job({{"id", "7k3m"},
                                            {"operation", "branch-create"},
                                            {"target", "p/d"},
                                            {"state", "failed"},
                                            {"error", {{"step", "start_instance"}}}});
    EXPECT_EQ(failure.info().message, "branch-create of p/d failed");
    EXPECT_EQ(failure.info().detail, "in step start_instance of branch-create of p/d");
    EXPECT_EQ(failure.info().hint, "see what it did: bpg job get 7k3m");
    EXPECT_EQ(failure.info().code, "job_failed");
    EXPECT_EQ(failure.job_id(), "7k3m");
}

TEST(Settings, FindTheSocketTheWayTheDaemonDoes) {
    EXPECT_EQ(Settings().socket(), "/run/betterpg/bpgd.sock");
    EXPECT_EQ(Settings::parse("paths: { run: /run/other }\n", "f").socket(),
              "/run/other/bpgd.sock");
    EXPECT_EQ(Settings::parse("paths:\n  run: /run/other\napi: { socket: /s }\n", "f").socket(),
              "/s");
}

TEST(Settings, NameTheLineOfAKey) {
    const Settings settings =
        Settings::parse("# head\nstorage:\n  root: /x\n  driver: btrfs\n", "f");
    ASSERT_TRUE(settings.find("storage.driver"));
    EXPECT_EQ(settings.find("storage.driver")->line, 4);
    EXPECT_EQ(settings.find("storage.driver")->value, "btrfs");
    EXPECT_FALSE(settings.find("storage.pool_file"));
}

TEST(Settings, SayWhereTheYamlIsBroken) {
    try {
        Settings::parse("a: 1\nb: [\n", "/etc/x.yaml");
        ADD_FAILURE();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), "config_invalid");
        EXPECT_TRUE(error.info().message.starts_with("/etc/x.yaml:3:")) << error.info().message;
    }
}

TEST(WithSettings, KeepsTheTextAndAddsOnlyWhatIsMissing) {
    EXPECT_EQ(
        with_settings("# mine\nstorage:   # here\n    root: /v  # volumes\nruntime: { driver: "
                      "process }\n",
                      {{"storage.driver", "btrfs"},
                       {"storage.root", "/other"},
                       {"runtime.stop_timeout", "30s"},
                       {"postgres.version", "15"}}),
        "# mine\nstorage:   # here\n    driver: btrfs\n    root: /v  # volumes\n"
        "runtime: { stop_timeout: \"30s\", driver: process }\n"
        "postgres:\n  version: \"15\"\n");
}

TEST(WithSettings, MakesAFileFromNothing) {
    EXPECT_EQ(
        with_settings("# head\n", {{"storage.pool_file", "/a b"}, {"storage.driver", "copy"}}),
        "# head\nstorage:\n  pool_file: \"/a b\"\n  driver: copy\n");
}

TEST(WithSettings, RefusesToGuessInAnEmptySection) {
    EXPECT_THROW(with_settings("storage:\n", {{"storage.driver", "copy"}}), Error);
}

}  // namespace
}  // namespace bpg::cli
