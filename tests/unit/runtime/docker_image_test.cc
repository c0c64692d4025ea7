// What the docker runtime reads about images and logs.
#include "orchestrator/runtime/docker_image.h"

#include <gtest/gtest.h>

namespace bpg::runtime {
namespace {

ImageReference parts(const std::string& text) {
    return parse_image_reference(text);
}

const std::string kDigest = "sha256:" + std::string(64, 'a');

TEST(ImageReferences, AreTakenApart) {
    EXPECT_EQ(parts("postgres").repository, "postgres");
    EXPECT_EQ(parts("postgres:16-alpine").tag, "16-alpine");
    EXPECT_EQ(parts("ghcr.io/owner/name_x:1.2").repository, "ghcr.io/owner/name_x");
    EXPECT_EQ(parts("localhost:5000/a/b").repository, "localhost:5000/a/b");
    EXPECT_EQ(parts("localhost:5000/a/b").tag, "");
    EXPECT_EQ(parts("[::1]:5000/a:t").repository, "[::1]:5000/a");
    EXPECT_EQ(parts("a@" + kDigest).digest, kDigest);
    EXPECT_EQ(parts("a:1@" + kDigest).tag, "1");
}

TEST(ImageReferences, WhatDockerWouldNotTakeIsRefused) {
    for (const std::string& text : {std::string(),
                                    std::string("x --privileged"),
                                    std::string("--privileged"),
                                    std::string("a\nb"),
                                    std::string("UPPER"),
                                    std::string("a/../b"),
                                    std::string("a//b"),
                                    std::string("/a"),
                                    std::string("a/"),
                                    std::string("a:"),
                                    std::string("a:b:c"),
                                    std::string("a@sha256:1"),
                                    std::string("a..b"),
                                    std::string("a___b"),
                                    std::string("host:port/a"),
                                    std::string("a?tag=b"),
                                    std::string("a%2fb"),
                                    std::string("a#b"),
                                    std::string("-a"),
                                    std::string("a-"),
                                    std::string("a:-t"),
                                    std::string(256, 'a'),
                                    std::string("a\0b", 3),
                                    std::string("\xc3\xa4")}) {
        try {
            parse_image_reference(text);
            ADD_FAILURE() << "taken: " << text;
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), "image_invalid");
            EXPECT_FALSE(error.info().detail.empty());
        }
    }
}

TEST(ImageReferences, APullAsksForOneTag) {
    EXPECT_EQ(parts("a/b").pull_query(), "fromImage=a%2Fb&tag=latest");
    EXPECT_EQ(parts("a:1").pull_query(), "fromImage=a&tag=1");
    EXPECT_EQ(parts("a:1@" + kDigest).pull_query(),
              "fromImage=a&tag=sha256%3A" + std::string(64, 'a'));
}

TEST(ImageFacts, AreReadWithoutTrust) {
    const auto facts =
        read_image_facts(R"({"Id":")" + kDigest +
                         R"(","RepoDigests":["x@sha256:1",7],"Config":{"Env":["A=b","PATH=/p:/q"],)"
                         R"("Volumes":{"/var/lib/postgresql/data":{}}}})");
    EXPECT_EQ(facts.id, kDigest);
    EXPECT_EQ(facts.path, "/p:/q");
    EXPECT_EQ(facts.volumes, std::vector<std::string>{"/var/lib/postgresql/data"});
    EXPECT_EQ(
        read_image_facts(R"({"Id":")" + kDigest + R"(","RepoDigests":null,"Config":null})").id,
        kDigest);
    EXPECT_THROW(read_image_facts("{}"), Error);
    EXPECT_THROW(read_image_facts("nonsense"), Error);
}

TEST(ImageFacts, TheDigestIsTheOneOfTheReference) {
    ImageFacts facts;
    facts.repo_digests = {"other/postgres@sha256:1", "postgres@sha256:2"};
    EXPECT_EQ(digest_of(facts, parts("postgres:16")), "postgres@sha256:2");
    EXPECT_EQ(digest_of(facts, parts("docker.io/library/postgres:16")), "postgres@sha256:2");
    EXPECT_EQ(digest_of(facts, parts("local:1")), "");
}

TEST(PullProgress, AddsUpLayersAcrossPieces) {
    PullProgress progress;
    const std::string text =
        R"({"status":"Pulling from a","id":"1"})"
        "\r\n"
        R"({"status":"Downloading","progressDetail":{"current":10,"total":100},"id":"x"})"
        "\n"
        R"({"status":"Downloading","progressDetail":{"current":5,"total":50},"id":"y"})"
        "\n";
    for (const char c : text)
        progress.feed(std::string_view(&c, 1));
    EXPECT_EQ(progress.done(), 15U);
    EXPECT_EQ(progress.total(), 150U);
    progress.feed("{\"status\":\"Download complete\",\"id\":\"x\"}\n");
    // Unpacking is no fetching.
    progress.feed(
        "{\"status\":\"Extracting\",\"progressDetail\":{\"current\":1,\"total\":9},"
        "\"id\":\"y\"}\n");
    EXPECT_EQ(progress.done(), 105U);
    EXPECT_EQ(progress.total(), 150U);
    EXPECT_EQ(progress.error(), "");
    progress.feed("{\"errorDetail\":{\"message\":\"no\"},\"error\":\"manifest unknown\"}\n");
    EXPECT_EQ(progress.error(), "manifest unknown");
    progress.feed("nonsense\n[]\n{\"status\":7}\n");
}

TEST(PullFailures, AreToldApart) {
    const auto kind = [](const char* message) { return pull_failed("x", message).kind(); };
    EXPECT_EQ(kind("manifest for x not found: manifest unknown"), ErrorKind::kNotFound);
    EXPECT_EQ(kind("pull access denied for x, repository does not exist or may require"),
              ErrorKind::kNotFound);
    // Nobody knows whether it exists: for who asked it is not there, and the text says why.
    const Error silent =
        pull_failed("x", "Get \"https://r/v2/\": dial tcp: lookup r: no such host");
    EXPECT_EQ(silent.kind(), ErrorKind::kNotFound);
    EXPECT_EQ(silent.info().message, "image x is not here, and its registry does not answer");
    EXPECT_EQ(kind("write /var/x: no space left on device"), ErrorKind::kExhausted);
    EXPECT_EQ(kind("something else"), ErrorKind::kUnavailable);
}

std::string tar_of(char type, const std::string& link, const std::string& content) {
    std::string header(512, '\0');
    header.replace(0, 6, "passwd");
    char size[13];
    std::snprintf(&size[0], sizeof size, "%011zo", content.size());
    header.replace(124, 11, &size[0]);
    header[156] = type;
    header.replace(157, link.size(), link);
    std::string body = content;
    body.resize((content.size() + 511) / 512 * 512);
    return header + body;
}

TEST(TarMembers, AFileALinkAndRubbish) {
    const std::string end(1024, '\0');
    EXPECT_EQ(first_tar_member(tar_of('0', "", "hello") + end)->content, "hello");
    EXPECT_EQ(first_tar_member(tar_of('2', "../x", "") + end)->link_target, "../x");
    EXPECT_EQ(first_tar_member(tar_of('x', "", "30 mtime=1\n") + tar_of('0', "", "a"))->content,
              "a");
    EXPECT_FALSE(first_tar_member(tar_of('5', "", "")));
    EXPECT_FALSE(first_tar_member(end));
    EXPECT_FALSE(first_tar_member(""));
    EXPECT_FALSE(first_tar_member(tar_of('0', "", std::string(600, 'x')).substr(0, 600)));
}

TEST(Passwd, FindsAUserAndNothingElse) {
    const std::string text =
        "root:x:0:0:root:/root:/bin/sh\nxpostgres:x:1:1::/:\npostgres:x:70:71:P:/v:/bin/sh\n";
    ASSERT_TRUE(owner_in_passwd(text, "postgres"));
    EXPECT_EQ(*owner_in_passwd(text, "postgres"), (FileOwner{70, 71}));
    EXPECT_FALSE(owner_in_passwd("postgres:x:no:1::/:", "postgres"));
    EXPECT_FALSE(owner_in_passwd("postgres:x:-1:1::/:", "postgres"));
    EXPECT_FALSE(owner_in_passwd("postgres", "postgres"));
    EXPECT_FALSE(owner_in_passwd("", "postgres"));
}

TEST(Versions, AreReadFromWhatPostgresSays) {
    EXPECT_EQ(version_in("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n"), "15.20");
    EXPECT_EQ(version_in("postgres (PostgreSQL) 18beta1\n"), "18beta1");
    EXPECT_FALSE(version_in("postgres (EnterpriseDB) 15"));
    EXPECT_FALSE(version_in("postgres (PostgreSQL) ../x\n"));
}

std::string frame(const std::string& text) {
    std::string header("\1\0\0\0\0\0\0\0", 8);
    header[6] = static_cast<char>(text.size() >> 8U);
    header[7] = static_cast<char>(text.size() & 0xffU);
    return header + text;
}

TEST(LogCollectors, PutFramesTogetherHoweverTheyCome) {
    const std::string all = frame("one\n") + frame("") + frame("two\nthr") + frame("ee\n");
    for (const std::size_t step : {std::size_t{1}, std::size_t{3}, std::size_t{100}}) {
        LogCollector collector(1024);
        for (std::size_t at = 0; at < all.size(); at += step)
            collector.feed(std::string_view(all).substr(at, step));
        EXPECT_EQ(collector.tail(10), "one\ntwo\nthree\n");
        EXPECT_EQ(collector.tail(2), "two\nthree\n");
        EXPECT_EQ(collector.tail(0), "");
    }
}

TEST(LogCollectors, KeepTheEndAndNoHalfLine) {
    LogCollector collector(64);
    for (int line = 0; line < 1000; ++line)
        collector.feed(frame("line " + std::to_string(line) + "\n"));
    const std::string tail = collector.tail(1000);
    EXPECT_LE(tail.size(), 64U);
    EXPECT_TRUE(tail.starts_with("line 9")) << tail;
    EXPECT_TRUE(tail.ends_with("line 999\n")) << tail;
}

}  // namespace
}  // namespace bpg::runtime
