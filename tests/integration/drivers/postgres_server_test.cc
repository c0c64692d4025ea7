// The postgres port against a real server.
#include "orchestrator/postgres/session.h"
#include "tests/integration/drivers/instance_fixture.h"

namespace bpg::test {
namespace {

using PostgresServer = InstanceTest;

std::string tcp_conninfo(const Instance& instance, const std::string& password) {
    return fmt::format(
        "host=127.0.0.1 port={} user=postgres dbname=postgres sslmode=disable password={}",
        instance.port(), password);
}

TEST_F(PostgresServer, ReadyMeansAQueryIsAnsweredAndRecoveryIsOver) {
    Instance instance(drivers_);
    std::ofstream(instance.data() / "recovery.signal").close();
    // An archive that takes its time to say that it has nothing.
    const auto begin = std::chrono::steady_clock::now();
    const auto facts = instance.start_ready({{"restore_command", "sleep 1; false"}});
    EXPECT_GE(std::chrono::steady_clock::now() - begin, 1s);
    EXPECT_EQ(instance.sql("SELECT pg_is_in_recovery()"), "f");
    EXPECT_EQ(facts.timeline, 2U);
    EXPECT_EQ(facts.system_identifier,
              drivers_.run(drivers_.directories.control_file(instance.data())).system_identifier);
}

TEST_F(PostgresServer, ReadinessIsNotWaitedForLongerThanAllowed) {
    Instance instance(drivers_);
    std::ofstream(instance.data() / "recovery.signal").close();
    instance.start({{"restore_command", "sleep 3; false"}});
    const ErrorInfo error = drivers_.error_of(instance.await_ready(500ms));
    EXPECT_EQ(error.code, "postgres_not_ready");
    EXPECT_EQ(error.kind, ErrorKind::kTimeout);
}

TEST_F(PostgresServer, AReadyPidFileOfAKilledServerIsNotReady) {
    Instance instance(drivers_);
    instance.start_ready();
    const std::string stale = content_of(instance.data() / "postmaster.pid");
    instance.kill();
    std::ofstream(instance.data() / "postmaster.pid") << stale;
    const ErrorInfo error = drivers_.error_of(instance.await_ready(5s));
    EXPECT_EQ(error.code, "postgres_refused");
}

TEST_F(PostgresServer, AnotherBranchOnTheSocketIsRefused) {
    Instance instance(drivers_);
    instance.start_ready();
    postgres::Endpoint wrong = instance.endpoint();
    wrong.branch_id = new_id();
    const ErrorInfo error = drivers_.error_of(drivers_.postgres.fence(wrong));
    EXPECT_EQ(error.code, "wrong_instance");
    EXPECT_EQ(error.kind, ErrorKind::kConflict);
    EXPECT_NE(error.detail.find(instance.id()), std::string::npos) << error.detail;
}

TEST_F(PostgresServer, AServerThatDoesNotRunIsUnreachable) {
    Instance instance(drivers_);
    const ErrorInfo error = drivers_.error_of(drivers_.postgres.fence(instance.endpoint()));
    EXPECT_EQ(error.code, "postgres_unreachable");
    EXPECT_EQ(error.kind, ErrorKind::kUnavailable);
}

TEST_F(PostgresServer, OnlyRootComesInOverTheSocketAndOnlyAsPostgres) {
    Instance instance(drivers_);
    instance.start_ready();
    instance.sql("CREATE ROLE guest LOGIN SUPERUSER");
    const std::string as_guest =
        fmt::format("host={} port={} user=guest dbname=postgres",
                    instance.endpoint().socket_directory.native(), instance.port());
    EXPECT_THROW(pqxx::connection connection(as_guest), pqxx::broken_connection);
    // The user that all instances run as must not get from one branch into another.
    Command command;
    command.argv = {"setpriv",
                    "--reuid",
                    std::to_string(instance.owner().uid),
                    "--regid",
                    std::to_string(instance.owner().gid),
                    "--init-groups",
                    "psql",
                    "-X",
                    "-c",
                    "SELECT 1",
                    instance.conninfo()};
    const CommandResult result = run_command(command);
    EXPECT_FALSE(result.ok());
    EXPECT_NE(result.err.find("Peer authentication failed"), std::string::npos) << result.err;
}

TEST_F(PostgresServer, ABackupBeginsStandsAndEndsInOneSession) {
    Instance instance(drivers_);
    instance.start_ready();
    auto backup = drivers_.run(drivers_.postgres.start_backup(instance.endpoint(), "test", true));
    EXPECT_EQ(backup->start().timeline, 1U);
    EXPECT_EQ(backup->start().segment_size, 16U << 20U);
    EXPECT_EQ(instance.sql("SELECT count(*) FROM pg_replication_slots WHERE temporary"), "1");
    const auto position = drivers_.run(backup->position());
    const auto stop = drivers_.run(backup->stop());
    EXPECT_LE(backup->start().lsn, position.lsn);
    EXPECT_LE(position.lsn, stop.lsn);
    EXPECT_LT(std::chrono::abs(position.at - SystemClock().now()), 10s);
    EXPECT_NE(stop.label.find("LABEL: test\n"), std::string::npos) << stop.label;
    EXPECT_NE(stop.label.find("START WAL LOCATION: " + to_string(backup->start().lsn)),
              std::string::npos)
        << stop.label;
    // The WAL is needed until it has been copied, so the slot lives as long as the session.
    EXPECT_EQ(instance.sql("SELECT count(*) FROM pg_replication_slots"), "1");
    backup.reset();
    EXPECT_TRUE(
        soon([&] { return instance.sql("SELECT count(*) FROM pg_replication_slots") == "0"; }));
}

TEST_F(PostgresServer, DroppingABackupEndsItOnTheServer) {
    Instance instance(drivers_);
    instance.start_ready();
    const std::string sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bpgd'";
    auto backup = drivers_.run(drivers_.postgres.start_backup(instance.endpoint(), "test", false));
    EXPECT_EQ(instance.sql(sessions), "1");
    backup.reset();
    EXPECT_TRUE(soon([&] { return instance.sql(sessions) == "0"; }));
    // In backup mode a fast stop would still be clean, but this says so.
    EXPECT_NE(instance.log_tail().find("aborting backup"), std::string::npos)
        << instance.log_tail();
}

TEST_F(PostgresServer, ABackupWhoseSessionIsLostCannotBeEnded) {
    Instance instance(drivers_);
    instance.start_ready();
    auto backup = drivers_.run(drivers_.postgres.start_backup(instance.endpoint(), "test", false));
    instance.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'bpgd'");
    const ErrorInfo error = drivers_.error_of(backup->stop());
    EXPECT_EQ(error.kind, ErrorKind::kUnavailable);
    EXPECT_EQ(error.code, "postgres_unreachable");
    // Not connected anew behind our back: the backup would be another one.
    EXPECT_EQ(drivers_.error_of(backup->position()).kind, ErrorKind::kUnavailable);
}

TEST_F(PostgresServer, AFenceMakesAsynchronousCommitsDurable) {
    Instance instance(drivers_);
    const std::vector<std::pair<std::string, std::string>> lazy = {{"wal_writer_delay", "10s"},
                                                                   {"synchronous_commit", "off"}};
    instance.start_ready(lazy);
    instance.sql("CREATE TABLE t(i int)");
    instance.sql("CHECKPOINT");
    instance.sql("INSERT INTO t VALUES (42)");
    drivers_.run(drivers_.postgres.fence(instance.endpoint()));
    ASSERT_EQ(::kill(instance.pid(), SIGKILL), 0);
    ASSERT_TRUE(soon([&] { return instance.pid() == 0; }));
    instance.start_ready(lazy);
    EXPECT_EQ(instance.sql("SELECT i FROM t"), "42");
}

TEST_F(PostgresServer, OnlyTheVerifiersPasswordLogsIn) {
    Instance instance(drivers_);
    instance.start_ready({}, true);
    instance.sql("ALTER ROLE postgres PASSWORD 'of-the-parent'");
    const auto verify = [&](const std::string& password, const std::string& id) {
        return drivers_.postgres.verify_login("127.0.0.1", instance.port(), Secret(password), id);
    };
    drivers_.run(verify("of-the-parent", instance.id()));

    const std::string verifier = postgres::scram_verifier(Secret("of the 'branch\\"));
    drivers_.run(instance.await_ready(10s, verifier));
    drivers_.run(verify("of the 'branch\\", instance.id()));
    const ErrorInfo refused = drivers_.error_of(verify("of-the-parent", instance.id()));
    EXPECT_EQ(refused.code, "postgres_unreachable");
    EXPECT_EQ(refused.detail.find("of-the-parent"), std::string::npos);
    EXPECT_EQ(drivers_.error_of(verify("of the 'branch\\", new_id())).code, "wrong_instance");
    EXPECT_THROW(pqxx::connection connection(tcp_conninfo(instance, "of-the-parent")),
                 pqxx::broken_connection);
    EXPECT_EQ(instance.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'"),
              verifier);
}

TEST_F(PostgresServer, AVerifierAppearsInNoLogAndAPasswordIsNeverSent) {
    Instance instance(drivers_);
    instance.start_ready({{"log_statement", "all"}, {"log_min_duration_statement", "0"}});
    const std::string verifier = postgres::scram_verifier(Secret("secret"));
    drivers_.run(instance.await_ready(10s, verifier));
    EXPECT_EQ(content_of(instance.log()).find("SCRAM-SHA-256$"), std::string::npos);
    EXPECT_EQ(drivers_.error_of(instance.await_ready(10s, "secret")).code, "verifier_invalid");
}

TEST_F(PostgresServer, ABranchIsClosedUntilItsDoorIsOpened) {
    Instance instance(drivers_);
    instance.start_ready();
    instance.sql("ALTER ROLE postgres PASSWORD 'x'");
    const auto login = [&] {
        return drivers_.postgres.verify_login("127.0.0.1", instance.port(), Secret("x"),
                                              instance.id());
    };
    EXPECT_EQ(drivers_.error_of(login()).code, "postgres_unreachable");
    instance.write_config(true);
    drivers_.run(drivers_.runtime.reload(instance.ref()));
    EXPECT_TRUE(soon([&] {
        try {
            drivers_.run(login());
            return true;
        } catch (const Error&) {
            return false;
        }
    }));
}

TEST_F(PostgresServer, EverySubscriptionOfEveryDbnameIsDisabled) {
    Instance instance(drivers_);
    instance.start_ready({{"max_logical_replication_workers", "0"}});
    instance.sql("CREATE DATABASE \"we\"\"ird db\"");
    const auto subscribe = [&](const std::string& name, const std::string& dbname) {
        instance.sql("CREATE SUBSCRIPTION " + name +
                         " CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)",
                     dbname);
        instance.sql("ALTER SUBSCRIPTION " + name + " ENABLE", dbname);
    };
    subscribe("one", "postgres");
    subscribe("\"t'w\"\"o\"", "'we\"ird db'");
    EXPECT_TRUE(
        drivers_.run(drivers_.postgres.inspect_parent(instance.endpoint())).has_subscriptions);
    drivers_.run(drivers_.postgres.disable_subscriptions(instance.endpoint()));
    EXPECT_EQ(instance.sql("SELECT count(*) FROM pg_subscription WHERE subenabled"), "0");
    EXPECT_EQ(instance.sql("SELECT count(*) FROM pg_subscription"), "2");
    drivers_.run(drivers_.postgres.disable_subscriptions(instance.endpoint()));
}

TEST_F(PostgresServer, ASubscriptionThatCannotBeReachedIsNamed) {
    Instance instance(drivers_);
    instance.start_ready({{"max_logical_replication_workers", "0"}});
    instance.sql("CREATE DATABASE closed");
    instance.sql(
        "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p"
        " WITH (connect = false)",
        "closed");
    instance.sql("ALTER SUBSCRIPTION s ENABLE", "closed");
    instance.sql("ALTER DATABASE closed ALLOW_CONNECTIONS false");
    const ErrorInfo error =
        drivers_.error_of(drivers_.postgres.disable_subscriptions(instance.endpoint()));
    EXPECT_EQ(error.code, "subscriptions_enabled");
    EXPECT_NE(error.message.find("closed"), std::string::npos) << error.message;
}

TEST_F(PostgresServer, AParentSaysWhatMattersForABranch) {
    Instance instance(drivers_);
    instance.start_ready({{"max_prepared_transactions", "2"}, {"full_page_writes", "off"}});
    auto facts = drivers_.run(drivers_.postgres.inspect_parent(instance.endpoint()));
    EXPECT_EQ(facts.version_num / 10000, Place::get().major());
    EXPECT_TRUE(facts.fsync);
    EXPECT_FALSE(facts.full_page_writes);
    EXPECT_EQ(facts.unlogged_relations, 0);
    EXPECT_EQ(facts.prepared_transactions, 0);
    EXPECT_FALSE(facts.has_subscriptions);

    instance.sql("CREATE DATABASE other");
    instance.sql("CREATE UNLOGGED TABLE u(i int)");
    instance.sql("CREATE UNLOGGED TABLE v(i int)", "other");
    instance.sql("CREATE TABLE w(i int)");
    instance.sql("BEGIN; INSERT INTO w VALUES (1); PREPARE TRANSACTION 'p'");
    facts = drivers_.run(drivers_.postgres.inspect_parent(instance.endpoint()));
    EXPECT_EQ(facts.unlogged_relations, 2);
    EXPECT_EQ(facts.prepared_transactions, 1);
}

TEST_F(PostgresServer, WhatUsersDefineDoesNotReachOurSessions) {
    Instance instance(drivers_);
    instance.start_ready();
    instance.sql("CREATE SCHEMA evil");
    instance.sql(
        "CREATE FUNCTION evil.pg_current_wal_insert_lsn() RETURNS pg_lsn"
        " LANGUAGE sql AS $$ SELECT '0/1'::pg_lsn $$");
    // In one session: they hold for the next.
    std::string traps =
        "ALTER ROLE postgres SET search_path = evil, pg_catalog;"
        "ALTER ROLE postgres SET statement_timeout = 1;"
        "ALTER ROLE postgres SET default_transaction_read_only = on;";
    if (Place::get().major() >= 17) {
        traps +=
            "CREATE FUNCTION evil.refuse() RETURNS event_trigger LANGUAGE plpgsql"
            " AS $$ BEGIN RAISE 'no'; END $$;"
            "CREATE EVENT TRIGGER no ON login EXECUTE FUNCTION evil.refuse();";
    }
    instance.sql(traps);
    if (Place::get().major() >= 17) {
        EXPECT_THROW(pqxx::connection connection(instance.conninfo()), pqxx::broken_connection);
    }
    const auto session = drivers_.run(drivers_.postgres.fence(instance.endpoint()));
    EXPECT_GT(drivers_.run(session->position()).lsn.value, 0x1000000U);
    drivers_.run(drivers_.postgres.checkpoint(instance.endpoint()));
    drivers_.run(instance.await_ready(10s, postgres::scram_verifier(Secret("x"))));
}

TEST_F(PostgresServer, AStatementThatTakesTooLongIsATimeout) {
    Instance instance(drivers_);
    instance.start_ready();
    postgres::VersionMemory versions;
    const auto endpoint = instance.endpoint();
    postgres::SessionTarget target;
    target.host = endpoint.socket_directory.native();
    target.port = endpoint.port;
    target.branch_id = endpoint.branch_id;
    target.statement_timeout = 100ms;
    postgres::Session session(target, versions);
    try {
        session.ask("SELECT pg_sleep(10)");
        FAIL() << "the statement was not ended";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), "postgres_timeout");
        EXPECT_EQ(error.kind(), ErrorKind::kTimeout);
    }
}

TEST_F(PostgresServer, AServerThatStopsAnsweringIsCutOff) {
    Instance instance(drivers_);
    instance.start_ready();
    postgres::VersionMemory versions;
    const auto endpoint = instance.endpoint();
    postgres::SessionTarget target;
    target.host = endpoint.socket_directory.native();
    target.port = endpoint.port;
    target.branch_id = endpoint.branch_id;
    target.statement_timeout = 0ms;
    postgres::Session session(target, versions);
    postgres::Cutoff cutoff;
    EXPECT_EQ(cutoff.watch(session.socket()), -1);
    std::thread cutter([&] {
        std::this_thread::sleep_for(200ms);
        cutoff.cut();
    });
    EXPECT_THROW(session.ask("SELECT pg_sleep(600)"), Error);
    cutter.join();
    EXPECT_TRUE(cutoff.was_cut());
}

}  // namespace
}  // namespace bpg::test
