// bpg psql with a real PostgreSQL that wants a password: it gets in, and the password is neither in
// the arguments nor in the environment of psql.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "tests/unit/cli/peer.h"

namespace bpg::cli::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kPassword = "s3cr:et\\pass'word";

std::filesystem::path newest_bin() {
    std::filesystem::path best;
    for (const auto& entry : std::filesystem::directory_iterator("/usr/lib/postgresql")) {
        if (std::filesystem::exists(entry.path() / "bin/postgres")) {
            best = std::max(best, entry.path() / "bin");
        }
    }
    return best;
}

/// A port nobody listens on just now.
int free_port() {
    const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* name = reinterpret_cast<sockaddr*>(&address);
    if (bind(fd.get(), name, size) != 0 || getsockname(fd.get(), name, &size) != 0) return 0;
    return ntohs(address.sin_port);
}

class Psql : public ::testing::Test {
  protected:
    void SetUp() override {
        port_ = free_port();
        const std::filesystem::path home = directory_ / "pg";
        const FileOwner owner = lookup_user("postgres");
        std::filesystem::permissions(directory_ / ".", std::filesystem::perms(0755));
        ensure_directory(home, 0700, owner);
        write_file_durably(home / "pw", std::string(kPassword) + "\n", 0600, owner);
        as_postgres({bin_ / "initdb", "-D", home / "data", "-U", "postgres", "--pwfile",
                     home / "pw", "-A", "scram-sha-256", "--no-sync"});
        as_postgres({bin_ / "pg_ctl", "-D", home / "data", "-w", "-l", home / "log", "-o",
                     fmt::format("-p {} -k '' -c listen_addresses=127.0.0.1 -c fsync=off", port_),
                     "start"});
        peer_ = std::make_unique<Peer>(directory_ / "bpgd.sock",
                                       [this](const PeerRequest&, const Connection& connection) {
                                           connection.answer(200, {{"host", "127.0.0.1"},
                                                                   {"port", port_},
                                                                   {"user", "postgres"},
                                                                   {"password", kPassword},
                                                                   {"dbname", "postgres"}});
                                       });
    }
    void TearDown() override {
        as_postgres({bin_ / "pg_ctl", "-D", directory_ / "pg/data", "-m", "immediate", "stop"});
    }
    void as_postgres(std::vector<std::string> argv) {
        argv.insert(argv.begin(),
                    {"setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"});
        const CommandResult result = run_words(argv);
        ASSERT_TRUE(result.ok()) << argv[4] << ": " << result.err << result.out;
    }

    TemporaryDirectory directory_;
    std::filesystem::path bin_ = newest_bin();
    int port_ = 0;
    std::unique_ptr<Peer> peer_;
};

TEST_F(Psql, GetsInAndShowsThePasswordNowhere) {
    const std::filesystem::path socket = directory_ / "bpgd.sock";
    const CommandResult query =
        run_bpg(socket, {"psql", "prod/dev", "--", "-XAtc", "select 'in as ' || current_user"});
    EXPECT_EQ(query.out, "in as postgres\n") << query.err;

    // Reconnecting reads the password a second time; then what /proc says of psql itself.
    const CommandResult look = run_bpg(
        socket, {"psql", "prod/dev", "--", "-XAt", "-c", "\\connect", "-c",
                 "\\! tr '\\0' '\\n' < /proc/$PPID/environ; tr '\\0' '\\n' < /proc/$PPID/cmdline"});
    EXPECT_EQ(look.exit_code, 0) << look.err;
    EXPECT_THAT(look.out, HasSubstr("PGPASSFILE="));
    EXPECT_THAT(look.out, HasSubstr("PGDATABASE=postgres"));
    EXPECT_THAT(look.out, Not(HasSubstr("s3cr")));
    EXPECT_THAT(look.out, Not(HasSubstr("PGPASSWORD")));
}

TEST_F(Psql, EndsWithTheExitCodeOfPsql) {
    EXPECT_EQ(run_bpg(directory_ / "bpgd.sock", {"psql", "prod/dev", "--", "-Xc", "select 1/0"})
                  .exit_code,
              1);
}

}  // namespace
}  // namespace bpg::cli::test
