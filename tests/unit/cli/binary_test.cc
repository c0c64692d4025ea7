// The built bpg against a real server on a unix socket that answers, breaks off, or is not there.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>

#include <chrono>
#include <fstream>
#include <sstream>

#include "tests/unit/cli/peer.h"

namespace bpg::cli::test {
namespace {

using nlohmann::json;
using std::chrono::steady_clock;
using ::testing::HasSubstr;
using ::testing::Not;

json job_in(const std::string& state, json error = nullptr) {
    return {
        {"id", "7k3m0000000000aa"}, {"operation", "branch-create"},    {"target", "prod/dev"},
        {"state", state},           {"result", {{"ref", "prod/dev"}}}, {"error", std::move(error)}};
}

json branch() {
    return {{"id", "b1"},         {"ref", "prod/dev"},   {"parent", "prod/main"},
            {"state", "running"}, {"host", "127.0.0.1"}, {"port", 5433}};
}

constexpr const char* kEvents = "/v1/jobs/7k3m0000000000aa/events";
constexpr const char* kJob = "/v1/jobs/7k3m0000000000aa";

class BinaryTest : public ::testing::Test {
  protected:
    CommandResult bpg(std::vector<std::string> words) { return run_bpg(socket_, std::move(words)); }

    TemporaryDirectory directory_;
    std::filesystem::path socket_ = directory_ / "bpgd.sock";
};

/// A whole branch-create that succeeds.
void serve_create(const PeerRequest& request, const Connection& connection) {
    if (request.method == "POST") {
        connection.answer(202, job_in("queued"));
    } else if (request.target.starts_with(kEvents)) {
        connection.begin_stream();
        connection.event(1, "job_queued", "");
        connection.event(2, "step_done", "take_snapshot");
        connection.event(3, "step_done", "start_instance");
        connection.end_stream();
    } else if (request.target == kJob) {
        connection.answer(200, job_in("succeeded"));
    } else {
        connection.answer(200, branch());
    }
}

TEST_F(BinaryTest, ShowsALineAStepAndPrintsWhatItMade) {
    Peer peer(socket_, serve_create);
    const CommandResult result =
        bpg({"-o", "name", "branch", "create", "prod/dev", "--from", "prod/main", "--fast"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.out, "prod/dev\n");
    EXPECT_EQ(result.err,
              "take_snapshot                    20 ms\n"
              "start_instance                   30 ms\n");
    const auto requests = peer.requests();
    EXPECT_EQ(json::parse(requests[0].body),
              (json{{"ref", "prod/dev"}, {"from", "prod/main"}, {"fast", true}}));
    EXPECT_EQ(requests[1].target, std::string(kEvents) + "?after=0&follow=1");
}

TEST_F(BinaryTest, PrintsWithJsonTheObjectItMadeAndNothingOnStderr) {
    Peer peer(socket_, serve_create);
    const CommandResult result = bpg({"-o", "json", "branch", "create", "prod/dev"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(json::parse(result.out), branch());
    EXPECT_EQ(result.err, "");
}

TEST_F(BinaryTest, IsQuietOnStderrAndPrintsTheNameAlone) {
    Peer peer(socket_, serve_create);
    const CommandResult result = bpg({"-q", "-o", "name", "branch", "create", "prod/dev"});
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_EQ(result.out, "prod/dev\n");
    EXPECT_EQ(result.err, "");
}

TEST_F(BinaryTest, SendsAFreshIdempotencyKeyOrTheGivenOne) {
    Peer peer(socket_, [](const PeerRequest&, const Connection& connection) {
        connection.answer(202, job_in("queued"));
    });
    for (int i = 0; i < 2; ++i)
        bpg({"--no-wait", "db", "create", "prod"});
    bpg({"--no-wait", "--idempotency-key", "mine", "db", "delete", "prod"});
    const auto requests = peer.requests();
    ASSERT_EQ(requests.size(), 3U);
    EXPECT_EQ(requests[0].header("Idempotency-Key").size(), 32U);
    EXPECT_NE(requests[0].header("Idempotency-Key"), requests[1].header("Idempotency-Key"));
    EXPECT_EQ(requests[2].header("Idempotency-Key"), "mine");
    EXPECT_EQ(requests[2].method + " " + requests[2].target, "DELETE /v1/databases/prod");
}

TEST_F(BinaryTest, PrintsTheJobWithNoWait) {
    Peer peer(socket_, serve_create);
    const CommandResult result = bpg({"--no-wait", "-o", "json", "branch", "create", "prod/dev"});
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_EQ(json::parse(result.out), job_in("queued"));
    EXPECT_EQ(peer.requests().size(), 1U);
}

TEST_F(BinaryTest, PrintsTheExistingObjectAndSaysWhenItHasAnotherParent) {
    Peer peer(socket_, [](const PeerRequest&, const Connection& connection) {
        connection.answer(200, branch());
    });
    const CommandResult result =
        bpg({"-o", "name", "branch", "create", "prod/dev", "--if-not-exists", "--from", "prod/x"});
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_EQ(result.out, "prod/dev\n");
    EXPECT_EQ(result.err,
              "note: prod/dev was there already, made from prod/main, not from prod/x\n");
}

TEST_F(BinaryTest, ReconnectsABrokenStreamWithoutRepeatingOrLosingALine) {
    int streams = 0;
    Peer peer(socket_, [&streams](const PeerRequest& request, const Connection& connection) {
        if (!request.target.starts_with(kEvents)) return serve_create(request, connection);
        connection.begin_stream();
        if (++streams == 1) {
            connection.event(1, "step_done", "one");
            connection.event(2, "step_done", "two");
            connection.send("40\r\n{\"seq\":3,\"type\":\"ste");  // broken off inside an event
            return;
        }
        connection.event(2, "step_done", "two");  // a server that repeats must not show
        connection.event(3, "step_done", "three");
        connection.end_stream();
    });
    const CommandResult result = bpg({"-o", "name", "branch", "create", "prod/dev"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.err,
              "one                              10 ms\n"
              "two                              20 ms\n"
              "bpgd is away (the connection was closed); trying again for 10 s\n"
              "three                            30 ms\n");
    EXPECT_EQ(peer.requests()[2].target, std::string(kEvents) + "?after=2&follow=1");
}

TEST_F(BinaryTest, KeepsFollowingWhenTheStreamEndsBeforeTheJob) {
    int looks = 0;
    Peer peer(socket_, [&looks](const PeerRequest& request, const Connection& connection) {
        if (request.target == kJob && ++looks == 1)
            return connection.answer(200, job_in("running"));
        serve_create(request, connection);
    });
    const CommandResult result = bpg({"-o", "name", "branch", "create", "prod/dev"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(looks, 2);
}

TEST_F(BinaryTest, SendsALostRequestAgainWithTheSameKey) {
    int posts = 0;
    Peer peer(socket_, [&posts](const PeerRequest& request, const Connection& connection) {
        if (request.method == "POST" && ++posts == 1) return;  // closed without an answer
        serve_create(request, connection);
    });
    const CommandResult result = bpg({"-o", "name", "branch", "create", "prod/dev"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const auto requests = peer.requests();
    EXPECT_EQ(requests[0].header("Idempotency-Key"), requests[1].header("Idempotency-Key"));
    EXPECT_EQ(requests[0].body, requests[1].body);
}

TEST_F(BinaryTest, Exits6AtOnceWithoutADaemon) {
    for (const auto& words : std::vector<std::vector<std::string>>{{"status"},
                                                                   {"branch", "create", "prod/dev"},
                                                                   {"url", "prod/dev"},
                                                                   {"job", "tail", "x"}}) {
        const auto begin = steady_clock::now();
        const CommandResult result = bpg(words);
        EXPECT_EQ(result.exit_code, 6);
        EXPECT_EQ(result.out, "");
        EXPECT_THAT(result.err, HasSubstr("  code: daemon_unreachable\n"));
        EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(5));
    }
}

TEST_F(BinaryTest, Exits6WhileTheDaemonIsStarting) {
    Peer peer(socket_, [](const PeerRequest&, const Connection& connection) {
        connection.answer(503, {{"code", "starting"}, {"title", "bpgd is starting"}});
    });
    const CommandResult result = bpg({"status"});
    EXPECT_EQ(result.exit_code, 6);
    EXPECT_EQ(result.err, "error: bpgd is starting\n  code: starting\n");
}

TEST_F(BinaryTest, GivesUpOnALostDaemonAfterTenSecondsNamingTheJob) {
    auto peer = std::make_unique<Peer>(
        socket_, [this](const PeerRequest& request, const Connection& connection) {
            if (request.method == "POST") return connection.answer(202, job_in("queued"));
            std::filesystem::remove(socket_);
        });
    const auto begin = steady_clock::now();
    const CommandResult result = bpg({"branch", "create", "prod/dev"});
    const auto took = steady_clock::now() - begin;
    EXPECT_EQ(result.exit_code, 6);
    EXPECT_THAT(result.err, HasSubstr("bpg job tail -f 7k3m0000000000aa\n"));
    EXPECT_GT(took, std::chrono::seconds(9));
    EXPECT_LT(took, std::chrono::seconds(15));
}

TEST_F(BinaryTest, Exits7WhenTheTimeIsOverAndSaysThatTheJobGoesOn) {
    Peer peer(socket_, [](const PeerRequest& request, const Connection& connection) {
        if (request.method == "POST") return connection.answer(202, job_in("queued"));
        connection.begin_stream();
        connection.event(1, "step_done", "one");
        connection.wait_for_close();
    });
    const CommandResult result = bpg({"--timeout", "300ms", "branch", "create", "prod/dev"});
    EXPECT_EQ(result.exit_code, 7);
    EXPECT_EQ(result.err,
              "one                              10 ms\n"
              "error: job 7k3m0000000000aa did not finish within 300ms\n"
              "  why:  --timeout ends the waiting, not the job\n"
              "  fix:  the job goes on; follow it with: bpg job tail -f 7k3m0000000000aa\n"
              "  code: timed_out\n");
}

TEST_F(BinaryTest, Exits7WhenAPlainRequestIsNotAnsweredInTime) {
    Peer peer(socket_, [](const PeerRequest&, const Connection& connection) {
        connection.wait_for_close();
    });
    EXPECT_EQ(bpg({"--timeout", "200ms", "status"}).exit_code, 7);
}

TEST_F(BinaryTest, DetachesOnCtrlCNamingTheJob) {
    Peer peer(socket_, [](const PeerRequest& request, const Connection& connection) {
        if (request.method == "POST") return connection.answer(202, job_in("queued"));
        connection.begin_stream();
        connection.wait_for_close();
    });
    const std::filesystem::path log = directory_ / "log";
    const pid_t pid = spawn_detached(
        {{BPG_BINARY, "--socket", socket_.string(), "branch", "create", "prod/dev"}, {}, log});
    ASSERT_TRUE(peer.saw_requests(2));
    kill(pid, SIGINT);
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 130);
    EXPECT_EQ(read_file(log).value_or(""),
              "error: no longer waiting for job 7k3m0000000000aa\n"
              "  why:  interrupted\n"
              "  fix:  the job goes on; follow it with: bpg job tail -f 7k3m0000000000aa\n"
              "  code: detached\n");
}

TEST_F(BinaryTest, ExitsByTheKindOfAFailedJob) {
    Peer peer(socket_, [](const PeerRequest& request, const Connection& connection) {
        if (request.target != kJob) return serve_create(request, connection);
        connection.answer(200, job_in("failed", {{"kind", "exhausted"},
                                                 {"code", "no_space"},
                                                 {"title", "cannot write"},
                                                 {"detail", "No space left on device"},
                                                 {"hint", "free space"},
                                                 {"step", "take_snapshot"}}));
    });
    const CommandResult result = bpg({"-q", "branch", "create", "prod/dev"});
    EXPECT_EQ(result.exit_code, 8);
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(result.err,
              "error: cannot write\n"
              "  why:  No space left on device\n"
              "        in step take_snapshot of branch-create of prod/dev\n"
              "  fix:  free space\n"
              "  code: no_space\n");
}

TEST_F(BinaryTest, PrintsAnErrorAsOneJsonObjectOnStderr) {
    Peer peer(socket_, [](const PeerRequest&, const Connection& connection) {
        connection.answer(409, {{"code", "branch_exists"},
                                {"title", "branch prod/dev exists"},
                                {"detail", "since yesterday"},
                                {"hint", "choose another name"},
                                {"kind", "conflict"}});
    });
    const CommandResult result = bpg({"branch", "create", "prod/dev", "-o", "json"});
    EXPECT_EQ(result.exit_code, 5);
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1);
    const json error = json::parse(result.err);
    EXPECT_EQ(error["code"], "branch_exists");
    EXPECT_EQ(error["detail"], "since yesterday");
    EXPECT_EQ(error["hint"], "choose another name");
    EXPECT_EQ(error["status"], 409);
}

TEST_F(BinaryTest, AnswersAWrongNameWithoutADaemon) {
    const CommandResult result = bpg({"branch", "create", "prod"});
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.err, HasSubstr("did you mean prod/main?"));
}

TEST_F(BinaryTest, TailFollowsOverARestartAndEndsLikeTheJob) {
    int streams = 0;
    Peer peer(socket_, [&streams](const PeerRequest& request, const Connection& connection) {
        if (request.target == kJob) {
            return connection.answer(200,
                                     job_in("failed", {{"kind", "conflict"}, {"code", "busy"}}));
        }
        if (++streams == 2) return connection.answer(503, {{"code", "starting"}});
        connection.begin_stream();
        if (streams == 1) return connection.event(4, "step_done", "one");
        connection.event(5, "job_failed", "");
        connection.end_stream();
    });
    const CommandResult result =
        bpg({"-q", "-o", "json", "job", "tail", "-f", "7k3m0000000000aa", "--from-event", "4"});
    EXPECT_EQ(result.exit_code, 5);
    std::istringstream lines(result.out);
    std::vector<int> seen;
    for (std::string line; std::getline(lines, line);)
        seen.push_back(json::parse(line)["seq"]);
    EXPECT_EQ(seen, (std::vector<int>{4, 5}));
    EXPECT_EQ(peer.requests()[0].target, std::string(kEvents) + "?after=3&follow=1");
}

TEST_F(BinaryTest, PrintsUrlAndEnvironmentWithThePassword) {
    Peer peer(socket_, [](const PeerRequest& request, const Connection& connection) {
        if (!request.target.ends_with("/credentials")) return connection.answer(200, branch());
        connection.answer(200, {{"host", "127.0.0.1"},
                                {"port", 5433},
                                {"user", "postgres"},
                                {"password", "s/c"},
                                {"dbname", "postgres"}});
    });
    EXPECT_EQ(bpg({"url", "prod/dev"}).out,
              "postgresql://postgres:s%2Fc@127.0.0.1:5433/postgres\n");
    EXPECT_EQ(bpg({"url", "prod/dev", "--dbname", "app", "--no-password"}).out,
              "postgresql://postgres@127.0.0.1:5433/app\n");
    EXPECT_EQ(json::parse(bpg({"url", "prod/dev", "-o", "json"}).out),
              (json{{"url", "postgresql://postgres:s%2Fc@127.0.0.1:5433/postgres"}}));
    EXPECT_EQ(
        bpg({"env", "prod/dev"}).out,
        "PGHOST=127.0.0.1\nPGPORT=5433\nPGUSER=postgres\nPGPASSWORD=s/c\nPGDATABASE=postgres\n");
    EXPECT_EQ(json::parse(bpg({"env", "prod/dev", "-o", "json"}).out)["PGPORT"], "5433");
}

TEST_F(BinaryTest, ListsBranchesAsATreeBelowTheirParents) {
    const auto item = [](const char* ref, json parent) {
        return json{{"ref", ref}, {"parent", std::move(parent)}, {"state", "running"}, {"port", 1}};
    };
    Peer peer(socket_, [&item](const PeerRequest&, const Connection& connection) {
        connection.answer(200, {{"items",
                                 {item("p/main", nullptr), item("p/a", "p/main"),
                                  item("p/b", "p/main"), item("p/c", "p/a")}}});
    });
    const CommandResult result = bpg({"branch", "list", "p", "--tree"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.out, HasSubstr("\np/main "));
    EXPECT_THAT(result.out, HasSubstr("\n├─ p/a "));
    EXPECT_THAT(result.out, HasSubstr("\n│  └─ p/c "));
    EXPECT_THAT(result.out, HasSubstr("\n└─ p/b "));
    EXPECT_EQ(peer.requests()[0].target, "/v1/branches?database=p");
    EXPECT_EQ(bpg({"branch", "list", "-o", "name"}).out, "p/main\np/a\np/b\np/c\n");
}

TEST_F(BinaryTest, StopsEveryBranchOfADatabaseAndReportsTheOneThatFails) {
    Peer peer(socket_, [](const PeerRequest& request, const Connection& connection) {
        if (request.target == "/v1/branches?database=p") {
            return connection.answer(200, {{"items",
                                            {{{"ref", "p/main"}, {"state", "running"}},
                                             {{"ref", "p/new"}, {"state", "creating"}},
                                             {{"ref", "p/a"}, {"state", "running"}}}}});
        }
        if (request.target == "/v1/branches/p/main/stop") {
            return connection.answer(409, {{"code", "busy"}, {"title", "p/main is busy"}});
        }
        connection.answer(200, {{"ref", "p/a"}, {"state", "stopped"}});
    });
    const CommandResult result = bpg({"stop", "p", "-o", "name"});
    EXPECT_EQ(result.exit_code, 5);
    EXPECT_EQ(result.out, "p/a\n");
    EXPECT_THAT(result.err, HasSubstr("error: p/main is busy\n"));
    EXPECT_THAT(result.err, Not(HasSubstr("p/new")));
}

/// Runs bpg on a terminal, types `input` as soon as it asks, and gives back its exit code.
int run_on_terminal(const std::vector<std::string>& words, const std::string& input,
                    std::string& screen) {
    int terminal = -1;
    const pid_t pid = forkpty(&terminal, nullptr, nullptr, nullptr);
    if (pid == 0) {
        std::vector<std::string> texts = words;
        std::vector<char*> argv;
        for (std::string& text : texts)
            argv.push_back(text.data());
        argv.push_back(nullptr);
        execv(argv[0], argv.data());
        _exit(127);
    }
    const UniqueFd fd(terminal);
    bool typed = false;
    char piece[512];
    for (ssize_t count = 0; (count = read(fd.get(), piece, sizeof piece)) > 0;) {
        screen.append(piece, static_cast<std::size_t>(count));
        if (!typed && screen.find("[y/N]") != std::string::npos) {
            EXPECT_GT(write(fd.get(), input.data(), input.size()), 0);
            typed = true;
        }
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(BinaryTest, AsksOnATerminalBeforeItDeletes) {
    Peer peer(socket_, [](const PeerRequest&, const Connection& connection) {
        connection.answer(202, job_in("queued"));
    });
    std::vector<std::string> words{BPG_BINARY, "--no-wait", "-o",     "name",    "--socket",
                                   socket_,    "branch",    "delete", "prod/dev"};
    std::string screen;
    EXPECT_EQ(run_on_terminal(words, "n\n", screen), 1);
    EXPECT_THAT(screen, HasSubstr("Delete the branch prod/dev? [y/N]"));
    EXPECT_TRUE(peer.requests().empty());
    EXPECT_EQ(run_on_terminal(words, "y\n", screen), 0);
    EXPECT_EQ(peer.requests().size(), 1U);
    words.emplace_back("--yes");
    screen.clear();
    EXPECT_EQ(run_on_terminal(words, "", screen), 0);
    EXPECT_THAT(screen, Not(HasSubstr("[y/N]")));
}

TEST_F(BinaryTest, LinksNothingOfTheDaemon) {
    const CommandResult result = run_words({"ldd", BPG_BINARY});
    ASSERT_TRUE(result.ok()) << result.err;
    EXPECT_THAT(result.out, HasSubstr("libyaml-cpp"));
    for (const char* library : {"rocksdb", "pqxx", "libpq.", "prometheus", "civetweb"}) {
        EXPECT_THAT(result.out, Not(HasSubstr(library)));
    }
}

}  // namespace
}  // namespace bpg::cli::test
