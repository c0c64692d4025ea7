// What a user meets when a configuration is read: defaults, what follows from what, and the exact
// words and places of refusals.
#include "orchestrator/config/config.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "orchestrator/base/error.h"
#include "orchestrator/config/fields.h"

namespace bpg::config {
namespace {

using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;

ErrorInfo refusal(const std::string& text, const OwnedSetting& is_owned = {}) {
    try {
        parse(text, "c.yaml", is_owned);
    } catch (const Error& error) {
        return error.info();
    }
    return {ErrorKind::kInternal, "was_accepted", text, "", ""};
}

std::filesystem::path example_file() {
    return std::filesystem::path(__FILE__).parent_path() / "../../../deploy/config.example.yaml";
}

std::string content_of(const std::filesystem::path& file) {
    std::ifstream stream(file);
    std::ostringstream text;
    text << stream.rdbuf();
    return text.str();
}

class ConfigFile : public testing::Test {
  protected:
    void SetUp() override {
        std::string name = (std::filesystem::temp_directory_path() / "bpg-config-XXXXXX").string();
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        directory_ = name;
    }
    void TearDown() override { std::filesystem::remove_all(directory_); }

    std::filesystem::path directory_;
};

TEST(Config, ExampleFileIsTheCompleteListWithTheDefaultsAndTheirSentences) {
    EXPECT_EQ(content_of(example_file()), to_yaml(Config{}, Comments::kOnEachKey));
}

TEST(Config, ExampleFileReadsAsTheDefaults) {
    EXPECT_EQ(parse(content_of(example_file()), "example"), Config{});
}

TEST(Config, EveryKeyOfTheParserStandsInTheExampleWithItsDefault) {
    const YAML::Node example = YAML::LoadFile(example_file());
    for (const Field& field : fields()) {
        YAML::Node node;
        node.reset(example);
        std::istringstream parts{std::string(field.path)};
        for (std::string part; std::getline(parts, part, '.');) {
            ASSERT_TRUE(node.IsMap() && node[part]) << field.path;
            node.reset(node[part]);
        }
        Config config;
        config.postgres.config.clear();
        field.read(config, node, field, {});
        EXPECT_EQ(field.show(config), field.show(Config{})) << field.path;
    }
}

TEST(Config, AnEmptyFileMeansTheDefaults) {
    EXPECT_EQ(parse("", "c.yaml"), Config{});
    EXPECT_EQ(parse("# nothing\n---\n", "c.yaml"), Config{});
    EXPECT_EQ(parse("storage:\njobs: {}\n", "c.yaml"), Config{});
}

TEST(Config, ReadsTheFormOfTheDocumentation) {
    const Config config = parse(R"(
zfs: { pool: tank2, datasetBase: a/b }
postgres:
  version: "16"
  config: { Work_Mem: 64MB, max_connections: 20, fsync: off }
storage: { driver: btrfs, root: /srv/v/, reserve: 10G, pool_file: /srv/p.img, pool_size: 5G }
runtime:
  driver: process
  limits: { memory: 2GiB, pids: 100, shm: 64MiB }
  stop_timeout: 1m30s
network: { listen: "::1", ports: 6000-6009 }
metrics: { listen: "[::1]:9000" }
jobs: { running_max: 2, keep: { failed: 1w } }
trash: { keep: 0s }
retention: { max_fraction: 0.25 }
)",
                                "c.yaml");
    EXPECT_EQ(config.zfs.pool, "tank2");
    EXPECT_EQ(config.zfs.dataset_base, "a/b");
    EXPECT_EQ(config.postgres.version, "16");
    const std::map<std::string, std::string> settings{
        {"fsync", "off"}, {"max_connections", "20"}, {"work_mem", "64MB"}};
    EXPECT_EQ(config.postgres.config, settings);
    EXPECT_EQ(config.storage.driver, StorageDriver::kBtrfs);
    EXPECT_EQ(config.storage.root, "/srv/v");
    EXPECT_EQ(config.storage.reserve, (Reserve{.fraction = 0, .bytes = 10ULL << 30}));
    EXPECT_EQ(config.storage.pool_file, "/srv/p.img");
    EXPECT_EQ(config.storage.pool_size, 5ULL << 30);
    EXPECT_EQ(config.runtime.driver, RuntimeDriver::kProcess);
    EXPECT_EQ(config.runtime.limits.memory, 2ULL << 30);
    EXPECT_EQ(config.runtime.limits.pids, 100U);
    EXPECT_EQ(config.runtime.limits.shm, 64ULL << 20);
    EXPECT_EQ(config.runtime.stop_timeout, seconds(90));
    EXPECT_EQ(config.network.listen, "::1");
    EXPECT_EQ(config.network.ports, (PortRange{.first = 6000, .last = 6009}));
    EXPECT_EQ(config.metrics.listen, (Endpoint{.host = "::1", .port = 9000}));
    EXPECT_EQ(config.jobs.running_max, 2U);
    EXPECT_EQ(config.jobs.keep.failed, hours(24 * 7));
    EXPECT_EQ(config.trash.keep, seconds(0));
    EXPECT_EQ(config.retention.max_fraction, 0.25);
    EXPECT_EQ(config.postgres.locale, "C.UTF-8");
    EXPECT_EQ(config.jobs.queued_max, 1000U);
}

TEST(Config, PathsThatAreLeftOutFollowTheStateAndRunDirectories) {
    const Config moved = parse("paths: { state: /srv/bpg, run: /run/x }", "c.yaml");
    EXPECT_EQ(moved.storage.root, "/srv/bpg/volumes");
    EXPECT_EQ(moved.paths.wal_archive, "/srv/bpg/wal-archive");
    EXPECT_EQ(moved.api.socket, "/run/x/bpgd.sock");
    EXPECT_EQ(moved.secrets_dir(), "/srv/bpg/secrets");
    EXPECT_EQ(moved.job_logs_dir(), "/srv/bpg/jobs");
    EXPECT_EQ(moved.store_dir(), "/srv/bpg/state");
    EXPECT_EQ(moved.instance_sockets_dir(), "/run/x/i");

    const Config mixed = parse(
        "api: { socket: /a.sock }\nstorage: { root: /v }\npaths: { state: /s, run: /r, "
        "wal_archive: /w }",
        "c.yaml");
    EXPECT_EQ(mixed.storage.root, "/v");
    EXPECT_EQ(mixed.paths.wal_archive, "/w");
    EXPECT_EQ(mixed.api.socket, "/a.sock");
}

TEST(Config, MetricsCanBeTurnedOff) {
    EXPECT_EQ(parse("metrics: { listen: \"\" }", "c.yaml").metrics.listen, std::nullopt);
}

TEST(Config, WhatIsShownReadsBackAsTheSame) {
    Config config;
    config.zfs.pool = "on";
    config.postgres.version = "17";
    config.postgres.config = {
        {"log_line_prefix", "%m \"x\": # [%p]"}, {"search_path", ""}, {"work_mem", "4MB"}};
    config.storage.reserve = {.fraction = 0.07, .bytes = 0};
    config.storage.pool_file = "/srv/a b: c/#pool";
    config.runtime.limits.memory = 3ULL << 29;
    config.metrics.listen = Endpoint{.host = "::1", .port = 1};
    config.trash.keep = minutes(61);
    for (const Comments comments : {Comments::kNone, Comments::kOnEachKey}) {
        const std::string text = to_yaml(config, comments);
        EXPECT_EQ(parse(text, "c.yaml"), config) << text;
    }
    config.postgres.config.clear();
    config.metrics.listen = std::nullopt;
    EXPECT_EQ(parse(to_yaml(config), "c.yaml"), config);
}

TEST(Config, AShareOfTheReserveIsAtLeastTwoGibibytesAndASizeIsTakenAsItIs) {
    EXPECT_EQ(Reserve{}.of(100ULL << 30), 5ULL << 30);
    EXPECT_EQ(Reserve{}.of(1ULL << 30), 2ULL << 30);
    EXPECT_EQ((Reserve{.fraction = 0, .bytes = 7}).of(100ULL << 30), 7U);
}

TEST(Config, NamesTheLineAndColumnOfAnUnknownKeyAndWhatWasMeant) {
    const ErrorInfo info = refusal("storage:\n  driver: auto\n  rot: /x\n");
    EXPECT_EQ(info.kind, ErrorKind::kInvalid);
    EXPECT_EQ(info.code, "config_invalid");
    EXPECT_EQ(info.message, "c.yaml:3:3: unknown key rot in storage");
    EXPECT_EQ(info.detail, "known here: driver, root, reserve, pool_file, pool_size");
    EXPECT_EQ(info.hint, "did you mean root?");
}

TEST(Config, SuggestsTheOtherSpellingAndTheSectionWhereAKeyBelongs) {
    EXPECT_EQ(refusal("zfs: { dataset_base: a }").hint, "did you mean datasetBase?");
    EXPECT_EQ(refusal("stop_timeout: 5s").hint, "did you mean runtime.stop_timeout?");
    EXPECT_EQ(refusal("strage: {}").message, "c.yaml:1:1: unknown key strage");
    EXPECT_EQ(refusal("strage: {}").hint, "did you mean storage?");
    EXPECT_EQ(refusal("banana: {}").hint, "remove it; deploy/config.example.yaml lists every key");
}

TEST(Config, AKeyWrittenWithDotsIsNotASecondWayToSetIt) {
    EXPECT_EQ(refusal("storage.root: /x").code, "config_invalid");
    EXPECT_EQ(refusal("runtime: { limits.pids: 100 }").code, "config_invalid");
}

TEST(Config, NamesAWrongTypeWithWhatWasExpectedAndFound) {
    const ErrorInfo info = refusal("runtime:\n  limits: { pids: many }\n");
    EXPECT_EQ(info.message,
              "c.yaml:2:19: runtime.limits.pids must be a whole number from 32 to 4194304, not "
              "\"many\"");
    EXPECT_EQ(info.detail, "Processes of one instance.");
    EXPECT_EQ(info.hint, "leave it out for the default, 4096");
    EXPECT_EQ(refusal("runtime: { stop_timeout: [1] }").message,
              "c.yaml:1:26: runtime.stop_timeout must be a duration from 1s to 1h, like 60s or "
              "1h30m, not a list");
    EXPECT_EQ(refusal("storage: 5").message,
              "c.yaml:1:10: storage must be a section with keys of its own");
    EXPECT_EQ(refusal("zfs:\n  pool:\n").message, "c.yaml:2:3: zfs.pool has no value");
}

TEST(Config, RefusesBadValues) {
    for (const char* text : {"zfs: { pool: -f }",
                             "zfs: { pool: a/b }",
                             "zfs: { datasetBase: a//b }",
                             "zfs: { datasetBase: ../b }",
                             "zfs: { datasetBase: a/ }",
                             "postgres: { image: -it }",
                             "postgres: { image: \"a b\" }",
                             "postgres: { version: 16.2 }",
                             "postgres: { locale: \"\" }",
                             "storage: { driver: lvm }",
                             "storage: { reserve: 91% }",
                             "storage: { reserve: -1% }",
                             "storage: { reserve: nan% }",
                             "storage: { pool_size: 1M }",
                             "storage: { root: \"\" }",
                             "storage: { root: /a/../b }",
                             "storage: { root: \"/a\\nb\" }",
                             "runtime: { driver: Docker }",
                             "runtime: { docker: { egress: maybe } }",
                             "runtime: { docker: { container_prefix: \"\" } }",
                             "runtime: { limits: { pids: 0 } }",
                             "runtime: { limits: { pids: 4096.0 } }",
                             "runtime: { limits: { memory: 1k } }",
                             "runtime: { process: { user: \"\" } }",
                             "runtime: { stop_timeout: 0s }",
                             "runtime: { stop_timeout: 60 }",
                             "network: { listen: localhost }",
                             "network: { listen: 127.evil.com }",
                             "network: { ports: 5432 - 6431 }",
                             "network: { ports: 6431-5432 }",
                             "network: { ports: 80-90 }",
                             "network: { ports: 5432-70000 }",
                             "metrics: { listen: 9732 }",
                             "metrics: { listen: \"::1:9732\" }",
                             "metrics: { listen: host:9732 }",
                             "metrics: { listen: 127.0.0.1:0 }",
                             "jobs: { running_max: 0 }",
                             "jobs: { running_max: -1 }",
                             "trash: { keep: forever }",
                             "retention: { max_fraction: 1.5 }",
                             "retention: { max_fraction: nan }"}) {
        EXPECT_EQ(refusal(text).code, "config_invalid") << text;
    }
}

TEST(Config, RefusesRelativePathsSayingWhy) {
    const ErrorInfo info = refusal("paths: { state: var/lib }");
    EXPECT_EQ(info.message,
              "c.yaml:1:17: paths.state must be an absolute path without '..', not \"var/lib\"");
    EXPECT_NE(info.detail.find("working directory"), std::string::npos);
}

TEST(Config, RefusesPathsTooLongForAUnixSocket) {
    const std::string seventy_three = "/" + std::string(72, 'r');
    EXPECT_EQ(parse("paths: { run: " + seventy_three + " }", "c.yaml").paths.run, seventy_three);
    EXPECT_EQ(refusal("paths: { run: " + seventy_three + "r }").hint, "choose a shorter path");
    EXPECT_EQ(refusal("api: { socket: /" + std::string(106, 's') + " }").code, "config_invalid");
}

TEST(Config, RefusesAnAddressBeyondLoopbackSayingWhy) {
    const ErrorInfo info = refusal("network: { listen: 0.0.0.0 }");
    EXPECT_EQ(info.code, "config_invalid");
    EXPECT_NE(info.detail.find("in the clear"), std::string::npos);
}

TEST(Config, RefusesAKeyGivenTwice) {
    EXPECT_EQ(refusal("trash: { keep: 1h }\njobs: {}\ntrash: { keep: 2h }\n").message,
              "c.yaml:3:1: trash is given twice");
    EXPECT_EQ(refusal("trash: { keep: 1h, keep: 1h }").message,
              "c.yaml:1:20: trash.keep is given twice");
    EXPECT_EQ(refusal("postgres: { config: { a: 1, A: 2 } }").message,
              "c.yaml:1:29: a is set twice in postgres.config");
}

TEST(Config, RefusesSettingsThatBpgdOwnsAndWhatIsNoSetting) {
    const OwnedSetting is_owned = [](const std::string& name) { return name == "port"; };
    const ErrorInfo owned = refusal("postgres:\n  config:\n    PORT: 1\n", is_owned);
    EXPECT_EQ(owned.message, "c.yaml:3:5: postgres.config may not set port");
    EXPECT_EQ(owned.hint, "remove this line");
    EXPECT_EQ(refusal("postgres: { config: { \"a b\": 1 } }").code, "config_invalid");
    EXPECT_EQ(refusal("postgres: { config: { a.b.c: 1 } }").code, "config_invalid");
    EXPECT_EQ(refusal("postgres: { config: { a: \"1\\nb = 2\" } }").code, "config_invalid");
    EXPECT_EQ(refusal("postgres: { config: { a: [1] } }").code, "config_invalid");
    EXPECT_EQ(refusal("postgres: { config: { a: } }").code, "config_invalid");
    EXPECT_EQ(refusal("postgres: { config: 5 }").code, "config_invalid");
    EXPECT_EQ(parse("postgres: { config: { pg_stat_statements.max: 5 } }", "c.yaml", is_owned)
                  .postgres.config.size(),
              1U);
    EXPECT_TRUE(parse("postgres: { config: }", "c.yaml").postgres.config.empty());
}

TEST(Config, NamesThePlaceOfMalformedYaml) {
    const ErrorInfo info = refusal("zfs:\n  pool: tank\n storage: {}\n");
    EXPECT_EQ(info.code, "config_invalid");
    EXPECT_TRUE(info.message.starts_with("c.yaml:")) << info.message;
    EXPECT_TRUE(info.message.ends_with(": this is not YAML")) << info.message;
    EXPECT_FALSE(info.detail.empty());
    EXPECT_EQ(refusal("trash: { keep: 1h }\n  x: 1\n").message.substr(0, 9), "c.yaml:2:");
    EXPECT_EQ(refusal("{ a: *nowhere }").code, "config_invalid");
    EXPECT_EQ(refusal("- a\n- b\n").message,
              "c.yaml:1:1: the file must be a mapping of keys to values");
    EXPECT_EQ(refusal("trash: {}\n---\njobs: {}\n").message,
              "c.yaml:3:1: a second YAML document begins");
    EXPECT_EQ(refusal("? [a]\n: 1\n").code, "config_invalid");
    EXPECT_EQ(refusal(std::string(100'000, '[')).code, "config_invalid");
}

TEST(Config, NamesThePlaceOfAQuoteThatIsNeverClosed) {
    EXPECT_EQ(refusal("zfs:\n  pool: \"tank\nstorage: {}\n").message,
              "c.yaml:2:9: the quote that opens here is never closed");
    EXPECT_EQ(refusal("postgres:\n  config:\n    work_mem: '4MB\nstorage: {}\n").message,
              "c.yaml:3:15: the quote that opens here is never closed");
    EXPECT_EQ(refusal("\"zfs: 1\n").code, "config_invalid");
}

TEST_F(ConfigFile, IsReadAndNamedInRefusals) {
    const auto file = directory_ / "config.yaml";
    std::ofstream(file) << "trash: { keep: 2h }\n";
    EXPECT_EQ(load(file).trash.keep, hours(2));
    std::ofstream(file) << "trash: { kep: 2h }\n";
    try {
        load(file);
        ADD_FAILURE() << "was accepted";
    } catch (const Error& error) {
        EXPECT_EQ(error.info().message,
                  fmt::format("{}:1:10: unknown key kep in trash", file.native()));
    }
}

TEST_F(ConfigFile, MissingSaysHowToMakeOne) {
    try {
        load(directory_ / "none.yaml");
        ADD_FAILURE() << "was accepted";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kNotFound);
        EXPECT_EQ(error.code(), "config_missing");
        EXPECT_NE(error.info().hint.find("`bpg init`"), std::string::npos);
    }
}

TEST_F(ConfigFile, ThatIsADirectoryOrTooLargeIsRefused) {
    EXPECT_THROW(load(directory_), Error);
    const auto file = directory_ / "large.yaml";
    std::ofstream(file) << std::string(2 << 20, '#');
    EXPECT_THROW(load(file), Error);
}

}  // namespace
}  // namespace bpg::config
