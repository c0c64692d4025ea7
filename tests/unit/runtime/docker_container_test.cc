// What a container of ours is, and which mounts are in the way of one.
#include "orchestrator/runtime/docker_container.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "orchestrator/runtime/docker_events.h"
#include "orchestrator/runtime/docker_network.h"
#include "orchestrator/runtime/docker_wire.h"

namespace bpg::runtime {
namespace {

using nlohmann::json;

ContainerPlan instance() {
    ContainerPlan plan;
    plan.role = kInstanceRole;
    plan.prefix = "bpg-";
    plan.branch_id = "abc";
    plan.ref = "prod/dev";
    plan.data_directory = "/v/prod-dev/data";
    plan.image.id = "sha256:1";
    plan.image.path = "/own/bin";
    plan.image.volumes = {"/var/lib/postgresql/data", "/v/prod-dev/", "relative"};
    plan.program = "postgres";
    plan.arguments = {"-D", "/v/prod-dev/data"};
    plan.user = {70, 71};
    plan.mounts = {"/v/prod-dev", "/run/betterpg/i/abc"};
    plan.network = "bpg-net";
    plan.listen = "127.0.0.1, ::1";
    plan.port = 5432;
    plan.limits.memory = 1 << 30;
    return plan;
}

TEST(ContainerBodies, GiveNoRightsAndNothingOfTheHostButTheirMounts) {
    const json body = container_body(instance());
    const json& host = body["HostConfig"];
    EXPECT_EQ(body["User"], "70:71");
    EXPECT_EQ(body["Image"], "sha256:1");
    EXPECT_EQ(host["CapDrop"], json({"ALL"}));
    EXPECT_EQ(host["SecurityOpt"], json({"no-new-privileges"}));
    EXPECT_EQ(host["ReadonlyRootfs"], true);
    EXPECT_EQ(host["Privileged"], false);
    EXPECT_EQ(host["IpcMode"], "private");
    EXPECT_EQ(host["Memory"], 1 << 30);
    EXPECT_EQ(host["MemorySwap"], 1 << 30);
    EXPECT_FALSE(host.contains("Binds"));
    EXPECT_FALSE(host.contains("CapAdd"));
    ASSERT_EQ(host["Mounts"].size(), 2U);
    EXPECT_EQ(host["Mounts"][0]["Source"], "/v/prod-dev");
    EXPECT_EQ(host["Mounts"][0]["Target"], "/v/prod-dev");
    EXPECT_EQ(body["Healthcheck"]["Test"], json({"NONE"}));
}

TEST(ContainerBodies, PublishThePortWhereItIsAskedForOnly) {
    const json host = container_body(instance())["HostConfig"];
    EXPECT_EQ(host["PortBindings"], json({{"5432/tcp",
                                           {{{"HostIp", "127.0.0.1"}, {"HostPort", "5432"}},
                                            {{"HostIp", "::1"}, {"HostPort", "5432"}}}}}));
    EXPECT_EQ(host["PublishAllPorts"], false);
    EXPECT_EQ(host["Dns"], json({"127.0.0.1"}));
    ContainerPlan probe = instance();
    probe.port = 0;
    probe.network = "none";
    EXPECT_FALSE(container_body(probe)["HostConfig"].contains("PortBindings"));
    EXPECT_FALSE(container_body(probe)["HostConfig"].contains("Dns"));
    EXPECT_EQ(host_addresses("localhost,*"), (std::vector<std::string>{"127.0.0.1", "0.0.0.0"}));
}

TEST(ContainerBodies, EveryVolumeOfTheImageIsCovered) {
    const json scratch = container_body(instance())["HostConfig"]["Tmpfs"];
    EXPECT_TRUE(scratch.contains("/var/lib/postgresql/data"));
    EXPECT_TRUE(scratch.contains("/tmp"));
    EXPECT_TRUE(scratch.contains("/run"));
    EXPECT_EQ(scratch.size(), 3U) << "a mount of ours needs no cover: " << scratch.dump();
}

TEST(ContainerBodies, CarryWhoTheyBelongToAndNoMoreEnvironmentThanNeeded) {
    const json body = container_body(instance());
    EXPECT_EQ(body["Labels"]["betterpg.branch_id"], "abc");
    EXPECT_EQ(body["Labels"]["betterpg.ref"], "prod/dev");
    EXPECT_EQ(body["Labels"]["betterpg.role"], "instance");
    EXPECT_EQ(body["Labels"]["betterpg.data_directory"], "/v/prod-dev/data");
    EXPECT_EQ(body["Labels"]["betterpg.version"], "1");
    ASSERT_EQ(body["Env"].size(), 2U);
    EXPECT_TRUE(body["Env"][0].get<std::string>().starts_with("PATH=/own/bin:/usr/lib/postgresql"));
    EXPECT_EQ(body["Env"][1], "PGDATA=/v/prod-dev/data");
}

TEST(Mounts, OnTheDataOrBetweenItAndItsVolumeAreInTheWay) {
    const auto reaches = [](const char* source) {
        return mount_reaches(source, "/v/a", "/v/a/data");
    };
    EXPECT_TRUE(reaches("/v/a/data"));
    EXPECT_TRUE(reaches("/v/a/data/"));
    EXPECT_TRUE(reaches("/v/a/data/base"));
    EXPECT_TRUE(reaches("/v/a"));
    EXPECT_TRUE(reaches("/v/./a//"));
    EXPECT_FALSE(reaches("/v/a/data2"));
    EXPECT_FALSE(reaches("/v/a/conf"));
    EXPECT_FALSE(reaches("/v/ab"));
    EXPECT_FALSE(reaches("/v"));
    EXPECT_FALSE(reaches("/"));
}

TEST(ApiVersions, AreNegotiated) {
    EXPECT_EQ(negotiated_minor("1.41"), 41);
    EXPECT_EQ(negotiated_minor("1.44"), 44);
    EXPECT_EQ(negotiated_minor("1.99"), 47);
    EXPECT_FALSE(negotiated_minor("1.40"));
    EXPECT_FALSE(negotiated_minor(""));
    EXPECT_FALSE(negotiated_minor("2.0"));
    EXPECT_FALSE(negotiated_minor("1.x"));
}

TEST(Events, SayWhichContainerEnded) {
    EXPECT_EQ(ended_container(R"({"Type":"container","Action":"die","Actor":{"ID":"1",)"
                              R"("Attributes":{"name":"bpg-x"}}})"),
              "bpg-x");
    EXPECT_EQ(ended_container(R"({"Type":"container","Action":"start","Actor":{"ID":"1",)"
                              R"("Attributes":{"name":"bpg-x"}}})"),
              "");
    EXPECT_EQ(ended_container("{}"), "");
    EXPECT_EQ(ended_container("nonsense"), "");
}

TEST(Networks, HaveInterfacesOfTheirOwnWithNamesThatFit) {
    const DockerNetwork closed = network_of(std::string(40, 'p'), false);
    const DockerNetwork open = network_of(std::string(40, 'p'), true);
    EXPECT_LE(closed.bridge.size(), 15U);
    EXPECT_NE(closed.bridge, open.bridge);
    EXPECT_NE(closed.name, open.name);
    EXPECT_NE(closed.bridge, network_of("bpg-", false).bridge);
}

}  // namespace
}  // namespace bpg::runtime
