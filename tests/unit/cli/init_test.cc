// What bpg init decides by itself, before and without bpgd.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/cli/peer.h"

namespace bpg::cli::test {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class Init : public ::testing::Test {
  protected:
    CommandResult init(std::vector<std::string> words) {
        words.insert(words.begin(), {"--config", config_.string(), "init"});
        return run_bpg(directory_ / "bpgd.sock", std::move(words));
    }
    void given_config(const std::string& text) { write_file_durably(config_, text, 0644); }

    TemporaryDirectory directory_;
    std::filesystem::path config_ = directory_ / "config.yaml";
};

TEST_F(Init, RefusesAFlagThatContradictsTheConfigurationNamingTheLine) {
    const std::string text = "# mine\nstorage:\n  driver: btrfs\n  pool_size: 10GiB\n";
    given_config(text);
    const CommandResult result = init({"--storage", "copy"});
    EXPECT_EQ(result.exit_code, 5);
    EXPECT_EQ(result.err, fmt::format("error: --storage copy contradicts the configuration\n"
                                      "  why:  {}:3 says storage.driver: btrfs\n"
                                      "  fix:  leave --storage out, or change that line first\n"
                                      "  code: config_contradicts\n",
                                      config_.string()));
    EXPECT_EQ(read_file(config_), text);
}

TEST_F(Init, SaysThatItRunsAlreadyAndChangesNothing) {
    const Peer peer(
        directory_ / "bpgd.sock", [](const PeerRequest& request, const Connection& connection) {
            if (request.target == "/readyz") return connection.answer(200, json::object());
            connection.answer(
                200, {{"storage", {{"driver", "btrfs"}}}, {"runtime", {{"driver", "process"}}}});
        });
    const std::string text = "storage: { driver: btrfs, pool_size: 10G }\n";
    given_config(text);
    const CommandResult result = init({"--storage", "btrfs", "-o", "json"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.err, "bpgd is running already\n");
    EXPECT_EQ(json::parse(result.out)["storage"]["driver"], "btrfs");
    EXPECT_EQ(read_file(config_), text);
}

TEST_F(Init, TakesTheSameSizeInAnotherSpellingForNoContradiction) {
    const Peer peer(directory_ / "bpgd.sock", [](const PeerRequest&, const Connection& connection) {
        connection.answer(200, json::object());
    });
    given_config("storage: { pool_file: /pool.img, pool_size: 10240MiB }\n");
    EXPECT_EQ(init({"--pool-file", "/pool.img", "--pool-size", "10G"}).exit_code, 0);
    EXPECT_EQ(init({"--pool-file", "/pool.img", "--pool-size", "11G"}).exit_code, 5);
}

TEST_F(Init, NamesTheStateOfAnEarlierVersionAndLeavesItAlone) {
    const Peer peer(directory_ / "bpgd.sock", [](const PeerRequest&, const Connection& connection) {
        connection.answer(200, json::object());
    });
    const std::filesystem::path state = directory_ / "state.json";
    write_file_durably(state, "{}", 0600);
    given_config(fmt::format("paths: {{ state: {} }}\n", state.parent_path().string()));
    const CommandResult result = init({});
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_THAT(result.err, HasSubstr(state.string() + " is the state of an earlier BetterPG"));
    EXPECT_EQ(read_file(state), "{}");
}

TEST_F(Init, RefusesFlagsThatCannotBeMeant) {
    EXPECT_EQ(init({"--pool-size", "10G"}).exit_code, 2);
    EXPECT_EQ(init({"--pool-file", "/p", "--pool-size", "big"}).exit_code, 2);
    EXPECT_THAT(init({"--storage", "btrf"}).err, HasSubstr("did you mean btrfs?"));
    EXPECT_FALSE(std::filesystem::exists(config_));
}

TEST_F(Init, NeedsRoot) {
    const std::filesystem::path copy = std::filesystem::temp_directory_path() / "bpg-cli-init-copy";
    std::filesystem::copy_file(BPG_BINARY, copy, std::filesystem::copy_options::overwrite_existing);
    const CommandResult result = run_words({"setpriv", "--reuid=65534", "--clear-groups",
                                            copy.string(), "--config", config_.string(), "init"});
    std::filesystem::remove(copy);
    EXPECT_EQ(result.exit_code, 4);
    EXPECT_THAT(result.err, HasSubstr("  code: not_root\n"));
}

}  // namespace
}  // namespace bpg::cli::test
